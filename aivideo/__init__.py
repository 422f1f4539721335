"""aivideo: the asyncio-native SDK for the AI Video API.

::

    from aivideo import Session, Sora2

    async with Session() as session:  # AIVIDEO_API_KEY from the environment
        task = await session.generate(
            Sora2("A paper boat in the rain", duration=8, aspect_ratio="16:9")
        )
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aivideo._version import __version__

if TYPE_CHECKING:
    from aivideo._api.client import Client
    from aivideo._api.transport import AiohttpTransport, Transport
    from aivideo._session.job import Job
    from aivideo._session.session import Session, SessionStatistics
    from aivideo.errors import (
        AIVideoError,
        APIConnectionError,
        APIStatusError,
        APITimeoutError,
        AuthenticationError,
        BadRequestError,
        BudgetExceededError,
        ConfigurationError,
        DownloadError,
        InsufficientCreditsError,
        InternalServerError,
        InvalidRequestError,
        LedgerError,
        ModelNotFoundError,
        NotFoundError,
        PermissionDeniedError,
        QueueFullError,
        RateLimitError,
        ResponseError,
        ResultExpiredError,
        SessionClosedError,
        SpendLimitError,
        SubmitUnknownError,
        TaskFailedError,
        TaskNotFoundError,
        UpstreamError,
        WaitTimeoutError,
    )
    from aivideo.ledger import Ledger
    from aivideo.ledger.journal import CreditTotals, JobRecord, JobStatus
    from aivideo.ledger.memory import MemoryLedger
    from aivideo.ledger.sqlite import SqliteLedger
    from aivideo.models import (
        CompletedTask,
        Credits,
        Failed,
        FailedTask,
        Generation,
        Outcome,
        PendingTask,
        ProcessingTask,
        Request,
        Sora2,
        Succeeded,
        Task,
        TaskFailure,
        TaskStatus,
        UnrecognizedTask,
    )
    from aivideo.settings import RateLimit

__all__ = [
    "AIVideoError",
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "AiohttpTransport",
    "AuthenticationError",
    "BadRequestError",
    "BudgetExceededError",
    "Client",
    "CompletedTask",
    "ConfigurationError",
    "CreditTotals",
    "Credits",
    "DownloadError",
    "Failed",
    "FailedTask",
    "Generation",
    "InsufficientCreditsError",
    "InternalServerError",
    "InvalidRequestError",
    "Job",
    "JobRecord",
    "JobStatus",
    "Ledger",
    "LedgerError",
    "MemoryLedger",
    "ModelNotFoundError",
    "NotFoundError",
    "Outcome",
    "PendingTask",
    "PermissionDeniedError",
    "ProcessingTask",
    "QueueFullError",
    "RateLimit",
    "RateLimitError",
    "Request",
    "ResponseError",
    "ResultExpiredError",
    "Session",
    "SessionClosedError",
    "SessionStatistics",
    "Sora2",
    "SpendLimitError",
    "SqliteLedger",
    "SubmitUnknownError",
    "Succeeded",
    "Task",
    "TaskFailedError",
    "TaskFailure",
    "TaskNotFoundError",
    "TaskStatus",
    "Transport",
    "UnrecognizedTask",
    "UpstreamError",
    "WaitTimeoutError",
    "__version__",
]

# Where each public name lives. A name is imported when it is first asked for (PEP 562): a program
# that imports aivideo and is not going to make a video, the `--help` of a command line say, pays a
# millisecond for it and not what asyncio, attrs and orjson cost. `tests/test_exports.py` holds
# this, `__all__` and the imports above together.
_HOMES = {
    "_api.client": "Client",
    "_api.transport": "AiohttpTransport Transport",
    "_session.job": "Job",
    "_session.session": "Session SessionStatistics",
    "ledger": "Ledger",
    "ledger.journal": "CreditTotals JobRecord JobStatus",
    "ledger.memory": "MemoryLedger",
    "ledger.sqlite": "SqliteLedger",
    "settings": "RateLimit",
    "models": (
        "CompletedTask Credits Failed FailedTask Generation Outcome PendingTask ProcessingTask "
        "Request Sora2 Succeeded Task TaskFailure TaskStatus UnrecognizedTask"
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    """Import a public name, or a module of this package, when it is first asked for."""
    from importlib import import_module

    home = "errors" if name.endswith("Error") else _HOME_OF.get(name)
    if home is not None:
        found: object = getattr(import_module(f"{__name__}.{home}"), name)
    else:
        try:
            found = import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise  # it is there, and something that it needs is not
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    globals()[name] = found  # asked once
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
