"""Desk: what a person does with the jobs of a ledger, as an API.

The ``aivideo jobs`` commands print what a :class:`Desk` returns; a web page or a handler calls the
same methods. A desk changes ledger records only and never sends a create: jobs that it marks to be
sent again are sent by the next run of their batch, or when their key is submitted again.
"""

from __future__ import annotations

from aivideo.desk.desk import BY_URGENCY, AccountSource, Desk
from aivideo.desk.results import (
    Audit,
    Cancellation,
    DeskError,
    FaultedJobs,
    JobList,
    Refusal,
    Retry,
)

__all__ = [
    "BY_URGENCY",
    "AccountSource",
    "Audit",
    "Cancellation",
    "Desk",
    "DeskError",
    "FaultedJobs",
    "JobList",
    "Refusal",
    "Retry",
]
