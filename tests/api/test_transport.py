"""The behaviour of aiohttp that the transport relies on or prevents: no request is sent twice, and
each failure reports whether a byte may have been written."""

from __future__ import annotations

import asyncio
import gzip
import inspect
import ssl
import traceback
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.http_writer import StreamWriter

from aivideo._api import send_deadline
from aivideo._api.send_deadline import Instant, SendDeadline
from aivideo._api.transport import POST_MAX_IDLE, AiohttpTransport
from aivideo.errors import APIConnectionError, APITimeoutError, ConfigurationError

pytestmark = pytest.mark.anyio

KEY = "sk-secret-0123456789"
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}"

GZIPPED = gzip.compress(b"{}")

Respond = Callable[["Seen", asyncio.StreamWriter], Awaitable[None]]


class Seen:
    """What a server received: the first line and the head of each request, and its connections."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.heads: list[str] = []
        self.connections = 0
        self.url = ""

    @property
    def posts(self) -> int:
        return sum(request.startswith("POST") for request in self.requests)


async def answer_ok(seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(OK)


def answer(raw: bytes, *, close: bool = True) -> Respond:
    async def respond(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        if close:
            writer.close()

    return respond


@asynccontextmanager
async def serving(respond: Respond = answer_ok) -> AsyncIterator[Seen]:
    """Serve raw bytes on loopback: an HTTP library would hide what these tests check."""
    seen = Seen()
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        writers.append(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = 0
                for line in head.lower().splitlines():
                    if line.startswith("content-length:"):
                        length = int(line.split(":")[1])
                await reader.readexactly(length)
                seen.requests.append(head.splitlines()[0])
                seen.heads.append(head)
                await respond(seen, writer)
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    seen.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield seen
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.sleep(0.01)


@pytest.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    transport = AiohttpTransport()
    yield transport
    await transport.aclose()


async def post(transport: AiohttpTransport, url: str, timeout: float = 5.0) -> int:
    answer = await transport.send("POST", f"{url}/v1?q=1", HEADERS, b'{"x": 1}', timeout)
    return answer.status


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
async def test_a_redirect_is_returned_and_not_followed(
    transport: AiohttpTransport, status: int
) -> None:
    async with serving() as elsewhere:
        raw = f"HTTP/1.1 {status} Moved\r\nLocation: {elsewhere.url}/\r\nContent-Length: 0\r\n\r\n"
        async with serving(answer(raw.encode(), close=False)) as seen:
            for method, body in (("POST", b"{}"), ("GET", None)):
                got = await transport.send(method, seen.url + "/v1", HEADERS, body, 5.0)
                assert got.status == status
                assert got.headers["location"] == elsewhere.url + "/"
            assert len(seen.requests) == 2
        assert elsewhere.requests == []


async def test_a_post_on_a_closed_connection_is_not_sent_again(
    transport: AiohttpTransport,
) -> None:
    async def close_at_the_second_request(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if len(seen.requests) == 1:
            writer.write(OK)
        else:
            writer.close()

    async with serving(close_at_the_second_request) as seen:
        assert await post(transport, seen.url) == 200
        with pytest.raises(APIConnectionError) as caught:
            await post(transport, seen.url)
        assert caught.value.written
        assert (seen.posts, seen.connections) == (2, 1)


async def test_aiohttp_does_not_repeat_a_get_on_a_closed_connection(
    transport: AiohttpTransport,
) -> None:
    async def close_at_the_second_request(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if len(seen.requests) == 1:
            writer.write(OK)
        else:
            writer.close()

    async with serving(close_at_the_second_request) as seen:
        await transport.send("GET", seen.url + "/", HEADERS, None, 5.0)
        with pytest.raises(APIConnectionError):
            await transport.send("GET", seen.url + "/", HEADERS, None, 5.0)
        await asyncio.sleep(1)
        assert len(seen.requests) == 2


async def test_a_post_uses_a_new_connection_when_the_old_one_was_idle(
    transport: AiohttpTransport,
) -> None:
    async with serving() as seen:
        await post(transport, seen.url)
        await asyncio.sleep(POST_MAX_IDLE / 2)
        await post(transport, seen.url)
        assert seen.connections == 1
        await asyncio.sleep(POST_MAX_IDLE * 1.1)
        await post(transport, seen.url)
        assert seen.connections == 2
        await asyncio.sleep(POST_MAX_IDLE * 1.1)
        await transport.send("GET", seen.url + "/", HEADERS, None, 5.0)
        assert seen.connections == 2  # a lost GET costs nothing


async def test_a_refused_connection_is_proved_unsent(transport: AiohttpTransport) -> None:
    async with serving() as seen:
        url = seen.url
    with pytest.raises(APIConnectionError) as caught:
        await post(transport, url)
    assert not caught.value.written


class Clock:
    """Both clocks of a deadline."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> Instant:
        return self.seconds, self.seconds


