from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import anyio.to_thread
import pytest
from aiohttp import web

from aivideo.testing import DeadlockError, VirtualTimeLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def loop() -> VirtualTimeLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop


def run(main: Any, **options: Any) -> Any:
    def factory() -> VirtualTimeLoop:
        return VirtualTimeLoop(**options)

    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)
