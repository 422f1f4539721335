"""One suite for every ledger: whoever passes it may hold the money.

Each check is one promise of :class:`aivideo.ledger.Ledger`, tried on two handles of one store, as
two processes would hold them. Nothing is known here of how a ledger keeps what it promises.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import secrets
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from typing import Any, Protocol

from attrs import define, evolve, field

from aivideo import models
from aivideo.errors import (
    AIVideoError,
    BudgetExceededError,
    ContradictionError,
    InvalidRequestError,
    LedgerError,
)
from aivideo.ledger import Ledger, events, transitions
from aivideo.ledger.events import Event
from aivideo.ledger.records import JobRecord, JobStatus, Reason
from aivideo.ledger.totals import CreditTotals
from aivideo.models import Credits, Generation, Request, Sora2

WHY = Reason(message="because the check says so", status=400, code="invalid_request")
LEASE = 150.0
MANY = 1_100
"""Jobs in the check of paging: more than two pages of any sensible size."""


class OpenLedger(Protocol):
    """Opens one more handle of the same store; a plain function or an async one."""

    def __call__(self, *, now: Callable[[], float]) -> Ledger | Awaitable[Ledger]:
        """Open a handle whose clock is ``now`` (Unix seconds)."""
        ...


async def check_ledger(open_ledger: OpenLedger, *, durable: bool = True) -> None:
    """Check that a ledger keeps every promise of :class:`aivideo.ledger.Ledger`.

    ::

        @pytest.mark.anyio
        async def test_my_ledger_keeps_its_promises(tmp_path):
            await check_ledger(lambda *, now: MyLedger(tmp_path / "jobs", now=now))

    It opens several handles at once and treats them as processes that share a store: what one
    writes the others read, and of what they claim at the same time each job is won once. The store
    must be empty and nobody else's: the suite writes some 1,300 jobs, and lets claims lapse by
    moving the clock that it hands out. Checked is, each with a message that names the promise:

    * planning: a job comes back as it was written; a key is one job; another request under it is
      refused, and replaces only what cannot have been taken; the same job planned twice is one,
      at the price stated last while nothing is counted at another;
    * claims: a compare-and-set, between handles and under concurrency; the attempt's number, owner,
      lease and time; none but ``planned`` jobs;
    * ceilings: exact under concurrency, per batch, freed by refusal, release and refund, not freed
      by doubt, and closed to unknown prices;
    * verdicts: each lands, also another handle's; what has happened changes nothing; what
      contradicts it is refused and changes nothing; a task belongs to one attempt;
    * leases: a claim lapses when its lease is over, to ``unknown`` and never to ``planned``, by
      somebody else's word; its owner's verdict lands all the same; live claims are left alone;
    * attempts: each is kept, with its task, its reason and its own credits;
    * reading: by id, key and task; in order and page by page; by batch and status; counts, totals,
      and the account's readings;
    * ends: a cancelled call has happened whole or not at all, handles may be closed twice, and with
      ``durable`` nothing is lost when all were closed.

    Args:
        open_ledger: opens a handle on the store; called several times, with the clock as ``now``.
        durable: whether the store outlives its handles.

    Raises:
        AssertionError: a promise is broken; the message says which, and how.
    """
    clock = _Clock()
    bench = _Bench(open_ledger, clock, await _opened(open_ledger, clock), durable=durable)
    bench.two = await _opened(open_ledger, clock)
    try:
        for check in _CHECKS:
            try:
                await check(bench)
            except AIVideoError as error:
                promise = check.__name__.strip("_").replace("_", " ")
                raise AssertionError(f"{promise}: it raised {error!r}") from error
    finally:
        await asyncio.gather(*(each.aclose() for each in bench.handles), return_exceptions=True)


class _Clock:
    """Unix seconds that stand still until they are moved."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


async def _opened(open_ledger: OpenLedger, clock: _Clock) -> Ledger:
    handle = open_ledger(now=clock)
    return await handle if inspect.isawaitable(handle) else handle


@define(eq=False)
class _Bench:
    """Two handles of one store, and what makes jobs for it."""

    open_ledger: OpenLedger
    clock: _Clock
    one: Ledger
    durable: bool = field(kw_only=True)
    two: Ledger = field(init=False)
    third: Ledger | None = None
    _numbers: itertools.count[int] = field(factory=itertools.count)

    @property
    def handles(self) -> list[Ledger]:
        handles = [self.one, self.two]
        return handles if self.third is None else [*handles, self.third]

    def batch(self) -> str:
        return f"check-{next(self._numbers)}-{secrets.token_hex(4)}"

    def job(
        self, *, batch: str | None, key: str | None = None, request: Request | None = None
    ) -> JobRecord:
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

    async def planned(self, batch: str, count: int) -> list[JobRecord]:
        return list(
            await asyncio.gather(*(self.one.plan(self.job(batch=batch)) for _ in range(count)))
        )

    async def told(self, *heard: Event, batch: str | None = None) -> JobRecord:
        """Plan a job, claim it with handle one, and have these events happen to it."""
        job = await self.one.plan(self.job(batch=batch or self.batch()))
        claimed = await self.one.claim(job.id, lease=LEASE)
        assert claimed is not None, "a planned job can be claimed"
        for event in heard:
            claimed = await self.one.record(job.id, event)
        return claimed

    async def stands(self, job: JobRecord, status: JobStatus, promise: str) -> JobRecord:
        """Check where a job stands, as every handle sees it; return it."""
        found: JobRecord | None = None
        for handle in self.handles:
            found = await handle.find(job.id)
            assert found is not None, f"{promise}: the job is gone"
            assert found.status is status, f"{promise}: it is {found.status}, not {status}"
        assert found is not None
        return found


