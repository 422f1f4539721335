"""The endpoints' client: what may be its key and base URL, and that it shows a key to nobody."""

from __future__ import annotations

import asyncio
import itertools
import json
import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from aivideo import (
    Client,
    ConfigurationError,
    DownloadError,
    ResponseError,
    Session,
    Sora2,
    SubmitUnknownError,
)
from aivideo._api import transport, verdict, wire
from aivideo._api.transport import Incoming
from aivideo._api.wire import Answer
from aivideo.delivery import download
from aivideo.simulator import Fault, Scenario, serve

pytestmark = pytest.mark.anyio

BOAT = Sora2("A paper boat", duration=4, aspect_ratio="16:9")


def shown_by_our_frames(error: BaseException) -> str:
    """Give what a traceback with locals shows of this package: a test's own frames hold its key."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    package = str(Path(transport.__file__).parents[1])
    ours = [frame for frame in told.stack if frame.filename.startswith(package)]
    assert ours
    values = [value for frame in ours for value in (frame.locals or {}).values()]
    return "\n".join([*values, str(error), repr(error)])


@pytest.mark.parametrize(
    "settings",
    [{"max_running_jobs": -1}, {"base_url": "ftp://x"}, {"request_timeout": 0.0}],
    ids=["session", "base url", "client"],
)
def test_a_refused_setting_does_not_show_the_key(settings: dict[str, object]) -> None:
    key = "sk-" + "0123456789"
    with pytest.raises(ConfigurationError) as caught:
        Session(key, **settings)  # type: ignore[arg-type]
    assert "0123456789" not in shown_by_our_frames(caught.value)


@pytest.mark.parametrize("ending", [" x", "\n2", "é"])
def test_a_refused_key_is_not_shown_either(ending: str) -> None:
    key = "sk-" + "0123456789" + ending
    for maker in (Session, Client):
        with pytest.raises(ConfigurationError) as caught:
            maker(key)
        assert "0123456789" not in shown_by_our_frames(caught.value)


def test_a_key_in_the_place_of_the_base_url_is_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="needs a scheme") as caught:
        Client("sk-x", base_url="sk-" + "0123456789")
    assert "0123456789" not in str(caught.value)


def test_a_key_that_is_no_text_says_so() -> None:
    with pytest.raises(ConfigurationError, match="must be a str, not bytes"):
        Client(b"sk-bytes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "base_url",
    ["http://127.0.0.1:1/a b", "http://127.0.0.1:1/\r\nX-Injected: y", "https://例え.example"],
)
def test_a_base_url_holds_no_character_that_no_url_may(base_url: str) -> None:
    with pytest.raises(ConfigurationError, match="no URL may"):
        Client("sk-x", base_url=base_url)


@pytest.mark.parametrize(
    "base_url",
    ["http://127.0.0.1:8811/", "http://[::1]:8811", "http://localhost:8811/behind/a/prefix/"],
)
def test_loopback_may_be_plain_http_with_a_prefix_too(base_url: str) -> None:
    assert Client("sk-x", base_url=base_url).base_url == base_url.rstrip("/")


async def test_a_failed_download_does_not_show_the_signed_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    scenario = Scenario(media="stub", task_seconds=5.0, failure_rate=0.0)
    async with serve(scenario) as sim, Session("sk-x", base_url=sim.url) as session:
        job = await session.submit(BOAT)
        signature = (await job).urls[0].partition("X-Signature=")[2]
        assert signature
        sim.hook = lambda *_: Fault.RESET
        for target in (tmp_path / "boat.mp4", tmp_path):
            with pytest.raises(DownloadError) as caught:
                await job.save(target)
            assert signature not in shown_by_our_frames(caught.value)
            sim.hook = None


@asynccontextmanager
async def losing_the_race(idle_close: float) -> AsyncIterator[tuple[str, list[int]]]:
    """Serve creates; a connection that lay idle too long dies with the request that comes then.

    That is what the caller of a server far away sees: its request crosses the closing on the way.
    On loopback, under a virtual clock, a server that closes in time is always seen to have done so.
    """
    lost: list[int] = []
    counter = itertools.count()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        used: float | None = None
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length:")[2].split()[0])
                await reader.readexactly(length)
                number = next(counter)
                now = asyncio.get_running_loop().time()
                if used is not None and now - used >= idle_close:
                    lost.append(number)
                    return
                used = now
                body = json.dumps({"code": 200, "data": {"taskId": f"t-{number}"}}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", lost
        await asyncio.sleep(0.01)


async def slow_creates(base_url: str, callers: int, creates: int) -> list[verdict.Verdict]:
    """Each caller sends a create every 7 s; they share the connections of one client."""
    async with Client("sk-x", base_url=base_url) as client:

        async def caller(number: int) -> list[verdict.Verdict]:
            heard: list[verdict.Verdict] = []
            await asyncio.sleep(number * 0.31)
            for _ in range(creates):
                heard.append(await client.submit(BOAT))
                await asyncio.sleep(7.0)
            return heard

        told = await asyncio.gather(*(caller(number) for number in range(callers)))
        await asyncio.sleep(1)
    return [each for one in told for each in one]


@pytest.mark.parametrize("callers", [1, 10])
async def test_no_slow_create_meets_a_connection_that_is_being_closed(callers: int) -> None:
    async with losing_the_race(5.0) as (base_url, lost):
        heard = await slow_creates(base_url, callers, 1000 // callers)
    assert len(heard) == 1000
    assert all(isinstance(each, verdict.Accepted) for each in heard)
    assert lost == []


async def test_a_client_that_took_any_open_connection_would_lose_that_race(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "POST_MAX_IDLE", 60.0)
    async with losing_the_race(5.0) as (base_url, lost):
        heard = await slow_creates(base_url, 1, 10)
    assert len(lost) == 5  # every second one: the next finds no connection, and opens one
    assert sum(isinstance(each, verdict.Unknown) for each in heard) == 5


class Broken:
    """A transport of somebody's own, with a defect that shows after the request has left."""

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Answer:
        raise RuntimeError("a defect")

    def stream(
        self, url: str, headers: Mapping[str, str], timeout: float
    ) -> AbstractAsyncContextManager[Incoming]:
        raise NotImplementedError

    async def aclose(self) -> None:
        return None


