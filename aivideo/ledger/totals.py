"""Credits of attempts, summed by what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from itertools import zip_longest
from typing import assert_never

from attrs import evolve, field, frozen

from aivideo import _amounts
from aivideo.ledger.records import AttemptStatus, JobRecord

NOTHING = Decimal(0)

_exact = lru_cache(maxsize=1024, typed=True)(_amounts.exact)


def _sum(value: object) -> Decimal:
    return _exact(value)


class Holding(Enum):
    """What became of an attempt's credits: the column of :class:`CreditTotals` they count in."""

    NONE = "none"
    RESERVED = "reserved"
    CHARGED = "charged"
    UNKNOWN = "unknown"
    REFUNDED = "refunded"


def holding(status: AttemptStatus) -> Holding:
    """Return the column in which an attempt's credits count."""
    match status:
        case AttemptStatus.RELEASED | AttemptStatus.REFUSED:
            return Holding.NONE
        case AttemptStatus.SUBMITTING:
            return Holding.RESERVED
        case AttemptStatus.RUNNING | AttemptStatus.COMPLETED:
            return Holding.CHARGED
        case AttemptStatus.FAULTED | AttemptStatus.UNKNOWN:
            return Holding.UNKNOWN
        case AttemptStatus.FAILED:
            return Holding.REFUNDED
        case _:
            assert_never(status)


@frozen(kw_only=True)
class CreditTotals:
    """Credits of all attempts of a ledger, a batch or a session, by what became of them.

    Attributes:
        charged: of tasks that were taken and have not failed.
        reserved: of POSTs on their way.
        unknown: of POSTs that may or may not have been charged, including those answered by 500
            or 503.
        refunded: of tasks that failed.
    """

    charged: Decimal = field(default=NOTHING, converter=_sum)
    reserved: Decimal = field(default=NOTHING, converter=_sum)
    unknown: Decimal = field(default=NOTHING, converter=_sum)
    refunded: Decimal = field(default=NOTHING, converter=_sum)

    @property
    def held(self) -> Decimal:
        """The credits that count towards a ceiling: all but the refunded ones."""
        return _amounts.plain(self.charged + self.reserved + self.unknown)

    def moved(self, amount: Decimal, before: Holding, after: Holding) -> CreditTotals:
        """Return the totals after one attempt's ``amount`` moved from one column to another."""
        return self.plus({before: -amount}).plus({after: amount})

    def plus(self, change: Mapping[Holding, Decimal]) -> CreditTotals:
        """Return the totals with ``change`` added, column by column. ``NONE`` is no column."""
        columns = {
            column.value: getattr(self, column.value) + amount
            for column, amount in change.items()
            if column is not Holding.NONE
        }
        return evolve(self, **columns) if columns else self


def credits_moved(before: JobRecord | None, after: JobRecord) -> dict[Holding, Decimal]:
    """Return by how much each column changes when ``before`` becomes ``after``.

    Each attempt counts with the amount reserved when it was claimed.
    """
    change: dict[Holding, Decimal] = {}
    known = () if before is None else before.attempts
    # Attempts are never removed, and keep their order.
    for was, now in zip_longest(known, after.attempts):
        if was is now:
            continue
        for attempt, sign in ((was, -1), (now, 1)):
            if attempt is not None and attempt.credits is not None:
                column = holding(attempt.status)
                change[column] = change.get(column, NOTHING) + sign * attempt.credits
    return {column: amount for column, amount in change.items() if amount}
