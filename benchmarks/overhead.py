"""CPU per POST with 64 in flight, as a ratio to a plain aiohttp loop that does the same.

The server runs in another process, answers every POST with the documented envelope and parses as
little as it can. Each client posts the same body and reads the task id, in interleaved rounds. Only
this process's CPU (user + system) is counted.

    python benchmarks/overhead.py [POSTS [ROUNDS [CHECKOUT]]]

With CHECKOUT, the folder of another version, that version's own copy of this benchmark takes turns
with this one, in processes of their own, and the ratios of both are printed side by side:

    git worktree add /tmp/before 85b51a5
    python benchmarks/overhead.py 3000 7 /tmp/before
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

IN_FLIGHT = 64
WARM_UP = 300
"""POSTs before the measurement: they open the connections and let the limiter finish its ramp.
(While a limiter sends one request at a time, each costs more: the loop wakes up for it alone.)"""
PATH = "/v1/videos/generations"
INPUT = {"prompt": "A paper boat in the rain", "duration": 8, "aspect_ratio": "16:9"}
BODY = {"model": "sora-2", "input": INPUT}
KEY = "sk-benchmark"
TASK_ID = "-6f0a-4b8e-9b53-0d6f3a0f7a11"
"""The end of each task id. Ids are unique: a session does not accept the same id twice."""
_ANSWER = json.dumps({"code": 200, "msg": "success", "data": {"taskId": "%08x" + TASK_ID}}).encode()
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
    + str(len(_ANSWER % 0)).encode()
    + b"\r\n\r\n"
    + _ANSWER
)
_numbers = itertools.count(1)


class Envelope(asyncio.Protocol):
    """Answers each request when its head and body have arrived."""

    def connection_made(self, transport: Any) -> None:
        """Store the transport."""
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        """Answer each complete request in the buffer."""
        self.buffer += data
        while True:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            self.buffer = self.buffer[end + 4 + length :]
            self.transport.write(ANSWER % next(_numbers))


def serve(pipe: Connection) -> None:
    """Serve on loopback until terminated; send the port through ``pipe``."""

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Envelope, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


Post = Callable[[], Awaitable[object]]
Client = Callable[[str], Any]


async def run(post: Post, posts: int) -> float:
    """Return the CPU seconds of ``posts`` POSTs, with ``IN_FLIGHT`` at a time."""
    left = iter(range(posts))

    async def worker() -> None:
        for _ in left:
            assert str(await post()).endswith(TASK_ID)

    before = time.process_time()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return time.process_time() - before


class RawAiohttp:
    """What one would write by hand."""

    async def __aenter__(self) -> Post:
        import aiohttp

        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        headers = {"Authorization": f"Bearer {KEY}"}

        async def post() -> object:
            async with self.session.post(self.url + PATH, json=BODY, headers=headers) as response:
                body = await response.json()
                return body["data"]["taskId"]

        return post

    def __init__(self, url: str) -> None:
        self.url = url

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()


class Ours:
    """Client, limiter, verdict, typed answer."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def __aenter__(self) -> Post:
        from aivideo import Client, Sora2
        from aivideo._api.verdict import Accepted
        from aivideo._pacing.limiter import Limiter
        from aivideo._pacing.turns import RequestKind

        self.client = client = Client(KEY, base_url=self.url)
        limiter = Limiter(max_in_flight=IN_FLIGHT)
        request = Sora2(INPUT["prompt"], duration=8, aspect_ratio="16:9")  # type: ignore[arg-type]

        async def post() -> object:
            permit = await limiter.acquire(RequestKind.CREATE)
            heard = await client.submit(request)
            assert isinstance(heard, Accepted)
            permit.accepted(job_taken=True)
            return heard.task_id

        return post

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()


class OursWhole(Ours):
    """A whole session: with a ledger, ceilings, a job and its polling."""

    async def __aenter__(self) -> Post:
        from aivideo import Session, Sora2

        self.session = session = Session(KEY, base_url=self.url, poll_interval=3600.0)
        request = Sora2(INPUT["prompt"], duration=8, aspect_ratio="16:9")  # type: ignore[arg-type]

        async def post() -> object:
            return (await session.submit(request)).task_id

        return post

    async def __aexit__(self, *_: object) -> None:
        await self.session.aclose()


class Httpx:
    """httpx, by hand."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def __aenter__(self) -> Post:
        import httpx

        limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
        self.client = client = httpx.AsyncClient(limits=limits)
        headers = {"Authorization": f"Bearer {KEY}"}

        async def post() -> object:
            response = await client.post(self.url + PATH, json=BODY, headers=headers)
            return response.json()["data"]["taskId"]

        return post

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()


class OpenAI:
    """openai's client, with another path."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def __aenter__(self) -> Post:
        from openai import AsyncOpenAI

        self.client = client = AsyncOpenAI(api_key=KEY, base_url=self.url, max_retries=0)

        async def post() -> object:
            answer: Any = await client.post(PATH, body=BODY, cast_to=object)
            return answer["data"]["taskId"]

        return post

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()


