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

# A thread that takes this long gives a clock that is not held a thousand chances to run away.
A_WHILE = 0.02


@pytest.fixture
async def loop() -> VirtualTimeLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop


def run(main: Coroutine[Any, Any, _T], *, deadlock_after: float = 10.0, start: float = 0.0) -> _T:
    """Run on a loop of its own, for what the tests' own loop would not survive."""

    def new_loop() -> VirtualTimeLoop:
        return VirtualTimeLoop(deadlock_after=deadlock_after, start=start)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)


async def ticking(beats: list[float]) -> None:
    """A timer that would run away with the time if it could."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(1)
        beats.append(loop.time())


# ---- the clock ----------------------------------------------------------------------------------


async def test_a_day_of_sleep_takes_no_time_and_lasts_a_day(loop: VirtualTimeLoop) -> None:
    began, really_began = loop.time(), time.monotonic()
    await asyncio.sleep(86_400)
    assert loop.time() - began == 86_400
    assert time.monotonic() - really_began < 1


async def test_timers_fire_in_their_order_each_at_its_time(loop: VirtualTimeLoop) -> None:
    fired: list[tuple[float, str]] = []
    began = loop.time()

    async def at(delay: float, name: str) -> None:
        await asyncio.sleep(delay)
        fired.append((loop.time() - began, name))

    await asyncio.gather(at(3, "c"), at(1, "a"), at(90_000, "e"), at(2, "b"), at(3, "d"))
    assert fired == [(1, "a"), (2, "b"), (3, "c"), (3, "d"), (90_000, "e")]


async def test_timeouts_of_asyncio_and_anyio_are_over_at_their_time(loop: VirtualTimeLoop) -> None:
    began = loop.time()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(600):
            await asyncio.Event().wait()
    with anyio.move_on_after(300):
        await asyncio.Event().wait()
    assert loop.time() - began == 900


def test_time_begins_where_it_is_told_and_stands_still_without_timers() -> None:
    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(100):
            await asyncio.sleep(0)
        return began, loop.time()

    assert run(main(), start=5000.0) == (5000.0, 5000.0)
    assert run(main()) == (0.0, 0.0)


def test_the_time_is_exact_late_in_a_long_run() -> None:
    async def main() -> float:
        for _ in range(1000):
            await asyncio.sleep(0.1)
        return asyncio.get_running_loop().time()

    assert run(main(), start=1e7) == pytest.approx(1e7 + 100, abs=1e-5)


def test_two_loops_have_two_clocks() -> None:
    async def sleep(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return asyncio.get_running_loop().time()

    assert run(sleep(7)) == 7
    assert run(sleep(3)) == 3


async def test_a_jump_is_cheap(loop: VirtualTimeLoop) -> None:
    # Some 10 µs here; a clock that waits for a millisecond at each jump takes 5 s for these.
    jumps, began = loop.jumps, time.process_time()
    for _ in range(5000):
        await asyncio.sleep(1)
    assert loop.jumps - jumps == 5000
    assert time.process_time() - began < 2


# ---- worker threads -----------------------------------------------------------------------------


async def test_the_clock_is_held_while_a_thread_works(loop: VirtualTimeLoop) -> None:
    beats: list[float] = []
    ticker = asyncio.create_task(ticking(beats))
    began = loop.time()
    await asyncio.to_thread(time.sleep, A_WHILE)
    with ThreadPoolExecutor(1) as pool:
        await loop.run_in_executor(pool, time.sleep, A_WHILE)
    await anyio.to_thread.run_sync(time.sleep, A_WHILE)
    await loop.getaddrinfo("127.0.0.1", 80)
    assert (loop.time() - began, beats) == (0, [])
    await asyncio.sleep(2.5)
    assert beats == [began + 1, began + 2], "the clock was not let go"
    ticker.cancel()


async def test_a_result_is_told_before_time_moves(loop: VirtualTimeLoop) -> None:
    # Many short hops: between a thread's end and the wake-up there is a moment to get wrong.
    beats: list[float] = []
    ticker = asyncio.create_task(ticking(beats))
    for _ in range(300):
        await asyncio.to_thread(lambda: None)
        await anyio.to_thread.run_sync(lambda: None)
    assert beats == []
    ticker.cancel()


async def test_a_thread_whose_waiter_was_cancelled_still_holds_the_clock(
    loop: VirtualTimeLoop,
) -> None:
    goes_on, ended = threading.Event(), threading.Event()

    def work() -> None:
        goes_on.wait()
        time.sleep(A_WHILE)
        ended.set()

    waiter = asyncio.create_task(asyncio.to_thread(work))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    goes_on.set()
    await asyncio.sleep(1)
    assert ended.is_set(), "time moved while the thread worked"


async def test_a_thread_that_fails_lets_go_of_the_clock(loop: VirtualTimeLoop) -> None:
    def fail() -> None:
        raise LookupError("as expected")

    with pytest.raises(LookupError):
        await asyncio.to_thread(fail)
    began = loop.time()
    await asyncio.sleep(5)
    assert loop.time() - began == 5


async def test_an_executor_of_the_users_own_is_used_and_counted() -> None:
    async def main() -> tuple[str, float]:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1, thread_name_prefix="mine"))
        ticker = asyncio.create_task(ticking([]))

        def work() -> str:
            time.sleep(A_WHILE)
            return threading.current_thread().name

        name = await asyncio.to_thread(work)
        ticker.cancel()
        return name, loop.time()

    name, at = await asyncio.to_thread(run, main())
    assert name.startswith("mine")
    assert at == 0


async def test_the_loop_ends_without_giving_up_on_a_thread() -> None:
    # From 3.12 on the runner gives threads 300 s to end, with a warning (here: an error) if not.
    ended = threading.Event()

    async def main() -> None:
        def work() -> None:
            time.sleep(0.1)
            ended.set()

        running = asyncio.get_running_loop().run_in_executor(None, work)
        assert not running.done()

    await asyncio.to_thread(run, main())
    assert ended.is_set()


async def test_hold_keeps_the_clock_from_moving(loop: VirtualTimeLoop) -> None:
    began = loop.time()
    asleep = asyncio.create_task(asyncio.sleep(1))
    process = await asyncio.create_subprocess_exec("sleep", str(A_WHILE))
    with loop.hold(), loop.hold():
        assert await process.wait() == 0
    assert loop.time() == began
    assert not asleep.done()
    await asleep
    assert loop.time() - began == 1


# ---- sockets ------------------------------------------------------------------------------------


async def test_a_service_and_its_clients_keep_every_second(loop: VirtualTimeLoop) -> None:
    """200 clients poll a real aiohttp server, each at its own interval, over real sockets."""
    seen: dict[str, list[float]] = {}

    async def answer(request: web.Request) -> web.Response:
        seen.setdefault(request.match_info["name"], []).append(loop.time() - began)
        return web.json_response({"at": loop.time() - began})

    app = web.Application()
    app.router.add_get("/{name}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    began = loop.time()

    async def poll(session: aiohttp.ClientSession, number: int) -> list[float]:
        heard = []
        for _ in range(13):
            await asyncio.sleep(1 + number % 7)
            async with session.get(f"{url}/{number}") as response:
                heard.append((await response.json())["at"])
            assert loop.time() - began == heard[-1], "the answer took time"
        return heard

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        heard = await asyncio.gather(*(poll(session, number) for number in range(200)))
    await runner.cleanup()

    for number in range(200):
        beat = 1 + number % 7
        expected = [float(beat * n) for n in range(1, 14)]
        assert heard[number] == expected
        assert seen[str(number)] == expected


async def test_a_slow_answer_is_late_by_just_its_slowness(loop: VirtualTimeLoop) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await asyncio.sleep(12)
        writer.write(b"x" * 5_000_000)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    began = loop.time()
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"go\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.create_task(asyncio.Event().wait())), 11)
        assert len(await reader.read(-1)) == 5_000_000
        writer.close()
        await writer.wait_closed()
    assert loop.time() - began == 12


# ---- when nothing can happen any more -----------------------------------------------------------


def test_waiting_for_what_cannot_come_is_an_error_that_says_where() -> None:
    async def wait_for_nobody() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match="no timer is set") as caught:
        run(wait_for_nobody(), deadlock_after=0.05)
    assert "wait_for_nobody" in str(caught.value)
    assert __file__ in str(caught.value)


def test_sleeping_for_ever_is_an_error_and_no_endless_run_of_days() -> None:
    with pytest.raises(DeadlockError, match="194 days have passed"):
        run(anyio.sleep_forever())


def test_a_clock_that_is_held_for_ever_is_an_error_that_says_so() -> None:
    async def sleep_while_holding() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        with loop.hold():
            await asyncio.sleep(1)

    with pytest.raises(DeadlockError, match=r"held by 1 hold\(\)s or worker threads"):
        run(sleep_while_holding(), deadlock_after=0.05)


async def test_a_thread_of_ones_own_can_wake_a_loop_without_timers(loop: VirtualTimeLoop) -> None:
    woken = asyncio.Event()
    thread = threading.Timer(A_WHILE, lambda: loop.call_soon_threadsafe(woken.set))
    thread.start()
    await woken.wait()
    thread.join()


async def test_the_repr_tells_what_time_it_is_and_what_holds_it(loop: VirtualTimeLoop) -> None:
    with loop.hold():
        assert "1 holds" in repr(loop)
    assert f"running at {loop.time():.6g} s" in repr(loop)
