"""Where jobs are recorded before and after each step that matters.

:class:`Ledger` is a Protocol. :class:`~aivideo.ledger.memory.MemoryLedger` never pays twice while
the process lives, and is lost with it. :class:`~aivideo.ledger.sqlite.SqliteLedger` keeps the same
promises across crashes, for all processes of one machine. Both pass
:func:`aivideo.testing.check_ledger`, which a ledger of your own should pass too.

What every ledger promises:

* Each call is durable when it returns, and is atomic.
* :meth:`Ledger.claim` is a compare-and-set: of any number of callers, in any number of processes,
  exactly one gets the job.
* A claim is a lease. A claim that its owner has not ended in time, or whose owner is known to be
  dead, is found by :meth:`Ledger.lapse` and becomes ``unknown``, never ``planned`` again. Its owner
  may still record the answer later. A session sends nothing under a claim that is about to lapse.
* :func:`aivideo.ledger.transitions.apply` decides which event may follow which status, and
  :func:`aivideo.ledger.budget.admit` what may be spent: both are the same for all ledgers.
"""

from __future__ import annotations

from aivideo.ledger.protocol import Ledger

__all__ = ["Ledger"]
