"""A manifest in, files and outcomes out: what ``aivideo batch`` runs, without its screen.

A manifest is JSONL, CSV (by its ending) or plain text with one prompt a line. It is read whole and
checked whole before anything is sent; a broken line is named by file and number. A batch that is
stopped leaves a manifest of what is left, in which a line may carry the ``task_id`` it became (it
is watched again, not bought again) or ``unknown`` (it is never sent by itself).
"""

from __future__ import annotations

import asyncio
import csv
import errno
import hashlib
import io
import os
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, cast

import orjson
from attrs import field, frozen

from aivideo import catalog
from aivideo.errors import (
    AIVideoError,
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    BudgetExceededError,
    InsufficientCreditsError,
    InternalServerError,
    InvalidRequestError,
    LedgerError,
    PermissionDeniedError,
    ResultExpiredError,
    SessionClosedError,
    SpendLimitError,
    SubmitUnknownError,
    TaskFailedError,
    TaskNotFoundError,
    UpstreamError,
)
from aivideo.job import Job
from aivideo.models import Failed, Generation, Outcome, Request, Sora2, Succeeded, TaskId
from aivideo.sansio.journal import CreditTotals, JobStatus
from aivideo.session import Session

UNFINISHED = "unfinished.jsonl"
REPORT = "report.jsonl"
SPEND_LIMIT_PAUSE = 60.0
"""Seconds until submits are tried again, when the user chose to wait for a spend cap to reset."""

_FIELDS = frozenset(
    {
        "id",
        "prompt",
        "duration",
        "aspect_ratio",
        "image",
        "image_urls",
        "model",
        "input",
        "credits",
        "task_id",
        "unknown",
    }
)
_SHOWN_PROBLEMS = 10
_IN_DOUBT = (JobStatus.SUBMITTING, JobStatus.UNKNOWN, JobStatus.FAULTED)


class ManifestError(AIVideoError, ValueError):
    """A manifest that cannot be sent as it is; nothing of it was.

    Attributes:
        problems: one line each: file, line number, what is wrong.
    """

    def __init__(self, problems: list[str]) -> None:
        shown = problems[:_SHOWN_PROBLEMS]
        if len(problems) > len(shown):
            shown.append(f"… and {len(problems) - len(shown)} more")
        super().__init__("; ".join(shown) + " (nothing was sent)")
        self.problems = problems


@frozen(kw_only=True)
class Line:
    """One line of a manifest.

    Attributes:
        number: its place in the file, from 1.
        id: the name it goes by, unique in the manifest; its file is ``<id>.mp4``.
        request: what is to be made.
        task_id: the task it has become already, or None.
        unknown: whether nobody knows if it has become one: it is not sent.
    """

    number: int
    id: str
    request: Request
    task_id: TaskId | None = None
    unknown: bool = False

    @property
    def file_name(self) -> str:
        """The name of its file."""
        return f"{self.id}.mp4"


@frozen
class Defaults:
    """What a line gets where it says nothing itself."""

    duration: int | None = None
    aspect_ratio: str | None = None


@frozen
class Estimate:
    """What a manifest would cost.

    Attributes:
        rows: per model and length: how many, and their credits (None: price not known).
        credits: of all whose price is known.
        unpriced: how many have none.
    """

    rows: tuple[tuple[str, int, int | None], ...]
    credits: int
    unpriced: int


@frozen(kw_only=True)
class Result:
    """How one line ended: ``status`` is saved, failed, unknown, running or unsent."""

    line: Line
    status: Literal["saved", "failed", "unknown", "running", "unsent"]
    task_id: TaskId | None = None
    path: Path | None = None
    error: AIVideoError | None = None

    def as_json(self) -> dict[str, Any]:
        """Make it a row of the report; no URL in it."""
        row: dict[str, Any] = {
            "id": self.line.id,
            "line": self.line.number,
            "status": self.status,
            "task_id": self.task_id,
            "credits": self.line.request.credits,
            "file": None if self.path is None else str(self.path),
        }
        if self.error is not None:
            row["error"] = type(self.error).__name__
            row["code"] = self.error.code if isinstance(self.error, APIStatusError) else None
            row["message"] = str(self.error)
        return row


