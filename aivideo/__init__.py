"""aivideo: the asyncio-native SDK for the AI Video API.

::

    from aivideo import Session, Sora2

    async with Session() as session:  # AIVIDEO_API_KEY from the environment
        task = await session.generate(
            Sora2("A paper boat in the rain", duration=8, aspect_ratio="16:9")
        )

Public are the names in ``__all__`` and the modules ``catalog``, ``desk``, ``errors``, ``events``,
``ledger``, ``models``, ``settings``, ``simulator`` and ``testing``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aivideo._version import __version__

if TYPE_CHECKING:
    from aivideo._api.client import Client
    from aivideo._api.transport import AiohttpTransport, Incoming, Transport
    from aivideo._api.wire import Answer
    from aivideo._pacing.limiter import LimiterStatistics
    from aivideo._polling.poller import PollerStatistics
    from aivideo._session.actions import OnUpdate
    from aivideo._session.job import Job
    from aivideo._session.many import KeyOf, SaveTo
    from aivideo._session.session import Session, SessionStatistics
    from aivideo.catalog import Catalog
    from aivideo.desk import Desk
    from aivideo.errors import (
        AIVideoError,
        APIConnectionError,
        APIStatusError,
        APITimeoutError,
        AuthenticationError,
        BadRequestError,
        BudgetExceededError,
        ConfigurationError,
        ContradictionError,
        DownloadError,
        InsufficientCreditsError,
        InternalServerError,
        InvalidRequestError,
        JobError,
        JobHandle,
        JobWithdrawnError,
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
        UserCodeError,
        WaitTimeoutError,
    )
    from aivideo.events import (
        FileSaved,
        GateChanged,
        Instrumentation,
        JobChanged,
        SessionEvent,
    )
    from aivideo.ledger import Ledger
    from aivideo.ledger.audit import Reading
    from aivideo.ledger.events import AttemptEvent, LedgerEvent
    from aivideo.ledger.memory import MemoryLedger
    from aivideo.ledger.records import Attempt, AttemptStatus, JobRecord, JobStatus, Reason
    from aivideo.ledger.sqlite import SqliteLedger
    from aivideo.ledger.totals import CreditTotals
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
        TaskId,
        TaskStatus,
        UnrecognizedTask,
    )
    from aivideo.settings import RateLimit, SessionSettings

__all__ = [
    "AIVideoError",
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "AiohttpTransport",
    "Answer",
    "Attempt",
    "AttemptEvent",
    "AttemptStatus",
    "AuthenticationError",
    "BadRequestError",
    "BudgetExceededError",
    "Catalog",
    "Client",
    "CompletedTask",
    "ConfigurationError",
    "ContradictionError",
    "CreditTotals",
    "Credits",
    "Desk",
    "DownloadError",
    "Failed",
    "FailedTask",
    "FileSaved",
    "GateChanged",
    "Generation",
    "Incoming",
    "Instrumentation",
    "InsufficientCreditsError",
    "InternalServerError",
    "InvalidRequestError",
    "Job",
    "JobChanged",
    "JobError",
    "JobHandle",
    "JobRecord",
    "JobStatus",
    "JobWithdrawnError",
    "KeyOf",
    "Ledger",
    "LedgerError",
    "LedgerEvent",
    "LimiterStatistics",
    "MemoryLedger",
    "ModelNotFoundError",
    "NotFoundError",
    "OnUpdate",
    "Outcome",
    "PendingTask",
    "PermissionDeniedError",
    "PollerStatistics",
    "ProcessingTask",
    "QueueFullError",
    "RateLimit",
    "RateLimitError",
    "Reading",
    "Reason",
    "Request",
    "ResponseError",
    "ResultExpiredError",
    "SaveTo",
    "Session",
    "SessionClosedError",
    "SessionEvent",
    "SessionSettings",
    "SessionStatistics",
    "Sora2",
    "SpendLimitError",
    "SqliteLedger",
    "SubmitUnknownError",
    "Succeeded",
    "Task",
    "TaskFailedError",
    "TaskFailure",
    "TaskId",
    "TaskNotFoundError",
    "TaskStatus",
    "Transport",
    "UnrecognizedTask",
    "UpstreamError",
    "UserCodeError",
    "WaitTimeoutError",
    "__version__",
]

# Where each public name lives. A name is imported when it is first asked for (PEP 562): a program
# that imports aivideo and makes no video, such as the `--help` of a command line, pays a
# millisecond for it and not what asyncio, attrs and orjson cost. `tests/test_exports.py` holds
# this, `__all__` and the imports above together.
_HOMES = {
    "_api.client": "Client",
    "_api.transport": "AiohttpTransport Incoming Transport",
    "_api.wire": "Answer",
    "_pacing.limiter": "LimiterStatistics",
    "_polling.poller": "PollerStatistics",
    "_session.actions": "OnUpdate",
    "_session.job": "Job",
    "_session.many": "KeyOf SaveTo",
    "_session.session": "Session SessionStatistics",
    "catalog": "Catalog",
    "desk": "Desk",
    "errors": "JobHandle",
    "events": "FileSaved GateChanged Instrumentation JobChanged SessionEvent",
    "ledger": "Ledger",
    "ledger.audit": "Reading",
    "ledger.events": "AttemptEvent LedgerEvent",
    "ledger.memory": "MemoryLedger",
    "ledger.records": "Attempt AttemptStatus JobRecord JobStatus Reason",
    "ledger.sqlite": "SqliteLedger",
    "ledger.totals": "CreditTotals",
    "models": (
        "CompletedTask Credits Failed FailedTask Generation Outcome PendingTask ProcessingTask "
        "Request Sora2 Succeeded Task TaskFailure TaskId TaskStatus UnrecognizedTask"
    ),
    "settings": "RateLimit SessionSettings",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

if not TYPE_CHECKING:  # type checkers see the names above, and so they see a misspelt one

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
