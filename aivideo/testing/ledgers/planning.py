"""Checks of plan()."""

from __future__ import annotations

import asyncio

from attrs import evolve

from aivideo.errors import InvalidRequestError, LedgerError
from aivideo.ledger.events import (
    Completed,
    Doubted,
    Event,
    Failed,
    Faulted,
    Refused,
    Released,
    Taken,
    Withdrawn,
)
from aivideo.ledger.records import JobStatus
from aivideo.models import Generation, Sora2
from aivideo.testing.ledgers.bench import LEASE, WHY, Bench, Check, names_of, refused, sora


async def _a_job_is_read_as_it_was_written(bench: Bench) -> None:
    batch = bench.batch()
    requests = (
        Sora2(
            "纸船 \N{SAILBOAT}\n'\"", duration=12, aspect_ratio="9:16", image="https://a.example/b"
        ),
        Generation("veo-3", {"prompt": "x", "deep": [{"a": None}, 1.5]}, credits=70),
        Generation("nobody-knows-1", {}),
    )
    jobs = [
        bench.job(batch=batch, key=f"k-{request.model}", request=request) for request in requests
    ]
    jobs.append(bench.priced("30.5", batch=batch))
    jobs.append(bench.priced("0.000001", batch=batch))
    jobs.append(evolve(bench.job(batch=None), resumable=True))
    for planned in jobs:
        job = evolve(planned, callback_url="https://me.example/hook")
        promise = "plan() records a job as it is"
        assert await bench.one.plan(job) == job, f"{promise}: it returned another"
        for handle in bench.handles:
            found = await handle.find(job.id)
            assert found == job, f"{promise}: {job!r} was read as {found!r}"


async def _a_key_is_one_job(bench: Bench) -> None:
    batch = bench.batch()
    job = await bench.one.plan(bench.job(batch=batch, key="k", request=sora("a")))
    again = await bench.two.plan(bench.job(batch=batch, key="k", request=sora("a")))
    assert again == job, "plan() with a known batch and key returns the existing job"
    promise = "a key names a job within its batch only"
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
    assert await bench.two.plan(plain) == claimed, f"{promise}, and returns its current record"
    stranger = evolve(bench.job(batch=batch), id=plain.id)
    await refused(bench.one.plan(stranger), LedgerError, "an id belongs to one job")


async def _another_request_under_a_key_is_refused(bench: Bench) -> None:
    batch = bench.batch()
    job = await bench.one.plan(bench.job(batch=batch, key="k"))
    promise = "plan() of another request under a known key is refused"
    for handle in bench.handles:
        await refused(handle.plan(bench.job(batch=batch, key="k")), InvalidRequestError, promise)
    assert await bench.two.find(job.id) == job, f"{promise}, and changes nothing"


async def _a_request_is_replaced_only_if_it_cannot_have_been_taken(bench: Bench) -> None:
    batch = bench.batch()
    promise = "plan(replace=True) replaces the request of a job that was never taken"
    job = await bench.one.plan(bench.job(batch=batch, key="k"))
    dearer = Sora2("another", duration=12, aspect_ratio="16:9")
    asked = bench.job(batch=batch, key="k", request=dearer)
    now = await bench.two.plan(asked, replace=True)
    assert now == evolve(asked, id=job.id), f"{promise}: it became {now!r}"
    assert await bench.one.find_key(batch, "k") == now, promise
    assert await bench.one.find(asked.id) is None, f"{promise}, and adds no second job"
    cases: tuple[tuple[tuple[Event, ...], bool], ...] = (
        ((Refused(WHY),), True),
        ((Released(),), True),
        ((), False),
        ((Doubted(WHY),), False),
        ((Faulted(WHY),), False),
        ((Taken(f"t-{batch}-1"),), False),
        ((Taken(f"t-{batch}-2"), Completed()), False),
        ((Taken(f"t-{batch}-3"), Failed(WHY)), False),
    )
    for events, replaced in cases:
        key = f"after {names_of(events) or 'a claim'}"
        job = await bench.one.plan(bench.job(batch=batch, key=key))
        await bench.one.claim(job.id, lease=LEASE)
        for event in events:
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


async def _a_withdrawn_key_may_be_used_again(bench: Bench) -> None:
    batch = bench.batch()
    promise = "plan() of a withdrawn job's key plans the job again, for any request"
    for request in (sora("a"), sora("another")):
        for released in (False, True):
            key = f"{request.prompt} {released}"
            job = await bench.one.plan(bench.job(batch=batch, key=key, request=sora("a")))
            if released:
                await bench.one.claim(job.id, lease=LEASE)
                await bench.one.record(job.id, Released())
            await bench.one.record(job.id, Withdrawn())
            asked = bench.job(batch=batch, key=key, request=request)
            now = await bench.two.plan(asked)
            kept = await bench.expect(job, JobStatus.PLANNED, promise)
            assert now == kept == evolve(asked, id=job.id, attempts=now.attempts), promise
            assert now.latest == int(released), f"{promise}, and keeps its attempts"
            assert await bench.two.find(asked.id) is None, f"{promise}, and adds no second job"
            claimed = await bench.one.claim(job.id, lease=LEASE)
            assert claimed is not None, promise


async def _enqueueing_a_known_key_makes_it_resumable(bench: Bench) -> None:
    batch = bench.batch()
    job = await bench.one.plan(bench.job(batch=batch, key="k", request=sora("a")))
    asked = evolve(bench.job(batch=batch, key="k", request=sora("a")), resumable=True)
    promise = "plan() with resumable=True makes the existing job resumable, and nothing undoes that"
    assert await bench.two.plan(asked) == evolve(job, resumable=True), promise
    assert await bench.one.plan(evolve(asked, id="other", resumable=False)) == (
        await bench.two.find(job.id)
    ), promise
    assert await bench.one.find(job.id) == evolve(job, resumable=True), promise


async def _the_latest_price_counts_while_no_credits_are_counted_at_another(bench: Bench) -> None:
    batch = bench.batch()
    promise = "plan() with another price changes the price, if no credits are counted at the first"
    unpriced, priced = (
        Generation("nobody-knows-1", {"prompt": "boat"}, credits=price) for price in (None, 70)
    )
    job = await bench.one.plan(bench.job(batch=batch, key="k", request=unpriced))
    now = await bench.two.plan(bench.job(batch=batch, key="k", request=priced))
    assert now == evolve(job, request=priced, credits=70), f"{promise}: it became {now!r}"
    assert await bench.one.find(job.id) == now, promise
    assert await bench.one.claim(job.id, lease=LEASE) is not None, promise
    dearer = bench.job(
        batch=batch,
        key="k",
        request=Generation("nobody-knows-1", {"prompt": "boat"}, credits=90),
    )
    again = await bench.two.plan(dearer)
    assert again.credits == 70, f"{promise}; a reserved amount does not change"
    await bench.one.record(job.id, Released())
    again = await bench.two.plan(dearer)
    assert again.credits == 90, "once its POST was proved not taken, the latest price counts again"


CHECKS: tuple[Check, ...] = (
    _a_job_is_read_as_it_was_written,
    _a_key_is_one_job,
    _another_request_under_a_key_is_refused,
    _a_request_is_replaced_only_if_it_cannot_have_been_taken,
    _a_withdrawn_key_may_be_used_again,
    _enqueueing_a_known_key_makes_it_resumable,
    _the_latest_price_counts_while_no_credits_are_counted_at_another,
)