@frozen(kw_only=True)
class BatchReport:
    """How a batch ended.

    Attributes:
        results: one a line.
        credits: what became of its credits.
        stopped: whether it was stopped before its end.
        unfinished: the manifest to go on with, or None where nothing is left.
    """

    results: tuple[Result, ...]
    credits: CreditTotals
    stopped: bool
    unfinished: Path | None = field(default=None)

    def count(self, status: str) -> int:
        """How many lines ended as ``status``."""
        return sum(result.status == status for result in self.results)

    @property
    def out_of_money(self) -> bool:
        """Whether a spend cap or the balance ended the submits."""
        money = (InsufficientCreditsError, SpendLimitError)
        return any(isinstance(result.error, money) for result in self.results)


# --- manifests ----------------------------------------------------------------------------------


def read_manifest(path: Path, defaults: Defaults) -> list[Line]:
    """Read a manifest, and check every line of it.

    Raises:
        ManifestError: it cannot be read, is empty, or has a broken line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ManifestError([f"{path}: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        number = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ManifestError([f"{path}:{number}: not UTF-8; save the file as UTF-8"]) from None
    problems: list[str] = []
    lines: list[Line] = []
    seen: dict[str, int] = {}
    for number, fields in _rows(path, text, problems):
        try:
            line = _line(number, fields, defaults)
        except (InvalidRequestError, ValueError) as error:
            problems.append(f"{path}:{number}: {error}")
            continue
        earlier = seen.setdefault(_same_file(line.id), number)
        if earlier != number:
            problems.append(
                f"{path}:{number}: id {line.id!r} is that of line {earlier}; give each its own"
            )
        lines.append(line)
    if problems:
        raise ManifestError(problems)
    if not lines:
        raise ManifestError([f"{path}: the manifest is empty; put one prompt on a line"])
    return lines


def _rows(path: Path, text: str, problems: list[str]) -> Iterable[tuple[int, Mapping[str, object]]]:
    match path.suffix.lower():
        case ".jsonl" | ".ndjson" | ".json":
            return _json_rows(path, text, problems)
        case ".csv":
            return _csv_rows(path, text, problems)
        case _:
            return (
                (number, {"prompt": line.strip()})
                # Not splitlines: a prompt may hold U+2028 or a form feed, and is one prompt still.
                for number, line in enumerate(re.split(r"\r\n?|\n", text), 1)
                if line.strip()
            )


def _json_rows(
    path: Path, text: str, problems: list[str]
) -> Iterable[tuple[int, Mapping[str, object]]]:
    # Not splitlines: JSON text may hold U+2028 and its kin.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            problems.append(f"{path}:{number}: not JSON ({error})")
            continue
        if isinstance(row, dict):
            yield number, cast("dict[str, object]", row)
        else:
            problems.append(f'{path}:{number}: not an object; write {{"prompt": "…"}}')


def _csv_rows(
    path: Path, text: str, problems: list[str]
) -> Iterable[tuple[int, Mapping[str, object]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    if reader.fieldnames is None:
        return
    columns = reader.fieldnames = [name.strip() for name in reader.fieldnames]
    strange = sorted(set(columns) - _FIELDS)
    twice = sorted(name for name, count in Counter(columns).items() if count > 1)
    if strange or twice or "prompt" not in columns:
        what = (
            f"unknown columns {strange}"
            if strange
            else f"columns named twice: {twice}"
            if twice
            else "no column 'prompt'"
        )
        problems.append(
            f"{path}:1: {what}; the first line names columns such as id,prompt,duration"
        )
        return
    try:
        for row in reader:
            number = reader.line_num
            if None in row or None in row.values():
                problems.append(f"{path}:{number}: not as many cells as the first line has columns")
                continue
            cells = {name: _csv_cell(name, cell) for name, cell in row.items() if cell}
            yield number, {name: cell for name, cell in cells.items() if cell != ""}
    except csv.Error as error:
        problems.append(f"{path}:{reader.line_num}: not CSV ({error})")


def _csv_cell(name: str, cell: str) -> object:
    if name == "prompt":
        return cell
    cell = cell.strip()
    return int(cell) if name in ("duration", "credits") and re.fullmatch("[0-9]+", cell) else cell


def _line(number: int, fields: Mapping[str, object], defaults: Defaults) -> Line:
    strange = sorted(set(fields) - _FIELDS)
    if strange:
        raise ValueError(f"unknown fields {strange}; known are {sorted(_FIELDS)}")
    given = fields.get("id")
    if given is not None and not isinstance(given, str | int):
        raise ValueError(f"id={given!r} must be a text")
    task_id = fields.get("task_id")
    if task_id is not None and (not isinstance(task_id, str) or not task_id.strip()):
        raise ValueError(f"task_id={task_id!r} must be the id of a task")
    unknown = fields.get("unknown")
    if unknown is not None and not isinstance(unknown, bool):
        raise ValueError(f"unknown={unknown!r} must be true or false")
    # A null is a field that is not said, as an empty cell is.
    request = _request({name: v for name, v in fields.items() if v is not None}, defaults)
    name = str(given) if given is not None else f"{number:04d}-{slug(text_of(request))}"
    return Line(
        number=number,
        id=_safe(name),
        request=request,
        task_id=task_id,
        unknown=bool(unknown),
    )


def _request(fields: Mapping[str, object], defaults: Defaults) -> Request:
    model = fields.get("model", Sora2.model)
    if model != Sora2.model or "input" in fields:
        if "prompt" in fields or not isinstance(fields.get("input"), dict):
            raise ValueError(f"model {model!r} needs its fields in an object `input`")
        return Generation(
            cast("str", model),
            cast("dict[str, Any]", fields["input"]),
            credits=cast("int | None", fields.get("credits")),
        )
    for name, cure in (
        ("prompt", "write a prompt"),
        ("duration", "write it on the line, or give --duration 4, 8 or 12"),
        ("aspect_ratio", "write it on the line, or give --aspect-ratio 16:9 or 9:16"),
    ):
        if fields.get(name, getattr(defaults, name, None)) is None:
            raise InvalidRequestError.because(name, None, "is missing", cure)
    image = fields.get("image")
    urls = fields.get("image_urls")
    if image is None and isinstance(urls, list) and len(cast("list[object]", urls)) == 1:
        image = cast("list[object]", urls)[0]
    elif urls is not None:
        image = urls
    return Sora2(
        cast("str", fields["prompt"]),
        duration=cast("int", fields.get("duration", defaults.duration)),
        aspect_ratio=cast("str", fields.get("aspect_ratio", defaults.aspect_ratio)),
        image=cast("str | None", image),
    )


def text_of(request: Request) -> str:
    """Say what a request is about: its prompt, or its model where we do not know."""
    return request.prompt if isinstance(request, Sora2) else request.model


def slug(text: str) -> str:
    """Make a short piece of a file name of a prompt."""
    words = re.findall(r"[^\W_]+", text.lower())
    return "-".join(words)[:40].strip("-") or "clip"


def _safe(name: str) -> str:
    """Make ``name`` a file name on every system; what had to change gets a mark of its own."""
    safe = re.sub(r"[^\w.\- ]", "_", name).strip(" .")[:100]
    while len(safe.encode()) > 180:
        safe = safe[:-1]
    if safe == name and safe.upper().partition(".")[0] not in _RESERVED:
        return safe
    mark = orjson.dumps(name)
    return f"{safe or 'clip'}-{hashlib.sha256(mark).hexdigest()[:6]}"


_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{p}{n}" for p in ("COM", "LPT") for n in range(10))}


def _same_file(name: str) -> str:
    return name.casefold()  # some file systems do not tell Boat from boat


def estimate(lines: Iterable[Line]) -> Estimate:
    """Say what the lines would cost that would be sent, per model and length."""
    counts: Counter[tuple[str, int | None]] = Counter()
    for line in lines:
        if line.task_id is None and not line.unknown:
            request = line.request
            name = (
                f"{request.model}, {request.duration} s"
                if isinstance(request, Sora2)
                else (request.model)
            )
            counts[name, request.credits] += 1
    rows = tuple(
        (name, count, None if each is None else each * count)
        for (name, each), count in sorted(
            counts.items(), key=lambda row: (row[0][0], row[0][1] or 0)
        )
    )
    return Estimate(
        rows,
        sum(total for _, _, total in rows if total is not None),
        sum(count for _, count, total in rows if total is None),
    )


def check_folder(folder: Path) -> None:
    """Find out whether files can be written into ``folder``; it is made where it is not there.

    Tried, not asked: permission bits say nothing to root, and nothing of a read-only disk.

    Raises:
        ManifestError: they cannot.
    """
    probe = folder / f".aivideo-{secrets.token_hex(4)}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with probe.open("xb", buffering=0) as file:
                file.write(b"\0" * 4096)
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise ManifestError(
            [f"cannot write to the folder {folder}: {error.strerror}; choose another --output"]
        ) from None


def check_output(folder: Path, lines: Iterable[Line], *, overwrite: bool) -> None:
    """Find out, before anything is spent, whether the results can be written.

    Raises:
        ManifestError: the folder cannot be written to, or a file is there already.
    """
    check_folder(folder)
    there = [line.file_name for line in lines if (folder / line.file_name).exists()]
    if there and not overwrite:
        raise ManifestError(
            [
                f"{folder / there[0]} is there already"
                + (f", and {len(there) - 1} more" if len(there) > 1 else "")
                + f": sending them again would pay again; go on with {folder / UNFINISHED}, choose "
                "another --output, or insist with --overwrite"
            ]
        )


# --- running --------------------------------------------------------------------------------------


class Batch:
    """One run over the lines of a manifest. ``results`` grows as they end."""

    def __init__(
        self,
        session: Session,
        lines: list[Line],
        folder: Path,
        *,
        on_result: Callable[[Result], None] | None = None,
        wait_for_spend_limit: bool = False,
    ) -> None:
        self.lines = lines
        self.folder = folder
        self.results: dict[int, Result] = {}
        self._session = session
        self._on_result = on_result
        self._wait_for_spend_limit = wait_for_spend_limit
        self._sending: list[Line] = []
        self._jobs: dict[int, Job] = {}
        self._unreported: list[bytes] = []
        self._stop = asyncio.Event()

    @property
    def stopped(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Submit nothing more; what is under way finishes. Call it from the loop's thread."""
        if not self._stop.is_set():
            self._stop.set()
            self._session.stop_submits("the batch was stopped")
            with suppress(OSError):  # the end of the run says it
                self._write_unfinished()  # at once: whoever stops may stop harder

    async def run(self) -> BatchReport:
        """Run until every line has ended, or until :meth:`stop` has taken effect.

        Raises:
            LedgerError: what is left could not be written down (a full disk, say); the error names
                every task that goes on.
        """
        for line in self.lines:
            if line.unknown:
                self._note(Result(line=line, status="unknown", task_id=line.task_id))
        work = asyncio.create_task(self._work())
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await self._session.drain()
                # What had its verdict or its file by now is told in the next turns of the loop.
                await asyncio.wait((work,), timeout=0.2)
            unfinished = self._write_down()
            if work.done():
                await work
        finally:
            for task in (work, stopped):
                task.cancel()
            await asyncio.gather(work, stopped, return_exceptions=True)
        return BatchReport(
            results=tuple(self._result_of(line) for line in self.lines),
            credits=self._session.statistics().credits,
            stopped=self._stop.is_set(),
            unfinished=unfinished,
        )

    async def _work(self) -> None:
        parts = [
            asyncio.create_task(self._take_up(line, line.task_id))
            for line in self.lines
            if line.task_id is not None and not line.unknown
        ]
        parts.append(asyncio.create_task(self._generate()))
        try:
            await asyncio.gather(*parts)
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _generate(self) -> None:
        left = [line for line in self.lines if line.task_id is None and not line.unknown]
        while left:
            self._sending = left
            again: list[Line] = []
            outcomes = self._session.generate_many(
                [line.request for line in left],
                save_to=self._path_of_sending,
                on_job=self._note_job,
            )
            async with aclosing(outcomes):
                async for outcome in outcomes:
                    line = left[outcome.index]
                    if self._is_to_wait_for(outcome):
                        again.append(line)
                    else:
                        self._note(_result(line, outcome))
            left = again
            if left:
                await asyncio.sleep(SPEND_LIMIT_PAUSE)
                self._session.resume_submits()

    def _is_to_wait_for(self, outcome: Outcome) -> bool:
        return (
            self._wait_for_spend_limit
            and not self._stop.is_set()
            and isinstance(outcome, Failed)
            and isinstance(outcome.error, SpendLimitError)
        )

    async def _take_up(self, line: Line, task_id: TaskId) -> None:
        try:
            path = await self._session.job(task_id).save(self._path(line))
        except AIVideoError as error:
            if not isinstance(error, SessionClosedError):
                self._note(Result(line=line, status="failed", task_id=task_id, error=error))
        else:
            self._note(Result(line=line, status="saved", task_id=task_id, path=path))

    def _note_job(self, job: Job) -> None:
        assert job.index is not None
        self._jobs[self._sending[job.index].number] = job

    def _path_of_sending(self, index: int, _: Request) -> Path:
        return self._path(self._sending[index])

    def _path(self, line: Line) -> Path:
        return self.folder / line.file_name

    def _note(self, result: Result) -> None:
        if result.status == "unsent":
            return  # it says what is, not how it ended: the end of the run asks again
        self.results[result.line.number] = result
        row = orjson.dumps(result.as_json(), option=orjson.OPT_APPEND_NEWLINE)
        self._unreported.append(row)
        with suppress(OSError):  # a full disk ends no job; the end of the run says it
            self._write_report()
        if self._on_result is not None:
            self._on_result(result)

    def _write_report(self) -> None:
        while self._unreported:
            _append(self.folder / REPORT, self._unreported[0])
            del self._unreported[0]

    def _write_down(self) -> Path | None:
        try:
            unfinished = self._write_unfinished()
            self._write_report()
        except OSError as error:
            what = f"{len(self._unreported)} lines of {REPORT}, and what is left"
            left = [self._result_of(line) for line in self.lines]
            going_on = [r.task_id for r in left if r.task_id is not None and _left_over(r)]
            raise LedgerError(
                f"cannot write to {self.folder}: {error.strerror}. Not written: {what}. "
                + (
                    "Make room, then fetch each of these with `aivideo task ID --save FILE`, which "
                    f"costs nothing: {' '.join(going_on)}"
                    if going_on
                    else "No task is left at the service."
                )
            ) from None
        return unfinished

    def _result_of(self, line: Line) -> Result:
        known = self.results.get(line.number)
        if known is not None:
            return known
        if line.task_id is not None:
            return Result(line=line, status="running", task_id=line.task_id)
        # The job knows what was taken, however little of it has been told so far.
        job = self._jobs.get(line.number)
        if job is not None and job.task_id is not None:
            return Result(line=line, status="running", task_id=job.task_id)
        if job is not None and job.status in _IN_DOUBT:
            return Result(line=line, status="unknown")
        return Result(line=line, status="unsent")

    def _write_unfinished(self) -> Path | None:
        """Write the manifest of what is left, whole or not at all; remove it where nothing is."""
        target = self.folder / UNFINISHED
        rows = [
            row for line in self.lines if (row := _left_over(self._result_of(line))) is not None
        ]
        if not rows:
            target.unlink(missing_ok=True)
            return None
        part = target.with_name(f".{UNFINISHED}.{secrets.token_hex(4)}.part")
        try:
            with part.open("xb") as file:
                for row in rows:
                    file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        return target


