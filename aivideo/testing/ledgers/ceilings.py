"""Checks of set_ceiling(), ceiling() and what claim() makes of them."""

from __future__ import annotations

import asyncio
import itertools
from decimal import Decimal

from aivideo.errors import BudgetExceededError
from aivideo.ledger.events import (
    Completed,
    Doubted,
    Event,
    Failed,
    Faulted,
    Refused,
    Released,
    Taken,
)
from aivideo.ledger.records import JobRecord
from aivideo.ledger.totals import CreditTotals
from aivideo.models import Generation
from aivideo.testing.ledgers.bench import LEASE, PAY_TWICE, WHY, Bench, Check, refused


async def _a_ceiling_is_stored_with_its_batch(bench: Bench) -> None:
    batch = bench.batch()
    promise = "a batch without a ceiling has none"
    assert await bench.one.ceiling(batch) is None, promise
    promise = "set_ceiling() stores the latest value, exactly, for every handle"
    for value in (Decimal(350), Decimal("30.5"), Decimal("0.000001"), Decimal(0)):
        await bench.one.set_ceiling(batch, value)
        for handle in bench.handles:
            found = await handle.ceiling(batch)
            assert found == value, f"{promise}: of {value} it kept {found}"
    (job,) = await bench.planned(batch, 1)
    promise = "claim() checks the stored ceiling, whichever handle stored it"
    await refused(bench.two.claim(job.id, lease=LEASE), BudgetExceededError, promise)
    assert await bench.one.find(job.id) == job, f"{promise}, and leaves the job as it is"
    await bench.two.set_ceiling(batch, None)
    promise = "set_ceiling(batch, None) removes the ceiling"
    for handle in bench.handles:
        assert await handle.ceiling(batch) is None, promise
    assert await bench.one.claim(job.id, lease=LEASE) is not None, promise


async def _a_ceiling_is_exact_under_concurrency(bench: Bench) -> None:
    batch = bench.batch()
    await bench.two.set_ceiling(batch, Decimal(350))
    jobs = await bench.planned(batch, 12)
    promise = "a ceiling is exact, however many claims run at once"
    tried = await asyncio.gather(
        *(
            handle.claim(job.id, lease=LEASE)
            for job, handle in zip(jobs, itertools.cycle(bench.handles), strict=False)
        ),
        return_exceptions=True,
    )
    won = [each for each in tried if isinstance(each, JobRecord)]
    over = [each for each in tried if isinstance(each, BudgetExceededError)]
    assert len(won) == 3, f"{promise}: under 350 credits {len(won)} jobs of 100 were claimed"
    assert len(over) == 9, f"{promise}: the others raise BudgetExceededError, not {tried!r}"
    expected = (Decimal(100), Decimal(300), Decimal(350))
    facts = {(each.needed, each.held, each.ceiling) for each in over}
    assert facts == {expected}, f"{promise}, and the error says what is needed and held"
    taken = {each.id for each in won}
    for job in jobs:
        if job.id not in taken:
            promise = "a claim that a ceiling stops leaves its job planned, without an attempt"
            assert await bench.one.find(job.id) == job, promise


async def _a_ceiling_is_exact_for_fractions(bench: Bench) -> None:
    batch = bench.batch()
    promise = "amounts are exact: 30.5 + 30.5 credits are 61, and not a millionth more"
    await bench.one.set_ceiling(batch, Decimal("60.999999"))
    first, second = [
        await bench.one.plan(bench.priced("30.5", batch=batch, key=f"k{n}")) for n in range(2)
    ]
    assert await bench.one.claim(first.id, lease=LEASE) is not None, promise
    await refused(bench.two.claim(second.id, lease=LEASE), BudgetExceededError, promise)
    await bench.two.set_ceiling(batch, Decimal(61))
    assert await bench.two.claim(second.id, lease=LEASE) is not None, promise
    totals = await bench.one.totals(batch=batch)
    assert totals == CreditTotals(reserved=61), f"{promise}: {totals!r}"
    assert f"{totals.reserved}" == "61", "amounts have no trailing zeros"
    await bench.one.record(first.id, Taken(f"t-{batch}"))
    totals = await bench.two.totals(batch=batch)
    half = Decimal("30.5")
    assert totals == CreditTotals(charged=half, reserved=half), f"{promise}: {totals!r}"


async def _a_ceiling_is_freed_by_proof_only(bench: Bench) -> None:
    table: tuple[tuple[str, list[Event], bool], ...] = (
        ("a refusal", [Refused(WHY)], True),
        ("a release", [Released()], True),
        ("a refund", [Taken("{}"), Failed(WHY)], True),
        ("a doubt", [Doubted(WHY)], False),
        ("a server error", [Faulted(WHY)], False),
        ("a success", [Taken("{}")], False),
        ("an end", [Taken("{}"), Completed()], False),
        ("a doubt that is sent again", [Doubted(WHY), PAY_TWICE], False),
    )
    for name, events, freed in table:
        batch = bench.batch()
        await bench.one.set_ceiling(batch, Decimal(100))
        first, second = await bench.planned(batch, 2)
        await bench.one.claim(first.id, lease=LEASE)
        for event in events:
            if isinstance(event, Taken):
                event = Taken(f"t-{batch}")  # noqa: PLW2901  its batch is not known above
            await bench.one.record(first.id, event)
        claim = bench.two.claim(second.id, lease=LEASE)
        if not freed:
            await refused(claim, BudgetExceededError, f"{name} frees no ceiling")
            continue
        try:
            assert await claim is not None, f"{name} frees a ceiling"
        except BudgetExceededError as error:
            raise AssertionError(f"{name} frees a ceiling: it raised {error!r}") from error


async def _a_ceiling_counts_its_own_batch_only(bench: Bench) -> None:
    rich, poor = bench.batch(), bench.batch()
    await bench.after(batch=rich)
    await bench.one.set_ceiling(poor, Decimal(100))
    (job,) = await bench.planned(poor, 1)
    promise = "a ceiling counts the credits of its own batch"
    try:
        assert await bench.one.claim(job.id, lease=LEASE) is not None, promise
    except BudgetExceededError as error:
        raise AssertionError(f"{promise}: it raised {error!r}") from error
    promise = "a ceiling does not concern other batches, nor jobs without one"
    for batch in (rich, None):
        other = await bench.one.plan(bench.job(batch=batch))
        assert await bench.two.claim(other.id, lease=LEASE) is not None, promise


async def _an_unknown_price_fits_no_ceiling(bench: Bench) -> None:
    batch = bench.batch()
    unpriced = bench.job(batch=batch, request=Generation("nobody-knows-1", {}))
    job = await bench.one.plan(unpriced)
    await bench.one.set_ceiling(batch, Decimal(10**9))
    promise = "under a ceiling a job of unknown price is refused"
    await refused(bench.one.claim(job.id, lease=LEASE), BudgetExceededError, promise)
    await bench.one.set_ceiling(batch, None)
    promise = "without a ceiling a price need not be known"
    claimed = await bench.one.claim(job.id, lease=LEASE)
    assert claimed is not None, promise
    assert claimed.attempts[0].credits is None, f"{promise}: nothing is reserved"
    await bench.one.record(job.id, Doubted(WHY))
    promise = "an attempt of unknown price is in no sum; it counts in `unpriced`"
    for event, count in ((Doubted(WHY), 1), (Released(), 0)):
        await bench.one.record(job.id, event)
        totals = await bench.two.totals(batch=batch)
        assert totals == CreditTotals(unpriced=count), f"{promise}: {totals!r}"


async def _nothing_more_is_bought_while_a_price_is_unknown(bench: Bench) -> None:
    table: tuple[tuple[str, list[Event], bool], ...] = (
        ("on its way", [], False),
        ("that was taken", [Taken("")], False),
        ("that has ended", [Taken(""), Completed()], False),
        ("in doubt", [Doubted(WHY)], False),
        ("answered by a server error", [Faulted(WHY)], False),
        ("in doubt that is sent again", [Doubted(WHY), PAY_TWICE], False),
        ("that was refunded", [Taken(""), Failed(WHY)], True),
        ("that was refused", [Refused(WHY)], True),
        ("that was released", [Released()], True),
        ("settled as not taken", [Doubted(WHY), Released()], True),
    )
    for name, events, open_ in table:
        batch = bench.batch()
        first = await bench.one.plan(bench.unpriced(batch, 0))
        await bench.one.claim(first.id, lease=LEASE)
        for event in events:
            if isinstance(event, Taken):
                event = Taken(f"t-{batch}")  # noqa: PLW2901  its batch is not known above
            await bench.one.record(first.id, event)
        (second,) = await bench.planned(batch, 1)
        await bench.two.set_ceiling(batch, Decimal(10**9))
        claim = bench.two.claim(second.id, lease=LEASE)
        if open_:
            promise = f"an attempt of unknown price {name} counts towards no ceiling"
            try:
                assert await claim is not None, promise
            except BudgetExceededError as error:
                raise AssertionError(f"{promise}: it raised {error!r}") from error
            continue
        promise = f"an attempt of unknown price {name} closes every ceiling of its batch"
        await refused(claim, BudgetExceededError, promise)
        assert await bench.one.find(second.id) == second, f"{promise}; the job stays planned"
        await bench.one.set_ceiling(batch, None)
        promise = "without a ceiling an attempt of unknown price stops nothing"
        assert await bench.two.claim(second.id, lease=LEASE) is not None, promise


CHECKS: tuple[Check, ...] = (
    _a_ceiling_is_stored_with_its_batch,
    _a_ceiling_is_exact_under_concurrency,
    _a_ceiling_is_exact_for_fractions,
    _a_ceiling_is_freed_by_proof_only,
    _a_ceiling_counts_its_own_batch_only,
    _an_unknown_price_fits_no_ceiling,
    _nothing_more_is_bought_while_a_price_is_unknown,
)
