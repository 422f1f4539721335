"""Fixtures for tests of programs that use aivideo: a service to stand in for the real one.

pytest loads this by itself wherever aivideo is installed; the simulator is imported when a test
first asks for it (`pip install "aivideo-sdk[testing]"`). Both fixtures set `AIVIDEO_API_KEY` and
`AIVIDEO_BASE_URL`, so that an application that says `Session()` talks to the stand-in:

    @pytest.mark.anyio
    async def test_that_a_refusal_is_told(simulator):
        async with Session() as session:
            ...
        assert simulator.truth.creates_taken == 1

`simulator` runs on the test's own event loop, for async tests under anyio's plugin; with
`VirtualTimeLoop` as the loop its hours take no time. `live_simulator` runs on a thread of its own
and on the real clock, for every other test: plain ones, FastAPI's `TestClient`, pytest-asyncio.

What kind of service it is, a marker says, with the fields of `aivideo.simulator.Scenario` (a rate
limit and a time may be given as on the command line), on a test, a class or a module:

    @pytest.mark.simulator(rate_limit="token:5/s:10", failure_rate=0.1, seed=7)

or a fixture of your own named `simulator_scenario` that returns a `Scenario`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from aivideo.simulator import Scenario, Simulator

_KEY = "sk-simulator"

# On a real clock a task takes a fifth of a second; a test that sees the virtual one may say 1.
_SPEED = 600.0


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "simulator(**fields): what the service behind the fixtures `simulator` and "
        "`live_simulator` is like: fields of aivideo.simulator.Scenario.",
    )


@pytest.fixture
def simulator_scenario(request: pytest.FixtureRequest) -> Scenario:
    """The service that `simulator` and `live_simulator` run, as the test's markers tell it."""
    _require_simulator()
    from aivideo.simulator import Scenario, parse_rate_limit, parse_seconds

    fields: dict[str, Any] = {"speed": _SPEED}
    for marker in reversed(list(request.node.iter_markers("simulator"))):  # the closest one wins
        if marker.args:
            raise pytest.UsageError(
                f"{request.node.nodeid}: @pytest.mark.simulator takes fields of Scenario by name, "
                f"like speed=60; it was given {marker.args!r}"
            )
        fields |= marker.kwargs
    written: dict[str, Callable[[str], object]] = {
        "rate_limit": parse_rate_limit,
        "create_rate_limit": parse_rate_limit,
        "task_seconds": parse_seconds,
        "queue_seconds": parse_seconds,
    }
    try:
        for name, parse in written.items():
            if isinstance(fields.get(name), str):
                fields[name] = parse(fields[name])
        return Scenario(**fields)
    except (TypeError, ValueError) as error:
        raise pytest.UsageError(f"{request.node.nodeid}: @pytest.mark.simulator: {error}") from None


@pytest.fixture
async def simulator(
    simulator_scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Simulator]:
    """A running service on the test's own event loop, and the environment that points to it."""
    _require_simulator()
    from aivideo.simulator import serve

    async with serve(simulator_scenario) as running:
        _point_to(running, simulator_scenario, monkeypatch)
        yield running


@pytest.fixture
def live_simulator(
    simulator_scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> Generator[Simulator]:
    """A running service on a thread of its own, and the environment that points to it."""
    _require_simulator()
    with _serve_on_thread(simulator_scenario) as running:
        _point_to(running, simulator_scenario, monkeypatch)
        yield running


def _point_to(running: Simulator, scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIVIDEO_BASE_URL", running.url)
    monkeypatch.setenv("AIVIDEO_API_KEY", next(iter(scenario.keys or ()), _KEY))


@contextmanager
def _serve_on_thread(scenario: Scenario) -> Generator[Simulator]:
    from aivideo.simulator import serve

    started: Future[tuple[Simulator, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def main() -> None:
        stopped = asyncio.Event()
        async with serve(scenario) as running:
            started.set_result((running, asyncio.get_running_loop(), stopped))
            await stopped.wait()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            # Before it was up the test hears of it; later, pytest does, from the thread.
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run, name="aivideo-simulator")
    thread.start()
    try:
        running, loop, stopped = started.result()
        try:
            yield running
        finally:
            loop.call_soon_threadsafe(stopped.set)
    finally:
        thread.join()


def _require_simulator() -> None:
    missing = [name for name in ("av", "PIL") if find_spec(name) is None]
    if missing:
        pytest.fail(
            f"the simulator needs what is not installed ({', '.join(missing)}): "
            'pip install "aivideo-sdk[testing]"',
            pytrace=False,
        )
