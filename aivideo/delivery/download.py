"""A result's URL to a file: streamed, resumed, and whole or not at all.

The bytes go to a temporary name beside the target; only when the last has arrived, and is on disk
(``fsync``), is it renamed. So the target is never half a file, whatever dies. A connection that
breaks is taken up where it broke (``Range`` with ``If-Range``); a server that ignores the range
and sends everything again is noticed, and begun anew rather than appended to. The API key is not
known here, so it cannot be sent here.

A process that is killed leaves its temporary file. While it lives it holds a lock on it, which the
kernel drops with it; so :func:`remove_leftovers` tells the one from the other.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import zlib
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from attrs import define

from aivideo import _file_locks
from aivideo._api.transport import Incoming, Transport
from aivideo._redaction import scrub
from aivideo.errors import APIConnectionError, DownloadError, ResultExpiredError
from aivideo.models import CompletedTask

CHUNK = 1 << 20
"""Bytes gathered before a worker thread writes them: the hop costs more than a small write."""

ATTEMPTS = 6
"""Tries in a row that bring no new byte before a download gives up."""

STALL_TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as broken."""


def remove_leftovers(folder: Path) -> int:
    """Remove what downloads of processes that were killed have left, and say how many there were.

    What a living process writes is locked, and stays.
    """
    removed = 0
    for path in folder.glob(".*.part"):
        with suppress(OSError):
            if not _file_locks.are_known() or not path.stat().st_size:
                continue  # without a byte it may be about to be locked
            with path.open("rb") as file:
                _file_locks.take(file.fileno())
                path.unlink()
                removed += 1
    return removed


async def save(
    task: CompletedTask,
    target: str | os.PathLike[str],
    transport: Transport,
    *,
    url: str | None = None,
) -> Path:
    """Fetch a completed task's first result to ``target``.

    Args:
        task: whose ``urls[0]`` to fetch.
        target: the file to make, folder and all; a file of that name is replaced at the end.
        transport: what to fetch with.
        url: another of its URLs.

    Returns:
        ``target`` as a Path; the file is whole and on disk.

    Raises:
        ResultExpiredError: the URL no longer works, and its 24 hours are over.
        DownloadError: it could not be fetched, or not be written (a full disk, say).
    """
    if url is None and not task.urls:
        raise DownloadError(f"task {task.id} is completed but has no result URL yet", task=task)
    url = _Signed(url or task.urls[0])
    path = Path(target)
    part = _Part(path)
    try:
        await _fetch(url, part, task, transport)
        await _in_thread(part.publish)
    except OSError as error:
        raise DownloadError(
            f"cannot write {path}: {error.strerror or type(error).__name__}; the result of task "
            f"{task.id} lives until {task.expires_at:%Y-%m-%d %H:%M} UTC",
            task=task,
            errno=error.errno,
        ) from None
    finally:
        part.discard()
    return path


