"""Ceilings: whether one create more may be paid.

Counted is what was charged, what is reserved for POSTs on their way, and what is of unknown fate:
all that may turn out to be spent. What came back, or was proved not taken, is free again.
"""

from __future__ import annotations

from aivideo.errors import BudgetExceededError


def admit(model: str, needed: int | None, *, held: int, ceiling: int | None) -> None:
    """Check that one create more fits under a ceiling.

    Args:
        model: what is to be POSTed.
        needed: its credits, as they will be counted once it is; None: not known.
        held: credits charged, reserved or unknown so far.
        ceiling: credits, or None: there is none.

    Raises:
        BudgetExceededError: its credits would pass the ceiling, or are not known under one.
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
