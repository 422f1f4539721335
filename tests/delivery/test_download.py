from __future__ import annotations

import errno
import gzip
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from attrs import define, field

from aivideo._api.wire import Answer
from aivideo.delivery import download
from aivideo.errors import APIConnectionError, DownloadError, ResultExpiredError
from aivideo.models import CompletedTask

pytestmark = pytest.mark.anyio

VIDEO = bytes(range(256)) * 40
URL = "https://cdn.example/a.mp4?Signature=secret"


def task(*, age: timedelta = timedelta(0), urls: tuple[str, ...] = (URL,)) -> CompletedTask:
    done = datetime.now(UTC) - age
    return CompletedTask(id="t1", model="sora-2", created_at=done, completed_at=done, urls=urls)


@define
class Reply:
    """One response: ``body``, interrupted after ``cut`` bytes if that is given."""

    status: int = 200
    body: bytes = VIDEO
    headers: Mapping[str, str] = field(factory=dict)
    cut: int | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        sent = self.body if self.cut is None else self.body[: self.cut]
        for at in range(0, len(sent), 1000):
            yield sent[at : at + 1000]
        if self.cut is not None:
            raise APIConnectionError("the connection was reset", written=True)


class Origin:
    """A transport that responds from a list and keeps the headers of each request."""

    def __init__(self, *replies: Reply | Exception) -> None:
        self.replies = [*replies]
        self.requests: list[Mapping[str, str]] = []

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Answer:
        raise AssertionError("a download must not call the API")

    @asynccontextmanager
    async def stream(
        self, url: str, headers: Mapping[str, str], timeout: float
    ) -> AsyncIterator[Reply]:
        self.requests.append(headers)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        yield reply

    async def aclose(self) -> None: ...


def complete(**headers: str) -> Reply:
    return Reply(headers={"content-length": str(len(VIDEO)), **headers})


def cut(at: int, **headers: str) -> Reply:
    return Reply(headers={"content-length": str(len(VIDEO)), **headers}, cut=at)


def rest(start: int) -> Reply:
    return Reply(
        206,
        VIDEO[start:],
        {
            "content-range": f"bytes {start}-{len(VIDEO) - 1}/{len(VIDEO)}",
            "content-length": str(len(VIDEO) - start),
        },
    )


async def test_a_file_is_complete_and_no_temporary_file_is_left(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.mp4"
    assert await download.save(task(), target, Origin(complete())) == target
    assert target.read_bytes() == VIDEO
    assert [*target.parent.iterdir()] == [target]


async def test_a_broken_download_resumes_where_it_was_interrupted(tmp_path: Path) -> None:
    origin = Origin(cut(3000, etag='"v1"'), rest(3000))
    await download.save(task(), tmp_path / "a.mp4", origin)
    assert (tmp_path / "a.mp4").read_bytes() == VIDEO
    assert origin.requests[1]["Range"] == "bytes=3000-"
    assert origin.requests[1]["If-Range"] == '"v1"'


async def test_without_a_strong_validator_it_starts_over(tmp_path: Path) -> None:
    for headers in ({}, {"etag": 'W/"v1"'}):
        origin = Origin(cut(3000, **headers), complete())
        await download.save(task(), tmp_path / "a.mp4", origin)
        assert (tmp_path / "a.mp4").read_bytes() == VIDEO
        assert "Range" not in origin.requests[1]


async def test_a_full_response_to_a_range_request_is_not_appended(tmp_path: Path) -> None:
    origin = Origin(cut(3000, etag='"v1"'), complete(etag='"v2"'))
    await download.save(task(), tmp_path / "a.mp4", origin)
    assert (tmp_path / "a.mp4").read_bytes() == VIDEO


async def test_a_range_with_another_start_is_discarded(tmp_path: Path) -> None:
    origin = Origin(cut(3000, etag='"v1"'), rest(2000), complete())
    await download.save(task(), tmp_path / "a.mp4", origin)
    assert (tmp_path / "a.mp4").read_bytes() == VIDEO


async def test_a_partly_answered_range_is_not_taken_for_the_rest(tmp_path: Path) -> None:
    some = Reply(
        206,
        VIDEO[3000:5000],
        {"content-range": f"bytes 3000-4999/{len(VIDEO)}", "content-length": "2000"},
    )
    origin = Origin(cut(3000, etag='"v1"'), some, rest(5000))
    await download.save(task(), tmp_path / "a.mp4", origin)
    assert (tmp_path / "a.mp4").read_bytes() == VIDEO
    assert [headers.get("Range") for headers in origin.requests] == [
        None,
        "bytes=3000-",
        "bytes=5000-",
    ]


@pytest.mark.parametrize(
    ("coding", "compress"),
    [("gzip", gzip.compress), ("X-GZIP", gzip.compress), ("deflate", zlib.compress)],
)
async def test_an_unrequested_compression_is_undone(
    tmp_path: Path, coding: str, compress: Callable[[bytes], bytes]
) -> None:
    compressed = compress(VIDEO)
    headers = {"content-encoding": coding, "content-length": str(len(compressed)), "etag": '"v1"'}
    broken = Reply(body=compressed, headers=headers, cut=50)
    short = Reply(body=compressed[:-9], headers=headers)
    corrupt = Reply(body=b"no compression at all", headers=headers)
    origin = Origin(broken, short, corrupt, Reply(body=compressed, headers=headers))
    await download.save(task(), tmp_path / "a.mp4", origin)
    assert (tmp_path / "a.mp4").read_bytes() == VIDEO
    assert not any("Range" in headers for headers in origin.requests)
    assert all(headers["Accept-Encoding"] == "identity" for headers in origin.requests)


async def test_an_unsupported_content_encoding_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="content encoding 'br'"):
        await download.save(
            task(), tmp_path / "a.mp4", Origin(complete(**{"content-encoding": "br"}))
        )
    await download.save(
        task(), tmp_path / "b.mp4", Origin(complete(**{"content-encoding": "aws-chunked"}))
    )
    assert [path.name for path in tmp_path.iterdir()] == ["b.mp4"]


