"""Exit codes, and how an error becomes one line and a code."""

from __future__ import annotations

import re
import sys
from contextlib import suppress

from aivideo._redaction import scrub
from aivideo.errors import (
    AIVideoError,
    BudgetExceededError,
    ConfigurationError,
    InsufficientCreditsError,
    InvalidRequestError,
    SpendLimitError,
    SubmitUnknownError,
)
from aivideo.manifest import ManifestError

OK = 0
FAILED = 1
USAGE = 2
MONEY = 3
UNKNOWN = 4
INTERRUPTED = 130

TABLE = (
    "Exit codes: 0 all succeeded · 1 something failed · 2 invalid input or setting, nothing was "
    "sent · 3 no credits, a spend cap or a ceiling · 4 the outcome of a create is unknown · "
    "130 interrupted"
)


_OPTIONS = {
    name: f"--{name.replace('_', '-')}"
    for name in (
        *("aspect_ratio", "base_url", "batch", "duration", "failure_rate", "image", "latency"),
        *("max_credits", "max_requests_per_minute", "max_running_jobs", "poll_interval"),
        *("progress", "rate_limit", "retry_after", "seed", "speed", "spend_limit", "task_seconds"),
        *("wait_timeout",),
    )
} | {"jobs_in_flight": "--max-running-jobs", "default_balance": "--balance"}
_ARGUMENT = re.compile(rf"\b({'|'.join(_OPTIONS)})(?:=| (?=must))")
_FLAG = re.compile(r"\b(overwrite|pay_again|retry_failed)=True\b")
_CALL = re.compile(r"call session\.resume_submits\(\)")


def describe(error: BaseException) -> str:
    """Return an error's message in the words of the command line: options, not arguments.

    A manifest's errors keep the names of its fields.
    """
    if isinstance(error, BudgetExceededError) and error.unpriced:
        posts = "POST" if error.unpriced == 1 else "POSTs"
        jobs = f" (for example job {error.unpriced_jobs[0]})" if error.unpriced_jobs else ""
        return (
            f"--max-credits {error.ceiling}: {error.unpriced} earlier {posts} of unknown price"
            f"{jobs} may have been charged any amount, so nothing more is bought under a ceiling; "
            "it was not sent. Settle what is of unknown outcome (aivideo jobs settle), or lift the "
            "ceiling: --max-credits none"
        )
    if isinstance(error, BudgetExceededError) and error.needed is not None:
        return (
            f"{error.needed} credits more would exceed --max-credits {error.ceiling}: "
            f"{error.held} are charged, reserved or unknown; it was not sent"
        )
    text = str(error)
    if not isinstance(error, ManifestError):
        text = _ARGUMENT.sub(lambda found: f"{_OPTIONS[found[1]]} ", text)
        text = _FLAG.sub(lambda found: f"--{found[1].replace('_', '-')}", text)
    return _CALL.sub("run the same command again", text)


def code_of(error: BaseException) -> int:
    """Return the exit code of an error."""
    if isinstance(error, SubmitUnknownError):
        return UNKNOWN
    if isinstance(error, InsufficientCreditsError | SpendLimitError | BudgetExceededError):
        return MONEY
    if isinstance(error, InvalidRequestError | ConfigurationError | ValueError):
        return USAGE
    return FAILED


def warn(text: str) -> None:
    """Print one line to stderr; one that nobody can read (a closed terminal) is dropped."""
    with suppress(OSError):
        print(f"aivideo: {' '.join(scrub(text).split())}", file=sys.stderr)


def report_error(error: AIVideoError | OSError | ValueError) -> int:
    """Print an error as one line, and return its exit code."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        warn(f"{error.filename}: {error.strerror}")
    else:
        warn(describe(error))
    return code_of(error)
