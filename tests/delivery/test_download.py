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

FILM = bytes(range(256)) * 40
URL = "https://cdn.example/a.mp4?Signature=secret"


def task(*, age: timedelta = timedelta(0), urls: tuple[str, ...] = (URL,)) -> CompletedTask:
    done = datetime.now(UTC) - age
    return CompletedTask(id="t1", model="sora-2", created_at=done, completed_at=done, urls=urls)


@define
class Reply:
    """One answer of an origin: ``body``, cut after ``cut`` bytes if that is given."""

    status: int = 200
    body: bytes = FILM
    headers: Mapping[str, str] = field(factory=dict)
    cut: int | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        sent = self.body if self.cut is None else self.body[: self.cut]
        for at in range(0, len(sent), 1000):
            yield sent[at : at + 1000]
        if self.cut is not None:
            raise APIConnectionError("the result broke off", written=True)


class Origin:
    """A transport that answers from a list, and remembers what it was asked."""

    def __init__(self, *replies: Reply | Exception) -> None:
        self.replies = [*replies]
        self.asked: list[Mapping[str, str]] = []

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Answer:
        raise AssertionError("a download asks no API")

    @asynccontextmanager
    async def stream(
        self, url: str, headers: Mapping[str, str], timeout: float
    ) -> AsyncIterator[Reply]:
        self.asked.append(headers)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        yield reply

    async def aclose(self) -> None: ...


def whole(**headers: str) -> Reply:
    return Reply(headers={"content-length": str(len(FILM)), **headers})


def cut(at: int, **headers: str) -> Reply:
    return Reply(headers={"content-length": str(len(FILM)), **headers}, cut=at)


def rest(start: int) -> Reply:
    return Reply(
        206,
        FILM[start:],
        {
            "content-range": f"bytes {start}-{len(FILM) - 1}/{len(FILM)}",
            "content-length": str(len(FILM) - start),
        },
    )


async def test_a_file_comes_whole_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.mp4"
    assert await download.save(task(), target, Origin(whole())) == target
    assert target.read_bytes() == FILM
    assert [*target.parent.iterdir()] == [target]


async def test_a_broken_download_goes_on_where_it_broke(tmp_path: Path) -> None:
    origin = Origin(cut(3000, etag='"v1"'), rest(3000))
    await download.save(task(), tmp_path / "a.mp4", origin)
    assert (tmp_path / "a.mp4").read_bytes() == FILM
    assert origin.asked[1]["Range"] == "bytes=3000-"
    assert origin.asked[1]["If-Range"] == '"v1"'


async def test_without_a_strong_validator_it_begins_anew(tmp_path: Path) -> None:
    for headers in ({}, {"etag": 'W/"v1"'}):
        origin = Origin(cut(3000, **headers), whole())
        await download.save(task(), tmp_path / "a.mp4", origin)
        assert (tmp_path / "a.mp4").read_bytes() == FILM
        assert "Range" not in origin.asked[1]


async def test_an_origin_that_ignores_the_range_is_not_appended_to(tmp_path: Path) -> None:
    origin = Origin(cut(3000, etag='"v1"'), whole(etag='"v2"'))
    await download.save(task(), tmp_path / "a.mp4", origin)
    assert (tmp_path / "a.mp4").read_bytes() == FILM


async def test_a_range_that_starts_elsewhere_is_thrown_away(tmp_path: Path) -> None:
    origin = Origin(cut(3000, etag='"v1"'), rest(2000), whole())
    await download.save(task(), tmp_path / "a.mp4", origin)
    assert (tmp_path / "a.mp4").read_bytes() == FILM


async def test_a_range_that_is_answered_in_part_is_not_taken_for_the_rest(tmp_path: Path) -> None:
    some = Reply(
        206,
        FILM[3000:5000],
        {"content-range": f"bytes 3000-4999/{len(FILM)}", "content-length": "2000"},
    )
    origin = Origin(cut(3000, etag='"v1"'), some, rest(5000))
    await download.save(task(), tmp_path / "a.mp4", origin)
    assert (tmp_path / "a.mp4").read_bytes() == FILM
    assert [asked.get("Range") for asked in origin.asked] == [None, "bytes=3000-", "bytes=5000-"]


