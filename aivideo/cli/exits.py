"""What the exit codes mean, and every error as one line and one of them."""

from __future__ import annotations

import sys

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

OK = 0
FAILED = 1
USAGE = 2
MONEY = 3
UNKNOWN = 4
INTERRUPTED = 130

TABLE = (
    "Exit codes: 0 all succeeded · 1 something failed · 2 bad input or setting, nothing was sent · "
    "3 no money, a spend cap or a ceiling · 4 a create of unknown fate · 130 interrupted"
)


def code_of(error: BaseException) -> int:
    """Say which exit code an error is."""
    if isinstance(error, SubmitUnknownError):
        return UNKNOWN
    if isinstance(error, InsufficientCreditsError | SpendLimitError | BudgetExceededError):
        return MONEY
    if isinstance(error, InvalidRequestError | ConfigurationError | ValueError):
        return USAGE
    return FAILED


def say(text: str) -> None:
    """Write one line to stderr."""
    print(f"aivideo: {' '.join(scrub(text).split())}", file=sys.stderr)


def say_error(error: AIVideoError | OSError | ValueError) -> int:
    """Write an error as one line, and return its exit code."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        say(f"{error.filename}: {error.strerror}")
    else:
        say(str(error))
    return code_of(error)
