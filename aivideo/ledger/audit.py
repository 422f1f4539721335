"""What the account's counter proves about POSTs in doubt, and what it cannot prove.

``GET /v1/credits`` reports ``total_consumed``. There is no other evidence: the service has no list
of tasks. A ledger stores a :class:`Reading` each time it learns that number, together with its own
totals at that moment. Between two readings the counter grew by what this ledger bought, by those of
its POSTs in doubt that were charged, and by what anybody else bought on the account.

Two things are not documented, and both are considered: whether a refund lowers ``total_consumed``,
and whether somebody else uses the account. A conclusion is drawn only if it holds under both
answers to the first. The second can only add to the counter, so a growth smaller than the price of
a POST in doubt proves that this POST is not charged (not taken; or taken, failed and refunded).
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from attrs import field, frozen

from aivideo._amounts import plain
from aivideo.ledger.totals import CreditTotals
from aivideo.models import Credits


@frozen
class Reading:
    """The account's counters at one moment, and the ledger's own totals then.

    Attributes:
        at: Unix seconds, by our clock.
        account: what the service reported.
        ledger: the totals of all jobs in the ledger.
    """

    at: float
    account: Credits
    ledger: CreditTotals


@frozen(kw_only=True)
class Hypothesis:
    """What the counter implies if a refund lowers it, or does not.

    Attributes:
        refunds_lower: whether a refund lowers the counter.
        known: credits by which the known charges and refunds moved the counter.
        rest: its growth beyond that; negative: the counter does not work this way.
    """

    refunds_lower: bool
    known: Decimal
    rest: Decimal


@frozen(kw_only=True)
class Finding:
    """The conclusion of an audit. Amounts are credits.

    Attributes:
        since: the earlier reading.
        now: the later one.
        grown: the growth of ``total_consumed``.
        bought: charged to this ledger in between, as far as it knows.
        refunded: of tasks that failed in between.
        unknown: of POSTs in doubt since the earlier reading.
        hypotheses: those that the figures do not contradict.
        conclusion: "clean", "none charged", "all charged", "some charged", "too much", "too little"
            or, where nothing can be concluded, "blurred" or "open".
        lines: the conclusion in words, for display.
    """

    since: Reading
    now: Reading
    grown: Decimal
    bought: Decimal
    refunded: Decimal
    unknown: Decimal
    hypotheses: tuple[Hypothesis, ...]
    conclusion: str
    lines: tuple[str, ...] = field(repr=False)


def conclude(since: Reading, now: Reading, *, prices: Sequence[Decimal]) -> Finding:
    """Compare two readings.

    Args:
        since: the earlier one.
        now: the later one.
        prices: credits reserved for each attempt in doubt that was POSTed between the two.
    """
    grown = plain(now.account.total_consumed - since.account.total_consumed)
    charged = now.ledger.charged - since.ledger.charged
    refunded = plain(now.ledger.refunded - since.ledger.refunded)
    bought = plain(charged + refunded)
    unknown = plain(sum(prices, Decimal(0)))
    both = [
        Hypothesis(refunds_lower=lower, known=plain(known), rest=plain(grown - known))
        for lower, known in ((False, bought), (True, bought - refunded))
    ]
    early = since.ledger.reserved + since.ledger.unknown
    standing = tuple(each for each in both if each.rest + early >= 0)
    if refunded == 0:
        standing = standing[:1]  # both are the same
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
    standing: Sequence[Hypothesis], prices: Sequence[Decimal], conclusion: str
) -> tuple[str, ...]:
    """Say how many POSTs are charged, if all have one price and the rest is a multiple of it."""
    if conclusion != "some charged" or len(standing) != 1 or len({*prices}) != 1:
        return ()
    taken, over = divmod(standing[0].rest, prices[0])
    if over:
        return ()
    are = "is" if taken == 1 else "are"
    count = f"{taken} of the {len(prices)} POSTs of unknown outcome {are} charged"
    return (f"{count}, if nobody else spends on this account.", _WHICH)


def _conclusion(
    standing: tuple[Hypothesis, ...], prices: Sequence[Decimal], *, early: Decimal, late: Decimal
) -> str:
    """Return what all hypotheses imply.

    The earlier reading may have been taken before up to ``early`` credits reached the counter, and
    the later one may include up to ``late`` credits of POSTs that were still on their way.
    """
    if not standing:
        return "too little"
    said = [
        {_of_one(each.rest + early, prices), _of_one(max(Decimal(0), each.rest - late), prices)}
        for each in standing
    ]
    every = set[str]().union(*said)
    if len(every) == 1:
        return every.pop()
    return "open" if all(len(each) == 1 for each in said) else "blurred"


def _of_one(rest: Decimal, prices: Sequence[Decimal]) -> str:
    unknown = sum(prices, Decimal(0))
    if not prices:
        return "clean" if rest == 0 else "too much"
    if rest < min(prices):
        return "none charged"  # others can only add, and it is less than the lowest price
    if rest == unknown:
        return "all charged"
    return "some charged" if rest < unknown else "too much"


_WHICH = "Which, the counter cannot tell: look at the dashboard."
_OTHERS = "That holds if nobody else spends on this account."
_LINES: dict[str, tuple[str, ...]] = {
    "clean": ("The counter grew by just what this ledger bought; nothing is unknown.",),
    "none charged": (
        "No POST of unknown outcome is charged: the counter has not grown by even the cheapest.",
        "Each was not taken, or its task has failed and was refunded: --not-taken is safe to say.",
    ),
    "all charged": (
        "All POSTs of unknown outcome were taken: the counter grew by just their credits.",
        _OTHERS,
        "Find their tasks on the dashboard, and settle each job with its task.",
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
        "POSTs were under way, or of unknown outcome, when the account's counter was read: it may",
        "have counted them already or not, so nothing can be concluded from these readings.",
    ),
    "open": (
        "Tasks failed meanwhile, and it is not documented whether a refund lowers the counter:",
        "the two readings of it disagree, so nothing can be concluded.",
    ),
}
