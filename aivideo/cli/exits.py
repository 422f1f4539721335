"""Exit codes, and how an error becomes one line and a code."""

from __future__ import annotations

import sys

from aivideo.errors import (
    AIVideoError,
    BudgetExceededError,
    ConfigurationError,
    InsufficientCreditsError,
    InvalidRequestError,
    SpendLimitError,
    SubmitUnknownError,
    scrub,
)

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
    """Print one line to stderr."""
    print(f"aivideo: {' '.join(scrub(text).split())}", file=sys.stderr)


def report_error(error: AIVideoError | OSError | ValueError) -> int:
    """Print an error as one line, and return its exit code."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        warn(f"{error.filename}: {error.strerror}")
    else:
        warn(str(error))
    return code_of(error)
