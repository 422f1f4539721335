"""Fixtures for tests of the `jobs` commands."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aivideo.simulator import Scenario, Simulator, serve
from tests.cli.filled_ledger import FilledLedger


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FilledLedger:
    monkeypatch.chdir(tmp_path)
    return FilledLedger(tmp_path / "aivideo.db")


@pytest.fixture(scope="module")
def service() -> Iterator[Simulator]:
    """A service in a thread of its own, on the real clock; a short task ends in a second."""
    ready = threading.Event()
    found: list[tuple[Simulator, asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def stand() -> None:
        scenario = Scenario(task_seconds=0.05, queue_seconds=0.0, media="stub", seed=3)
        async with serve(scenario) as sim:
            over = asyncio.Event()
            found.append((sim, asyncio.get_running_loop(), over))
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(stand()))
    thread.start()
    assert ready.wait(30)
    [(sim, loop, over)] = found
    yield sim
    loop.call_soon_threadsafe(over.set)
    thread.join()


@pytest.fixture
def asked(service: Simulator, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    """Have commands ask the service, with a key."""
    monkeypatch.setenv("AIVIDEO_API_KEY", "sk-test")
    monkeypatch.setenv("AIVIDEO_BASE_URL", service.url)
    return service
