"""Credits of attempts, summed by what became of them; attempts without a known price, counted."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from itertools import zip_longest

from attrs import field, frozen

from aivideo import _amounts
from aivideo.ledger.records import AttemptStatus, JobRecord

NOTHING = Decimal(0)


class Holding(StrEnum):
    """What became of an attempt's credits: the column of :class:`CreditTotals` they count in."""

    NONE = "none"
    RESERVED = "reserved"
    CHARGED = "charged"
    UNKNOWN = "unknown"
    REFUNDED = "refunded"


_COLUMNS = {
    AttemptStatus.RELEASED: Holding.NONE,
    AttemptStatus.REFUSED: Holding.NONE,
    AttemptStatus.SUBMITTING: Holding.RESERVED,
    AttemptStatus.RUNNING: Holding.CHARGED,
    AttemptStatus.COMPLETED: Holding.CHARGED,
    AttemptStatus.FAULTED: Holding.UNKNOWN,
    AttemptStatus.UNKNOWN: Holding.UNKNOWN,
    AttemptStatus.FAILED: Holding.REFUNDED,
}


def holding(status: AttemptStatus) -> Holding:
    """Return the column in which an attempt's credits count."""
    return _COLUMNS[status]


@frozen(kw_only=True)
class CreditTotals:
    """Credits of all attempts of a ledger, a batch or a session, by what became of them.

    Attributes:
        charged: of tasks that were taken and have not failed.
        reserved: of POSTs on their way.
        unknown: of POSTs that may or may not have been charged, including those answered by 500
            or 503.
        refunded: of tasks that failed.
        unpriced: how many attempts without a known price are charged, reserved or unknown. Their
            credits are in none of the sums, so under a ceiling no more may be bought.
    """

    charged: Decimal = field(default=NOTHING, converter=_amounts.exact)
    reserved: Decimal = field(default=NOTHING, converter=_amounts.exact)
    unknown: Decimal = field(default=NOTHING, converter=_amounts.exact)
    refunded: Decimal = field(default=NOTHING, converter=_amounts.exact)
    unpriced: int = 0

    @property
    def held(self) -> Decimal:
        """The credits that count towards a ceiling: all but the refunded ones.

        If ``unpriced`` is not 0, more than these may be spent.
        """
        return _amounts.plain(self.charged + self.reserved + self.unknown)

    def moved(self, amount: Decimal, before: Holding, after: Holding) -> CreditTotals:
        """Return the totals after one attempt's ``amount`` moved from one column to another."""
        return self.plus({before: -amount, after: amount}) if before is not after else self

    def plus(self, change: Mapping[Holding, Decimal], unpriced: int = 0) -> CreditTotals:
        """Return the totals with ``change`` added, column by column. ``NONE`` is no column.

        Args:
            change: credits to add to each column.
            unpriced: the number to add to ``unpriced``.
        """
        charged, reserved = self.charged, self.reserved
        unknown, refunded = self.unknown, self.refunded
        for column, amount in change.items():
            # Written out: this runs several times for each POST.
            if column is Holding.CHARGED:
                charged = _amounts.plain(charged + amount)
            elif column is Holding.RESERVED:
                reserved = _amounts.plain(reserved + amount)
            elif column is Holding.UNKNOWN:
                unknown = _amounts.plain(unknown + amount)
            elif column is Holding.REFUNDED:
                refunded = _amounts.plain(refunded + amount)
        totals: CreditTotals = object.__new__(CreditTotals)  # without checking exact sums again
        for name, value in (
            ("charged", charged),
            ("reserved", reserved),
            ("unknown", unknown),
            ("refunded", refunded),
            ("unpriced", self.unpriced + unpriced),
        ):
            object.__setattr__(totals, name, value)
        return totals


HELD = frozenset((Holding.CHARGED, Holding.RESERVED, Holding.UNKNOWN))
"""The columns that count towards a ceiling."""


def holds_unpriced(job: JobRecord) -> int:
    """Return how many attempts of a job count in :attr:`CreditTotals.unpriced`."""
    return sum(each.credits is None and holding(each.status) in HELD for each in job.attempts)


def unpriced_moved(before: JobRecord | None, after: JobRecord) -> int:
    """Return by how much ``unpriced`` changes when ``before`` becomes ``after``."""
    return holds_unpriced(after) - (0 if before is None else holds_unpriced(before))


def credits_moved(before: JobRecord | None, after: JobRecord) -> dict[Holding, Decimal]:
    """Return by how much each column changes when ``before`` becomes ``after``.

    Each attempt counts with the amount reserved when it was claimed.
    """
    known = () if before is None else before.attempts
    change: dict[Holding, Decimal] = {}
    # Attempts are never removed, and keep their order.
    for was, now in zip_longest(known, after.attempts):
        if was is now:
            continue
        if was is not None and was.credits:
            column = holding(was.status)
            change[column] = change.get(column, NOTHING) - was.credits
        if now is not None and now.credits:
            column = holding(now.status)
            change[column] = change.get(column, NOTHING) + now.credits
    return {column: amount for column, amount in change.items() if amount}