def sora(prompt: str) -> Sora2:
    """Make a request of 100 credits."""
    return Sora2(prompt, duration=4, aspect_ratio="16:9")


async def refused(call: Awaitable[object], error: type[AIVideoError], promise: str) -> AIVideoError:
    """Check that a call raises ``error``; return it."""
    try:
        got = await call
    except error as refusal:
        return refusal
    except Exception as other:
        raise AssertionError(f"{promise}: it raised {other!r}, not {error.__name__}") from other
    raise AssertionError(f"{promise}: it raised nothing, and returned {got!r}")


# --- planning ---------------------------------------------------------------------------------


async def _a_job_comes_back_as_it_was_written(bench: _Bench) -> None:
    batch = bench.batch()
    for request in (
        Sora2(
            "纸船 \N{SAILBOAT}\n'\"", duration=12, aspect_ratio="9:16", image="https://a.example/b"
        ),
        Generation("veo-3", {"prompt": "x", "deep": [{"a": None}, 1.5]}, credits=70),
        Generation("nobody-knows-1", {}),
    ):
        job = bench.job(batch=batch, key=f"k-{request.model}", request=request)
        job = evolve(job, callback_url="https://me.example/hook")
        promise = "plan() writes a job down as it is"
        assert await bench.one.plan(job) == job, f"{promise}: it returned another"
        for handle in bench.handles:
            found = await handle.find(job.id)
            assert found == job, f"{promise}: of {job!r} came back {found!r}"


async def _a_key_is_one_job(bench: _Bench) -> None:
    batch = bench.batch()
    job = await bench.one.plan(bench.job(batch=batch, key="k", request=sora("a")))
    again = await bench.two.plan(bench.job(batch=batch, key="k", request=sora("a")))
    assert again == job, "plan() with a known batch and key returns the job that is there"
    promise = "a key names a job within its batch alone"
    made = [
        await bench.one.plan(bench.job(batch=where, key=batch, request=sora("a")))
        for where in (batch, bench.batch(), None)
    ]
    assert len({each.id for each in made}) == 3, promise
    promise = "without a key each plan() is a new job"
    twice = [await bench.one.plan(bench.job(batch=batch, request=sora("a"))) for _ in range(2)]
    assert len({job.id, *(each.id for each in twice)}) == 3, promise
    promise = "plan() of one key by many callers at once makes one job"
    raced = await asyncio.gather(
        *(
            handle.plan(bench.job(batch=batch, key="raced", request=sora("a")))
            for handle in bench.handles * 10
        )
    )
    assert len({each.id for each in raced}) == 1, promise
    promise = "plan() of the same job twice is one job"
    assert await bench.two.plan(job) == job, promise
    plain = await bench.one.plan(bench.job(batch=batch))
    claimed = await bench.one.claim(plain.id, lease=LEASE)
    assert await bench.two.plan(plain) == claimed, f"{promise}, as it stands by now"
    stranger = evolve(bench.job(batch=batch), id=plain.id)
    await refused(bench.one.plan(stranger), LedgerError, "an id is one job's")


async def _another_request_under_a_key_is_refused(bench: _Bench) -> None:
    batch = bench.batch()
    job = await bench.one.plan(bench.job(batch=batch, key="k"))
    promise = "plan() of another request under a known key is refused"
    for handle in bench.handles:
        await refused(handle.plan(bench.job(batch=batch, key="k")), InvalidRequestError, promise)
    assert await bench.two.find(job.id) == job, f"{promise}, and changes nothing"


