"""The rules that all ledgers share."""

from __future__ import annotations

from decimal import Decimal

import pytest
from attrs import evolve

from aivideo.errors import (
    BudgetExceededError,
    ContradictionError,
    InvalidRequestError,
    LedgerError,
)
from aivideo.ledger import rules
from aivideo.ledger.events import (
    Completed,
    Doubted,
    Event,
    Faulted,
    Refused,
    Released,
    Retried,
    Taken,
    Withdrawn,
)
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.ledger.totals import CreditTotals
from tests.ledger.histories import CLAIM, FAILED, INSISTED, JOB, LOST, PAID, WHY, replay
from tests.ledger.jobs import job

NOW = 1_000.0


# --- plan ---------------------------------------------------------------------------------------


def test_a_new_job_is_added() -> None:
    new = job()
    assert rules.plan(new, same_id=None, same_key=None, replace=False) is new


def test_a_job_of_the_same_id_is_returned_as_it_is_by_now() -> None:
    new = job(key="k")
    known = evolve(new, status=JobStatus.WITHDRAWN, waiting=False)
    assert rules.plan(new, same_id=known, same_key=known, replace=True) is known
    with pytest.raises(LedgerError, match="belongs to another job"):
        rules.plan(evolve(job("kite"), id=new.id), same_id=known, same_key=None, replace=True)


def plan_again(*events: Event, prompt: str = "boat", replace: bool = False) -> JobRecord:
    earlier = replay(*events, job=job(key="k"))
    return rules.plan(job(prompt, key="k"), same_id=None, same_key=earlier, replace=replace)


def test_the_same_request_under_a_known_key_changes_nothing() -> None:
    for events in ([], PAID, LOST, FAILED):
        earlier = replay(*events, job=job(key="k"))
        assert rules.plan(job(key="k"), same_id=None, same_key=earlier, replace=True) is earlier


@pytest.mark.parametrize(
    "events",
    [
        [CLAIM],
        PAID,
        LOST,
        FAILED,
        [CLAIM, Faulted(WHY)],
        [*PAID, Completed()],
        [*LOST, INSISTED],
        [*FAILED, Retried()],
        [*FAILED, Retried(), Withdrawn()],
        [*LOST, INSISTED, Withdrawn()],
    ],
)
def test_what_may_have_been_taken_is_never_replaced(events: list[Event]) -> None:
    with pytest.raises(InvalidRequestError, match="another request"):
        plan_again(*events, prompt="kite", replace=True)


@pytest.mark.parametrize("events", [[], [CLAIM, Released()], [CLAIM, Refused(WHY)]])
def test_what_was_never_taken_is_replaced_if_asked(events: list[Event]) -> None:
    with pytest.raises(InvalidRequestError, match="another request"):
        plan_again(*events, prompt="kite")
    now = plan_again(*events, prompt="kite", replace=True)
    assert (now.request.prompt, now.status, now.waiting) == ("kite", JobStatus.PLANNED, True)


@pytest.mark.parametrize("prompt", ["boat", "kite"])
@pytest.mark.parametrize("events", [[Withdrawn()], [CLAIM, Released(), Withdrawn()]])
def test_a_withdrawn_key_may_be_used_again_for_anything(events: list[Event], prompt: str) -> None:
    now = plan_again(*events, prompt=prompt)
    assert (now.request.prompt, now.status, now.waiting) == (prompt, JobStatus.PLANNED, True)
    assert now.latest == len(events) // 2, "its attempts are kept: a success may come late"


@pytest.mark.parametrize(
    ("events", "price"),
    [
        ([], "90.5"),
        ([CLAIM, Released()], "90.5"),
        (FAILED, "90.5"),
        ([CLAIM], "100"),
        (PAID, "100"),
        (LOST, "100"),
    ],
)
def test_the_price_changes_only_while_no_credits_are_counted_at_the_old_one(
    events: list[Event], price: str
) -> None:
    earlier = replay(*events, job=job(key="k"))
    asked = evolve(job(key="k"), credits="90.5")
    now = rules.plan(asked, same_id=None, same_key=earlier, replace=False)
    assert str(now.credits) == price
    assert now.attempts == earlier.attempts


