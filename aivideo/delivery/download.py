"""Download a result to a file: streamed, resumable, and complete or not there at all.

The bytes go to a temporary file beside the target. Once the last byte has arrived and is on disk
(``fsync``), the file is renamed. So the target is never incomplete, whichever process or machine
crashes. After a broken connection the download goes on where it broke off (``Range`` with
``If-Range``). If the server ignores the range and sends the whole file, the download starts over
instead of appending. The API key is unknown in this module, so it cannot be sent to a result's
origin.

A process that is killed leaves its temporary file behind. While it lives, it holds a lock on the
file, which the kernel releases when the process ends: so :func:`remove_leftovers` can tell an
abandoned file from one that is being written.
"""

from __future__ import annotations

import asyncio
import errno
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
"""Bytes buffered before a thread writes them: switching threads costs more than a small write."""

ATTEMPTS = 6
"""Attempts in a row without a new byte after which a download fails."""

STALL_TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as broken."""


def remove_leftovers(folder: Path) -> int:
    """Remove the temporary files of killed processes from a folder; return how many there were.

    Files that a living process writes are locked, and are kept.
    """
    removed = 0
    for path in folder.glob(".*.part"):
        with suppress(OSError):
            if not _file_locks.are_known() or not path.stat().st_size:
                continue  # an empty file may have just been created, and not be locked yet
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
    """Download a completed task's first result to ``target``.

    Args:
        task: the task whose ``urls[0]`` is downloaded.
        target: path of the file. Missing folders are created. An existing file is replaced, but
            only once the download is complete.
        transport: opens the URL.
        url: another URL of the task, to be downloaded instead.

    Returns:
        ``target`` as a Path; the file is complete and on disk.

    Raises:
        ResultExpiredError: the URL does not work any more, and its 24 hours are over.
        DownloadError: the download failed, or the file could not be written (for example because
            the disk is full).
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
            f"cannot write {path}: {error.strerror or type(error).__name__}; the URL of task "
            f"{task.id} works until {task.expires_at:%Y-%m-%d %H:%M} UTC: save it again",
            task=task,
            errno=error.errno,
        ) from None
    finally:
        with suppress(OSError):  # nothing is left, or the error that is being raised says why
            part.discard()
    return path


class _Signed(str):
    """A URL whose repr omits the signature in its query: tracebacks may show the repr of locals."""

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
            problem = "the compressed data is corrupt"
        failures = 1 if part.size > before else failures + 1
    raise DownloadError(
        f"could not download the result of task {task.id} in {ATTEMPTS} attempts ({problem}); "
        f"its URL works until {task.expires_at:%Y-%m-%d %H:%M} UTC: save it again",
        task=task,
    )


def _range_headers(part: _Part) -> dict[str, str]:
    # identity: a compressed range could not be appended. Without a validator, start over.
    headers = {"Accept-Encoding": "identity"}
    if part.size and part.validator:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.validator}
    return headers


async def _receive(incoming: Incoming, part: _Part, task: CompletedTask) -> bool:
    """Append one response's body; return True if the file is complete, False to try again."""
    status = incoming.status
    if status == 206 and _range_start(incoming) == part.size:
        pass
    elif status == 200 and _is_web_page(incoming):
        return False  # a network's login page, or an error page with the wrong status
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
        # Keep what has arrived even if the connection breaks: the next attempt resumes from here.
        if pending:
            await _in_thread(part.append, pending)
    if unpacker is not None and not unpacker.eof:
        return False
    if part.size == 0:
        raise DownloadError(f"the result of task {task.id} is an empty file", task=task)
    return expected is None or part.size == expected


def _whole_size(incoming: Incoming, part: _Part) -> int | None:
    """Return the size of the complete file in bytes, if the response states it.

    A server may answer a range with less than was requested (RFC 9110, 15.3.7), so the length of
    the response does not say where the file ends.
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
    """Return a decompressor if the body is compressed, though that was not requested, or None."""
    coding = incoming.headers.get("content-encoding", "").strip().lower()
    if coding in ("", "identity", "aws-chunked"):  # the last: left by some uploads to S3
        return None
    if coding in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # detects gzip and deflate
    raise DownloadError(
        f"the result of task {task.id} has the unsupported content encoding {coding!r}",
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
        f"the server that stores the result of task {task.id} answered HTTP {status}; the URL "
        f"should work until {task.expires_at:%Y-%m-%d %H:%M} UTC: get the task again for a new URL",
        task=task,
        status=status,
    )


def _validator(incoming: Incoming) -> str | None:
    etag = incoming.headers.get("etag", "")
    if etag and not etag.startswith("W/"):  # weak ones must not be used with ranges (RFC 9110)
        return etag
    return incoming.headers.get("last-modified")


def _range_start(incoming: Incoming) -> int | None:
    unit, _, rest = incoming.headers.get("content-range", "").partition(" ")
    start = rest.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdecimal() else None


async def _in_thread(function: object, *args: object) -> None:
    # Shielded: a cancelled download must not discard the file while a thread still writes to it.
    assert callable(function)
    running = asyncio.ensure_future(asyncio.to_thread(function, *args))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


@define
class _Part:
    """The temporary file beside the target; created when the first byte is written."""

    target: Path
    size: int = 0
    validator: str | None = None
    _file: BinaryIO | None = None
    _path: Path | None = None

    def append(self, data: bytearray) -> None:
        file = self._opened()
        rest = memoryview(data)
        while rest:  # a raw write may write less than it is given, on a nearly full disk
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
            with suppress(OSError):  # NFS may report a full disk here
                self._file.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            if self.target.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            name = f".{self.target.name[:80]}.{secrets.token_hex(4)}.part"
            self._path = self.target.with_name(name)
            # Unbuffered: a resumed download relies on what append() has written.
            self._file = self._path.open("xb", buffering=0)
            with suppress(OSError):  # some file systems do not support locks
                if _file_locks.are_known():
                    _file_locks.take(self._file.fileno())
        return self._file


def _sync_folder(folder: Path) -> None:
    """Make the rename durable, on systems where folders can be synced (not on Windows)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # some file systems cannot sync a folder; the file itself is on disk
    finally:
        os.close(handle)