@contextmanager
def deadline_after(seconds: float, clock: Clock) -> Iterator[None]:
    """Let a deadline apply to what is sent within the block."""
    token = send_deadline.CURRENT.set(SendDeadline.after(seconds, clock))
    try:
        yield
    finally:
        send_deadline.CURRENT.reset(token)


@pytest.mark.parametrize("freeze", ["while it connects", "between connecting and the first byte"])
async def test_a_post_whose_deadline_passes_before_its_first_byte_is_not_written(
    transport: AiohttpTransport, monkeypatch: pytest.MonkeyPatch, freeze: str
) -> None:
    clock = Clock()
    frozen_class, method = {
        "while it connects": (aiohttp.TCPConnector, "connect"),
        "between connecting and the first byte": (aiohttp.ClientRequest, "write_bytes"),
    }[freeze]
    original = getattr(frozen_class, method)

    async def frozen(self: object, *args: object, **settings: object) -> object:
        clock.seconds += 100.0
        return await original(self, *args, **settings)

    monkeypatch.setattr(frozen_class, method, frozen)
    async with serving() as seen:
        with deadline_after(85.0, clock):
            with pytest.raises(APIConnectionError, match="nothing was sent") as caught:
                await post(transport, seen.url)
            assert not caught.value.written
        await asyncio.sleep(1)
        assert (seen.connections, seen.requests) == (1, [])
        monkeypatch.undo()
        with deadline_after(85.0, clock):
            assert await post(transport, seen.url) == 200
        assert seen.heads[0].count("Content-Length: 8") == 1
        assert "content-type: application/json" in seen.heads[0].lower()


