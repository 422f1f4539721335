"""The supervisor owns the asyncio tasks of a session and binds them to one event loop."""

from __future__ import annotations

import asyncio
import logging
import warnings

import pytest

from aivideo import ConfigurationError
from aivideo._session.supervisor import Supervisor

pytestmark = pytest.mark.anyio


async def nothing() -> None:
    pass


async def test_closing_waits_for_tasks_that_must_finish_and_cancels_the_others() -> None:
    supervisor, ended = Supervisor(), list[str]()

    async def slow(name: str) -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            ended.append(f"{name} cancelled")
            raise
        ended.append(f"{name} finished")

    supervisor.start_must_finish(lambda: slow("write"))
    child = supervisor.start_cancellable(lambda: slow("probe"))
    await asyncio.sleep(1)
    began = asyncio.get_running_loop().time()
    await supervisor.close(nothing)
    assert ended == ["probe cancelled", "write finished"]
    assert asyncio.get_running_loop().time() - began == pytest.approx(9)
    assert child.ended.is_set()


async def test_a_failed_child_is_logged_and_does_not_affect_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    supervisor, done = Supervisor(), asyncio.Event()

    async def fail() -> None:
        raise RuntimeError("a defect")

    async def work() -> None:
        await asyncio.sleep(1)
        done.set()

    with caplog.at_level(logging.ERROR, logger="aivideo.session"):
        supervisor.start_must_finish(fail)
        supervisor.start_must_finish(work)
        await done.wait()
    assert "this is a defect" in caplog.text
    await supervisor.close(nothing)


async def test_a_cancellable_child_can_be_cancelled_separately_even_before_it_has_started() -> None:
    supervisor, seen = Supervisor(), list[int]()

    async def work(number: int) -> None:
        seen.append(number)
        await asyncio.sleep(10)
        seen.append(-number)

    early = supervisor.start_cancellable(lambda: work(1))
    early.cancel()
    other = supervisor.start_cancellable(lambda: work(2))
    await early.ended.wait()
    await other.ended.wait()
    assert 2 in seen
    assert -2 in seen
    assert -1 not in seen
    await supervisor.close(nothing)


async def test_no_cancellable_child_is_started_after_a_close() -> None:
    supervisor = Supervisor()
    supervisor.start_must_finish(nothing)
    await supervisor.close(nothing)
    child = supervisor.start_cancellable(nothing)
    assert child.ended.is_set()


def test_another_event_loop_is_refused() -> None:
    supervisor = Supervisor()

    async def use() -> None:
        supervisor.check_loop()

    asyncio.run(use())
    with pytest.raises(ConfigurationError, match="has been closed"):
        asyncio.run(use())


def test_a_loop_that_ends_without_a_close_emits_a_resource_warning() -> None:
    supervisor = Supervisor()

    async def use() -> None:
        supervisor.start_must_finish(lambda: asyncio.sleep(3600))
        await asyncio.sleep(0)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(use())
    assert [w.category for w in caught] == [ResourceWarning]
    assert "aclose()" in str(caught[0].message)
