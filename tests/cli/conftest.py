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
    """A service in another thread, on the real clock; its tasks end within a second."""
    ready = threading.Event()
    found: list[tuple[Simulator, asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def run_service() -> None:
        scenario = Scenario(task_seconds=0.05, queue_seconds=0.0, media="stub", seed=3)
        async with serve(scenario) as sim:
            stopped = asyncio.Event()
            found.append((sim, asyncio.get_running_loop(), stopped))
            ready.set()
            await stopped.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run_service()))
    thread.start()
    assert ready.wait(30)
    [(sim, loop, stopped)] = found
    yield sim
    loop.call_soon_threadsafe(stopped.set)
    thread.join()


@pytest.fixture
def asked(service: Simulator, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    """Point the commands to the service, with a key."""
    monkeypatch.setenv("AIVIDEO_API_KEY", "sk-test")
    monkeypatch.setenv("AIVIDEO_BASE_URL", service.url)
    return service
