"""Histories of one job, as events."""

from __future__ import annotations

from aivideo.ledger.events import Claimed, Doubted, Event, Failed, Retried, Taken
from aivideo.ledger.records import JobRecord, Reason
from aivideo.ledger.transitions import apply
from aivideo.models import Sora2

JOB = JobRecord(
    id="j",
    request=Sora2("boat", duration=4, aspect_ratio="16:9"),
    fingerprint="f",
    credits=100,
)
WHY = Reason(message="why")
CLAIM = Claimed(owner="me", lease_until=90.0, at=1.0)
LOST: list[Event] = [CLAIM, Doubted(WHY)]
PAID: list[Event] = [CLAIM, Taken("t")]
FAILED: list[Event] = [*PAID, Failed(WHY)]
AGAIN = Retried()
INSISTED = Retried(pay_again=True)


def replay(*events: Event, job: JobRecord = JOB) -> JobRecord:
    for event in events:
        job = apply(job, event)
    return job
