"""The public names: what is promised is there, and what is there is promised."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import aivideo

PROMISED = {
    # what people do
    *("Session", "Client", "Job", "AiohttpTransport", "Transport", "RateLimit"),
    # what they hold
    *("Sora2", "Generation", "Request", "Credits"),
    *("Task", "PendingTask", "ProcessingTask", "CompletedTask", "FailedTask", "UnrecognizedTask"),
    *("Outcome", "Succeeded", "Failed"),
    *("Ledger", "MemoryLedger"),
    # what may happen to them
    *("AIVideoError", "InvalidRequestError", "ConfigurationError", "APIStatusError"),
    *("AuthenticationError", "InsufficientCreditsError", "PermissionDeniedError"),
    *("NotFoundError", "ModelNotFoundError", "TaskNotFoundError"),
    *("RateLimitError", "SpendLimitError", "InternalServerError", "UpstreamError"),
    *("APIConnectionError", "APITimeoutError", "SubmitUnknownError", "TaskFailedError"),
    *("WaitTimeoutError", "BudgetExceededError", "QueueFullError", "DownloadError"),
    *("ResultExpiredError", "ResponseError", "LedgerError"),
    "__version__",
}
"""Once promised, a name is taken back only by a new major version."""


def test_every_promised_name_is_there() -> None:
    assert set(aivideo.__all__) >= PROMISED


def test_every_listed_name_can_be_imported() -> None:
    missing = [name for name in aivideo.__all__ if not hasattr(aivideo, name)]
    assert missing == []


def test_the_list_is_sorted_and_says_each_name_once() -> None:
    # As ruff sorts it: constants, then classes, then the rest.
    def order(name: str) -> tuple[int, str]:
        return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)

    assert list(aivideo.__all__) == sorted(set(aivideo.__all__), key=order)


def test_the_list_is_complete() -> None:
    public = {
        name
        for name, value in vars(aivideo).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and name != "annotations"
    }
    assert public - set(aivideo.__all__) == set()


def test_a_star_import_brings_the_list_and_nothing_else() -> None:
    program = "from aivideo import *; print(*(set(dir()) - {'annotations'}))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    brought = {name for name in done.stdout.split() if not name.startswith("__")}
    assert brought == {name for name in aivideo.__all__ if not name.startswith("__")}


def test_every_error_is_one_of_ours() -> None:
    errors = [value for name, value in vars(aivideo).items() if name.endswith("Error")]
    assert [error for error in errors if not issubclass(error, aivideo.AIVideoError)] == []


def test_every_public_name_says_its_contract() -> None:
    silent = [
        name
        for name in aivideo.__all__
        if isinstance(getattr(aivideo, name), type) and not getattr(aivideo, name).__doc__
    ]
    assert silent == []