async def _a_request_is_replaced_only_while_it_cannot_have_been_taken(bench: _Bench) -> None:
    batch = bench.batch()
    promise = "plan(replace=True) lets an untaken job ask for something else"
    job = await bench.one.plan(bench.job(batch=batch, key="k"))
    dearer = Sora2("another", duration=12, aspect_ratio="16:9")
    asked = bench.job(batch=batch, key="k", request=dearer)
    now = await bench.two.plan(asked, replace=True)
    assert now == evolve(asked, id=job.id), f"{promise}: it became {now!r}"
    assert await bench.one.find_key(batch, "k") == now, promise
    assert await bench.one.find(asked.id) is None, f"{promise}, and makes no second one"
    for ends, replaced in (
        ((events.Refused(WHY),), True),
        ((events.Released(),), True),
        ((), False),
        ((events.Doubted(WHY),), False),
        ((events.Faulted(WHY),), False),
        ((events.Taken(f"t-{batch}-1"),), False),
        ((events.Taken(f"t-{batch}-2"), events.Completed()), False),
        ((events.Taken(f"t-{batch}-3"), events.Failed(WHY)), False),
    ):
        names = " ".join(type(event).__name__ for event in ends) or "a claim"
        key = f"after {names}"
        job = await bench.one.plan(bench.job(batch=batch, key=key))
        await bench.one.claim(job.id, lease=LEASE)
        for event in ends:
            await bench.one.record(job.id, event)
        plan = bench.two.plan(bench.job(batch=batch, key=key), replace=True)
        if not replaced:
            await refused(plan, InvalidRequestError, f"plan(replace=True) {key} is refused")
            continue
        now = await plan
        promise = f"plan(replace=True) {key} makes it planned, and keeps its attempts"
        assert (now.id, now.status, now.latest) == (job.id, JobStatus.PLANNED, 1), promise
        claimed = await bench.two.claim(job.id, lease=LEASE)
        assert claimed is not None, promise
        assert claimed.latest == 2, promise


# --- claims -----------------------------------------------------------------------------------


async def _a_claim_is_an_attempt_with_owner_and_lease(bench: _Bench) -> None:
    (job,) = await bench.planned(bench.batch(), 1)
    claimed = await bench.one.claim(job.id, lease=LEASE)
    assert claimed is not None, "claim() of a planned job wins it"
    promise = "a claim is an attempt of its own"
    assert (claimed.status, claimed.waiting) == (JobStatus.SUBMITTING, False), promise
    assert [each.number for each in claimed.attempts] == [1], promise
    (attempt,) = claimed.attempts
    assert attempt.owner, f"{promise}: it must say whose"
    assert attempt.sent_at == bench.clock(), f"{promise}: sent_at is the time of the claim"
    assert attempt.lease_until == bench.clock() + LEASE, f"{promise}: lease_until is lease later"
    assert await bench.two.find(job.id) == claimed, f"{promise}, for every handle"
    for handle in bench.handles:
        promise = "of a job that is not planned claim() returns None"
        assert await handle.claim(job.id, lease=LEASE) is None, promise
    await refused(
        bench.one.claim("no-such-job", lease=LEASE), LedgerError, "claim() of no job is an error"
    )
    other = await bench.planned(bench.batch(), 1)
    theirs = await bench.two.claim(other[0].id, lease=LEASE)
    assert theirs is not None, "claim() of a planned job wins it"
    assert theirs.attempts[0].owner != attempt.owner, "each handle has a name of its own"


async def _a_claim_is_won_once(bench: _Bench) -> None:
    jobs = await bench.planned(bench.batch(), 40)
    won = await asyncio.gather(
        *(
            handle.claim(job.id, lease=LEASE)
            for job in jobs
            for handle in (*bench.handles, *bench.handles)
        )
    )
    winners = [record.id for record in won if record is not None]
    promise = "claim() is a compare-and-set: of many callers at once one gets the job"
    assert sorted(winners) == sorted(job.id for job in jobs), (
        f"{promise}: {len(jobs)} jobs were won {len(winners)} times"
    )


async def _only_what_is_planned_can_be_claimed(bench: _Bench) -> None:
    batch = bench.batch()
    for told, again in (
        ((events.Released(),), True),
        ((events.Refused(WHY),), False),
        ((events.Doubted(WHY),), False),
        ((events.Faulted(WHY),), False),
        ((events.Taken(f"t-{batch}-1"),), False),
        ((events.Taken(f"t-{batch}-2"), events.Completed()), False),
        ((events.Taken(f"t-{batch}-3"), events.Failed(WHY)), False),
        ((events.Taken(f"t-{batch}-4"), events.Failed(WHY), events.Retried()), True),
        ((events.Doubted(WHY), events.Retried(may_pay_twice=True)), True),
    ):
        job = await bench.told(*told)
        claimed = await bench.two.claim(job.id, lease=LEASE)
        names = " ".join(type(event).__name__ for event in told)
        if again:
            assert claimed is not None, f"after {names} a job can be claimed again"
            assert claimed.latest == 2, f"after {names} a claim is a second attempt"
        else:
            assert claimed is None, f"after {names} nobody may claim it: it may be paid twice"


# --- ceilings ---------------------------------------------------------------------------------