async def test_a_post_that_is_late_after_a_byte_was_written_does_not_count_as_unsent(
    transport: AiohttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If aiohttp wrote the head of a request before its body, nobody could call it unsent."""
    clock = Clock()
    write_headers = StreamWriter.write_headers

    async def at_once(self: StreamWriter, status_line: str, headers: Any) -> None:
        await write_headers(self, status_line, headers)
        self.send_headers()
        clock.seconds += 100.0

    monkeypatch.setattr(StreamWriter, "write_headers", at_once)
    async with serving() as seen:
        with (
            deadline_after(85.0, clock),
            pytest.raises(APIConnectionError) as caught,
        ):
            await post(transport, seen.url)
        assert caught.value.written
        await asyncio.sleep(1)
        assert seen.requests == [], "the body was not written"


async def test_a_name_that_does_not_resolve_is_proved_unsent(
    transport: AiohttpTransport,
) -> None:
    with pytest.raises(APIConnectionError) as caught:
        await post(transport, "http://nowhere.invalid")
    assert not caught.value.written


async def test_a_failed_tls_handshake_is_proved_unsent(
    transport: AiohttpTransport,
) -> None:
    async def no_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"not tls at all\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(no_tls, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(APIConnectionError) as caught:
            await post(transport, f"https://127.0.0.1:{port}")
        assert not caught.value.written
        await asyncio.sleep(0.01)


async def test_a_proxy_that_refuses_connect_is_proved_unsent() -> None:
    raw = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    async with serving(answer(raw)) as proxy:
        transport = AiohttpTransport(proxy=proxy.url)
        with pytest.raises(APIConnectionError) as caught:
            await post(transport, "https://api.example")
        assert not caught.value.written
        assert [line.split()[0] for line in proxy.requests] == ["CONNECT"]
        await transport.aclose()


async def test_a_proxy_that_closes_during_connect_is_proved_unsent() -> None:
    async with serving(answer(b"")) as proxy:
        transport = AiohttpTransport(proxy=proxy.url)
        with pytest.raises(APIConnectionError) as caught:
            await post(transport, "https://api.example")
        assert not caught.value.written
        await transport.aclose()


async def test_a_proxy_that_closes_after_the_request_counts_as_written() -> None:
    async with serving(answer(b"")) as proxy:
        transport = AiohttpTransport(proxy=proxy.url)
        with pytest.raises(APIConnectionError) as caught:
            await post(transport, "http://api.example")
        assert caught.value.written
        assert proxy.requests == ["POST http://api.example/v1?q=1 HTTP/1.1"]
        await transport.aclose()


@pytest.mark.parametrize("proxy", ["localhost:3128", "socks5://h:1080", "user:pass@h:3128", ""])
def test_a_proxy_must_be_an_http_url(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, proxy)
    with pytest.raises(ConfigurationError, match="proxy=") as caught:
        AiohttpTransport(proxy=proxy)
    assert "pass" not in str(caught.value)
    if proxy:
        with pytest.raises(ConfigurationError, match="https_proxy="):
            AiohttpTransport(trust_env=True)


async def test_trust_env_reads_proxies_but_no_passwords_from_netrc(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with serving() as proxy, serving() as direct:
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "127.0.0.1")
        transport = AiohttpTransport(trust_env=True)
        assert await post(transport, "http://api.example") == 200
        assert await post(transport, direct.url) == 200
        async with transport.stream("http://results.example/a.mp4", {}, 5.0) as incoming:
            assert incoming.status == 200
        assert [line.split()[:2] for line in proxy.requests] == [
            ["POST", "http://api.example/v1?q=1"],
            ["GET", "http://results.example/a.mp4"],
        ]
        assert direct.posts == 1
        assert not any("authorization: basic" in head.lower() for head in proxy.heads)
        await transport.aclose()


async def test_an_interim_1xx_response_is_not_the_answer(
    transport: AiohttpTransport,
) -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    async with serving(answer(early + OK, close=False)) as seen:
        assert await post(transport, seen.url) == 200
        assert "expect:" not in seen.heads[0].lower()
        assert seen.posts == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b"
        % (len(GZIPPED), GZIPPED),
        b"HTTP/1.0 200 OK\r\n\r\n{}",
    ],
    ids=["chunked", "gzip", "until the end of the connection"],
)
async def test_an_answer_is_read_in_any_transfer_coding(
    transport: AiohttpTransport, raw: bytes
) -> None:
    async with serving(answer(raw)) as seen:
        got = await transport.send("POST", seen.url + "/v1", HEADERS, b"{}", 5.0)
        assert (got.status, got.body) == (200, b"{}")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"\x00\xff\x00\xff" * 10,
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nnogz!",
    ],
    ids=[
        "closed without a byte",
        "cut head",
        "cut body",
        "cut chunk",
        "not http",
        "not a status",
        "header too long",
        "negative length",
        "random bytes",
        "not gzip",
    ],
)
async def test_an_incomplete_or_invalid_answer_counts_as_written(
    transport: AiohttpTransport, raw: bytes
) -> None:
    async with serving(answer(raw)) as seen:
        with pytest.raises(APIConnectionError) as caught:
            await post(transport, seen.url)
        assert caught.value.written
        assert seen.posts == 1


async def test_a_server_that_does_not_answer_is_a_timeout_that_was_written(
    transport: AiohttpTransport,
) -> None:
    async def silent(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async with serving(silent) as seen:
        began = asyncio.get_running_loop().time()
        with pytest.raises(APITimeoutError, match="within 3 s") as caught:
            await post(transport, seen.url, timeout=3.0)
        assert caught.value.written
        assert asyncio.get_running_loop().time() - began == pytest.approx(3.0, abs=0.1)
        assert seen.posts == 1


async def test_a_body_that_never_ends_is_a_timeout_that_was_written(
    transport: AiohttpTransport,
) -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"
    async with serving(answer(raw, close=False)) as seen:
        with pytest.raises(APITimeoutError) as caught:
            await post(transport, seen.url, timeout=3.0)
        assert caught.value.written


async def test_a_timeout_while_connecting_is_proved_unsent(
    transport: AiohttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*args: object, **kwargs: object) -> None:
        await asyncio.sleep(600)

    monkeypatch.setattr(aiohttp.TCPConnector, "_create_connection", never)
    with pytest.raises(APITimeoutError, match="no connection") as caught:
        await post(transport, "http://127.0.0.1:9", timeout=2.0)
    assert not caught.value.written


def aiohttp_errors() -> list[type[BaseException]]:
    """Every public exception of aiohttp's client, and those of the layers below it."""
    named = [
        cls
        for _, cls in inspect.getmembers(aiohttp, inspect.isclass)
        if issubclass(cls, aiohttp.ClientError)
    ]
    low = [OSError, ConnectionResetError, BrokenPipeError, ssl.SSLError, zlib.error]
    # A defect in a library must not leave a POST without a verdict either.
    defects = [ValueError, RuntimeError, AssertionError, TypeError, AttributeError, MemoryError]
    return [*named, *low, *defects]


@pytest.mark.parametrize("cls", aiohttp_errors(), ids=lambda cls: cls.__name__)
async def test_every_exception_of_a_lower_layer_is_converted(
    transport: AiohttpTransport, cls: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Made(cls):  # type: ignore[misc, valid-type]
        def __init__(self) -> None: ...

        def __str__(self) -> str:
            return f"about {KEY} at http://h/?Sig=1"

    error = Made()

    async def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(aiohttp.ClientSession, "_request", fail)
    with pytest.raises(APIConnectionError) as caught:
        await post(transport, "http://127.0.0.1:9")
    assert not caught.value.written
    assert KEY not in str(caught.value)
    assert "Sig=1" not in str(caught.value)
    with pytest.raises(APIConnectionError):
        async with transport.stream("http://127.0.0.1:9/", {}, 5.0):
            pass


async def test_tracebacks_contain_neither_key_nor_query(transport: AiohttpTransport) -> None:
    query = (
        "X-Signature=" + "abc" + "def"
    )  # a traceback shows this source line: the value must not be in it
    async with serving(answer(b"")) as seen:
        for url in (seen.url, "http://nowhere.invalid"):
            try:
                await transport.send("GET", f"{url}/v1?{query}", HEADERS, None, 5.0)
            except APIConnectionError as error:
                shown = "".join(traceback.format_exception(error)) + repr(error)
                assert KEY not in shown
                assert "abcdef" not in shown
            else:
                pytest.fail("it must fail")


async def test_the_server_of_a_result_gets_no_key(transport: AiohttpTransport) -> None:
    heads: list[str] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(OK)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a.mp4?Signature=a%2Fb%3D"
    async with transport.stream(url, {"Range": "bytes=5-"}, 5.0) as incoming:
        assert b"".join([chunk async for chunk in incoming.chunks()]) == b"{}"
    server.close()
    assert "authorization" not in heads[0].lower()
    assert heads[0].startswith("GET /a.mp4?Signature=a%2Fb%3D HTTP")  # unchanged


async def test_a_closed_transport_sends_no_request(transport: AiohttpTransport) -> None:
    async with serving() as seen:
        await post(transport, seen.url)
        await transport.aclose()
        with pytest.raises(APIConnectionError) as caught:
            await post(transport, seen.url)
        assert not caught.value.written
        assert seen.posts == 1