def test_a_job_that_was_enqueued_stays_resumable() -> None:
    earlier = job(key="k")
    asked = evolve(job(key="k"), resumable=True)
    now = rules.plan(asked, same_id=None, same_key=earlier, replace=False)
    assert now == evolve(earlier, resumable=True)
    assert rules.plan(job(key="k"), same_id=None, same_key=now, replace=False) is now


# --- claim --------------------------------------------------------------------------------------


def claim(record: JobRecord, *, charged: str = "0", ceiling: str | None = None) -> JobRecord | None:
    return rules.claim(
        record,
        owner="me",
        lease=150.0,
        now=NOW,
        totals=CreditTotals(charged=charged),
        ceiling=None if ceiling is None else Decimal(ceiling),
    )


def test_a_claim_is_an_attempt_that_reserves_the_price() -> None:
    claimed = claim(evolve(JOB, credits="30.5"))
    assert claimed is not None
    (attempt,) = claimed.attempts
    assert (attempt.owner, attempt.sent_at, attempt.lease_until) == ("me", NOW, NOW + 150.0)
    assert attempt.credits == Decimal("30.5")


@pytest.mark.parametrize("events", [[CLAIM], LOST, PAID, FAILED, [Withdrawn()]])
def test_what_is_not_planned_is_not_claimed_whatever_the_ceiling(events: list[Event]) -> None:
    assert claim(replay(*events), ceiling="0") is None


def test_a_claim_keeps_to_the_ceiling() -> None:
    assert claim(JOB, charged="100", ceiling="200") is not None
    with pytest.raises(BudgetExceededError):
        claim(JOB, charged="100.000001", ceiling="200")
    with pytest.raises(BudgetExceededError):
        claim(evolve(JOB, credits=None), ceiling="200")
    assert claim(evolve(JOB, credits=None)) is not None


# --- record -------------------------------------------------------------------------------------


def test_a_task_belongs_to_one_job() -> None:
    claimed = replay(CLAIM)
    with pytest.raises(ContradictionError, match="task t belongs to job other already"):
        rules.record(claimed, Taken("t"), None, holder_of_task="other")
    for holder in (None, JOB.id):
        taken = rules.record(claimed, Taken("t"), None, holder_of_task=holder)
        assert taken.status is JobStatus.RUNNING


# --- lapse --------------------------------------------------------------------------------------


def test_only_abandoned_claims_of_other_owners_lapse() -> None:
    claimed = claim(JOB)
    assert claimed is not None
    late = NOW + 150.5

    def status(*, owner: str, now: float, gone: tuple[str, ...] = ()) -> JobStatus:
        return rules.lapse(claimed, owner=owner, now=now, gone=gone).status

    assert status(owner="me", now=late) is JobStatus.SUBMITTING
    assert status(owner="other", now=NOW + 150.0) is JobStatus.SUBMITTING
    assert status(owner="other", now=late) is JobStatus.UNKNOWN
    assert status(owner="other", now=NOW, gone=("me",)) is JobStatus.UNKNOWN
    assert status(owner="other", now=NOW, gone=("somebody",)) is JobStatus.SUBMITTING


@pytest.mark.parametrize("events", [[], PAID, LOST, FAILED, [CLAIM, Released()]])
def test_what_is_not_submitting_does_not_lapse(events: list[Event]) -> None:
    record = replay(*events)
    assert rules.lapse(record, owner="other", now=1e12, gone=("me",)) is record


def test_of_two_attempts_only_the_one_that_is_submitting_lapses() -> None:
    twice = replay(CLAIM, Doubted(WHY), INSISTED, CLAIM)
    now = rules.lapse(twice, owner="other", now=1e12)
    assert [attempt.status for attempt in now.attempts] == ["unknown", "unknown"]
    assert now.attempts[0] is twice.attempts[0]