async def _a_ceiling_is_exact_under_concurrency(bench: _Bench) -> None:
    batch = bench.batch()
    jobs = await bench.planned(batch, 12)
    promise = "a ceiling is exact, however many claim at once"
    tried = await asyncio.gather(
        *(
            handle.claim(job.id, lease=LEASE, ceiling=350)
            for job, handle in zip(jobs, itertools.cycle(bench.handles), strict=False)
        ),
        return_exceptions=True,
    )
    won = [each for each in tried if isinstance(each, JobRecord)]
    over = [each for each in tried if isinstance(each, BudgetExceededError)]
    assert len(won) == 3, f"{promise}: under 350 credits {len(won)} jobs of 100 were claimed"
    assert len(over) == 9, f"{promise}: whom it stops gets BudgetExceededError, not {tried!r}"
    facts = {(each.needed, each.held, each.ceiling) for each in over}
    assert facts == {(100, 300, 350)}, f"{promise}, and says what is needed, held and allowed"
    taken = {each.id for each in won}
    for job in jobs:
        if job.id not in taken:
            promise = "a claim that a ceiling stops leaves its job planned, without an attempt"
            assert await bench.one.find(job.id) == job, promise


async def _a_ceiling_is_freed_by_proof_alone(bench: _Bench) -> None:
    table: tuple[tuple[str, list[Event], bool], ...] = (
        ("a refusal", [events.Refused(WHY)], True),
        ("a release", [events.Released()], True),
        ("a refund", [events.Taken("{}"), events.Failed(WHY)], True),
        ("a doubt", [events.Doubted(WHY)], False),
        ("a server error", [events.Faulted(WHY)], False),
        ("a success", [events.Taken("{}")], False),
        ("an end", [events.Taken("{}"), events.Completed()], False),
        ("a doubt that is sent again", [events.Doubted(WHY), INSISTED], False),
    )
    for name, told, freed in table:
        batch = bench.batch()
        first, second = await bench.planned(batch, 2)
        await bench.one.claim(first.id, lease=LEASE, ceiling=100)
        for event in told:
            if isinstance(event, events.Taken):
                event = events.Taken(f"t-{batch}")  # noqa: PLW2901  its batch is not known above
            await bench.one.record(first.id, event)
        claim = bench.two.claim(second.id, lease=LEASE, ceiling=100)
        if not freed:
            await refused(claim, BudgetExceededError, f"{name} frees no ceiling")
            continue
        try:
            assert await claim is not None, f"{name} frees a ceiling"
        except BudgetExceededError as error:
            raise AssertionError(f"{name} frees a ceiling: it raised {error!r}") from error


INSISTED = events.Retried(may_pay_twice=True)


async def _a_ceiling_counts_its_batch_alone(bench: _Bench) -> None:
    (rich,) = await bench.planned(bench.batch(), 1)
    await bench.one.claim(rich.id, lease=LEASE)
    (poor,) = await bench.planned(bench.batch(), 1)
    promise = "a ceiling counts the job's own batch"
    assert await bench.one.claim(poor.id, lease=LEASE, ceiling=100) is not None, promise
    promise = "a ceiling without a batch counts all jobs without one"
    first, second, third = [
        await bench.one.plan(bench.job(batch=None, request=sora(f"{n}"))) for n in range(3)
    ]
    held = await refused(bench.one.claim(first.id, lease=LEASE, ceiling=0), BudgetExceededError, "")
    assert isinstance(held, BudgetExceededError)
    ceiling = held.held + 200
    assert await bench.one.claim(first.id, lease=LEASE, ceiling=ceiling) is not None, promise
    assert await bench.two.claim(second.id, lease=LEASE, ceiling=ceiling) is not None, promise
    await refused(
        bench.two.claim(third.id, lease=LEASE, ceiling=ceiling), BudgetExceededError, promise
    )
    unknown = await bench.one.plan(
        bench.job(batch=bench.batch(), request=Generation("nobody-knows-1", {}))
    )
    promise = "under a ceiling a price that is not known is refused"
    await refused(
        bench.one.claim(unknown.id, lease=LEASE, ceiling=10**9), BudgetExceededError, promise
    )
    promise = "without a ceiling a price need not be known"
    assert await bench.one.claim(unknown.id, lease=LEASE) is not None, promise


async def _a_price_is_the_one_stated_last_while_nothing_is_counted_at_another(
    bench: _Bench,
) -> None:
    batch = bench.batch()
    promise = "plan() with another price is the price, where nothing is counted at the first"
    unpriced, priced = (
        Generation("nobody-knows-1", {"prompt": "boat"}, credits=price) for price in (None, 70)
    )
    job = await bench.one.plan(bench.job(batch=batch, key="k", request=unpriced))
    refusal = bench.one.claim(job.id, lease=LEASE, ceiling=1_000)
    await refused(refusal, BudgetExceededError, "a price that is not known fits no ceiling")
    now = await bench.two.plan(bench.job(batch=batch, key="k", request=priced))
    assert now == evolve(job, request=priced, credits=70), f"{promise}: it became {now!r}"
    assert await bench.one.find(job.id) == now, promise
    assert await bench.one.claim(job.id, lease=LEASE, ceiling=70) is not None, promise
    dearer = Generation("nobody-knows-1", {"prompt": "boat"}, credits=90)
    again = await bench.two.plan(bench.job(batch=batch, key="k", request=dearer))
    assert again.credits == 70, f"{promise}; what is reserved stays what it was"


