"""CPU that one POST costs, 64 in flight, as a ratio to a plain aiohttp loop that does the same.

The server is another process, which answers every POST with the documented envelope and parses as
little as it can. Each client posts the same body and reads the task id, in interleaved rounds;
counted is this process's CPU (user + system) alone.

    python benchmarks/overhead.py [POSTS [ROUNDS]]
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import multiprocessing
import sys
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

IN_FLIGHT = 64
WARM_UP = 300
"""POSTs before the count begins: connections open, and our pace has left its ramp. Who sends one
request at a time pays more for each, since the loop wakes up for it alone."""
PATH = "/v1/videos/generations"
INPUT = {"prompt": "A paper boat in the rain", "duration": 8, "aspect_ratio": "16:9"}
BODY = {"model": "sora-2", "input": INPUT}
KEY = "sk-benchmark"
TASK_ID = "-6f0a-4b8e-9b53-0d6f3a0f7a11"
"""What each task's id ends in; a service gives no id twice, and a session would not believe it."""
_ANSWER = json.dumps({"code": 200, "msg": "success", "data": {"taskId": "%08x" + TASK_ID}}).encode()
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
    + str(len(_ANSWER % 0)).encode()
    + b"\r\n\r\n"
    + _ANSWER
)
_numbers = itertools.count(1)


class Envelope(asyncio.Protocol):
    """Answers each request, once its head and body have come."""

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        """Answer each whole request in the buffer."""
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
    """Serve on loopback until killed; tell the port."""

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Envelope, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


Post = Callable[[], Awaitable[object]]
Client = Callable[[str], Any]


async def run(post: Post, posts: int) -> float:
    """CPU seconds that ``posts`` POSTs take, so many in flight."""
    left = iter(range(posts))

    async def worker() -> None:
        for _ in left:
            assert str(await post()).endswith(TASK_ID)

    before = time.process_time()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return time.process_time() - before


class RawAiohttp:
    """What people write by hand."""

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
    """A whole session: ledger, ceilings, a job and its watching too."""

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
    """openai's client, pointed at another path."""

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
    """runwayml's client, pointed at another path (the same generated machinery as openai's)."""

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
                # The slow ones get fewer: what is compared is a POST.
                count = posts if module in ("aiohttp", "aivideo") else max(200, posts // 6)
                try:
                    async with client(url) as post:
                        await run(post, WARM_UP)
                        spent = await run(post, count) / count
                except Exception as error:
                    if not number:
                        print(f"{name}: left out, {type(error).__name__}: {error}")
                    continue
                if number:  # the first round warms up
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


if __name__ == "__main__":
    arguments = [int(each) for each in sys.argv[1:]]
    asyncio.run(main(*(arguments + [3000, 7][len(arguments) :])))