class _Signed(str):
    """A URL whose repr lacks its query: tracebacks with locals show reprs."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(scrub(str(self)))


async def _fetch(url: str, part: _Part, task: CompletedTask, transport: Transport) -> None:
    failures = 0
    problem = ""
    while failures < ATTEMPTS:
        if failures:
            await asyncio.sleep(0.25 * 2**failures)
        before = part.size
        try:
            async with transport.stream(url, _range_headers(part), STALL_TIMEOUT) as incoming:
                if await _receive(incoming, part, task):
                    return
                problem = (
                    f"HTTP {incoming.status} {incoming.headers.get('content-type', '')}".rstrip()
                )
        except APIConnectionError as error:
            problem = str(error)
        except zlib.error:
            problem = "a broken compression"
        failures = 1 if part.size > before else failures + 1
    raise DownloadError(
        f"the result of task {task.id} did not come in {ATTEMPTS} tries ({problem}); "
        f"its URL lives until {task.expires_at:%Y-%m-%d %H:%M} UTC: save it again",
        task=task,
    )


def _range_headers(part: _Part) -> dict[str, str]:
    # identity: a compressed range could not be appended. Without a validator, begin anew.
    headers = {"Accept-Encoding": "identity"}
    if part.size and part.validator:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.validator}
    return headers


async def _receive(incoming: Incoming, part: _Part, task: CompletedTask) -> bool:
    """Take in one answer. True: the file is whole. False: worth another try."""
    status = incoming.status
    if status == 206 and _range_start(incoming) == part.size:
        pass
    elif status == 200 and _is_web_page(incoming):
        return False  # a login page of the network, or an error with the wrong status
    elif status == 200:
        await _in_thread(part.restart)
        packed = incoming.headers.get("content-encoding")
        part.validator = None if packed else _validator(incoming)
    elif status in (206, 416):
        await _in_thread(part.restart)
        return False
    elif status in (408, 429) or status >= 500:
        return False
    else:
        raise _refusal(status, task)
    unpacker = _unpacker(incoming, task)
    expected = _whole_size(incoming, part) if unpacker is None else None
    pending = bytearray()
    try:
        async for chunk in incoming.chunks():
            pending += chunk if unpacker is None else unpacker.decompress(chunk)
            if len(pending) >= CHUNK:
                await _in_thread(part.append, pending)
                pending = bytearray()
    finally:
        # What has come counts even when the connection breaks: the next try goes on from here.
        if pending:
            await _in_thread(part.append, pending)
    if unpacker is not None and not unpacker.eof:
        return False
    if part.size == 0:
        raise DownloadError(f"the result of task {task.id} is an empty file", task=task)
    return expected is None or part.size == expected


def _whole_size(incoming: Incoming, part: _Part) -> int | None:
    """Say how many bytes the whole file has, as far as the answer tells.

    A range may be answered by less than was asked for (RFC 9110, 15.3.7), so its own length does
    not say where the file ends.
    """
    if incoming.status == 206:
        total = incoming.headers.get("content-range", "").rpartition("/")[2].strip()
        if total.isdecimal():
            return int(total)
    length = incoming.headers.get("content-length", "")
    return part.size + int(length) if length.isdecimal() else None


def _is_web_page(incoming: Incoming) -> bool:
    return incoming.headers.get("content-type", "").strip().lower().startswith("text/html")


def _unpacker(incoming: Incoming, task: CompletedTask) -> zlib._Decompress | None:
    """Make what undoes a compression that was not asked for; a gzip named .mp4 plays nowhere."""
    coding = incoming.headers.get("content-encoding", "").strip().lower()
    if coding in ("", "identity", "aws-chunked"):  # the last is what an upload to S3 may leave
        return None
    if coding in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # tells gzip and deflate by itself
    raise DownloadError(
        f"the result of task {task.id} came packed as {coding!r}, though it was asked for as it is",
        task=task,
    )


def _refusal(status: int, task: CompletedTask) -> DownloadError:
    if status in (403, 404, 410) and datetime.now(UTC) >= task.expires_at:
        return ResultExpiredError(
            f"the result of task {task.id} expired at {task.expires_at:%Y-%m-%d %H:%M} UTC, "
            "24 hours after it was completed; generate it again",
            task=task,
            status=status,
        )
    return DownloadError(
        f"the result's origin refused task {task.id} with HTTP {status}; its URL should live "
        f"until {task.expires_at:%Y-%m-%d %H:%M} UTC: ask for the task again to get a fresh one",
        task=task,
        status=status,
    )


def _validator(incoming: Incoming) -> str | None:
    etag = incoming.headers.get("etag", "")
    if etag and not etag.startswith("W/"):  # a weak one may not be used with ranges (RFC 9110)
        return etag
    return incoming.headers.get("last-modified")


def _range_start(incoming: Incoming) -> int | None:
    unit, _, rest = incoming.headers.get("content-range", "").partition(" ")
    start = rest.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdecimal() else None


async def _in_thread(function: object, *args: object) -> None:
    # Shielded: a cancelled download must not discard the file while a thread still writes to it.
    assert callable(function)
    hop = asyncio.ensure_future(asyncio.to_thread(function, *args))
    try:
        await asyncio.shield(hop)
    except asyncio.CancelledError:
        await asyncio.wait([hop])
        raise


@define
class _Part:
    """The temporary file beside the target; made with its first byte."""

    target: Path
    size: int = 0
    validator: str | None = None
    _file: BinaryIO | None = None
    _path: Path | None = None

    def append(self, data: bytearray) -> None:
        file = self._opened()
        rest = memoryview(data)
        while rest:  # a raw write may take less than it is given: on a disk that is nearly full
            written = file.write(rest)
            self.size += written
            rest = rest[written:]

    def restart(self) -> None:
        self.size = 0
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()

    def publish(self) -> None:
        file = self._opened()
        file.flush()
        os.fsync(file.fileno())
        file.close()
        assert self._path is not None
        self._path.replace(self.target)
        self._path = None
        _sync_folder(self.target.parent)

    def discard(self) -> None:
        if self._file is not None and not self._file.closed:
            self._file.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            if self.target.is_dir():
                raise IsADirectoryError(21, "it is a folder")
            name = f".{self.target.name[:80]}.{secrets.token_hex(4)}.part"
            self._path = self.target.with_name(name)
            # Unbuffered: what append() has written is what a resumed download may rely on.
            self._file = self._path.open("xb", buffering=0)
            with suppress(OSError):  # some file systems know no locks
                if _file_locks.are_known():
                    _file_locks.take(self._file.fileno())
        return self._file


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where folders can be synced (not on Windows)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # some file systems refuse to sync a folder; the file itself is safe
    finally:
        os.close(handle)
