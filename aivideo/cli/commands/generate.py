"""``aivideo generate``: make one clip and save it."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from aivideo import manifest as batches
from aivideo.cli import exits
from aivideo.cli.console import money, print_json
from aivideo.cli.options import AsJSON, BaseURL, Flag, Whole
from aivideo.cli.signals import cancelled_by_signals
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

    SIGTERM and SIGHUP do what Ctrl-C does: a create under way gets its answer first, and the task
    is named. A create that may have been charged (no answer, or a 500 or 503) exits with code 4:
    do not repeat the command before you have looked at the dashboard.

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

    checked_by_sora2: dict[str, Any] = {"duration": duration, "aspect_ratio": aspect_ratio}
    request = Sora2(prompt, image=image, **checked_by_sora2)
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
    with cancelled_by_signals() as this:
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
        except (asyncio.CancelledError, AIVideoError, OSError) as error:
            # After the session has closed: only then is the answer to a create in flight known.
            interrupted = bool(this.cancelling())  # OSError: its terminal has been closed
            return _ended_early(job, error, task_options, interrupted=interrupted)
    if as_json:
        print_json({"task_id": task.id, "file": path, "credits": request.credits})
    else:
        console.print(f"saved {path}", highlight=False)
    return exits.OK


def _ended_early(
    job: Job | None,
    error: BaseException,
    task_options: list[str],
    *,
    interrupted: bool,
) -> int:
    """Say what became of the create, and how to go on; return the exit code.

    Raises:
        BaseException: ``error``, where it says itself what happened.
    """
    in_doubt = job is not None and (job.status.is_in_doubt or job.status is JobStatus.SUBMITTING)
    if job is not None and job.task_id is not None:
        if not isinstance(error, TaskFailedError | ResultExpiredError):
            how = shlex.join(["aivideo", "task", job.task_id, *task_options])
            exits.warn(f"job {job.id} is task {job.task_id}; continue with: {how}")
    elif job is not None and in_doubt:
        exits.warn(_how_to_settle(job, error, task_options))
    elif interrupted:
        exits.warn("nothing was sent")
    if interrupted:
        return exits.INTERRUPTED
    if in_doubt:
        return exits.UNKNOWN
    raise error


def _how_to_settle(job: Job, error: BaseException, task_options: list[str]) -> str:
    """Say what to do about a create of unknown outcome; there is no ledger to settle it in."""
    why = job.error or error
    reason = why.reason if isinstance(why, SubmitUnknownError) else str(why)
    price = "" if job.credits is None else f" ({money(job.credits)})"
    how = shlex.join(["aivideo", "task", "TASK", *task_options])
    return (
        f"job {job.id}: the create may or may not have been taken and charged{price}: "
        f"{reason.rstrip('.') or 'no answer was received'}. Look at the dashboard: if its task is "
        f"there, fetch it with: {how}; if it is not there after 15 minutes, run the same command "
        "again"
    )


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
