"""What the service reports: tasks and the account's credits, as frozen values.

The state of a task is its class, so ``match`` and type checkers know which fields exist.
The JSON as received stays in ``raw``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, ClassVar, TypeAlias

from attrs import field, frozen

from aivideo import _amounts
from aivideo._redaction import scrub

TaskId: TypeAlias = str
"""The service's id of a task (a UUID, according to the provider's page)."""

RESULT_LIFETIME = timedelta(hours=24)
"""How long a result's URL works ("视频 URL 有效期为 24 小时")."""

_EMPTY: Mapping[str, Any] = {}


class TaskStatus(StrEnum):
    """The documented states: ``pending -> processing -> completed | failed``."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


def _urls_without_queries(urls: tuple[str, ...]) -> str:
    return repr(tuple(scrub(url) for url in urls))


@frozen(kw_only=True)
class _AnyTask:
    """The fields of every task.

    Attributes:
        id: the task's id.
        model: the model that runs it.
        created_at: when the service created it (aware, UTC, by the service's clock).
        raw: the JSON object as received, including fields that this package does not know.
    """

    id: TaskId
    model: str
    created_at: datetime
    raw: Mapping[str, Any] = field(default=_EMPTY, repr=False, eq=False)


@frozen(kw_only=True)
class PendingTask(_AnyTask):
    """Accepted and waiting to be processed. ``progress`` is a number if the service sent one."""

    status: ClassVar[TaskStatus] = TaskStatus.PENDING
    progress: float | None = None


@frozen(kw_only=True)
class ProcessingTask(_AnyTask):
    """Being processed. ``progress`` is a number if the service sent one (unit undocumented)."""

    status: ClassVar[TaskStatus] = TaskStatus.PROCESSING
    progress: float | None = None


@frozen(kw_only=True)
class CompletedTask(_AnyTask):
    """Finished with a result.

    Attributes:
        completed_at: when it finished (aware, UTC, by the service's clock).
        urls: the result files. Usually pre-signed: anyone who has a URL can download the file, so
            do not log them.
        metadata: what the service says about the result (for Sora 2 ``duration`` and ``prompt``).
    """

    status: ClassVar[TaskStatus] = TaskStatus.COMPLETED
    completed_at: datetime
    urls: tuple[str, ...] = field(repr=_urls_without_queries)
    metadata: Mapping[str, Any] = field(default=_EMPTY, eq=False)

    @property
    def expires_at(self) -> datetime:
        """When the URLs stop working: 24 hours after completion."""
        return self.completed_at + RESULT_LIFETIME


@frozen
class TaskFailure:
    """Why a task failed, as the service says it: ``code`` and ``message``."""

    code: str
    message: str


@frozen(kw_only=True)
class FailedTask(_AnyTask):
    """Ended without a result. The service refunds the credits automatically."""

    status: ClassVar[TaskStatus] = TaskStatus.FAILED
    error: TaskFailure


@frozen(kw_only=True)
class UnrecognizedTask(_AnyTask):
    """In a state that is not documented; ``status`` holds its name. Polling continues."""

    status: str
    progress: float | None = None


Task: TypeAlias = PendingTask | ProcessingTask | CompletedTask | FailedTask | UnrecognizedTask
"""The latest known state of a task."""


def _amount(value: int | str | Decimal) -> Decimal:
    return _amounts.exact(value)


@frozen(kw_only=True)
class Credits:
    """The account's credits, as exact decimals; 1 credit = $0.005.

    Attributes:
        balance: credits left.
        total_purchased: credits ever bought.
        total_consumed: credits ever spent. Whether a refund lowers it is not documented.

    Raises:
        ValueError: an amount is not an int, a str or a Decimal with at most six decimal places.
    """

    balance: Decimal = field(converter=_amount, repr=str)
    total_purchased: Decimal = field(converter=_amount, repr=str)
    total_consumed: Decimal = field(converter=_amount, repr=str)

    @property
    def dollars(self) -> Decimal:
        """The balance in US dollars, exactly."""
        return _amounts.dollars(self.balance)
