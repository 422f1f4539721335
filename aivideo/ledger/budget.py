"""Ceilings: whether one more create may be paid.

Charged, reserved and unknown credits count towards a ceiling: all that may turn out to be spent.
Refunded credits, and those of POSTs that were proved not taken, are free again.
"""

from __future__ import annotations

from decimal import Decimal

from aivideo.errors import BudgetExceededError


def admit(model: str, needed: Decimal | None, *, held: Decimal, ceiling: Decimal | None) -> None:
    """Check that one more create fits under a ceiling.

    Args:
        model: the model of the request to be POSTed.
        needed: its price in credits; None: not known.
        held: credits charged, reserved or unknown so far.
        ceiling: the most that ``held`` may become, in credits; None: there is no ceiling.

    Raises:
        BudgetExceededError: its price would pass the ceiling, or is not known under one.
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
    if held + needed > ceiling:
        raise BudgetExceededError(
            f"{needed} credits more would pass max_credits={ceiling}: {held} are charged, "
            "reserved or unknown; nothing was sent",
            needed=needed,
            held=held,
            ceiling=ceiling,
        )