async def test_a_web_page_is_not_saved_whatever_its_status(tmp_path: Path) -> None:
    page = Reply(body=b"<html>Please log in", headers={"content-type": "text/html; charset=utf-8"})
    await download.save(task(), tmp_path / "a.mp4", Origin(page, complete()))
    assert (tmp_path / "a.mp4").read_bytes() == VIDEO
    with pytest.raises(DownloadError, match="HTTP 200 text/html"):
        await download.save(task(), tmp_path / "b.mp4", Origin(page))


async def test_a_body_that_ends_early_is_not_taken_for_complete(tmp_path: Path) -> None:
    short = Reply(body=VIDEO[:500], headers={"content-length": str(len(VIDEO))})
    await download.save(task(), tmp_path / "a.mp4", Origin(short, complete()))
    assert (tmp_path / "a.mp4").read_bytes() == VIDEO


async def test_temporary_errors_are_retried(tmp_path: Path) -> None:
    reset = APIConnectionError("reset", written=True)
    origin = Origin(reset, Reply(503, b"busy"), Reply(429, b""), Reply(416, b""), complete())
    await download.save(task(), tmp_path / "a.mp4", origin)
    assert (tmp_path / "a.mp4").read_bytes() == VIDEO


async def test_it_fails_after_six_attempts_without_a_new_byte(tmp_path: Path) -> None:
    origin = Origin(APIConnectionError("reset", written=True))
    with pytest.raises(DownloadError, match="in 6 attempts") as caught:
        await download.save(task(), tmp_path / "a.mp4", origin)
    assert len(origin.requests) == download.ATTEMPTS
    assert [*tmp_path.iterdir()] == []
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_an_expired_url_raises_result_expired_error(tmp_path: Path, status: int) -> None:
    old = task(age=timedelta(hours=24, seconds=1))
    with pytest.raises(ResultExpiredError, match="expired at"):
        await download.save(old, tmp_path / "a.mp4", Origin(Reply(status, b"")))
    with pytest.raises(DownloadError, match="get the task again") as caught:
        await download.save(task(), tmp_path / "a.mp4", Origin(Reply(status, b"")))
    assert not isinstance(caught.value, ResultExpiredError)


async def test_a_full_disk_leaves_the_old_file_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.mp4"
    target.write_bytes(b"old")

    def full(self: object, data: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download._Part, "append", full)
    with pytest.raises(DownloadError, match=r"No space left on device.*works until"):
        await download.save(task(), target, Origin(complete()))
    assert target.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [target]


async def test_an_over_long_file_name_raises_download_error(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="cannot write") as caught:
        await download.save(task(), tmp_path / ("a" * 300 + ".mp4"), Origin(complete()))
    assert caught.value.errno == errno.ENAMETOOLONG
    assert [*tmp_path.iterdir()] == []


async def test_an_os_error_of_the_transport_raises_download_error(tmp_path: Path) -> None:
    broken = OSError(errno.EMFILE, "Too many open files")
    with pytest.raises(DownloadError, match="Too many open files"):
        await download.save(task(), tmp_path / "a.mp4", Origin(broken))


async def test_an_os_error_while_the_temporary_file_is_removed_is_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_permission(self: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", no_permission)
    await download.save(task(), tmp_path / "a.mp4", Origin(complete()))
    broken = Reply(headers={"etag": '"v1"'}, cut=3000)
    with pytest.raises(DownloadError, match="HTTP 404"):
        await download.save(task(), tmp_path / "b.mp4", Origin(broken, Reply(404)))


async def test_a_folder_at_the_target_raises_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(DownloadError, match="it is a folder"):
        await download.save(task(), tmp_path / "a.mp4", Origin(complete()))


async def test_an_empty_file_or_a_missing_url_raises_download_error(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="empty"):
        await download.save(task(), tmp_path / "a.mp4", Origin(Reply(body=b"")))
    with pytest.raises(DownloadError, match="no result URL yet"):
        await download.save(task(urls=()), tmp_path / "a.mp4", Origin(complete()))
    assert [*tmp_path.iterdir()] == []


async def test_leftovers_of_killed_processes_are_removed_and_files_being_written_are_kept(
    tmp_path: Path,
) -> None:
    living = download._Part(tmp_path / "a.mp4")
    living.append(bytearray(b"half"))
    dead = download._Part(tmp_path / "b.mp4")
    dead.append(bytearray(b"half"))
    assert dead._file is not None
    dead._file.close()  # as the kernel does when the process ends
    assert download.remove_leftovers(tmp_path) == 1
    assert len([*tmp_path.iterdir()]) == 1
    living.publish()
    assert (tmp_path / "a.mp4").read_bytes() == b"half"
    assert download.remove_leftovers(tmp_path / "nowhere") == 0
