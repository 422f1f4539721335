"""``aivideo generate``: make one clip and save it."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from aivideo import manifest as batches
from aivideo.cli import exits
from aivideo.cli.console import money, print_json
from aivideo.cli.options import AsJSON, BaseURL, Flag, Whole
from aivideo.errors import (
    AIVideoError,
    ConfigurationError,
    ResultExpiredError,
    SubmitUnknownError,
    TaskFailedError,
)
from aivideo.ledger.records import JobStatus
from aivideo.models import Sora2

if TYPE_CHECKING:
    from aivideo._session.job import Job
    from aivideo._session.session import Session


def generate(
    prompt: str,
    /,
    *,
    duration: Whole = 8,
    aspect_ratio: str = "16:9",
    image: str | None = None,
    output: Path = Path("video.mp4"),
    wait_timeout: float | None = None,
    overwrite: Flag = False,
    base_url: BaseURL = None,
    as_json: AsJSON = False,
) -> int:
    """Make one clip and save it.

    Example: aivideo generate "A paper boat in the rain" --duration 8 --output boat.mp4

    Parameters
    ----------
    prompt
        What to show, in 1 to 5000 characters.
    duration
        Seconds: 4, 8 or 12 (100, 200 or 300 credits).
    aspect_ratio
        16:9 or 9:16.
    image
        URL of a first frame (image-to-video).
    output
        The file to write.
    wait_timeout
        Seconds to wait at most; the task continues, and `aivideo task` finds it again.
    overwrite
        Replace an existing file.
    """
    from aivideo._session.session import Session

    request = Sora2(prompt, duration=duration, aspect_ratio=aspect_ratio, image=image)
    if wait_timeout is not None and not wait_timeout > 0:
        raise ConfigurationError(f"--wait-timeout {wait_timeout:g} must be more than 0 seconds")
    session = Session(base_url=base_url)
    check_target(output)
    if output.exists() and not overwrite:
        raise ConfigurationError(
            f"{output} already exists. Choose another --output, or pass --overwrite to pay for a "
            "new clip"
        )
    options = ["--save", str(output)] + ([] if base_url is None else ["--base-url", base_url])
    return asyncio.run(_generate(session, request, output, wait_timeout, options, as_json=as_json))


async def _generate(
    session: Session,
    request: Sora2,
    output: Path,
    wait_timeout: float | None,
    task_options: list[str],
    *,
    as_json: bool,
) -> int:
    console = Console(stderr=True)
    job: Job | None = None
    try:
        async with session:
            job = await session.enqueue(request)
            with console.status("submitting …") as status:
                try:
                    await job.submitted()
                except asyncio.CancelledError:
                    if job.status is JobStatus.SUBMITTING:
                        exits.warn("the create was sent; waiting for its answer")
                    raise
                console.print(f"task {job.task_id}: {money(request.credits)}", highlight=False)
                status.update("waiting: minutes to hours. Ctrl-C leaves the task running")
                task = await job.result(wait_timeout=wait_timeout)
                status.update("downloading …")
                path = await job.save(output)
    except (asyncio.CancelledError, AIVideoError) as error:
        # After the session has closed: only then is the answer to a create in flight known.
        if job is not None:
            _print_how_to_continue(job, error, task_options)
        raise
    if as_json:
        print_json({"task_id": task.id, "file": path, "credits": request.credits})
    else:
        console.print(f"saved {path}", highlight=False)
    return exits.OK


def _print_how_to_continue(job: Job, error: BaseException, task_options: list[str]) -> None:
    if isinstance(error, TaskFailedError | ResultExpiredError):
        return  # there is nothing to continue
    if job.task_id is not None:
        exits.warn(f"continue with: {shlex.join(['aivideo', 'task', job.task_id, *task_options])}")
    elif isinstance(job.error, SubmitUnknownError) and isinstance(error, asyncio.CancelledError):
        exits.warn(str(job.error))


def check_target(target: Path) -> None:
    """Check, before anything is spent, that a file can be written there.

    Raises:
        ConfigurationError: it cannot be written.
    """
    batches.check_folder(target.parent)
    try:
        target.stat()
    except FileNotFoundError:
        return
    except OSError as error:  # a name that is too long, for example
        raise ConfigurationError(f"cannot write {target}: {error.strerror}") from None
    if target.is_dir():
        raise ConfigurationError(f"cannot write {target}: it is a folder; name a file in it")
