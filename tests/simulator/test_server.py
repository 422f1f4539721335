from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import av
import pytest
from aiohttp import web

from aivideo.simulator import (
    Fault,
    Faults,
    FixedWindow,
    Nth,
    PortInUseError,
    Scenario,
    Simulator,
    serve,
    serve_forever,
)
from tests.simulator.calls import HEADERS, KEY, PROMPT, order

pytestmark = pytest.mark.anyio

# Tasks complete before the next request: no test waits for one.
IMMEDIATE = Scenario(queue_seconds=0, task_seconds=0, media="stub")


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def create(
    http: aiohttp.ClientSession, sim: Simulator, body: dict[str, Any] | None = None
) -> str:
    url = f"{sim.url}/v1/videos/generations"
    async with http.post(url, json=body or order(), headers=HEADERS) as response:
        assert response.status == 200, await response.text()
        answer = await response.json()
    task_id: str = answer["data"]["taskId"]
    return task_id


async def poll(http: aiohttp.ClientSession, sim: Simulator, task_id: str) -> dict[str, Any]:
    async with http.get(f"{sim.url}/v1/tasks/{task_id}", headers=HEADERS) as response:
        assert response.status == 200
        shown: dict[str, Any] = await response.json()
        return shown


async def download(http: aiohttp.ClientSession, url: str, into: bytearray, **headers: str) -> None:
    async with http.get(url, headers=headers) as response:
        async for chunk in response.content.iter_any():
            into += chunk


async def test_created_task_ends_with_a_playable_video(
    http: aiohttp.ClientSession, tmp_path: Any
) -> None:
    async with serve(Scenario(queue_seconds=0, task_seconds=0)) as sim:
        task_id = await create(http, sim)
        task = await poll(http, sim, task_id)
        assert task["output"]["metadata"] == {"duration": 8, "prompt": PROMPT}
        (url,) = task["output"]["urls"]
        async with http.get(url) as response:
            assert response.status == 200
            (tmp_path / "video.mp4").write_bytes(await response.read())
        assert sim.truth.keys_at_results == 0

    with av.open(str(tmp_path / "video.mp4"), "r") as container:
        assert container.duration == 8 * av.time_base


async def send_as_curl(method: str, url: str, body: str = "") -> str:
    """Send exactly the bytes that `curl` sends for the provider's commands; return the body."""
    parts, content = urlsplit(url), body.encode()
    lines = [
        f"{method} {parts.path} HTTP/1.1",
        f"Host: {parts.netloc}",
        "User-Agent: curl/8.5.0",
        "Accept: */*",
        f"Authorization: Bearer {KEY}",
    ]
    if content:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write("\r\n".join([*lines, "", ""]).encode() + content)
    head, _, answer = (await read_answer(reader)).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 200 OK")
    return answer.decode()


async def test_provider_example_commands_get_the_documented_answers() -> None:
    text = """{
"model": "sora-2",
"callback_url": "https://your-server.com/webhook",
"input": {
"prompt": "无人机航拍日落时分的山脉,电影级光影效果",
"duration": 8,
"aspect_ratio": "16:9"
}
}"""
    image = """{
"model": "sora-2",
"callback_url": "https://your-server.com/webhook",
"input": {
"prompt": "镜头缓慢推进,人物转身微笑",
"duration": 4,
"aspect_ratio": "9:16",
"image_urls": ["https://example.com/photo.jpg"]
}
}"""
    async with serve(Scenario(queue_seconds=0, task_seconds=3600)) as sim:
        for body in (text, image):
            answer = await send_as_curl("POST", f"{sim.url}/v1/videos/generations", body)
            task_id = list(sim.truth.tasks)[-1]
            assert answer == f'{{"code":200,"msg":"success","data":{{"taskId":"{task_id}"}}}}'
            created = int(sim.service.unix(sim.truth.tasks[task_id].created))
            assert await send_as_curl("GET", f"{sim.url}/v1/tasks/{task_id}") == (
                f'{{"id":"{task_id}","status":"processing","model":"sora-2",'
                f'"created_at":{created},"progress":null}}'
            )
        assert sim.truth.charged == 300


async def test_results_have_another_origin_and_support_ranges(http: aiohttp.ClientSession) -> None:
    async with serve(IMMEDIATE) as sim:
        assert urlsplit(sim.url).port != urlsplit(sim.results_url).port
        (url,) = (await poll(http, sim, await create(http, sim)))["output"]["urls"]
        assert url.startswith(sim.results_url)
        async with http.get(url) as response:
            complete = await response.read()
            etag = response.headers["ETag"]
        async with http.get(url, headers={"Range": "bytes=7-", "If-Range": etag}) as response:
            assert response.status == 206
            assert await response.read() == complete[7:]
        async with http.head(url) as response:
            assert response.headers["Content-Length"] == str(len(complete))
            assert await response.read() == b""
        async with http.get(url + "0") as response:
            assert response.status == 403


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        (Fault.CUT_BEFORE, aiohttp.ServerDisconnectedError),
        (Fault.CUT_AFTER, aiohttp.ServerDisconnectedError),
        (Fault.RESET, aiohttp.ClientOSError),
        (Fault.TRUNCATED, aiohttp.ClientPayloadError),
        (Fault.HANG, TimeoutError),
    ],
)
async def test_connection_fault_reaches_the_client(
    http: aiohttp.ClientSession, fault: Fault, raised: type[Exception]
) -> None:
    async with serve(IMMEDIATE) as sim:
        sim.hook = lambda occasion: fault
        with pytest.raises(raised):
            async with asyncio.timeout(0.2):
                await create(http, sim)
        assert sim.truth.creates_seen == 1
        assert sim.truth.creates_taken == (fault not in (Fault.CUT_BEFORE, Fault.RESET))


