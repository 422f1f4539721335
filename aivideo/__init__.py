"""aivideo: the asyncio-native SDK for the AI Video API.

::

    from aivideo import Session, Sora2

    async with Session() as session:  # AIVIDEO_API_KEY from the environment
        task = await session.generate(
            Sora2("A paper boat in the rain", duration=8, aspect_ratio="16:9")
        )
"""

from aivideo._version import __version__
from aivideo.client import Client
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
from aivideo.job import Job
from aivideo.ledger import Ledger
from aivideo.ledger.memory import MemoryLedger
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
from aivideo.sansio.journal import CreditTotals, JobStatus
from aivideo.sansio.stated import RateLimit
from aivideo.session import Session, SessionStatistics
from aivideo.transport import AiohttpTransport, Transport

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
