"""What the account's counter says about POSTs of unknown fate, and what it cannot say.

``GET /v1/credits`` tells ``total_consumed``, and that is all the evidence there is: the service has
no list of tasks. A ledger keeps a :class:`Reading` each time it hears that number, with what it
knew itself at that moment. Between two readings the counter grew by what this ledger bought, by
what its unknown POSTs turn out to have bought, and by what anybody else bought on the account.

Two things nobody documents, so both are carried to the end: whether a refund lowers
``total_consumed``, and whether somebody else uses the account. What is concluded is what holds
under each reading of the first; the second can only add, so a growth that is too small for an
unknown POST proves that it is not charged (not taken; or taken, failed and refunded).
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import field, frozen

from aivideo.ledger.totals import CreditTotals
from aivideo.models import Credits


@frozen
class Reading:
    """The account's counters at a moment, and the ledger's own sums then.

    Attributes:
        at: Unix seconds, by our clock.
        account: what the service said.
        ledger: what the ledger knew.
    """

    at: float
    account: Credits
    ledger: CreditTotals


@frozen(kw_only=True)
class Hypothesis:
    """What the counter says if a refund does, or does not, lower it.

    Attributes:
        refunds_lower: which of the two.
        known: credits by which the counter must have grown for what is known.
        rest: what it grew by beyond that; negative: this is not how the counter works.
    """

    refunds_lower: bool
    known: int
    rest: int


@frozen(kw_only=True)
class Finding:
    """What an audit concludes.

    Attributes:
        since: the earlier reading.
        now: the later one.
        grown: by how much ``total_consumed`` grew.
        bought: credits this ledger knows it was charged in between.
        refunded: credits of tasks that failed in between.
        unknown: credits of unknown fate, of POSTs since the earlier reading.
        hypotheses: those that the figures leave standing.
        conclusion: "clean", "none charged", "all charged", "some charged", "too much", "too little"
            or, where nothing can be concluded, "blurred" or "open".
        lines: the same in words, for a person.
    """

    since: Reading
    now: Reading
    grown: int
    bought: int
    refunded: int
    unknown: int
    hypotheses: tuple[Hypothesis, ...]
    conclusion: str
    lines: tuple[str, ...] = field(repr=False)


def conclude(since: Reading, now: Reading, *, prices: Sequence[int]) -> Finding:
    """Compare two readings.

    Args:
        since: the earlier one.
        now: the later one.
        prices: credits of each attempt of unknown fate that was POSTed between the two.
    """
    grown = now.account.total_consumed - since.account.total_consumed
    bought = (now.ledger.charged + now.ledger.refunded) - (
        since.ledger.charged + since.ledger.refunded
    )
    refunded = now.ledger.refunded - since.ledger.refunded
    unknown = sum(prices)
    both = [
        Hypothesis(refunds_lower=lower, known=known, rest=grown - known)
        for lower, known in ((False, bought), (True, bought - refunded))
    ]
    early = since.ledger.reserved + since.ledger.unknown
    standing = tuple(each for each in both if each.rest + early >= 0)
    if refunded == 0:
        standing = standing[:1]  # the two are one
    late = now.ledger.reserved
    conclusion = _conclusion(standing, prices, early=early, late=late)
    how_many = () if early or late else _how_many(standing, prices, conclusion)
    return Finding(
        since=since,
        now=now,
        grown=grown,
        bought=bought,
        refunded=refunded,
        unknown=unknown,
        hypotheses=standing,
        conclusion=conclusion,
        lines=how_many or _LINES[conclusion],
    )


def _how_many(
    standing: Sequence[Hypothesis], prices: Sequence[int], conclusion: str
) -> tuple[str, ...]:
    """Say how many are charged, where each costs the same and the rest is so many of them."""
    if conclusion != "some charged" or len(standing) != 1 or len({*prices}) != 1:
        return ()
    taken, over = divmod(standing[0].rest, prices[0])
    if over:
        return ()
    are = "is" if taken == 1 else "are"
    count = f"{taken} of the {len(prices)} POSTs of unknown fate {are} charged"
    return (f"{count}, if nobody else spends on this account.", _WHICH)


def _conclusion(
    standing: tuple[Hypothesis, ...], prices: Sequence[int], *, early: int, late: int
) -> str:
    """Conclude what all say, each with up to ``early`` more to explain, or ``late`` less."""
    if not standing:
        return "too little"
    said = [
        {_of_one(each.rest + early, prices), _of_one(max(0, each.rest - late), prices)}
        for each in standing
    ]
    every = set[str]().union(*said)
    if len(every) == 1:
        return every.pop()
    return "open" if all(len(each) == 1 for each in said) else "blurred"


def _of_one(rest: int, prices: Sequence[int]) -> str:
    unknown = sum(prices)
    if not prices:
        return "clean" if rest == 0 else "too much"
    if rest < min(prices):
        return "none charged"  # others can only add: there is no room for even the cheapest
    if rest == unknown:
        return "all charged"
    return "some charged" if rest < unknown else "too much"


_WHICH = "Which, the counter cannot tell: look at the dashboard."
_OTHERS = "That holds if nobody else spends on this account."
_LINES: dict[str, tuple[str, ...]] = {
    "clean": ("The counter grew by just what this ledger bought; nothing is unknown.",),
    "none charged": (
        "No POST of unknown fate is charged: the counter has not grown by even the cheapest.",
        "Each was not taken, or its task has failed and was refunded: --not-taken is safe to say.",
    ),
    "all charged": (
        "All POSTs of unknown fate were taken: the counter grew by just their credits.",
        _OTHERS,
        "Find their tasks on the dashboard: --task-id.",
    ),
    "some charged": (
        "The counter grew by more than is known, and by less than all unknown POSTs would cost:",
        "some were taken, or somebody else spends on this account.",
        _WHICH,
    ),
    "too much": (
        "The counter grew by more than this ledger knows of, unknown POSTs included:",
        "somebody else spends on this account, so it says nothing about the unknown ones.",
    ),
    "too little": (
        "The counter grew by less than this ledger was charged: these readings are of another",
        "account, or the counter is not what it seems to be. Nothing can be concluded.",
    ),
    "blurred": (
        "POSTs were on their way, or of unknown fate, when the account's counter was read: it may",
        "have counted them already or not, so nothing can be concluded from these readings.",
    ),
    "open": (
        "Tasks failed meanwhile, and it is not documented whether a refund lowers the counter:",
        "the two readings of it disagree, so nothing can be concluded.",
    ),
}
