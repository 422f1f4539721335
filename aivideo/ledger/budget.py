"""Ceilings: whether one more create may be paid.

Charged, reserved and unknown credits count towards a ceiling: all that may turn out to be spent.
Refunded credits, and those of POSTs that were proved not taken, are free again.

An attempt whose price is not known may have cost any amount. While one is charged, reserved or
unknown, nobody knows how much is left under a ceiling, so nothing more may be bought. A refund or
a proof that it was not taken ends that.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from aivideo.errors import BudgetExceededError

NAMED = 3
"""How many jobs of unknown price an error names."""


def admit(
    model: str,
    needed: Decimal | None,
    *,
    held: Decimal,
    ceiling: Decimal | None,
    unpriced: int = 0,
    unpriced_jobs: Sequence[str] = (),
) -> None:
    """Check that one more create fits under a ceiling.

    Args:
        model: the model of the request to be POSTed.
        needed: its price in credits; None: not known.
        held: credits charged, reserved or unknown so far.
        ceiling: the most that ``held`` may become, in credits; None: there is no ceiling.
        unpriced: how many attempts so far, without a known price, are charged, reserved or unknown.
        unpriced_jobs: the ids of jobs with such attempts, for the error: the first ``NAMED``.

    Raises:
        BudgetExceededError: its price would pass the ceiling, or is not known under one; or what
            was spent so far is not known.
    """
    if ceiling is None:
        return
    if needed is None:
        raise BudgetExceededError(
            f"max_credits={ceiling}, and the price of a {model} request is not known; "
            "state it: Generation(..., credits=N)",
            needed=None,
            held=held,
            ceiling=ceiling,
        )
    if unpriced:
        raise BudgetExceededError(
            f"max_credits={ceiling}, and {unpriced} {'POST' if unpriced == 1 else 'POSTs'} of "
            f"unknown price may have been charged any amount{_named(unpriced_jobs, unpriced)}: "
            "nothing more is bought under a ceiling, and nothing was sent; settle those whose "
            'outcome is unknown, or lift the ceiling (of a batch: max_credits="none"); later, '
            "state prices: Generation(..., credits=N)",
            needed=needed,
            held=held,
            ceiling=ceiling,
            unpriced=unpriced,
            unpriced_jobs=unpriced_jobs[:NAMED],
        )
    if held + needed > ceiling:
        raise BudgetExceededError(
            f"{needed} credits more would pass max_credits={ceiling}: {held} are charged, "
            "reserved or unknown; nothing was sent",
            needed=needed,
            held=held,
            ceiling=ceiling,
        )


def _named(jobs: Sequence[str], count: int) -> str:
    if not jobs:
        return ""
    named = jobs[:NAMED]
    more = ", …" if count > len(named) else ""
    return f" ({'job' if count == 1 else 'jobs'} {', '.join(named)}{more})"
