"""pytest fixtures for programs that use aivideo: a simulated service instead of the real one.

pytest loads this plugin automatically wherever aivideo is installed. The simulator is imported when
a test first uses it (`pip install "aivideo-sdk[testing]"`). Both fixtures set `AIVIDEO_API_KEY` and
`AIVIDEO_BASE_URL`, so that an application that calls `Session()` uses the simulated service:

    @pytest.mark.anyio
    async def test_one_video_is_bought(simulator):
        async with Session() as session:
            ...
        assert simulator.truth.creates_taken == 1

`simulator` runs on the event loop of the test, for async tests under anyio's pytest plugin. On a
`VirtualTimeLoop`, waiting takes no real time. `live_simulator` runs on a thread of its own and on
the real clock, for all other tests: synchronous ones, FastAPI's `TestClient`, pytest-asyncio.

A marker on a test, a class or a module configures the service. It takes the fields of
`aivideo.simulator.Scenario`; a rate limit or a duration may also be a string in the format of the
command line:

    @pytest.mark.simulator(rate_limit="token:5/s:10", failure_rate=0.1, seed=7)

Alternatively, define a fixture named `simulator_scenario` that returns a `Scenario`.
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

# With this default, a task takes 0.2 s on the real clock. Tests on virtual time may use speed=1.
_SPEED = 600.0


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        "simulator(**fields): configure the service of the fixtures `simulator` and "
        "`live_simulator` with fields of aivideo.simulator.Scenario.",
    )


@pytest.fixture
def simulator_scenario(request: pytest.FixtureRequest) -> Scenario:
    """The scenario of `simulator` and `live_simulator`, from the markers of the test."""
    _require_simulator()
    from aivideo.simulator import Scenario, parse_rate_limit, parse_seconds

    fields: dict[str, Any] = {"speed": _SPEED}
    for marker in reversed(
        list(request.node.iter_markers("simulator"))
    ):  # the closest marker takes precedence
        if marker.args:
            raise pytest.UsageError(
                f"{request.node.nodeid}: @pytest.mark.simulator takes fields of Scenario by name, "
                f"like speed=60; it was given {marker.args!r}"
            )
        fields |= marker.kwargs
    parsers: dict[str, Callable[[str], object]] = {
        "rate_limit": parse_rate_limit,
        "create_rate_limit": parse_rate_limit,
        "task_seconds": parse_seconds,
        "queue_seconds": parse_seconds,
    }
    try:
        for name, parse in parsers.items():
            if isinstance(fields.get(name), str):
                fields[name] = parse(fields[name])
        return Scenario(**fields)
    except (TypeError, ValueError) as error:
        raise pytest.UsageError(f"{request.node.nodeid}: @pytest.mark.simulator: {error}") from None


@pytest.fixture
async def simulator(
    simulator_scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Simulator]:
    """A simulator on the event loop of the test, with the environment variables set to it."""
    _require_simulator()
    from aivideo.simulator import serve

    async with serve(simulator_scenario) as running:
        _set_environment(running, simulator_scenario, monkeypatch)
        yield running


@pytest.fixture
def live_simulator(
    simulator_scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> Generator[Simulator]:
    """A simulator on a thread of its own, with the environment variables set to it."""
    _require_simulator()
    with _serve_on_thread(simulator_scenario) as running:
        _set_environment(running, simulator_scenario, monkeypatch)
        yield running


def _set_environment(
    running: Simulator, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
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
            # Startup errors are raised in the test; pytest reports later errors of the thread.
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
            f"the simulator needs packages that are not installed ({', '.join(missing)}): "
            'pip install "aivideo-sdk[testing]"',
            pytrace=False,
        )
