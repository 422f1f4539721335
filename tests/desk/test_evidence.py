"""What an audit says of a real account: with sessions and the stand-in service, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from decimal import Decimal

import pytest
from attrs import evolve

from aivideo import Answer, Session, Sora2, SubmitUnknownError
from aivideo.desk import Audit, Desk
from aivideo.desk.evidence import compare, is_evidence
from aivideo.errors import APITimeoutError
from aivideo.ledger.audit import SETTLING_TIME, Reading
from aivideo.ledger.memory import MemoryLedger
from aivideo.ledger.records import Attempt, AttemptStatus, JobRecord, JobStatus
from aivideo.ledger.totals import CreditTotals
from aivideo.models import Credits, Generation
from aivideo.simulator import Scenario, Service
from aivideo.testing import DirectTransport
from tests.ledger.jobs import job

pytestmark = pytest.mark.anyio

BEGAN = 1_800_000_000.0
LOST = "a boat that is lost"


class LateTransport(DirectTransport):
    """Loses the answer of creates whose prompt says so; the service takes them 25 s later."""

    late: set[asyncio.Task[None]]

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self.late = set()

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Answer:
        if method == "GET" or b"lost" not in (body or b""):
            return await super().send(method, url, headers, body, timeout)

        async def arrive() -> None:
            await asyncio.sleep(25)
            await DirectTransport.send(self, method, url, headers, body, timeout)

        self.late.add(asyncio.create_task(arrive()))
        await asyncio.sleep(timeout)
        raise APITimeoutError(f"no answer within {timeout:g} s", written=True)


def clip(prompt: str) -> Sora2:
    return Sora2(prompt, duration=4, aspect_ratio="16:9")


def new_ledger() -> MemoryLedger:
    return MemoryLedger(now=lambda: BEGAN + asyncio.get_running_loop().time())


async def lose(session: Session, prompt: str) -> None:
    with pytest.raises(SubmitUnknownError):
        await session.submit(clip(prompt))


async def audit_of(session: Session) -> Audit:
    return await Desk(session.ledger, client=session).audit()


async def test_a_create_that_is_taken_25_s_after_it_was_sent_is_not_judged_before_15_minutes() -> (
    None
):
    service = Service(Scenario(task_seconds=60.0, media="stub"))
    transport, ledger = LateTransport(service), new_ledger()
    async with Session("sk-test", ledger=ledger, transport=transport, request_timeout=3) as session:
        await session.credits()
        await lose(session, LOST)
        audit = await audit_of(session)
        assert service.truth.creates_taken == 0, "it is still on its way"
        assert audit.finding.conclusion == "too early"
        again_at = audit.in_doubt[0].attempts[0].sent_at + SETTLING_TIME
        assert audit.finding.ask_again_at == again_at
        await asyncio.sleep(30)
        assert service.truth.creates_taken == 1
        assert (await audit_of(session)).finding.conclusion == "too early"
        await asyncio.sleep(SETTLING_TIME)
        # The service has refunded nothing: the task was completed.
        audit = await audit_of(session)
        assert (audit.finding.conclusion, audit.finding.ask_again_at) == ("all charged", None)


@pytest.mark.parametrize("lowers", [True, False])
async def test_somebody_else_s_refund_is_excluded_by_the_assumption_that_is_stated(
    lowers: bool,
) -> None:
    """It lowers the counter by as much as our lost create raises it: 2 were bought once."""
    service = Service(
        Scenario(task_seconds=600.0, media="stub", failure_rate=1.0, refund_lowers_consumed=lowers)
    )
    late = LateTransport(service)
    async with (
        Session("sk-test", ledger=new_ledger(), transport=DirectTransport(service)) as other,
        Session("sk-test", ledger=new_ledger(), transport=late, request_timeout=3) as session,
    ):
        theirs = await other.submit(clip("a boat of another program"))
        await session.credits()
        await lose(session, LOST)
        await asyncio.sleep(30)
        (ours,) = [task for task in service.truth.tasks.values() if task.prompt == LOST]
        ours.outcome = "completed"
        await asyncio.sleep(SETTLING_TIME)
        assert theirs.status is JobStatus.FAILED
        finding = (await audit_of(session)).finding
    # The counter cannot show the refund: so the conclusion is wrong, and says on what it relies.
    assert finding.conclusion == ("none charged" if lowers else "all charged")
    assert finding.assumption == "if nobody else spends on, or is refunded on, this account"
    words = " ".join(finding.lines)
    assert "if nobody else spends on, or is refunded on, this account" in words
    assert "safe" not in words


async def test_a_task_that_failed_unseen_does_not_hide_a_create_that_was_taken() -> None:
    """The process that would have polled it has ended. Its refund lowers the counter."""
    service = Service(Scenario(task_seconds=60.0, media="stub", failure_rate=1.0))
    ledger = new_ledger()
    async with Session("sk-test", ledger=ledger, transport=DirectTransport(service)) as session:
        await session.submit(clip("a boat that fails"))
        await session.credits()
    transport = LateTransport(service)
    async with Session("sk-test", ledger=ledger, transport=transport, request_timeout=3) as session:
        for task in service.truth.tasks.values():
            assert task.outcome == "failed"
        await lose(session, LOST)
        await asyncio.sleep(30)
        for task in service.truth.tasks.values():
            if task.prompt == LOST:
                task.outcome = "completed"
        await asyncio.sleep(SETTLING_TIME)
        audit = await audit_of(session)
    assert service.truth.charged - service.truth.refunded == 100, "the lost one was taken"
    assert audit.finding.grown == 0
    assert audit.finding.conclusion == "blurred"
    assert audit.finding.assumption is None


# --- which attempts count -----------------------------------------------------------------------


@pytest.mark.parametrize("status", AttemptStatus)
def test_evidence_is_what_runs_and_what_has_no_price(status: AttemptStatus) -> None:
    priced = Attempt(number=1, status=status, credits=100)
    assert is_evidence(priced) is (status is AttemptStatus.RUNNING)
    proved_free = status in (AttemptStatus.RELEASED, AttemptStatus.REFUSED)
    # Those in doubt are given to the audit by themselves.
    assert is_evidence(evolve(priced, credits=None)) is not (proved_free or status.is_in_doubt)


def reading(at: float, consumed: int, **ledger: int) -> Reading:
    account = Credits(balance=0, total_purchased=0, total_consumed=consumed)
    return Reading(at, account, CreditTotals(**ledger))


def in_doubt(credits: int | None, sent_at: float) -> JobRecord:  # noqa: A002
    lost = Attempt(number=1, status=AttemptStatus.UNKNOWN, sent_at=sent_at, credits=credits)
    request = clip("lost") if credits else Generation("nobody-knows-1", {})
    return evolve(job(), request=request, status=JobStatus.UNKNOWN, attempts=(lost,))


NOW = BEGAN + 2 * SETTLING_TIME


@pytest.mark.parametrize(
    ("status", "sent_at", "conclusion"),
    [
        (AttemptStatus.COMPLETED, BEGAN + 5, "unpriced"),
        (AttemptStatus.FAILED, BEGAN + 5, "unpriced"),
        (AttemptStatus.COMPLETED, BEGAN - SETTLING_TIME + 1, "unpriced"),
        (AttemptStatus.COMPLETED, BEGAN - SETTLING_TIME, "none charged"),
        (AttemptStatus.FAILED, BEGAN - SETTLING_TIME, "none charged"),
        (AttemptStatus.RUNNING, BEGAN - SETTLING_TIME, "unpriced"),
    ],
)
def test_an_attempt_without_a_price_that_may_have_moved_the_counter_forbids_a_conclusion(
    status: AttemptStatus, sent_at: float, conclusion: str
) -> None:
    other = Attempt(number=1, status=status, sent_at=sent_at)
    readings = [reading(BEGAN, 0), reading(NOW, 0, unknown=100)]
    found = compare(readings, [in_doubt(100, BEGAN + 9)], [other], failed_since=Decimal(0))
    assert found.conclusion == conclusion


def test_a_create_in_doubt_without_a_price_forbids_a_conclusion() -> None:
    readings = [reading(BEGAN, 0), reading(NOW, 0, unpriced=1)]
    found = compare(readings, [in_doubt(None, BEGAN + 9)], [], failed_since=Decimal(0))
    assert found.conclusion == "unpriced", "it counted as 0 credits: all charged"


def test_a_failure_that_was_recorded_after_the_reading_was_a_running_task_then() -> None:
    readings = [reading(BEGAN, 0), reading(NOW, 100, charged=100, unknown=100)]
    lost = [in_doubt(100, BEGAN + 9)]
    assert compare(readings, lost, [], failed_since=Decimal(0)).conclusion == "none charged"
    assert compare(readings, lost, [], failed_since=Decimal(100)).conclusion == "blurred"
