"""Creates against a rate limit that nobody states: makespan ÷ ideal, 429s and failures.

Ours beside what people use today, against the same servers in one run: openai with its defaults
and with ten retries, tenacity's usual recipe, aiolimiter and aiometer told the true rate, and an
emulation of botocore's adaptive mode. Two servers: the simulator, and nginx's ``limit_req``, a
limiter nobody here wrote (Debian's package ``nginx-light``; left out where it is not installed).
Both on loopback, each its own process.

    python benchmarks/pace.py [ROUNDS]
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import multiprocessing
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import mean
from typing import Any

from attrs import define

KEY = "sk-benchmark"
PATH = "/v1/videos/generations"
BODY = {"model": "sora-2", "input": {"prompt": "boat", "duration": 4, "aspect_ratio": "16:9"}}
IN_FLIGHT = 64


@define
class Case:
    """A limit, and how many creates meet it."""

    name: str
    limit: str
    creates: int
    rate: float
    burst: int
    window: float | None = None
    retry_after: bool = False

    @property
    def ideal(self) -> float:
        """Seconds, for who knows the limit and begins with a full bucket or window."""
        if self.window is None:
            return max(0.01, (self.creates - self.burst) / self.rate)
        return (-(-self.creates // self.burst) - 1) * self.window


CASES = [
    Case("bucket 50/s, burst 10", "token:50/s:10", 500, 50.0, 10),
    Case("the same, Retry-After", "token:50/s:10", 500, 50.0, 10, retry_after=True),
    Case("sliding 20 per 5 s", "sliding:20/5s", 100, 4.0, 20, 5.0),
    Case("sliding 20 per 5 s, Retry-After", "sliding:20/5s", 100, 4.0, 20, 5.0, True),
]
NGINX = Case("nginx limit_req 50/s, burst 10", "nginx", 500, 50.0, 11)


@define
class Score:
    """What a client did: seconds, creates made, 429s met, creates given up."""

    seconds: float
    made: int
    refused: int
    failed: int


Contender = Callable[[str, Case], Awaitable[Score]]


# --- servers --------------------------------------------------------------------------------------


def _serve(pipe: Connection, limit: str, retry_after: bool) -> None:
    from aivideo.simulator import Scenario, parse_rate_limit, serve

    async def main() -> None:
        scenario = Scenario(
            rate_limit=parse_rate_limit(limit),
            retry_after="seconds" if retry_after else "none",
            media="stub",
            task_seconds=3600.0,
            default_balance=10**9,
        )
        async with serve(scenario) as simulator:
            pipe.send(simulator.url)
            await asyncio.Event().wait()

    asyncio.run(main())


@contextlib.asynccontextmanager
async def simulated(case: Case) -> AsyncIterator[str]:
    """The simulator, in a process of its own."""
    parent, child = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(child, case.limit, case.retry_after), daemon=True
    )
    process.start()
    try:
        yield await asyncio.to_thread(parent.recv)
    finally:
        process.terminate()
        process.join()


def _answer(pipe: Connection) -> None:
    """What stands behind nginx: it takes everything."""
    envelope = json.dumps({"code": 200, "msg": "success", "data": {"taskId": "t-1"}}).encode()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                at = head.find(b"content-length:")
                if at >= 0:
                    await reader.readexactly(int(head[at + 15 :].split(b"\r\n", 1)[0]))
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
                    + str(len(envelope)).encode()
                    + b"\r\n\r\n"
                    + envelope
                )
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


@contextlib.asynccontextmanager
async def behind_nginx(case: Case) -> AsyncIterator[str]:
    """Put nginx with ``limit_req`` before it, as its manual shows it."""
    parent, child = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_answer, args=(child,), daemon=True
    )
    process.start()
    backend = await asyncio.to_thread(parent.recv)
    port = random.randrange(20000, 30000)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "nginx.conf")
        config.write_text(
            f"""daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error crit;
            events {{}}
            http {{
                access_log off;
                client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
                fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
                keepalive_requests 100000;
                limit_req_zone $http_authorization zone=key:1m rate={case.rate:g}r/s;
                limit_req_status 429;
                upstream backend {{ server 127.0.0.1:{backend}; keepalive 64; }}
                server {{
                    listen 127.0.0.1:{port};
                    location / {{
                        limit_req zone=key burst={case.burst - 1} nodelay;
                        proxy_http_version 1.1; proxy_set_header Connection "";
                        proxy_pass http://backend;
                    }}
                }}
            }}"""
        )
        nginx = subprocess.Popen(  # noqa: ASYNC220  it is there at once
            ["nginx", "-c", str(config), "-e", f"{folder}/error"]
        )
        try:
            for _ in range(100):
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            nginx.terminate()
            nginx.wait()
            process.terminate()
            process.join()


# --- contenders -----------------------------------------------------------------------------------


async def ours(url: str, case: Case) -> Score:
    """The whole session, its limit learned."""
    from aivideo import AIVideoError, Session, Sora2

    began, failed = time.perf_counter(), 0
    # 20 minutes between looks: only creates meet the limit here, as with the others.
    async with Session(KEY, base_url=url, poll_interval=1200.0) as session:

        async def one(number: int) -> None:
            nonlocal failed
            try:
                await session.submit(Sora2(f"boat {number}", duration=4, aspect_ratio="16:9"))
            except AIVideoError:
                failed += 1

        await asyncio.gather(*(one(number) for number in range(case.creates)))
        took = time.perf_counter() - began
        refused = session.statistics().limiter.rejected
    return Score(took, case.creates - failed, refused, failed)


class Refused(Exception):  # noqa: N818  an answer, not a defect
    """A 429, with the seconds it asked for."""

    def __init__(self, after: float | None) -> None:
        self.after = after


@contextlib.asynccontextmanager
async def posting(url: str) -> AsyncIterator[tuple[Callable[[], Awaitable[None]], list[int]]]:
    """A plain aiohttp POST, and the count of its 429s."""
    import aiohttp

    refused = [0]
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:

        async def post() -> None:
            async with session.post(url + PATH, json=BODY) as response:
                await response.read()
                if response.status == 429:
                    refused[0] += 1
                    after = response.headers.get("Retry-After")
                    raise Refused(None if after is None else float(after))
                response.raise_for_status()

        yield post, refused


async def pool(case: Case, one: Callable[[], Awaitable[None]]) -> tuple[float, int]:
    """Run ``one`` for each create, so many at once; seconds and failures."""
    left, failed, began = iter(range(case.creates)), 0, time.perf_counter()

    async def worker() -> None:
        nonlocal failed
        for _ in left:
            try:
                await one()
            except Exception:
                failed += 1

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return time.perf_counter() - began, failed


def openai(retries: int | None) -> Contender:
    """Use openai's client: it retries by itself."""

    async def contend(url: str, case: Case) -> Score:
        import httpx
        from openai import AsyncOpenAI

        refused = 0

        async def count(response: httpx.Response) -> None:
            nonlocal refused
            refused += response.status_code == 429

        http = httpx.AsyncClient(event_hooks={"response": [count]})
        options: dict[str, Any] = {} if retries is None else {"max_retries": retries}
        async with AsyncOpenAI(api_key=KEY, base_url=url, http_client=http, **options) as client:

            async def one() -> None:
                await client.post(PATH, body=BODY, cast_to=object)

            took, failed = await pool(case, one)
        return Score(took, case.creates - failed, refused, failed)

    return contend


