"""What commands print: amounts, hints to copy, and JSON."""

from __future__ import annotations

import shlex
import sys
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from rich.console import Console

from aivideo._amounts import dollars, exact, plain
from aivideo.errors import ConfigurationError
from aivideo.ledger.audit import Finding
from aivideo.ledger.records import Attempt, JobRecord
from aivideo.models import CompletedTask, Credits, FailedTask, Task

if TYPE_CHECKING:
    from cattrs import Converter


def money(amount: Decimal | int) -> str:
    """Return credits and dollars for people: ``200 credits ($1.00)``."""
    return f"{number(amount)} credits ({in_dollars(amount)})"


def number(amount: Decimal | int) -> str:
    """Return an amount of credits without trailing zeros: ``1,030.5``."""
    return f"{plain(exact(amount)):,}"


def in_dollars(amount: Decimal | int) -> str:
    """Return an amount of credits in dollars, to the cent: ``$1.00``."""
    return f"${dollars(exact(amount)):,.2f}"


def say(console: Console, text: str = "") -> None:
    """Print text as it is: not colored, not wrapped, with brackets that are no markup."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def ledger_option(path: Path) -> str:
    """Return the ``--ledger`` option for a command that is to be copied."""
    return "" if path == Path() else f" --ledger {shlex.quote(str(path))}"


def how_to_settle(option: str, console: Console, *, audit: bool = True, faulted: int = 0) -> None:
    """Print the commands that settle jobs whose outcome is unknown, to be copied.

    Args:
        option: the ``--ledger`` option of the commands.
        console: where to print.
        audit: whether to name `aivideo jobs audit` too.
        faulted: how many of the jobs were answered by 500 or 503.
    """
    lines = [
        "Record what became of each, as the dashboard shows it:",
        f"  aivideo jobs settle JOB{option} --task-id TASK",
        f"  aivideo jobs settle JOB{option} --not-taken",
    ]
    if faulted > 1:
        lines += [
            "or of all that an outage has answered with 500 or 503:",
            f"  aivideo jobs settle{option} --not-taken --all-faulted-between FROM TO",
        ]
    if audit:
        lines = [
            "What the account's counter says about them:",
            f"  aivideo jobs audit{option}",
            *lines,
        ]
    say(console, "\n".join(lines))


# --- questions ----------------------------------------------------------------------------------


def confirmed(question: str, *, yes: bool, otherwise: str) -> bool:
    """Ask for a confirmation on the terminal; ``--yes`` answers it beforehand.

    Args:
        question: what is about to happen, as a question.
        yes: whether ``--yes`` was passed.
        otherwise: what is said where there is no terminal to ask on.

    Raises:
        ConfigurationError: there is no terminal, and no ``--yes``.
    """
    if yes:
        return True
    if not is_interactive():
        raise ConfigurationError(otherwise)
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def is_interactive() -> bool:
    """Return whether a person can read a question on stderr, and answer it."""
    return sys.stdin.isatty() and sys.stderr.isatty()


# --- JSON ---------------------------------------------------------------------------------------


def print_json(document: object) -> None:
    """Print one JSON document to stdout, as one line."""
    line = orjson.dumps(_json_converter().unstructure(document), option=orjson.OPT_APPEND_NEWLINE)
    sys.stdout.write(line.decode())
    sys.stdout.flush()


@cache
def _json_converter() -> Converter:
    from cattrs import Converter

    converter = Converter()
    configure_json(converter)
    return converter


def configure_json(converter: Converter) -> None:
    """Teach a converter the values that commands print with ``--json``."""
    from aivideo.manifest import configure_report

    configure_report(converter)
    for kind, to_document in (
        (JobRecord, _job),
        (Attempt, _attempt),
        (Finding, _finding),
        (Credits, _credits),
        *((each, _task) for each in Task.__args__),
    ):
        converter.register_unstructure_hook(kind, _then_unstructured(to_document, converter))


def _then_unstructured(to_document: Any, converter: Converter) -> Any:
    return lambda value: converter.unstructure(to_document(value))


def _job(job: JobRecord) -> dict[str, Any]:
    return {
        "job": job.id,
        "status": job.status,
        "batch": job.batch,
        "key": job.key,
        "model": job.request.model,
        "prompt": job.request.prompt,
        "credits": job.credits,
        "task_id": job.task_id,
        "file": job.path,
        "attempts": list(job.attempts),
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "status": attempt.status,
        "sent_at": attempt.sent_at,
        "task_id": attempt.task_id,
        "reason": None if attempt.reason is None else attempt.reason.message,
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "conclusion": finding.conclusion,
        "grown": finding.grown,
        "bought": finding.bought,
        "refunded": finding.refunded,
        "unknown": finding.unknown,
        "hypotheses": [
            {"refunds_lower": each.refunds_lower, "rest": each.rest} for each in finding.hypotheses
        ],
        "assumption": finding.assumption,
        "ask_again_at": finding.ask_again_at,
        "lines": list(finding.lines),
    }


def _credits(credits: Credits) -> dict[str, Any]:  # noqa: A002
    return {
        "balance": credits.balance,
        "total_purchased": credits.total_purchased,
        "total_consumed": credits.total_consumed,
        "dollars": str(credits.dollars),
    }


def _task(task: Task) -> dict[str, Any]:
    row: dict[str, Any] = {
        "task_id": task.id,
        "status": str(task.status),
        "model": task.model,
        "created_at": task.created_at.isoformat(),
    }
    if isinstance(task, CompletedTask):
        # Not the URLs: they are signed, and whoever reads one in a log may use it. --save does.
        row |= {
            "completed_at": task.completed_at.isoformat(),
            "expires_at": task.expires_at.isoformat(),
            "results": len(task.urls),
        }
    elif isinstance(task, FailedTask):
        row |= {"code": task.error.code, "message": task.error.message}
    elif task.progress is not None:
        row["progress"] = task.progress
    return row


def as_document(value: object) -> Any:
    """Return a value as ``--json`` prints it, for a table of names and values."""
    return _json_converter().unstructure(value)