async def test_download_cut_in_the_middle_can_be_resumed(
    http: aiohttp.ClientSession,
) -> None:
    async with serve(IMMEDIATE) as sim:
        (url,) = (await poll(http, sim, await create(http, sim)))["output"]["urls"]
        sim.hook = lambda occasion: Fault.CUT if occasion.nth == 1 else None
        resumed, complete = bytearray(), bytearray()
        with pytest.raises(aiohttp.ClientPayloadError):
            await download(http, url, resumed)
        cut_at = len(resumed)
        await download(http, url, resumed, Range=f"bytes={cut_at}-")
        await download(http, url, complete)
        assert 0 < cut_at < len(complete)
        assert resumed == complete


async def test_redirect_followed_with_the_key_is_counted(
    http: aiohttp.ClientSession,
) -> None:
    async with serve(Scenario(faults=Faults(create_redirect=Nth(1)))) as sim:
        url = f"{sim.url}/v1/videos/generations"
        # aiohttp drops Authorization when it follows a redirect to another origin, but not X-Key.
        headers = {**HEADERS, "X-Key": KEY}
        async with http.post(url, json=order(), headers=headers) as response:
            assert response.status == 405
        assert sim.truth.creates_taken == 0
        assert sim.truth.keys_at_results == 1


async def test_429_is_sent_with_retry_after(http: aiohttp.ClientSession) -> None:
    async with serve(Scenario(rate_limit=FixedWindow(1, 3600), retry_after="seconds")) as sim:
        await create(http, sim)
        async with http.get(f"{sim.url}/v1/credits", headers=HEADERS) as response:
            assert response.status == 429
            assert response.headers["Retry-After"] in ("3599", "3600")


async def test_truth_over_http_equals_the_truth_in_process(http: aiohttp.ClientSession) -> None:
    async with serve(IMMEDIATE) as sim:
        await create(http, sim)
        async with http.get(f"{sim.url}/_sim/truth?tasks=1") as response:
            summary = await response.json()
        assert summary["creates_taken"] == sim.truth.creates_taken == 1
        assert [task["id"] for task in summary["tasks"]] == list(sim.truth.tasks)
        assert sim.truth.connections == 1
        assert sim.truth.in_flight == 0
        assert sim.truth.max_in_flight == 1


async def test_callbacks_are_posted_to_loopback_hosts(http: aiohttp.ClientSession) -> None:
    received: asyncio.Queue[tuple[Any, Any]] = asyncio.Queue()
    answers = iter([500, 204])

    async def receive(request: web.BaseRequest) -> web.Response:
        received.put_nowait((request.headers.copy(), await request.json()))
        return web.Response(status=next(answers))

    listener = await asyncio.get_running_loop().create_server(
        web.Server(receive, access_log=None), "127.0.0.1", 0
    )
    port = listener.sockets[0].getsockname()[1]
    async with listener, serve(Scenario(queue_seconds=0, task_seconds=10, speed=3600)) as sim:
        request = {**order(), "callback_url": f"http://127.0.0.1:{port}/hook"}
        task_id = await create(http, sim, request)
        (headers, body), second = await received.get(), await received.get()
        assert second[1] == body == await poll(http, sim, task_id)
        assert headers["X-Event"] == "task.completed"
        assert headers["X-Task-Id"] == task_id
        assert headers["Content-Type"] == "application/json"
        assert [record.attempt for record in sim.truth.callbacks] == [1, 2]


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.partition(b":")[2])
        for line in head.splitlines()
        if line.lower().startswith(b"content-length:")
    )
    return head + await reader.readexactly(length)


GET_TRUTH = b"GET /_sim/truth HTTP/1.1\r\nHost: sim\r\n\r\n"


async def test_idle_connection_is_closed() -> None:
    async with serve(Scenario(idle_close=0.05)) as sim, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(sim.url).port)
        writer.write(GET_TRUTH)
        await read_answer(reader)

        assert await reader.read() == b""

        writer.close()


async def test_connection_is_closed_after_the_maximum_of_requests() -> None:
    async with serve(Scenario(max_requests_per_connection=2)) as sim, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(sim.url).port)
        writer.write(GET_TRUTH)
        assert b"Connection: close" not in await read_answer(reader)
        writer.write(GET_TRUTH)
        assert b"Connection: close" in await read_answer(reader)
        assert await reader.read() == b""
        writer.close()


async def test_port_in_use_raises_an_error_that_names_the_port() -> None:
    async with serve() as sim:
        port = urlsplit(sim.url).port
        assert port is not None
        with pytest.raises(
            PortInUseError, match=f"^cannot listen on 127.0.0.1:{port} for the API: "
        ):
            async with serve(port=port):
                pass
        with pytest.raises(PortInUseError, match="for the results"):
            async with serve(results_port=port):
                pass


async def test_sigint_stops_the_server_and_returns_the_summary() -> None:
    ready: list[Simulator] = []

    def interrupt(sim: Simulator) -> None:
        ready.append(sim)
        os.kill(os.getpid(), signal.SIGINT)

    async with asyncio.timeout(10):
        summary = await serve_forever(IMMEDIATE, port=0, on_ready=interrupt)

    assert summary["creates_seen"] == 0
    with pytest.raises(OSError, match=r".*"):
        await asyncio.open_connection("127.0.0.1", urlsplit(ready[0].url).port)


async def test_no_task_is_left_running_after_the_block() -> None:
    before = asyncio.all_tasks()
    async with serve(), aiohttp.ClientSession():
        pass

    assert asyncio.all_tasks() == before
