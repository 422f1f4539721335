from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import aiohttp
import anyio.to_thread
import pytest
from aiohttp import web

from aivideo.testing import DeadlockError, VirtualTimeLoop

pytestmark = pytest.mark.anyio

_T = TypeVar("_T")

# Seconds of real work in a thread: long enough for a clock that is not held to jump many times.
WORK_SECONDS = 0.02


@pytest.fixture
async def loop() -> VirtualTimeLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop


def run(main: Coroutine[Any, Any, _T], *, deadlock_after: float = 10.0, start: float = 0.0) -> _T:
    """Run on a new loop, for tests that would stop the test's own loop or need other settings."""

    def new_loop() -> VirtualTimeLoop:
        return VirtualTimeLoop(deadlock_after=deadlock_after, start=start)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)


async def tick(ticks: list[float]) -> None:
    """Append the time every second: shows whether the clock moves."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(1)
        ticks.append(loop.time())


# ---- the clock ----------------------------------------------------------------------------------


async def test_sleep_of_a_day_takes_no_real_time(loop: VirtualTimeLoop) -> None:
    start, real_start = loop.time(), time.monotonic()
    await asyncio.sleep(86_400)
    assert loop.time() - start == 86_400
    assert time.monotonic() - real_start < 1


async def test_timers_fire_in_order_at_their_times(loop: VirtualTimeLoop) -> None:
    fired: list[tuple[float, str]] = []
    start = loop.time()

    async def at(delay: float, name: str) -> None:
        await asyncio.sleep(delay)
        fired.append((loop.time() - start, name))

    await asyncio.gather(at(3, "c"), at(1, "a"), at(90_000, "e"), at(2, "b"), at(3, "d"))
    assert fired == [(1, "a"), (2, "b"), (3, "c"), (3, "d"), (90_000, "e")]


async def test_timeouts_of_asyncio_and_anyio_expire_at_their_times(loop: VirtualTimeLoop) -> None:
    start = loop.time()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(600):
            await asyncio.Event().wait()
    with anyio.move_on_after(300):
        await asyncio.Event().wait()
    assert loop.time() - start == 900


def test_time_starts_as_configured_and_does_not_move_without_timers() -> None:
    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        start = loop.time()
        for _ in range(100):
            await asyncio.sleep(0)
        return start, loop.time()

    assert run(main(), start=5000.0) == (5000.0, 5000.0)
    assert run(main()) == (0.0, 0.0)


def test_time_is_exact_late_in_a_long_run() -> None:
    async def main() -> float:
        for _ in range(1000):
            await asyncio.sleep(0.1)
        return asyncio.get_running_loop().time()

    assert run(main(), start=1e7) == pytest.approx(1e7 + 100, abs=1e-5)


def test_each_loop_has_its_own_clock() -> None:
    async def sleep(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return asyncio.get_running_loop().time()

    assert run(sleep(7)) == 7
    assert run(sleep(3)) == 3


async def test_jump_is_cheap(loop: VirtualTimeLoop) -> None:
    # About 10 µs per jump. A clock that waited 1 ms for each jump would need 5 s.
    jumps, start = loop.jumps, time.process_time()
    for _ in range(5000):
        await asyncio.sleep(1)
    assert loop.jumps - jumps == 5000
    assert time.process_time() - start < 2


# ---- worker threads -----------------------------------------------------------------------------


async def test_clock_is_held_while_a_thread_works(loop: VirtualTimeLoop) -> None:
    ticks: list[float] = []
    ticking = asyncio.create_task(tick(ticks))
    start = loop.time()
    await asyncio.to_thread(time.sleep, WORK_SECONDS)
    with ThreadPoolExecutor(1) as pool:
        await loop.run_in_executor(pool, time.sleep, WORK_SECONDS)
    await anyio.to_thread.run_sync(time.sleep, WORK_SECONDS)
    await loop.getaddrinfo("127.0.0.1", 80)
    assert (loop.time() - start, ticks) == (0, [])
    await asyncio.sleep(2.5)
    assert ticks == [start + 1, start + 2], "the clock was not released"
    ticking.cancel()


async def test_result_of_a_thread_is_delivered_before_time_moves(loop: VirtualTimeLoop) -> None:
    # Many short calls, to test the interval between the end of a thread and the wake-up.
    ticks: list[float] = []
    ticking = asyncio.create_task(tick(ticks))
    for _ in range(300):
        await asyncio.to_thread(lambda: None)
        await anyio.to_thread.run_sync(lambda: None)
    assert ticks == []
    ticking.cancel()


async def test_thread_with_a_cancelled_waiter_still_holds_the_clock(
    loop: VirtualTimeLoop,
) -> None:
    may_continue, ended = threading.Event(), threading.Event()

    def work() -> None:
        may_continue.wait()
        time.sleep(WORK_SECONDS)
        ended.set()

    waiter = asyncio.create_task(asyncio.to_thread(work))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    may_continue.set()
    await asyncio.sleep(1)
    assert ended.is_set(), "time moved while the thread worked"


async def test_thread_that_raises_releases_the_clock(loop: VirtualTimeLoop) -> None:
    def fail() -> None:
        raise LookupError("as expected")

    with pytest.raises(LookupError):
        await asyncio.to_thread(fail)
    start = loop.time()
    await asyncio.sleep(5)
    assert loop.time() - start == 5


async def test_custom_default_executor_is_used_and_holds_the_clock() -> None:
    async def main() -> tuple[str, float]:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1, thread_name_prefix="mine"))
        ticking = asyncio.create_task(tick([]))

        def work() -> str:
            time.sleep(WORK_SECONDS)
            return threading.current_thread().name

        name = await asyncio.to_thread(work)
        ticking.cancel()
        return name, loop.time()

    name, at = await asyncio.to_thread(run, main())
    assert name.startswith("mine")
    assert at == 0


async def test_loop_waits_for_running_threads_when_it_ends() -> None:
    # Since Python 3.12 the runner waits 300 s for threads, then warns (here: an error).
    ended = threading.Event()

    async def main() -> None:
        def work() -> None:
            time.sleep(0.1)
            ended.set()

        running = asyncio.get_running_loop().run_in_executor(None, work)
        assert not running.done()

    await asyncio.to_thread(run, main())
    assert ended.is_set()


async def test_hold_stops_the_clock(loop: VirtualTimeLoop) -> None:
    start = loop.time()
    asleep = asyncio.create_task(asyncio.sleep(1))
    process = await asyncio.create_subprocess_exec("sleep", str(WORK_SECONDS))
    with loop.hold(), loop.hold():
        assert await process.wait() == 0
    assert loop.time() == start
    assert not asleep.done()
    await asleep
    assert loop.time() - start == 1


# ---- sockets ------------------------------------------------------------------------------------


async def test_server_and_clients_see_exact_times_over_sockets(loop: VirtualTimeLoop) -> None:
    """200 clients poll a real aiohttp server over sockets, each at its own interval."""
    seen: dict[str, list[float]] = {}

    async def answer(request: web.Request) -> web.Response:
        seen.setdefault(request.match_info["name"], []).append(loop.time() - start)
        return web.json_response({"at": loop.time() - start})

    app = web.Application()
    app.router.add_get("/{name}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    start = loop.time()

    async def poll(session: aiohttp.ClientSession, number: int) -> list[float]:
        received = []
        for _ in range(13):
            await asyncio.sleep(1 + number % 7)
            async with session.get(f"{url}/{number}") as response:
                received.append((await response.json())["at"])
            assert loop.time() - start == received[-1], "the answer took time"
        return received

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        received = await asyncio.gather(*(poll(session, number) for number in range(200)))
    await runner.cleanup()

    for number in range(200):
        interval = 1 + number % 7
        expected = [float(interval * n) for n in range(1, 14)]
        assert received[number] == expected
        assert seen[str(number)] == expected


async def test_slow_answer_arrives_exactly_after_its_delay(loop: VirtualTimeLoop) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await asyncio.sleep(12)
        writer.write(b"x" * 5_000_000)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    start = loop.time()
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"go\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.create_task(asyncio.Event().wait())), 11)
        assert len(await reader.read(-1)) == 5_000_000
        writer.close()
        await writer.wait_closed()
    assert loop.time() - start == 12


# ---- deadlocks ----------------------------------------------------------------------------------


def test_deadlock_error_names_the_waiting_task_and_its_position() -> None:
    async def wait_without_a_timer() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match="no timer is set") as caught:
        run(wait_without_a_timer(), deadlock_after=0.05)
    assert "wait_without_a_timer" in str(caught.value)
    assert __file__ in str(caught.value)


def test_endless_sleep_raises_a_deadlock_error() -> None:
    with pytest.raises(DeadlockError, match="194 days have passed"):
        run(anyio.sleep_forever())


def test_clock_held_without_end_raises_a_deadlock_error() -> None:
    async def sleep_while_holding() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        with loop.hold():
            await asyncio.sleep(1)

    with pytest.raises(DeadlockError, match=r"held by 1 hold\(\)s or worker threads"):
        run(sleep_while_holding(), deadlock_after=0.05)


async def test_other_thread_can_wake_a_loop_without_timers(loop: VirtualTimeLoop) -> None:
    woken = asyncio.Event()
    thread = threading.Timer(WORK_SECONDS, lambda: loop.call_soon_threadsafe(woken.set))
    thread.start()
    await woken.wait()
    thread.join()


async def test_repr_shows_the_time_and_the_holds(loop: VirtualTimeLoop) -> None:
    with loop.hold():
        assert "1 holds" in repr(loop)
    assert f"running at {loop.time():.6g} s" in repr(loop)
