"""What the checks of a ledger share: two handles of one store, a clock, and jobs to record."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import secrets
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from decimal import Decimal
from typing import Any, Protocol, TypeAlias

from attrs import define, evolve, field

from aivideo import models
from aivideo.errors import AIVideoError
from aivideo.ledger import Ledger
from aivideo.ledger.events import Event, Retried
from aivideo.ledger.records import JobRecord, JobStatus, Reason
from aivideo.models import Generation, Request, Sora2

WHY = Reason(message="because the check says so", status=400, code="invalid_request")
PAY_TWICE = Retried(pay_again=True)
LEASE = 150.0


class OpenLedger(Protocol):
    """Opens one more handle of the same store; a plain function or an async one."""

    def __call__(self, *, now: Callable[[], float]) -> Ledger | Awaitable[Ledger]:
        """Open a handle whose clock is ``now`` (Unix seconds)."""
        ...


class Clock:
    """Unix seconds that change only when a check moves them."""

    def __init__(self) -> None:
        self.seconds: float = 1_800_000_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.seconds


async def opened(open_ledger: OpenLedger, clock: Clock) -> Ledger:
    """Open a handle."""
    handle = open_ledger(now=clock)
    return await handle if inspect.isawaitable(handle) else handle


@define(eq=False)
class Bench:
    """Two handles of one store, and methods that make jobs for it."""

    open_ledger: OpenLedger
    clock: Clock
    one: Ledger
    durable: bool = field(kw_only=True)
    two: Ledger = field(init=False)
    third: Ledger | None = None
    _numbers: itertools.count[int] = field(factory=itertools.count)

    @property
    def handles(self) -> list[Ledger]:
        """All open handles."""
        handles = [self.one, self.two]
        return handles if self.third is None else [*handles, self.third]

    def batch(self) -> str:
        """Return the name of a new batch."""
        return f"check-{next(self._numbers)}-{secrets.token_hex(4)}"

    def unpriced(self, batch: str, number: int) -> JobRecord:
        """Return a planned job of unknown price."""
        request = Generation("nobody-knows-1", {"n": number})
        return self.job(batch=batch, key=f"u{number}", request=request)

    def job(
        self, *, batch: str | None, key: str | None = None, request: Request | None = None
    ) -> JobRecord:
        """Return a planned job; without a ``request`` one of 100 credits."""
        asked = request or sora(f"boat {next(self._numbers)}")
        return JobRecord(
            id=secrets.token_hex(8),
            request=asked,
            fingerprint=models.fingerprint(asked),
            credits=asked.credits,
            batch=batch,
            key=key,
            planned_at=self.clock(),
        )

    def priced(self, price: str, *, batch: str, key: str | None = None) -> JobRecord:
        """Return a planned job of some price, such as "30.5" credits."""
        request = Generation("nobody-knows-1", {"prompt": "boat"})
        return evolve(self.job(batch=batch, key=key, request=request), credits=Decimal(price))

    async def planned(self, batch: str, count: int) -> list[JobRecord]:
        """Plan some jobs of 100 credits at once."""
        return list(
            await asyncio.gather(*(self.one.plan(self.job(batch=batch)) for _ in range(count)))
        )

    async def after(self, *events: Event, batch: str | None = None) -> JobRecord:
        """Plan a job, claim it with handle one, and record these events."""
        job = await self.one.plan(self.job(batch=batch or self.batch()))
        claimed = await self.one.claim(job.id, lease=LEASE)
        assert claimed is not None, "a planned job can be claimed"
        for event in events:
            claimed = await self.one.record(job.id, event)
        return claimed

    async def expect(self, job: JobRecord, status: JobStatus, promise: str) -> JobRecord:
        """Check a job's status as every handle sees it; return its record."""
        found: JobRecord | None = None
        for handle in self.handles:
            found = await handle.find(job.id)
            assert found is not None, f"{promise}: the job is missing"
            assert found.status is status, f"{promise}: it is {found.status}, not {status}"
        assert found is not None
        return found


Check: TypeAlias = Callable[[Bench], Coroutine[Any, Any, None]]


def sora(prompt: str) -> Sora2:
    """Return a request of 100 credits."""
    return Sora2(prompt, duration=4, aspect_ratio="16:9")


def names_of(events: Sequence[Event]) -> str:
    """Return the names of some events."""
    return " ".join(type(event).__name__ for event in events)


async def refused(call: Awaitable[object], error: type[AIVideoError], promise: str) -> AIVideoError:
    """Check that a call raises ``error``; return what it raised."""
    try:
        got = await call
    except error as refusal:
        return refusal
    except Exception as other:
        raise AssertionError(f"{promise}: it raised {other!r}, not {error.__name__}") from other
    raise AssertionError(f"{promise}: it raised nothing, and returned {got!r}")


async def every_job(
    ledger: Ledger, *, batch: str | None = None, statuses: Collection[JobStatus] = ()
) -> list[JobRecord]:
    """Read jobs()."""
    return [job async for job in ledger.jobs(batch=batch, statuses=statuses)]


def of_batch(batch: str, jobs: Sequence[JobRecord]) -> list[JobRecord]:
    """Return the jobs of a batch."""
    return [job for job in jobs if job.batch == batch]