# --- verdicts ---------------------------------------------------------------------------------


async def _every_verdict_lands(bench: _Bench) -> None:
    batch = bench.batch()
    for event, status, totals in (
        (events.Taken(f"t-{batch}"), JobStatus.RUNNING, CreditTotals(charged=100)),
        (events.Released(), JobStatus.PLANNED, CreditTotals()),
        (events.Refused(WHY), JobStatus.REFUSED, CreditTotals()),
        (events.Faulted(WHY), JobStatus.FAULTED, CreditTotals(unknown=100)),
        (events.Doubted(WHY), JobStatus.UNKNOWN, CreditTotals(unknown=100)),
    ):
        name = type(event).__name__
        for handle in bench.handles:
            batch = bench.batch()
            if isinstance(event, events.Taken):
                event = events.Taken(f"t-{batch}")  # noqa: PLW2901  a task is one attempt's
            job = await bench.told(batch=batch)
            promise = f"record({name}) lands, whoever writes it"
            said = await handle.record(job.id, event, attempt=1)
            found = await bench.stands(job, status, promise)
            assert found == said, f"{promise}: it returns what the job is now"
            expected = transitions.apply(job, event)
            assert found == expected, f"{promise}: {expected!r} is kept as {found!r}"
            kept = await bench.two.totals(batch=batch)
            assert kept == totals, f"{promise}: its credits count as {kept!r}"
    job = await bench.told(events.Taken(f"t-{bench.batch()}"))
    promise = "an end is kept with its times, and a file with its place and size"
    await bench.one.record(job.id, events.Completed(1_700_000_000.0, 1_700_000_100.5))
    saved = await bench.two.record(job.id, events.Saved("a folder/ü.mp4", 2**40))
    found = await bench.stands(job, JobStatus.SAVED, promise)
    assert found == saved, promise
    assert (found.path, found.size) == ("a folder/ü.mp4", 2**40), promise
    ended = found.attempts[0]
    assert (ended.created_at, ended.completed_at) == (1_700_000_000.0, 1_700_000_100.5), promise


async def _what_contradicts_is_refused_and_changes_nothing(bench: _Bench) -> None:
    batch = bench.batch()
    running = await bench.told(events.Taken(f"t-{batch}"), batch=batch)
    spent = await bench.one.totals(batch=batch)
    promise = "what has happened already changes nothing"
    assert await bench.two.record(running.id, events.Taken(f"t-{batch}")) == running, promise
    assert await bench.one.totals(batch=batch) == spent, f"{promise}, and moves no credits"
    contradictions: list[Event] = [
        events.Taken(f"t2-{batch}"),
        events.Released(),
        events.Refused(WHY),
        events.Retried(),
        events.Saved("too-soon.mp4"),
        events.Claimed(),
    ]
    for event in contradictions:
        promise = f"record({type(event).__name__}) of a running job is refused"
        for handle in bench.handles:
            await refused(handle.record(running.id, event), ContradictionError, promise)
        assert await bench.two.find(running.id) == running, f"{promise}, and changes nothing"
    assert await bench.one.totals(batch=batch) == spent, "a refused event moves no credits"
    nobody = bench.one.record("no-such-job", events.Released())
    await refused(nobody, LedgerError, "record() of no job is an error")
    no_attempt = bench.one.record(running.id, events.Released(), attempt=7)
    await refused(no_attempt, LedgerError, "record() of no attempt is an error")
    # One refused among many at once must not take the others with it.
    others = [await bench.told() for _ in range(4)]
    calls = [bench.one.record(job.id, events.Released()) for job in others]
    calls.insert(2, bench.one.record(running.id, events.Released()))
    ends = await asyncio.gather(*calls, return_exceptions=True)
    promise = "a refused event is refused alone, not with those written at the same time"
    assert [isinstance(end, LedgerError) for end in ends] == [False, False, True, False, False], (
        f"{promise}: {ends!r}"
    )


async def _a_task_belongs_to_one_attempt(bench: _Bench) -> None:
    batch = bench.batch()
    job = await bench.told(events.Taken(f"t-{batch}"), batch=batch)
    other = await bench.told(batch=batch)
    promise = "a task belongs to one job"
    for handle in bench.handles:
        taken = handle.record(other.id, events.Taken(f"t-{batch}"))
        await refused(taken, ContradictionError, promise)
    assert await bench.one.find_task(f"t-{batch}") == job, promise
    await bench.stands(other, JobStatus.SUBMITTING, f"{promise}, and the other is left as it was")
    promise = "a task belongs to one attempt of its job"
    batch = bench.batch()
    job = await bench.told(events.Doubted(WHY), INSISTED, batch=batch)
    await bench.one.claim(job.id, lease=LEASE)
    job = await bench.one.record(job.id, events.Taken(f"t-{batch}"))
    twice = bench.two.record(job.id, events.Taken(f"t-{batch}"), attempt=1)
    await refused(twice, ContradictionError, promise)
    assert await bench.one.find(job.id) == job, f"{promise}, and a refusal changes nothing"


