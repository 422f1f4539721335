"""The pytest fixtures, used in the tests of another project."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

VIRTUAL = """
    import os
    import pytest
    from aivideo import Session, Sora2
    from aivideo.testing import VirtualTimeLoop

    @pytest.fixture
    def anyio_backend():
        return "asyncio", {"loop_factory": VirtualTimeLoop}

    BOAT = Sora2("A paper boat", duration=4, aspect_ratio="16:9")
"""


def run_tests(pytester: pytest.Pytester, source: str, **outcomes: int) -> pytest.RunResult:
    pytester.makepyfile(source)
    result = pytester.runpytest("-W", "error", "--strict-markers")
    result.assert_outcomes(**(outcomes or {"passed": 1}))
    return result


def test_application_uses_the_simulator_without_configuration(pytester: pytest.Pytester) -> None:
    run_tests(
        pytester,
        VIRTUAL
        + """
    @pytest.mark.anyio
    async def test_boat(simulator):
        async with Session() as session:
            task = await session.generate(BOAT)
        assert task.urls[0].startswith(simulator.results_url)
        assert simulator.truth.creates_taken == 1
    """,
    )


def test_environment_is_restored_after_the_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIVIDEO_API_KEY", "sk-mine")
    run_tests(
        pytester,
        VIRTUAL
        + """
    @pytest.mark.anyio
    async def test_with(simulator):
        assert os.environ["AIVIDEO_API_KEY"] != "sk-mine"
        assert os.environ["AIVIDEO_BASE_URL"] == simulator.url

    def test_without():
        assert os.environ["AIVIDEO_API_KEY"] == "sk-mine"
        assert "AIVIDEO_BASE_URL" not in os.environ
    """,
        passed=2,
    )


def test_marker_configures_the_service_and_the_closest_takes_precedence(
    pytester: pytest.Pytester,
) -> None:
    run_tests(
        pytester,
        VIRTUAL
        + """
    pytestmark = [pytest.mark.anyio, pytest.mark.simulator(seed=1, failure_rate=0.5)]

    @pytest.mark.simulator(
        rate_limit="token:5/s:10", task_seconds="60-120", failure_rate=1.0, keys={"sk-a": 7}
    )
    async def test_boat(simulator):
        scenario = simulator.service.scenario
        assert (scenario.seed, scenario.failure_rate) == (1, 1.0)
        assert (scenario.rate_limit.rate, scenario.task_seconds) == (5, (60, 120))
        assert os.environ["AIVIDEO_API_KEY"] == "sk-a"

    @pytest.mark.simulator(speed=1)
    async def test_another(simulator):
        assert simulator.service.scenario.rate_limit is None
        assert simulator.service.scenario.speed == 1
    """,
        passed=2,
    )


def test_custom_scenario_fixture_configures_the_service(pytester: pytest.Pytester) -> None:
    run_tests(
        pytester,
        VIRTUAL
        + """
    from aivideo.simulator import Scenario

    @pytest.fixture
    def simulator_scenario():
        return Scenario(seed=42, speed=5)

    @pytest.mark.anyio
    async def test_boat(simulator):
        assert simulator.service.scenario == Scenario(
            seed=42, speed=5, epoch=simulator.service.scenario.epoch
        )
    """,
    )


def test_synchronous_tests_can_use_live_simulator(pytester: pytest.Pytester) -> None:
    run_tests(
        pytester,
        """
    import asyncio
    import threading
    from aivideo import Session

    def test_balance(live_simulator):
        async def balance():
            async with Session() as session:
                return (await session.credits()).balance

        assert asyncio.run(balance()) == 1_000_000
        assert "aivideo-simulator" in {thread.name for thread in threading.enumerate()}

    def test_after_it():
        assert "aivideo-simulator" not in {thread.name for thread in threading.enumerate()}
    """,
        passed=2,
    )


def test_invalid_marker_is_reported(pytester: pytest.Pytester) -> None:
    result = run_tests(
        pytester,
        """
    import pytest

    @pytest.mark.simulator(sped=60)
    def test_field(live_simulator): ...

    @pytest.mark.simulator(failure_rate=2)
    def test_value(live_simulator): ...

    @pytest.mark.simulator(rate_limit="often")
    def test_text(live_simulator): ...

    @pytest.mark.simulator(60)
    def test_position(live_simulator): ...
    """,
        errors=4,
    )
    result.stdout.fnmatch_lines(
        [
            "*test_field: @pytest.mark.simulator: *sped*",
            "*test_value: @pytest.mark.simulator: *failure_rate*",
            "*test_text: @pytest.mark.simulator: *often*",
            "*test_position: @pytest.mark.simulator takes fields of Scenario by name*60*",
        ]
    )


def test_missing_packages_are_reported_with_the_install_command(pytester: pytest.Pytester) -> None:
    result = run_tests(
        pytester,
        """
    import aivideo.testing.pytest_plugin as plugin
    import pytest

    @pytest.fixture(autouse=True)
    def without_av(monkeypatch):
        monkeypatch.setattr(plugin, "find_spec", lambda name: None)

    def test_boat(live_simulator):
        assert False

    def test_other():
        pass
    """,
        errors=1,
        passed=1,
    )
    result.stdout.fnmatch_lines(['*av, PIL*pip install "aivideo-sdk?testing?"*'])


def test_startup_failure_fails_the_test_without_hanging(
    pytester: pytest.Pytester,
) -> None:
    run_tests(
        pytester,
        """
    import aivideo.simulator
    import pytest

    @pytest.fixture(autouse=True)
    def no_port(monkeypatch):
        def serve(scenario):
            raise OSError("no port is free")

        monkeypatch.setattr(aivideo.simulator, "serve", serve)

    def test_boat(live_simulator):
        assert False
    """,
        errors=1,
    ).stdout.fnmatch_lines(["*no port is free*"])


def test_unused_plugin_imports_no_heavy_packages(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
    import sys

    def test_nothing():
        heavy = {"aiohttp", "av", "PIL", "aivideo.simulator", "cyclopts", "fastapi"}
        assert heavy.isdisjoint(sys.modules)
    """
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(pytester.path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout
