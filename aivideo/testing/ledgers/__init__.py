"""One test suite for every ledger: a ledger that passes it may hold the money.

Each check tests one promise of :class:`aivideo.ledger.Ledger` on two handles of one store, as two
processes would hold them. The checks know nothing of how a ledger keeps its promises.
"""

from __future__ import annotations

import asyncio

from aivideo.errors import AIVideoError
from aivideo.testing.ledgers import ceilings, claims, closing, outcomes, planning, reading
from aivideo.testing.ledgers.bench import Bench, Clock, OpenLedger, opened

__all__ = ["OpenLedger", "check_ledger"]

_CHECKS = (
    *planning.CHECKS,
    *claims.CHECKS,
    *ceilings.CHECKS,
    *outcomes.CHECKS,
    *reading.CHECKS,
    *closing.CHECKS,  # the last ones: they leave no handle open
)


async def check_ledger(open_ledger: OpenLedger, *, durable: bool = True) -> None:
    """Check that a ledger keeps every promise of :class:`aivideo.ledger.Ledger`.

    ::

        @pytest.mark.anyio
        async def test_my_ledger_keeps_its_promises(tmp_path):
            await check_ledger(lambda *, now: MyLedger(tmp_path / "jobs", now=now))

    It opens several handles at once and treats them as processes that share a store: each handle
    must see what the others write, and of several that claim a job at once exactly one must get
    it. The store must be empty and used by nobody else: the suite writes some 1,300 jobs, and lets
    claims expire by moving the clock that it passes to ``open_ledger``. It checks, each with a
    message that names the promise:

    * planning: a job is read as it was written; a key names one job; another request under a key is
      refused, and may replace the first only if that cannot have been taken; planning a job twice
      gives one job, at the latest price while no credits are counted at another; a withdrawn job's
      key may be used again, for any request;
    * claims: a compare-and-set, between handles and under concurrency; the attempt's number, owner,
      lease, time and reserved amount; only ``planned`` jobs;
    * leases: an expired claim becomes ``unknown``, never ``planned``, and only by another owner;
      its owner's answer is still recorded; other claims are left alone;
    * ceilings: stored per batch, seen by every handle, replaced and removed; exact under
      concurrency, and to the millionth of a credit; freed by refusal, release and refund, not by
      doubt; closed to unknown prices, and to everything while an attempt of unknown price is
      charged, reserved or unknown;
    * outcomes: each is recorded, by whichever handle; a repeated one changes nothing; a
      contradicting one is refused and changes nothing; a task belongs to one attempt; only planned
      jobs can be withdrawn; each attempt keeps its task, its reason and its own reserved amount;
      a job that was taken is sent again only by who pays again and has seen its status;
    * reading: by id, key and task; in order and page by page; by batch and status; counts, totals,
      and the account's readings;
    * closing: a cancelled call is atomic, handles may be closed twice, and if ``durable`` nothing
      is lost when all handles were closed.

    Args:
        open_ledger: opens a handle of the store; called several times, with the clock as ``now``.
        durable: whether the store outlives its handles.

    Raises:
        AssertionError: a promise is broken; the message says which, and how.
    """
    clock = Clock()
    bench = Bench(open_ledger, clock, await opened(open_ledger, clock), durable=durable)
    bench.two = await opened(open_ledger, clock)
    try:
        for check in _CHECKS:
            try:
                await check(bench)
            except AIVideoError as error:
                promise = check.__name__.strip("_").replace("_", " ")
                raise AssertionError(f"{promise}: it raised {error!r}") from error
    finally:
        await asyncio.gather(*(each.aclose() for each in bench.handles), return_exceptions=True)