# --- leases -----------------------------------------------------------------------------------


async def _a_claim_lapses_to_unknown_and_never_to_planned(bench: _Bench) -> None:
    batch = bench.batch()
    short, long, running = await bench.planned(batch, 3)
    await bench.one.claim(short.id, lease=10.0)
    await bench.one.claim(long.id, lease=1000.0)
    await bench.one.claim(running.id, lease=10.0)
    await bench.one.record(running.id, events.Taken(f"t-{batch}"))
    for handle in bench.handles:
        promise = "lapse() leaves live claims alone"
        assert not _of(batch, await handle.lapse()), promise
        await bench.stands(short, JobStatus.SUBMITTING, promise)
    bench.clock.seconds += 11.0
    promise = "lapse() is for claims of others: an owner still has its own verdict to give"
    assert not _of(batch, await bench.one.lapse()), promise
    await bench.stands(short, JobStatus.SUBMITTING, promise)
    promise = "a claim whose lease is over lapses, and is returned"
    lapsed = _of(batch, await bench.two.lapse())
    assert [job.id for job in lapsed] == [short.id], f"{promise}: {lapsed!r}"
    promise = "a lapse leads to unknown, never to planned"
    assert lapsed[0] == await bench.stands(short, JobStatus.UNKNOWN, promise), promise
    for handle in bench.handles:
        assert await handle.claim(short.id, lease=LEASE) is None, f"{promise}: it was claimed again"
    await bench.stands(long, JobStatus.SUBMITTING, "lapse() leaves live claims alone")
    await bench.stands(running, JobStatus.RUNNING, "what was taken does not lapse")
    assert not _of(batch, await bench.two.lapse()), "what has lapsed does not lapse again"
    kept = await bench.one.totals(batch=batch)
    promise = "the credits of a lapsed claim are unknown, not free"
    assert kept == CreditTotals(charged=100, reserved=100, unknown=100), f"{promise}: {kept!r}"


async def _the_owners_verdict_lands_after_a_lapse(bench: _Bench) -> None:
    batch = bench.batch()
    table: tuple[tuple[Event, JobStatus], ...] = (
        (events.Taken(f"t-{batch}"), JobStatus.RUNNING),
        (events.Refused(WHY), JobStatus.REFUSED),
        (events.Released(), JobStatus.PLANNED),
        (events.Faulted(WHY), JobStatus.FAULTED),
        (events.Doubted(WHY), JobStatus.UNKNOWN),
    )
    for number, (event, status) in enumerate(table):
        job = await bench.told(batch=f"{batch}-{number}")
        bench.clock.seconds += LEASE + 1
        await bench.two.lapse()
        await bench.stands(job, JobStatus.UNKNOWN, "a claim whose lease is over lapses")
        promise = f"its owner's {type(event).__name__} lands, however late"
        await bench.one.record(job.id, event, attempt=1)
        await bench.stands(job, status, promise)


# --- attempts ---------------------------------------------------------------------------------


async def _attempts_are_records_of_their_own(bench: _Bench) -> None:
    batch = bench.batch()
    failed = (events.Taken(f"t1-{batch}"), events.Failed(WHY, 5.0), events.Retried())
    job = await bench.told(*failed, batch=batch)
    again = await bench.two.claim(job.id, lease=LEASE)
    promise = "a retry is a new attempt, beside the old one"
    assert again is not None, promise
    await bench.two.record(job.id, events.Taken(f"t2-{batch}"))
    found = await bench.stands(job, JobStatus.RUNNING, promise)
    tasks = [(each.number, each.task_id) for each in found.attempts]
    assert tasks == [(1, f"t1-{batch}"), (2, f"t2-{batch}")], f"{promise}: {tasks!r}"
    assert (found.attempts[0].reason, found.attempts[0].created_at) == (WHY, 5.0), promise
    kept = await bench.one.totals(batch=batch)
    assert kept == CreditTotals(charged=100, refunded=100), f"{promise}: credits are {kept!r}"
    for number in (1, 2):
        known = await bench.two.find_task(f"t{number}-{batch}")
        assert known == found, "a job is found by the task of each of its attempts"
    promise = "a late success of an older attempt is kept, and counted too"
    batch = bench.batch()
    job = await bench.told(events.Doubted(WHY), INSISTED, batch=batch)
    await bench.one.claim(job.id, lease=LEASE)
    await bench.one.record(job.id, events.Taken(f"t2-{batch}"), attempt=2)
    both = await bench.two.record(job.id, events.Taken(f"t1-{batch}"), attempt=1)
    assert [each.task_id for each in both.attempts] == [f"t1-{batch}", f"t2-{batch}"], promise
    kept = await bench.one.totals(batch=batch)
    assert kept == CreditTotals(charged=200), f"{promise}: credits are {kept!r}"
    assert await bench.one.find_task(f"t1-{batch}") == both, promise