async def tenacity(url: str, case: Case) -> Score:
    """The usual recipe: exponential backoff with jitter, until it works."""
    from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

    async with posting(url) as (post, refused):

        async def one() -> None:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(Refused),
                wait=wait_random_exponential(multiplier=0.5, max=60),
                reraise=True,
            ):
                with attempt:
                    await post()

        took, failed = await pool(case, one)
        return Score(took, case.creates - failed, refused[0], failed)


async def _until_taken(post: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            return await post()
        except Refused as error:
            await asyncio.sleep(error.after or 1.0)


async def aiolimiter(url: str, case: Case) -> Score:
    """A leaky bucket that is told the truth: the burst, and the rate."""
    from aiolimiter import AsyncLimiter

    limiter = AsyncLimiter(case.burst, case.window or case.burst / case.rate)
    async with posting(url) as (post, refused):

        async def one() -> None:
            async with limiter:
                await _until_taken(post)

        took, failed = await pool(case, one)
        return Score(took, case.creates - failed, refused[0], failed)


async def aiometer(url: str, case: Case) -> Score:
    """Even spacing at the true rate."""
    import aiometer as meter

    async with posting(url) as (post, refused):

        async def one(_: int) -> None:
            await _until_taken(post)

        began = time.perf_counter()
        await meter.run_on_each(
            one, [*range(case.creates)], max_at_once=IN_FLIGHT, max_per_second=case.rate
        )
        return Score(time.perf_counter() - began, case.creates, refused[0], 0)


async def botocore(url: str, case: Case) -> Score:
    """An emulation of botocore's adaptive mode: CUBIC on a token bucket, one cut for each 429.

    Scaling 0.4, a cut by 0.7, as it documents them; requests retry after a full-jitter backoff.
    """
    rate, tokens, last = 2.0, 1.0, time.perf_counter()
    w_max, cut_at, measured = 2.0, time.perf_counter(), 2.0
    sent, window = 0, time.perf_counter()

    async def admit() -> None:
        nonlocal tokens, last, sent
        while True:
            now = time.perf_counter()
            tokens = min(max(1.0, rate), tokens + (now - last) * rate)
            last = now
            if tokens >= 1:
                tokens -= 1
                sent += 1
                return
            await asyncio.sleep((1 - tokens) / rate)

    def heard(throttled: bool) -> None:
        nonlocal rate, w_max, cut_at, measured, sent, window
        now = time.perf_counter()
        if now - window >= 0.5:
            measured = 0.8 * sent / (now - window) + 0.2 * measured
            sent, window = 0, now
        if throttled:
            w_max, cut_at = min(rate, measured), now
            rate = max(0.5, w_max * 0.7)
        else:
            ramp = (w_max * 0.3 / 0.4) ** (1 / 3)
            rate = min(0.4 * (now - cut_at - ramp) ** 3 + w_max, 2 * measured)
            rate = max(0.5, rate)

    async with posting(url) as (post, refused):

        async def one() -> None:
            attempt = 0
            while True:
                await admit()
                try:
                    await post()
                except Refused:
                    heard(throttled=True)
                    attempt += 1
                    await asyncio.sleep(random.random() * min(20.0, 2.0**attempt))
                else:
                    return heard(throttled=False)

        took, failed = await pool(case, one)
        return Score(took, case.creates - failed, refused[0], failed)


CONTENDERS: dict[str, tuple[str, Contender]] = {
    "aivideo, nothing stated": ("aivideo", ours),
    "openai, its defaults": ("openai", openai(None)),
    "openai, 10 retries": ("openai", openai(10)),
    "tenacity, exponential jitter": ("tenacity", tenacity),
    "aiolimiter, told the limit": ("aiolimiter", aiolimiter),
    "aiometer, told the rate": ("aiometer", aiometer),
    "botocore adaptive, emulated": ("aiohttp", botocore),
}


async def main(rounds: int) -> None:
    """Measure each contender against each server, a fresh server each time, and print."""
    cases: list[tuple[Case, Any]] = [(case, simulated) for case in CASES]
    if shutil.which("nginx"):
        cases.append((NGINX, behind_nginx))
    else:
        print("nginx: not installed")
    for case, server in cases:
        print(f"\n{case.name}: {case.creates} creates, ideal {case.ideal:.1f} s, {rounds} rounds")
        print(f"{'':32s} makespan ÷ ideal   429s per accepted   failed")
        scores: dict[str, list[Score]] = {}
        for _ in range(rounds):
            for name, (module, contend) in CONTENDERS.items():
                if importlib.util.find_spec(module) is None:
                    continue
                async with server(case) as url:
                    scores.setdefault(name, []).append(await contend(url, case))
        for name, each in scores.items():
            took = mean(score.seconds for score in each) / case.ideal
            refused = mean(score.refused / max(1, score.made) for score in each)
            failed = mean(score.failed for score in each)
            whole = f"{took:16.2f}" if not failed else f"{'-':>16s}"
            print(f"{name:32s} {whole}   {refused:17.3f}   {failed:6.0f}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
