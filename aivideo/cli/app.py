"""The commands. Each is short: it reads its options, drives a session, and says what came of it."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
from collections.abc import Coroutine, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter, Token
from rich.console import Console

from aivideo import catalog
from aivideo import manifest as batches
from aivideo._session.job import Job
from aivideo._session.session import Session
from aivideo._version import __version__
from aivideo.cli import exits, show
from aivideo.cli.jobs import LEDGER
from aivideo.cli.jobs import app as jobs_app
from aivideo.cli.run import run_batch
from aivideo.errors import (
    AIVideoError,
    ConfigurationError,
    ResultExpiredError,
    SubmitUnknownError,
    TaskFailedError,
)
from aivideo.ledger.records import JobStatus
from aivideo.ledger.sqlite import SqliteLedger
from aivideo.models import CompletedTask, FailedTask, Sora2, Task

BaseURL = Annotated[
    str | None, Parameter(help="The service; by default AIVIDEO_BASE_URL, else the real one.")
]
AsJSON = Annotated[bool, Parameter(name="--json", negative="", help="JSON on stdout.")]


def _whole_number(_: object, tokens: Sequence[Token]) -> int:
    value = tokens[0].value
    if not re.fullmatch(r"[+-]?[0-9][0-9_]*", value):  # 7.6 is not rounded to what costs more
        raise ValueError(f"{value!r} is not a whole number")
    return int(value)


Whole = Annotated[int, Parameter(converter=_whole_number)]
WholeOrNone = Annotated[int | None, Parameter(converter=_whole_number)]
Pace = Annotated[
    float | None,
    Parameter(help="The key's rate limit, if you know it; otherwise it is found."),
]

app = App(
    name="aivideo",
    version=__version__,
    suppress_keyboard_interrupt=False,  # run() says with which code it ends
    help=f"""Make videos with the AI Video API (Sora 2): one, or thousands.

The key is taken from AIVIDEO_API_KEY. Without one, try `aivideo demo`; or run
`aivideo simulate` in another terminal and set AIVIDEO_BASE_URL=http://127.0.0.1:8811
and AIVIDEO_API_KEY=sk-anything.

{exits.TABLE}""",
)

app.command(jobs_app)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        exits.say(f"{error} (see `aivideo --help`)")
        return exits.USAGE
    except (AIVideoError, OSError, ValueError) as error:
        return exits.say_error(error)
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    return code if isinstance(code, int) else exits.OK


def _run(work: Coroutine[Any, Any, int]) -> int:
    return asyncio.run(work)


# --- one clip -------------------------------------------------------------------------------------


@app.command
def generate(
    prompt: str,
    /,
    *,
    duration: Whole = 8,
    aspect_ratio: str = "16:9",
    image: str | None = None,
    output: Path = Path("video.mp4"),
    wait_timeout: float | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
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
        Seconds to wait at most; the task goes on, and `aivideo task` finds it again.
    overwrite
        Replace a file that is there already.
    """
    request = Sora2(prompt, duration=duration, aspect_ratio=aspect_ratio, image=image)
    if wait_timeout is not None and not wait_timeout > 0:
        raise ConfigurationError(f"--wait-timeout {wait_timeout:g} must be more than 0 seconds")
    session = Session(base_url=base_url)
    _check_target(output)
    if output.exists() and not overwrite:
        raise ConfigurationError(
            f"{output} is there already, and a clip costs money: name another --output, or insist "
            "with --overwrite"
        )
    go_on = ["--save", str(output)] + ([] if base_url is None else ["--base-url", base_url])
    return _run(_generate(session, request, output, wait_timeout, go_on, as_json=as_json))


