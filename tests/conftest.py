"""Every async test runs on a virtual clock, unless its folder or itself says otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from aivideo.testing import VirtualTimeLoop


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualTimeLoop}
