"""Downloads of results: a few at a time, in the session's own tasks, ended by its close."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from aivideo._api.transport import Transport
from aivideo._session.job import Job
from aivideo._session.live import LiveJobs
from aivideo._session.recorder import Recorder
from aivideo._session.watching import Watching
from aivideo.delivery import download
from aivideo.errors import SessionClosedError
from aivideo.ledger.records import JobStatus
from aivideo.models import CompletedTask

DOWNLOADS_AT_ONCE = 8
"""Downloads under way at once."""


class Downloads:
    """Fetches results and records where they were saved.

    A download runs in a plain asyncio task, which a close ends with one cancellation. anyio would
    cancel it again at each await, also while it waits for a thread that still writes to the file.

    Args:
        transport: what to fetch with.
        live: the live jobs.
        recorder: records the files.
        watching: brings a job up to date.
    """

    def __init__(
        self, transport: Transport, live: LiveJobs, recorder: Recorder, watching: Watching
    ) -> None:
        self._transport = transport
        self._live = live
        self._recorder = recorder
        self._watching = watching
        self._at_once = asyncio.Semaphore(DOWNLOADS_AT_ONCE)
        self._under_way: set[asyncio.Task[Path]] = set()
        self._closed = False

    async def save(self, job: Job, task: CompletedTask, path: str | os.PathLike[str]) -> Path:
        """Fetch the first result of a task to ``path``, and record where it was saved.

        Raises:
            DownloadError: it could not be fetched or written.
            SessionClosedError: the session closed first; no partial file is left.
        """
        if self._closed:
            raise closed_under(job)
        fetching = asyncio.create_task(self._fetch(task, path))
        self._under_way.add(fetching)
        fetching.add_done_callback(self._under_way.discard)
        try:
            saved = await fetching
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is not None and not caller.cancelling():  # so it was the close
                raise closed_under(job) from None
            raise
        record = await self._recorder.record_file(job.id, task, saved)
        live = self._live.get(job.id)
        if record is None:
            job.status = JobStatus.SAVED
        elif live is not None and live.job is job:
            self._watching.follow(live, record)
        else:
            self._live.set_status(job, record.status, record)
        return saved

    async def drain(self) -> None:
        """Wait for the downloads that are under way now."""
        if self._under_way:
            await asyncio.wait([*self._under_way])

    async def aclose(self) -> None:
        """Cancel every download, and start no other."""
        self._closed = True
        under_way = [*self._under_way]
        for fetching in under_way:
            fetching.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    async def _fetch(self, task: CompletedTask, path: str | os.PathLike[str]) -> Path:
        async with self._at_once:
            return await download.save(task, path, self._transport)


def closed_under(job: Job) -> SessionClosedError:
    """Return the error of whoever waits for a job when its session closes."""
    return SessionClosedError(
        f"the session closed before job {job.id} ended; it goes on at the service: continue with "
        f"session.job({job.task_id!r})",
        job=job,
    )


def file_name(task: CompletedTask, index: int) -> str:
    """Return the name of a result's file in a folder that the user gave.

    Args:
        task: the task; a URL's suffix decides the file's.
        index: the request's position in the input, from 0.
    """
    suffix = Path(task.urls[0].partition("?")[0]).suffix if task.urls else ""
    safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in task.id)[:80]
    return f"{index + 1:05d}-{safe}{suffix or '.mp4'}"


def is_whole(path: Path, size: int | None) -> bool:
    """Return whether a file is there, with ``size`` bytes; None: of any size."""
    try:
        return path.is_file() and size in (None, path.stat().st_size)
    except OSError:  # a folder that may not be read, a name that is too long
        return False
