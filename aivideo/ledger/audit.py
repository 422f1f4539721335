"""What the account's counter tells about POSTs in doubt, and what it cannot tell.

``GET /v1/credits`` reports ``total_consumed``. There is no other evidence: the service has no list
of tasks. A ledger stores a :class:`Reading` each time it learns that number, together with its own
totals at that moment. Between two readings the counter grew by what this ledger bought and by those
of its POSTs in doubt that were charged.

It is not documented whether a refund lowers ``total_consumed``. Both answers are considered, and a
conclusion is drawn only if it holds under both. These are considered as well:

* A task of this ledger may have failed, and have been refunded, before the ledger learns of it.
* The service may take a create long after we have stopped waiting for its answer. So a reading says
  nothing about a POST that is younger than :data:`SETTLING_TIME`.
* The credits of an attempt without a known price may be any number.

Whoever else uses the account cannot be seen: their charges raise the counter, and their refunds may
lower it by as much as a POST in doubt has raised it. So each conclusion about POSTs in doubt holds
under one assumption only, :data:`ASSUMPTION`, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


SETTLING_TIME = 900.0
"""Seconds after which a POST in doubt is assumed to be on the counter, if it was taken at all."""

ASSUMPTION = "if nobody else spends on, or is refunded on, this account"
"""What every conclusion about POSTs in doubt takes for granted."""


@frozen
class Doubt:
    """A POST of which it is not known whether it was charged.

    Attributes:
        sent_at: Unix seconds, by our clock.
        credits: the amount that was reserved for it; None: its price is not known.
    """

    sent_at: float
    credits: Decimal | None


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
        unknown: of POSTs in doubt since the earlier reading, as far as their prices are known.
        hypotheses: those that the figures do not contradict.
        conclusion: "clean", "none charged", "all charged", "some charged", "too much", "too little"
            or, where nothing can be concluded, "too early", "unpriced", "blurred" or "open".
        assumption: the assumption under which the conclusion holds (:data:`ASSUMPTION`), or None
            where nothing is concluded about POSTs in doubt.
        ask_again_at: Unix seconds from which a new reading can tell more, if the conclusion is
            "too early"; otherwise None.
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
    assumption: str | None = None
    ask_again_at: float | None = None
    lines: tuple[str, ...] = field(repr=False)


def conclude(
    since: Reading,
    now: Reading,
    *,
    doubts: Sequence[Doubt],
    refunds_unseen: Decimal = Decimal(0),
    unpriced: int = 0,
) -> Finding:
    """Compare two readings.

    Args:
        since: the earlier one.
        now: the later one.
        doubts: all POSTs in doubt, also those from before ``since``.
        refunds_unseen: credits of tasks that may have failed before the later reading without the
            ledger knowing it then: those that it believed to run.
        unpriced: how many attempts without a known price, besides those in ``doubts``, may have
            moved the counter in between.
    """
    grown = plain(now.account.total_consumed - since.account.total_consumed)
    charged = now.ledger.charged - since.ledger.charged
    refunded = plain(now.ledger.refunded - since.ledger.refunded)
    bought = plain(charged + refunded)
    prices = [each.credits or _NOTHING for each in doubts if each.sent_at >= since.at]
    # The earlier reading may include up to ``early`` credits that the ledger learned of later, or
    # that were refunded later. The later one may include up to ``late`` credits of POSTs that were
    # on their way then, that were in doubt then and are settled now, or that were in doubt at the
    # earlier reading and were taken after it.
    early = since.ledger.reserved + since.ledger.unknown
    late = max(_NOTHING, now.ledger.reserved + now.ledger.unknown - _sum(doubts))
    late += _sum(each for each in doubts if 0 < since.at - each.sent_at < SETTLING_TIME)
    seen = Hypothesis(refunds_lower=False, known=bought, rest=plain(grown - bought))
    lowered = Hypothesis(refunds_lower=True, known=plain(charged), rest=plain(grown - charged))
    spans = [(seen, _Span(seen.rest - late, seen.rest + early))]
    unseen = refunds_unseen if prices else _NOTHING  # "clean" speaks of known refunds only
    if refunded or unseen:
        # Some of these refunds may have lowered the counter before the earlier reading, and tasks
        # that are believed to run may have lowered it since.
        before = min(refunded, since.ledger.held)
        low, high = lowered.rest - before - late, lowered.rest + early + unseen
        spans.append((lowered, _Span(low, high)))
    standing = [(each, span.above_zero()) for each, span in spans if span.high >= 0]
    hypotheses = tuple(each for each, _ in standing)
    last = max((each.sent_at for each in doubts), default=None)
    ask_again_at = None
    lines: tuple[str, ...] = ()
    if last is not None and now.at < last + SETTLING_TIME:
        conclusion, ask_again_at = "too early", last + SETTLING_TIME
    elif (
        unpriced
        or now.ledger.unpriced != since.ledger.unpriced
        or any(each.credits is None for each in doubts)
    ):
        conclusion = "unpriced"
    else:
        conclusion = _conclusion(
            [span for _, span in standing], prices, blurred=bool(early or late or unseen)
        )
        lines = _how_many([span for _, span in standing], prices, conclusion)
    return Finding(
        since=since,
        now=now,
        grown=grown,
        bought=bought,
        refunded=refunded,
        unknown=plain(sum(prices, _NOTHING)),
        hypotheses=hypotheses,
        conclusion=conclusion,
        assumption=ASSUMPTION if conclusion in _ASSUMING else None,
        ask_again_at=ask_again_at,
        lines=lines or _LINES[conclusion],
    )


_NOTHING = Decimal(0)


def _sum(doubts: Iterable[Doubt]) -> Decimal:
    return sum((each.credits or _NOTHING for each in doubts), _NOTHING)


@frozen
class _Span:
    """The least and the most credits by which POSTs in doubt may have raised the counter."""

    low: Decimal
    high: Decimal

    def above_zero(self) -> _Span:
        return _Span(max(_NOTHING, self.low), self.high)


def _how_many(
    standing: Sequence[_Span], prices: Sequence[Decimal], conclusion: str
) -> tuple[str, ...]:
    """Say how many POSTs are charged, if all have one price and the rest is a multiple of it."""
    if conclusion != "some charged" or len({*prices}) != 1:
        return ()
    rests = {rest for span in standing for rest in (span.low, span.high)}
    if len(rests) != 1:
        return ()
    taken, over = divmod(rests.pop(), prices[0])
    if over:
        return ()
    are = "is" if taken == 1 else "are"
    count = f"{taken} of the {len(prices)} POSTs of unknown outcome {are} charged"
    return (f"{count}, {ASSUMPTION}.", _WHICH)


def _conclusion(standing: Sequence[_Span], prices: Sequence[Decimal], *, blurred: bool) -> str:
    """Return what all hypotheses imply; "blurred" or "open" if they do not agree."""
    if not standing:
        return "too little"
    # In between the two ends of a span nothing else is implied than at one of them.
    implied = {_of_one(rest, prices) for span in standing for rest in (span.low, span.high)}
    if len(implied) == 1:
        return implied.pop()
    return "blurred" if blurred else "open"


def _of_one(rest: Decimal, prices: Sequence[Decimal]) -> str:
    unknown = sum(prices, _NOTHING)
    if not prices:
        return "clean" if rest == 0 else "too much"
    if rest < min(prices):
        return "none charged"
    if rest == unknown:
        return "all charged"
    return "some charged" if rest < unknown else "too much"


_ASSUMING = ("none charged", "some charged", "all charged")
_WHICH = "Which, the counter cannot tell: look at the dashboard."
_LINES: dict[str, tuple[str, ...]] = {
    "clean": ("The counter grew by just what this ledger bought; nothing is unknown.",),
    "none charged": (
        "No POST of unknown outcome is charged,",
        f"{ASSUMPTION}:",
        "the counter has not grown by even the cheapest. Each was not taken, or its task has",
        "failed and was refunded. If you are not sure of the assumption, look at the dashboard.",
    ),
    "all charged": (
        "All POSTs of unknown outcome were taken,",
        f"{ASSUMPTION}:",
        "the counter grew by just their credits.",
        "Find their tasks on the dashboard, and settle each job with its task.",
    ),
    "some charged": (
        "Some POSTs of unknown outcome were taken,",
        f"{ASSUMPTION}:",
        "the counter grew by more than is known, and by less than all of them would cost.",
        _WHICH,
    ),
    "too much": (
        "The counter grew by more than this ledger knows of, unknown POSTs included:",
        "somebody else spends on this account, or prices are higher than recorded.",
        "So it says nothing about the unknown ones.",
    ),
    "too little": (
        "The counter grew by less than this ledger was charged: these readings are of another",
        "account, or tasks were refunded that this ledger does not know of, or the counter is not",
        "what it seems to be. Nothing can be concluded.",
    ),
    "too early": (
        "It is too early to conclude anything: the service may take a create long after our",
        "request has timed out. Ask again when the last POST of unknown outcome is",
        f"{SETTLING_TIME / 60:.0f} minutes old.",
    ),
    "unpriced": (
        "The prices of some POSTs are not known, so nothing can be concluded from the counter:",
        "look at the dashboard.",
    ),
    "blurred": (
        "POSTs were under way, or of unknown outcome, or tasks were running that may have been",
        "refunded, when the account's counter was read. So nothing can be concluded from these",
        "readings. Ask again when the running tasks have ended.",
    ),
    "open": (
        "Tasks failed meanwhile, and it is not documented whether a refund lowers the counter:",
        "the two readings of it disagree, so nothing can be concluded.",
    ),
}