def _append(path: Path, row: bytes) -> None:
    """Append a line, whole or not at all."""
    with path.open("ab", buffering=0) as file:
        before, written = file.seek(0, os.SEEK_END), 0
        try:
            written = file.write(row)
        finally:
            if written != len(row):
                file.truncate(before)
    if written != len(row):  # a disk that was nearly full
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _result(line: Line, outcome: Outcome) -> Result:
    if isinstance(outcome, Succeeded):
        return Result(line=line, status="saved", task_id=outcome.task.id, path=outcome.path)
    error, task_id = outcome.error, outcome.task_id
    in_doubt = (SubmitUnknownError, InternalServerError, UpstreamError)
    if isinstance(error, in_doubt) and task_id is None:
        # Of a create answered by 500 or 503 it is not documented whether it was charged either.
        return Result(line=line, status="unknown", error=error)
    if isinstance(error, SessionClosedError):
        status: Literal["running", "unsent"] = "running" if task_id else "unsent"
        return Result(line=line, status=status, task_id=task_id, error=error)
    return Result(line=line, status="failed", task_id=task_id, error=error)


def _left_over(result: Result) -> dict[str, Any] | None:
    """Make the manifest line that goes on with a line, or None where there is nothing to do."""
    if result.status == "saved" or (result.status == "failed" and _is_final(result)):
        return None
    request = result.line.request
    row: dict[str, Any] = {"id": result.line.id}
    if isinstance(request, Sora2):
        row |= {
            "prompt": request.prompt,
            "duration": request.duration,
            "aspect_ratio": request.aspect_ratio,
        }
        if request.image is not None:
            row["image"] = request.image
    else:
        row |= {"model": request.model, "input": request.input}
        if request.stated_credits is not None:
            row["credits"] = request.stated_credits
    if result.task_id is not None:
        row["task_id"] = result.task_id
    if result.status == "unknown":
        row["unknown"] = True
    return row


def _is_final(result: Result) -> bool:
    """Whether a failed line is over: it would fail again, or there is nothing left to fetch."""
    if result.task_id is not None:
        return isinstance(result.error, TaskFailedError | TaskNotFoundError | ResultExpiredError)
    # Without a task: no money, a ceiling, a bad key or no network are no fault of the line.
    waits = (
        InsufficientCreditsError,
        SpendLimitError,
        BudgetExceededError,
        AuthenticationError,
        PermissionDeniedError,
        APIConnectionError,
    )
    return not isinstance(result.error, waits)


def dollars(credits_: int) -> Decimal:
    """Credits as US dollars."""
    return catalog.dollars(credits_)