async def _generate(
    session: Session,
    request: Sora2,
    output: Path,
    wait_timeout: float | None,
    go_on: list[str],
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
                        exits.say("the create is on its way; its answer is waited for")
                    raise
                console.print(f"task {job.task_id}: {show.money(request.credits)}", highlight=False)
                status.update("waiting; minutes to hours. Ctrl-C leaves the task running")
                task = await job.result(wait_timeout=wait_timeout)
                status.update("fetching …")
                path = await job.save(output)
    except (asyncio.CancelledError, AIVideoError) as error:
        # Only now: a create that was under way has its verdict once the session has closed.
        if job is not None:
            _say_how_to_go_on(job, error, go_on)
        raise
    if as_json:
        show.out({"task_id": task.id, "file": str(path), "credits": request.credits})
    else:
        console.print(f"saved {path}", highlight=False)
    return exits.OK


def _say_how_to_go_on(job: Job, error: BaseException, go_on: list[str]) -> None:
    if isinstance(error, TaskFailedError | ResultExpiredError):
        return  # there is nothing to go on with
    if job.task_id is not None:
        exits.say(f"go on with: {shlex.join(['aivideo', 'task', job.task_id, *go_on])}")
    elif isinstance(job.error, SubmitUnknownError) and isinstance(error, asyncio.CancelledError):
        exits.say(str(job.error))


def _check_target(target: Path) -> None:
    """Find out, before anything is spent, whether a file can be written there.

    Raises:
        ConfigurationError: it cannot.
    """
    batches.check_folder(target.parent)
    try:
        target.stat()
    except FileNotFoundError:
        return
    except OSError as error:  # a name that is too long, say
        raise ConfigurationError(f"cannot write {target}: {error.strerror}") from None
    if target.is_dir():
        raise ConfigurationError(f"cannot write {target}: it is a folder; name a file in it")


@app.command
def task(
    task_id: str,
    /,
    *,
    save: Path | None = None,
    base_url: BaseURL = None,
    as_json: AsJSON = False,
) -> int:
    """Show a task by its id; with --save, wait for it and fetch its result.

    Example: aivideo task 7d89c51e-9430-410e-909e-df347131ebaa --save boat.mp4

    Parameters
    ----------
    task_id
        As `aivideo generate` and `unfinished.jsonl` say it.
    save
        The file to write.
    """
    session = Session(base_url=base_url)
    job = session.job(task_id)  # says it if that is no id
    if save is not None:
        _check_target(save)
    return _run(_task(session, job, save, as_json=as_json))


async def _task(session: Session, job: Job, save: Path | None, *, as_json: bool) -> int:
    task_id = str(job.task_id)
    async with session:
        if save is not None:
            path = await job.save(save)
            if as_json:
                show.out({"task_id": task_id, "file": str(path)})
            else:
                print(f"saved {path}")
            return exits.OK
        found = await session.retrieve(task_id)
    if as_json:
        show.out(_task_as_json(found))
    else:
        for name, value in _task_as_json(found).items():
            print(f"{name:13} {value}")
    return exits.FAILED if isinstance(found, FailedTask) else exits.OK


def _task_as_json(found: Task) -> dict[str, Any]:
    row: dict[str, Any] = {
        "task_id": found.id,
        "status": str(found.status),
        "model": found.model,
        "created_at": found.created_at.isoformat(),
    }
    if isinstance(found, CompletedTask):
        # Not the URL: it is signed, and whoever reads it in a log may fetch it. --save does.
        row |= {
            "completed_at": found.completed_at.isoformat(),
            "expires_at": found.expires_at.isoformat(),
            "results": len(found.urls),
        }
    elif isinstance(found, FailedTask):
        row |= {"code": found.error.code, "message": found.error.message}
    elif found.progress is not None:
        row["progress"] = found.progress
    return row


@app.command(name="credits")
def show_credits(*, base_url: BaseURL = None, as_json: AsJSON = False) -> int:
    """Show the balance. 1 credit is $0.005; a second of Sora 2 costs 25.

    Example: aivideo credits
    """

    async def ask() -> int:
        async with Session(base_url=base_url) as session:
            balance = await session.credits()
        if as_json:
            show.out(
                {
                    "balance": balance.balance,
                    "total_purchased": balance.total_purchased,
                    "total_consumed": balance.total_consumed,
                    "dollars": str(balance.dollars),
                }
            )
        else:
            print(f"balance    {show.money(balance.balance)}")
            print(f"purchased  {show.money(balance.total_purchased)}")
            print(f"consumed   {show.money(balance.total_consumed)}")
        return exits.OK

    return _run(ask())


# --- many -----------------------------------------------------------------------------------------


@app.command
def batch(
    file: Path,
    /,
    *,
    output: Path,
    duration: WholeOrNone = None,
    aspect_ratio: str | None = None,
    ledger: Path | None = None,
    batch: str | None = None,
    max_credits: WholeOrNone = None,
    on_spend_limit: Literal["stop", "wait"] = "stop",
    retry_failed: Annotated[bool, Parameter(negative="")] = False,
    max_running_jobs: WholeOrNone = None,
    max_requests_per_minute: Pace = None,
    poll_interval: float | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    base_url: BaseURL = None,
    as_json: AsJSON = False,
) -> int:
    """Make a clip for each line of a file, and save them in a folder.

    Example: aivideo batch prompts.txt --duration 4 --aspect-ratio 16:9 --output clips --dry-run

    FILE is plain text (a prompt a line), .csv or .jsonl (fields prompt, duration, aspect_ratio,
    image, id). It is checked whole before anything is sent. Each step is written into the ledger
    before it is taken, so the same command goes on where a run was stopped or killed: what was
    taken is not sent again. Ctrl-C stops submitting and lets what is under way finish (twice:
    exits at once). See `aivideo jobs` for what the ledger knows.

    Parameters
    ----------
    file
        The manifest.
    output
        The folder for the files, report.jsonl and unfinished.jsonl.
    duration
        Seconds, for lines that say none: 4, 8 or 12.
    aspect_ratio
        For lines that say none: 16:9 or 9:16.
    ledger
        Where jobs are written down; by default OUTPUT/aivideo.db.
    batch
        The batch's name in the ledger; by default where OUTPUT lies, seen from the ledger.
    max_credits
        A ceiling over what the batch was ever charged, has reserved or does not know, in all its
        runs.
    on_spend_limit
        At the key's spend cap: stop, or wait until it resets.
    retry_failed
        Send lines again that failed (and were refunded) or were refused in earlier runs.
    max_running_jobs
        Tasks under way at once, at most.
    poll_interval
        Seconds between two looks at a task; by default learned, which costs less.
    dry_run
        Say what it would cost, and whether the balance covers it; send no create.
    overwrite
        Make clips (and pay) whose files are there already, and that the ledger does not know.
    """
    lines = batches.read_manifest(file, batches.Defaults(duration, aspect_ratio))
    ledger_path = output / LEDGER if ledger is None else ledger
    settings = batches.Settings(
        name=batch_name(output, ledger_path) if batch is None else batch,
        max_credits=max_credits,
        retry_failed=retry_failed,
        wait_for_spend_limit=on_spend_limit == "wait",
    )
    if dry_run:
        return _run(_dry_run(lines, ledger_path, settings, base_url, as_json=as_json))
    common: dict[str, Any] = {
        "base_url": base_url,
        "max_running_jobs": max_running_jobs,
        "max_requests_per_minute": max_requests_per_minute,
        "poll_interval": poll_interval,
    }
    Session(**common)  # a setting that is refused is refused before a folder is made
    batches.check_folder(output)
    session = Session(ledger=ledger_path, **common)
    return _run(
        run_batch(
            session,
            lines,
            output,
            settings,
            overwrite=overwrite,
            as_json=as_json,
            again=shlex.join(["aivideo", *sys.argv[1:]]),
            ledger=shlex.quote(str(ledger_path)),
        )
    )


def batch_name(output: Path, ledger: Path) -> str:
    """Name a batch by where its folder lies, seen from its ledger: both may be moved together."""
    return Path(os.path.relpath(output.resolve(), ledger.resolve().parent)).as_posix()


async def _to_be_sent(
    lines: list[batches.Line], ledger: Path, settings: batches.Settings
) -> list[batches.Line]:
    """Leave out the lines that a ledger, if there is one, knows to be bought; writes nothing."""
    records = []
    if ledger.exists():
        book = SqliteLedger(ledger, read_only=True)
        try:
            records = [record async for record in book.jobs(batch=settings.name)]
        finally:
            await book.aclose()
    plan = batches.match(lines, records)
    again = settings.retry_failed
    return [each.line for each in plan.matches if each.would_be_sent(retry_failed=again)]


async def _dry_run(
    lines: list[batches.Line],
    ledger: Path,
    settings: batches.Settings,
    base_url: str | None,
    *,
    as_json: bool,
) -> int:
    sent = await _to_be_sent(lines, ledger, settings)
    estimate = batches.estimate(sent)
    balance: Decimal | None = None
    why_not = "AIVIDEO_API_KEY is not set, so the balance was not asked for"
    if os.environ.get("AIVIDEO_API_KEY"):
        try:
            async with Session(base_url=base_url, request_timeout=15) as session:
                balance = (await session.credits()).balance
        except AIVideoError as error:
            if isinstance(error, ConfigurationError):
                raise
            why_not = f"the balance could not be asked for: {error}"
    covered = None if balance is None else balance >= estimate.credits
    if as_json:
        show.out(
            {
                "rows": [
                    {"what": what, "clips": count, "credits": total}
                    for what, count, total in estimate.rows
                ],
                "credits": estimate.credits,
                "dollars": str(catalog.dollars(estimate.credits)),
                "unpriced": estimate.unpriced,
                "taken": len(lines) - len(sent),
                "balance": balance,
                "covered": covered,
            }
        )
        return exits.MONEY if covered is False else exits.OK
    console = Console()
    show.estimate_table(estimate, console)
    if len(sent) < len(lines):
        console.print(
            f"{len(lines) - len(sent):,} of {len(lines):,} lines are not in it: the ledger "
            f"{ledger} has them.",
            highlight=False,
            markup=False,
        )
    if balance is None:
        console.print(why_not, highlight=False, markup=False)
    elif covered:
        console.print(f"The balance covers it: {show.money(balance)}.", highlight=False)
    else:
        console.print(
            f"The balance does not cover it: {show.money(balance)}, "
            f"{show.money(estimate.credits - balance)} short. Top up under Dashboard > Billing.",
            highlight=False,
        )
    console.print("Nothing was sent.")
    return exits.MONEY if covered is False else exits.OK


# --- without a key --------------------------------------------------------------------------------


@app.command
def demo(*, output: Path = Path("aivideo-demo")) -> int:
    """Make twelve clips from a stand-in service on this machine. No key, no cost.

    Example: aivideo demo

    Parameters
    ----------
    output
        The folder for the files; files of an earlier demo are replaced.
    """
    from aivideo.cli.demo import run_demo

    return _run(run_demo(output))


@app.command
def simulate(
    *,
    port: Whole = 8811,
    results_port: Whole = 0,
    host: str = "127.0.0.1",
    speed: float = 60.0,
    rate_limit: str | None = None,
    retry_after: Literal["none", "seconds", "date"] = "none",
    failure_rate: float = 0.0,
    task_seconds: str | None = None,
    max_running_jobs: WholeOrNone = None,
    spend_limit: WholeOrNone = None,
    balance: Whole = 1_000_000,
    progress: Literal["null", "percent"] = "null",
    latency: float = 0.0,
    seed: Whole = 0,
) -> int:
    """Run the stand-in service until Ctrl-C. Any key that starts with sk- will do.

    Example: aivideo simulate --speed 600 --rate-limit "token:50/s:10" --failure-rate 0.03 --seed 7

    Parameters
    ----------
    port
        Where the API listens; its truth is at /_sim/truth.
    results_port
        Where the results lie: another origin, as with the real service. 0: any free port.
    speed
        How many times faster tasks run than the clock.
    rate_limit
        token:50/s:10 (a bucket), fixed:20/10s or sliding:100/60s (windows), jobs:20 (running).
    retry_after
        Whether a 429 says when to come again.
    failure_rate
        The share of tasks that fail (and are refunded).
    task_seconds
        How long tasks take before `speed`: 90, 60-180, or lognormal:100:0.5.
    max_running_jobs
        More at once get a 429.
    spend_limit
        Credits after which the key's spend cap answers.
    balance
        Credits of each key.
    progress
        What running tasks say of their progress.
    latency
        Seconds until each answer.
    seed
        The same seed is the same service.
    """
    from aivideo.cli.demo import run_simulator

    settings: dict[str, Any] = {
        "speed": speed,
        "retry_after": retry_after,
        "failure_rate": failure_rate,
        "jobs_in_flight": max_running_jobs,
        "spend_limit": spend_limit,
        "default_balance": balance,
        "progress": progress,
        "latency": latency,
        "seed": seed,
    }
    return run_simulator(
        settings, rate_limit, task_seconds, host=host, port=port, results_port=results_port
    )