# --- reading ----------------------------------------------------------------------------------


async def _jobs_are_found(bench: _Bench) -> None:
    batch = bench.batch()
    inside = await bench.one.plan(bench.job(batch=batch, key=batch))
    outside = await bench.one.plan(bench.job(batch=None, key=batch))
    for handle in bench.handles:
        assert await handle.find_key(batch, batch) == inside, "find_key() finds by batch and key"
        assert await handle.find_key(None, batch) == outside, "find_key() finds what has no batch"
        assert await handle.find("no-such-job") is None, "find() of no job is None"
        assert await handle.find_key(batch, "no-such-key") is None, "find_key() of no key is None"
        assert await handle.find_task("no-such-task") is None, "find_task() of no task is None"


async def _jobs_come_in_order_page_by_page(bench: _Bench) -> None:
    batch = bench.batch()
    written = [{job.id for job in await bench.planned(batch, 100)} for _ in range(MANY // 100)]
    promise = "jobs() yields each job once, in the order they were written down"
    for ledger in bench.handles:
        for only in (batch, None):
            ids = [job.id for job in await _all(ledger, batch=only) if job.batch == batch]
            assert len(ids) == MANY, f"{promise}: of {MANY} came {len(ids)}"
            for at, chunk in enumerate(written):
                assert {*ids[at * 100 : at * 100 + 100]} == chunk, promise
    ids = [job.id for job in await _all(bench.one, batch=batch)]
    claimed = ids[::97]
    for job_id in claimed:
        await bench.one.claim(job_id, lease=LEASE)
    for ledger in bench.handles:
        for only in (batch, None):
            here = f"jobs(batch={only and '…'}, statuses=…)"
            found = await _all(ledger, batch=only, statuses={JobStatus.SUBMITTING})
            got = [job.id for job in found if job.batch == batch]
            assert got == claimed, f"{here} yields those that stand so, in order"
            both = {JobStatus.SUBMITTING, JobStatus.PLANNED}
            found = await _all(ledger, batch=only, statuses=both)
            got = [job.id for job in found if job.batch == batch]
            assert got == ids, f"{here} yields all that stand as one of them, in order"
            assert not _of(batch, await _all(ledger, batch=only, statuses=[JobStatus.SAVED])), here
    assert not await _all(bench.one, batch=bench.batch()), "a batch without jobs has none"
    promise = "jobs() may be walked while they change"
    seen: list[str] = []
    async for job in bench.two.jobs(batch=batch, statuses=[JobStatus.PLANNED]):
        seen.append(job.id)
        if len(seen) % 50 == 0:
            await bench.one.claim(job.id, lease=LEASE)
    assert seen == [job_id for job_id in ids if job_id not in claimed], promise


async def _jobs_are_counted(bench: _Bench) -> None:
    batch = bench.batch()
    before, spent = dict(await bench.one.counts()), await bench.one.totals()
    await bench.planned(batch, 2)
    await bench.told(batch=batch)
    await bench.told(events.Taken(f"t1-{batch}"), batch=batch)
    await bench.told(events.Taken(f"t2-{batch}"), events.Failed(WHY), batch=batch)
    await bench.told(events.Doubted(WHY), batch=batch)
    expected = {
        JobStatus.PLANNED: 2,
        JobStatus.SUBMITTING: 1,
        JobStatus.RUNNING: 1,
        JobStatus.FAILED: 1,
        JobStatus.UNKNOWN: 1,
    }
    credits_of = CreditTotals(charged=100, reserved=100, unknown=100, refunded=100)
    for handle in bench.handles:
        got = {
            status: count for status, count in (await handle.counts(batch=batch)).items() if count
        }
        assert got == expected, f"counts(batch=…) counts a batch: {got!r}"
        whole = await handle.counts()
        grown = {status: whole[status] - before.get(status, 0) for status in expected}
        assert grown == expected, f"counts() counts all: they grew by {grown!r}"
        totals = await handle.totals(batch=batch)
        assert totals == credits_of, f"totals(batch=…) adds up a batch: {totals!r}"
        every = await handle.totals()
        for column in ("charged", "reserved", "unknown", "refunded"):
            more = getattr(every, column) - getattr(spent, column)
            assert more == 100, f"totals() adds up all batches: {column} grew by {more}"
    empty = bench.batch()
    assert await bench.one.totals(batch=empty) == CreditTotals(), "no jobs have cost nothing"
    assert not any((await bench.one.counts(batch=empty)).values()), "no jobs stand nowhere"


async def _readings_of_the_account_are_kept(bench: _Bench) -> None:
    earlier = await bench.two.readings()
    promise = "note_credits() keeps what the service said, beside what the ledger knows"
    noted = []
    for number, handle in enumerate((bench.one, bench.two)):
        bench.clock.seconds += 60.0
        await bench.told()
        account = Credits(balance=2**40 - number, total_purchased=2**40, total_consumed=number)
        reading = await handle.note_credits(account)
        assert (reading.at, reading.account) == (bench.clock(), account), f"{promise}: {reading!r}"
        assert reading.ledger == await bench.one.totals(), f"{promise}: {reading!r}"
        noted.append(reading)
    for handle in bench.handles:
        kept = await handle.readings()
        assert list(kept) == [*earlier, *noted], "readings() lists them all, the oldest first"


# --- ends -------------------------------------------------------------------------------------


async def _a_cancelled_call_has_happened_whole_or_not_at_all(bench: _Bench) -> None:
    promise = "a cancelled call has happened whole or not at all"
    for patience in range(4):
        batch = bench.batch()
        (job,) = await bench.planned(batch, 1)
        call = asyncio.create_task(_claim(bench.one, job))
        for _ in range(patience):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        # What one handle was asked later comes after what it was asked before.
        await bench.one.lapse()
        found = await bench.two.find(job.id)
        assert found is not None, promise
        reserved = 100 * len(found.attempts)
        assert (found.status is JobStatus.SUBMITTING) == (reserved == 100), f"{promise}: {found!r}"
        kept = await bench.two.totals(batch=batch)
        assert kept == CreditTotals(reserved=reserved), f"{promise}: credits are {kept!r}"


async def _nothing_is_lost_when_all_handles_close(bench: _Bench) -> None:
    batch = bench.batch()
    running = await bench.told(events.Taken(f"t-{batch}"), batch=batch)
    left = await bench.told(batch=batch)
    before = {job.id: job for job in await _all(bench.one)}
    spent, readings = await bench.one.totals(), await bench.one.readings()
    for handle in bench.handles:
        await handle.aclose()
        await handle.aclose()  # safe to say twice
    if not bench.durable:
        return
    bench.third = await _opened(bench.open_ledger, bench.clock)
    promise = "nothing is lost when all handles close"
    found = {job.id: job for job in await _all(bench.third)}
    assert found == before, promise
    assert list(found) == list(before), f"{promise}, nor their order"
    assert await bench.third.totals() == spent, f"{promise}: credits"
    assert list(await bench.third.readings()) == list(readings), f"{promise}: readings"
    assert await bench.third.find_task(f"t-{batch}") == running, promise
    bench.clock.seconds += LEASE + 1
    promise = "a claim that its owner left behind lapses"
    lapsed = _of(batch, await bench.third.lapse())
    assert [(job.id, job.status) for job in lapsed] == [(left.id, JobStatus.UNKNOWN)], promise


async def _all(
    ledger: Ledger, *, batch: str | None = None, statuses: Collection[JobStatus] = ()
) -> list[JobRecord]:
    return [job async for job in ledger.jobs(batch=batch, statuses=statuses)]


def _of(batch: str, jobs: Sequence[JobRecord]) -> list[JobRecord]:
    return [job for job in jobs if job.batch == batch]


async def _claim(ledger: Ledger, job: JobRecord) -> None:
    await ledger.claim(job.id, lease=LEASE)


_CHECKS: tuple[Callable[[_Bench], Coroutine[Any, Any, None]], ...] = (
    _a_job_comes_back_as_it_was_written,
    _a_key_is_one_job,
    _another_request_under_a_key_is_refused,
    _a_request_is_replaced_only_while_it_cannot_have_been_taken,
    _a_claim_is_an_attempt_with_owner_and_lease,
    _a_claim_is_won_once,
    _only_what_is_planned_can_be_claimed,
    _a_ceiling_is_exact_under_concurrency,
    _a_ceiling_is_freed_by_proof_alone,
    _a_ceiling_counts_its_batch_alone,
    _a_price_is_the_one_stated_last_while_nothing_is_counted_at_another,
    _every_verdict_lands,
    _what_contradicts_is_refused_and_changes_nothing,
    _a_task_belongs_to_one_attempt,
    _a_claim_lapses_to_unknown_and_never_to_planned,
    _the_owners_verdict_lands_after_a_lapse,
    _attempts_are_records_of_their_own,
    _jobs_are_found,
    _jobs_come_in_order_page_by_page,
    _jobs_are_counted,
    _readings_of_the_account_are_kept,
    _a_cancelled_call_has_happened_whole_or_not_at_all,
    _nothing_is_lost_when_all_handles_close,  # the last: it leaves no handle open
)