@pytest.mark.parametrize(
    ("coding", "pack"),
    [("gzip", gzip.compress), ("X-GZIP", gzip.compress), ("deflate", zlib.compress)],
)
async def test_a_file_that_comes_packed_unasked_is_unpacked(
    tmp_path: Path, coding: str, pack: Callable[[bytes], bytes]
) -> None:
    packed = pack(FILM)
    headers = {"content-encoding": coding, "content-length": str(len(packed)), "etag": '"v1"'}
    broken = Reply(body=packed, headers=headers, cut=50)
    short = Reply(body=packed[:-9], headers=headers)
    noise = Reply(body=b"no compression at all", headers=headers)
    origin = Origin(broken, short, noise, Reply(body=packed, headers=headers))
    await download.save(task(), tmp_path / "a.mp4", origin)
    assert (tmp_path / "a.mp4").read_bytes() == FILM
    assert not any("Range" in asked for asked in origin.asked)
    assert all(asked["Accept-Encoding"] == "identity" for asked in origin.asked)


async def test_a_packing_that_nobody_can_undo_is_not_saved_as_a_film(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="packed as 'br'"):
        await download.save(task(), tmp_path / "a.mp4", Origin(whole(**{"content-encoding": "br"})))
    await download.save(
        task(), tmp_path / "b.mp4", Origin(whole(**{"content-encoding": "aws-chunked"}))
    )
    assert [path.name for path in tmp_path.iterdir()] == ["b.mp4"]


async def test_a_web_page_is_no_film_whatever_its_status(tmp_path: Path) -> None:
    page = Reply(body=b"<html>Please log in", headers={"content-type": "text/html; charset=utf-8"})
    await download.save(task(), tmp_path / "a.mp4", Origin(page, whole()))
    assert (tmp_path / "a.mp4").read_bytes() == FILM
    with pytest.raises(DownloadError, match="HTTP 200 text/html"):
        await download.save(task(), tmp_path / "b.mp4", Origin(page))


async def test_a_body_that_ends_early_is_not_taken_for_whole(tmp_path: Path) -> None:
    short = Reply(body=FILM[:500], headers={"content-length": str(len(FILM))})
    await download.save(task(), tmp_path / "a.mp4", Origin(short, whole()))
    assert (tmp_path / "a.mp4").read_bytes() == FILM


async def test_blips_of_the_origin_are_tried_again(tmp_path: Path) -> None:
    blip = APIConnectionError("reset", written=True)
    origin = Origin(blip, Reply(503, b"busy"), Reply(429, b""), Reply(416, b""), whole())
    await download.save(task(), tmp_path / "a.mp4", origin)
    assert (tmp_path / "a.mp4").read_bytes() == FILM


async def test_it_gives_up_when_nothing_new_comes(tmp_path: Path) -> None:
    origin = Origin(APIConnectionError("reset", written=True))
    with pytest.raises(DownloadError, match="did not come in 6 tries") as caught:
        await download.save(task(), tmp_path / "a.mp4", origin)
    assert len(origin.asked) == download.ATTEMPTS
    assert [*tmp_path.iterdir()] == []
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_an_expired_url_says_that_its_day_is_over(tmp_path: Path, status: int) -> None:
    old = task(age=timedelta(hours=24, seconds=1))
    with pytest.raises(ResultExpiredError, match="expired at"):
        await download.save(old, tmp_path / "a.mp4", Origin(Reply(status, b"")))
    with pytest.raises(DownloadError, match="ask for the task again") as caught:
        await download.save(task(), tmp_path / "a.mp4", Origin(Reply(status, b"")))
    assert not isinstance(caught.value, ResultExpiredError)


async def test_a_full_disk_leaves_the_old_file_and_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.mp4"
    target.write_bytes(b"old")

    def full(self: object, data: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download._Part, "append", full)
    with pytest.raises(DownloadError, match=r"No space left on device.*lives until"):
        await download.save(task(), target, Origin(whole()))
    assert target.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [target]


async def test_a_folder_of_that_name_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(DownloadError, match="it is a folder"):
        await download.save(task(), tmp_path / "a.mp4", Origin(whole()))


async def test_an_empty_file_and_a_missing_url_are_no_result(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="empty"):
        await download.save(task(), tmp_path / "a.mp4", Origin(Reply(body=b"")))
    with pytest.raises(DownloadError, match="no result URL yet"):
        await download.save(task(urls=()), tmp_path / "a.mp4", Origin(whole()))
    assert [*tmp_path.iterdir()] == []


async def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(
    tmp_path: Path,
) -> None:
    living = download._Part(tmp_path / "a.mp4")
    living.append(bytearray(b"half"))
    dead = download._Part(tmp_path / "b.mp4")
    dead.append(bytearray(b"half"))
    assert dead._file is not None
    dead._file.close()  # as the kernel does when its process dies
    assert download.remove_leftovers(tmp_path) == 1
    assert len([*tmp_path.iterdir()]) == 1
    living.publish()
    assert (tmp_path / "a.mp4").read_bytes() == b"half"
    assert download.remove_leftovers(tmp_path / "nowhere") == 0
