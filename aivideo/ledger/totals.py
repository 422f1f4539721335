"""Credits of attempts, summed by what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import assert_never

from attrs import evolve, frozen

from aivideo.ledger.records import AttemptStatus, JobRecord


class Holding(Enum):
    """What becomes of an attempt's credits while it stands where it does."""

    NONE = "none"
    RESERVED = "reserved"
    CHARGED = "charged"
    UNKNOWN = "unknown"
    REFUNDED = "refunded"


def holding(status: AttemptStatus) -> Holding:
    """Say how an attempt's credits count: reserved, charged and unknown ones towards a ceiling."""
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
        unknown: of POSTs whose fate is not known, and of 500s and 503s.
        refunded: of tasks that failed.
    """

    charged: int = 0
    reserved: int = 0
    unknown: int = 0
    refunded: int = 0

    @property
    def held(self) -> int:
        """What counts towards a ceiling: all but what came back."""
        return self.charged + self.reserved + self.unknown

    def moved(self, amount: int, before: Holding, after: Holding) -> CreditTotals:
        """Move one attempt's credits, ``amount``, from one column to another."""
        return self.plus({before: -amount}).plus({after: amount})

    def plus(self, change: Mapping[Holding, int]) -> CreditTotals:
        """Add ``change``, column by column; what is held nowhere does not count."""
        columns = {
            column.value: getattr(self, column.value) + amount
            for column, amount in change.items()
            if column is not Holding.NONE
        }
        return evolve(self, **columns) if columns else self


def credits_moved(before: JobRecord | None, after: JobRecord) -> dict[Holding, int]:
    """Say by how much each column changes when ``before`` becomes ``after``."""
    change: dict[Holding, int] = {}
    for record, sign in ((before, -1), (after, 1)):
        for attempt in () if record is None else record.attempts:
            column = holding(attempt.status)
            change[column] = change.get(column, 0) + sign * (after.credits or 0)
    return {column: amount for column, amount in change.items() if amount}
