"""Fixtures for all tests: the event loop, and an environment without an API key."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aivideo.testing import VirtualTimeLoop

# Tests in these folders start other processes, which run in real time.
REAL_CLOCK = ("durable", "cli")


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run async tests on asyncio: on virtual time, except in the folders in `REAL_CLOCK`."""
    folder = request.path.relative_to(Path(__file__).parent).parts[0]
    if folder in REAL_CLOCK:
        return "asyncio", {}
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@pytest.fixture(autouse=True)
def _no_api_key_in_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove a real API key from the environment: tests must not buy real videos with it."""
    monkeypatch.delenv("AIVIDEO_API_KEY", raising=False)
    monkeypatch.delenv("AIVIDEO_BASE_URL", raising=False)


@pytest.fixture(scope="session", autouse=True)
def _signals_have_their_effect() -> Iterator[None]:
    """Let SIGINT and SIGHUP have their effect, here and in processes that tests start.

    A shell starts background jobs (`make test &`, many CI runners) with SIGINT ignored, and `nohup`
    ignores SIGHUP. Children inherit that: the tests of signals would wait for one that never comes.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    if before[signal.SIGINT] is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if before[signal.SIGHUP] is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