class Runway:
    """runwayml's client, with another path (generated by the same tool as openai's)."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def __aenter__(self) -> Post:
        from runwayml import AsyncRunwayML

        self.client = client = AsyncRunwayML(api_key=KEY, base_url=self.url, max_retries=0)

        async def post() -> object:
            answer: Any = await client.post(PATH, body=BODY, cast_to=object)
            return answer["data"]["taskId"]

        return post

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()


class Replicate:
    """replicate's client: the HTTP layer under its ``run``."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def __aenter__(self) -> Post:
        import replicate

        client = replicate.Client(api_token=KEY, base_url=self.url)

        async def post() -> object:
            response = await client._async_request("POST", PATH, json=BODY)
            return response.json()["data"]["taskId"]

        return post

    async def __aexit__(self, *_: object) -> None:
        return None


class Fal:
    """fal_client: the HTTP client that its ``submit`` uses, and its error check."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def __aenter__(self) -> Post:
        import fal_client

        client = fal_client.AsyncClient(key=KEY)
        http = client._client
        if callable(http):
            http = http()
        if hasattr(http, "__await__"):
            http = await http

        async def post() -> object:
            response = await http.post(self.url + PATH, json=BODY)
            response.raise_for_status()
            return response.json()["data"]["taskId"]

        return post

    async def __aexit__(self, *_: object) -> None:
        return None


CLIENTS: dict[str, tuple[str, Client]] = {
    "raw aiohttp": ("aiohttp", RawAiohttp),
    "aivideo: client + limiter + verdict": ("aivideo", Ours),
    "aivideo: Session.submit, all of it": ("aivideo", OursWhole),
    "httpx": ("httpx", Httpx),
    "openai": ("openai", OpenAI),
    "runwayml": ("runwayml", Runway),
    "replicate": ("replicate", Replicate),
    "fal_client": ("fal_client", Fal),
}


async def main(posts: int, rounds: int) -> None:
    """Measure in interleaved rounds, and print."""
    parent, child = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(child,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{parent.recv()}"
    taken: dict[str, list[float]] = {}
    try:
        for number in range(rounds + 1):
            for name, (module, client) in CLIENTS.items():
                if importlib.util.find_spec(module) is None:
                    if not number:
                        print(f"{name}: not installed")
                    continue
                # Slow clients send fewer: what is compared is the cost of one POST.
                count = posts if module in ("aiohttp", "aivideo") else max(200, posts // 6)
                try:
                    async with client(url) as post:
                        await run(post, WARM_UP)
                        spent = await run(post, count) / count
                except Exception as error:
                    if not number:
                        print(f"{name}: left out, {type(error).__name__}: {error}")
                    continue
                if number:  # the first round is a warm-up
                    taken.setdefault(name, []).append(spent)
    finally:
        server.terminate()
        server.join()
    base = taken["raw aiohttp"]
    print(f"\n{IN_FLIGHT} in flight, {rounds} interleaved rounds, medians")
    print(f"{'':38s} CPU µs a POST   ÷ raw aiohttp")
    for name, each in taken.items():
        ratio = median(mine / theirs for mine, theirs in zip(each, base, strict=False))
        print(f"{name:38s} {1e6 * median(each):13.0f}   {ratio:.2f}")


def ratios_of(checkout: Path, posts: int) -> dict[str, float]:
    """Run a version's own copy of this benchmark; return its ratios to raw aiohttp."""
    done = subprocess.run(
        [sys.executable, str(checkout / "benchmarks" / "overhead.py"), str(posts), "3"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(checkout)},
    )
    rows = [line.rsplit(maxsplit=2) for line in done.stdout.partition("÷")[2].splitlines()[1:]]
    return {name.strip(): float(ratio) for name, _cpu, ratio in rows}


def compare(posts: int, rounds: int, other: Path) -> None:
    """Measure this version and another in turns, and print both."""
    here = Path(__file__).resolve().parents[1]
    seen: dict[str, dict[Path, list[float]]] = {}
    for _ in range(rounds):
        for checkout in (other, here):
            for name, ratio in ratios_of(checkout, posts).items():
                seen.setdefault(name, {other: [], here: []})[checkout].append(ratio)
    print(f"CPU of a POST ÷ raw aiohttp, {IN_FLIGHT} in flight, medians of {rounds} runs each")
    print(f"{'':38s} before   now")
    for name, ratios in seen.items():
        if ratios[other] and ratios[here]:
            print(f"{name:38s} {median(ratios[other]):6.2f}  {median(ratios[here]):.2f}")


if __name__ == "__main__":
    numbers = [int(each) for each in sys.argv[1:3]]
    posts, rounds = numbers + [3000, 7][len(numbers) :]
    if len(sys.argv) > 3:
        compare(posts, rounds, Path(sys.argv[3]).resolve())
    else:
        asyncio.run(main(posts, rounds))