@pytest.fixture
async def broken() -> AsyncIterator[Session]:
    async with Session("sk-x", transport=Broken()) as session:
        yield session


async def test_a_transport_that_breaks_in_a_way_of_its_own_leaves_it_unknown(
    broken: Session,
) -> None:
    heard = await Client("sk-x", transport=Broken()).submit(BOAT)
    assert isinstance(heard, verdict.Unknown)
    job = await broken.enqueue(BOAT)
    with pytest.raises(SubmitUnknownError, match="a defect"):
        await job.submitted()
    assert job.status == "unknown"


def test_an_answer_that_breaks_the_contract_does_not_show_its_signed_url() -> None:
    body = b'{"id":"t","status":"completed","model":"m","created_at":1,"output":{"urls":["'
    body += b'https://results.example/a.mp4?X-Signature=0123456789"]}}'
    with pytest.raises(ResponseError, match="completed_at") as caught:
        wire.read_task(Answer(200, body))
    assert "0123456789" not in shown_by_our_frames(caught.value)


@pytest.mark.parametrize(
    "base", ["https://me.example/x?tenant=0123456789", "https://me.example/#x"]
)
def test_a_callback_base_that_no_token_can_be_added_to_is_refused_and_not_shown(base: str) -> None:
    with pytest.raises(ConfigurationError, match="without a query") as caught:
        Session("sk-test", callback_base_url=base)
    assert "0123456789" not in str(caught.value)
