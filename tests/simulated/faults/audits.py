"""Whether the words of an audit are true."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aivideo.desk import Audit
from aivideo.ledger.audit import Reading
from aivideo.ledger.records import Attempt, AttemptStatus
from tests.simulated.faults.hardships import is_on

if TYPE_CHECKING:
    from tests.simulated.faults.laws import Laws

READ_WITHIN = 120.0
"""Seconds between the service's answer with its counters and the end of the ledger's write."""


SETTLED_AFTER = 15 * 60.0
"""Seconds after which a create that was sent is taken, or never will be."""


class Audits:
    """Checks findings against the service's true state.

    Args:
        laws: has the tasks of each content.
    """

    def __init__(self, laws: Laws) -> None:
        self._laws = laws
        self._times: dict[float, float] = {}

    def read(self, reading: Reading) -> None:
        """Note when a reading was stored."""
        self._times[reading.at] = self._laws.world.now()

    def check(self, audit: Audit) -> None:
        """Check that a conclusion holds wherever its assumption does."""
        laws, finding = self._laws, audit.finding
        since, now = self._times.get(finding.since.at), self._times.get(finding.now.at)
        reached = laws.world.reached
        reached[f"an audit concluded: {finding.conclusion}"] += 1
        if since is None or now is None:
            return
        text = " ".join(finding.lines).lower()
        assumes_nobody_else = any(word in text for word in ("nobody", "no one", "else"))
        if assumes_nobody_else and self._others_between(since - READ_WITHIN, now):
            return
        listed = {a.task_id for job in audit.in_doubt for a in job.attempts}
        doubtful = [
            attempt
            for job in audit.in_doubt
            for attempt in job.attempts
            if attempt.status in (AttemptStatus.UNKNOWN, AttemptStatus.FAULTED)
            and attempt.sent_at > finding.since.at
        ]
        if not is_on("audit") and self._says_too_much_today(finding.now.at, doubtful, now):
            return
        hidden = [
            task
            for content, tasks in laws.by_content.items()
            if not laws.is_unkept(content)
            for task in tasks
            if task.id not in listed
            and task.id not in laws.listed
            and since < task.created <= laws.world.now()
        ]
        charged = [task for task in hidden if not task.refunded or task.ends > now - READ_WITHIN]
        if finding.conclusion == "none charged" and charged:
            laws.fail(
                "audit",
                f"no POST in doubt is charged, it says, but {len(charged)} are: {text}",
            )
        if finding.conclusion == "all charged" and len(hidden) < len(doubtful):
            laws.fail(
                "audit",
                f"all {len(doubtful)} POSTs in doubt are charged, it says, but {len(hidden)} are",
            )

    def _says_too_much_today(self, read_at: float, doubtful: list[Attempt], now: float) -> bool:
        """Whether an audit is known to be wrong where others spend, or a create may be taken."""
        return (
            bool(self._laws.world.plan.late_creates)
            or self._others_between(0.0, now)
            or any(attempt.sent_at > read_at - SETTLED_AFTER for attempt in doubtful)
        )

    def _others_between(self, begin: float, end: float) -> bool:
        """Whether anybody else bought on the account, or got a refund, in an interval."""
        return any(
            begin <= at <= end
            for content, tasks in self._laws.by_content.items()
            if self._laws.is_unkept(content)
            for task in tasks
            for at in (task.created, *((task.ends,) if task.refunded else ()))
        )
