"""Whether the words of an audit are true."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aivideo.desk import Audit
from aivideo.ledger.audit import Reading

if TYPE_CHECKING:
    from tests.simulated.faults.laws import Laws
    from tests.simulated.faults.process import Post

READ_WITHIN = 120.0
"""Seconds between the service's answer with its counters and the end of the ledger's write."""


class Audits:
    """Checks findings against the service's true state.

    Args:
        laws: has the tasks of each content.
    """

    def __init__(self, laws: Laws) -> None:
        self._laws = laws
        self._times: dict[float, float] = {}
        self._said_untaken: set[tuple[str, int]] = set()

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
        doubtful = [
            (job.id, attempt)
            for job in audit.in_doubt
            for attempt in job.attempts
            if attempt.status.is_in_doubt and attempt.sent_at > finding.since.at
        ]
        posts = {(job_id, attempt.number) for job_id, attempt in doubtful}
        tasks = [
            task
            for task_id, task in laws.world.service.truth.tasks.items()
            if laws.post_of_task[task_id].name in posts
        ]
        charged = [task for task in tasks if not task.refunded or task.ends > now]
        if finding.conclusion == "none charged":
            self._said_untaken |= posts
            if charged:
                laws.fail("audit", f"{len(charged)} POSTs in doubt are charged. It says: {text}")
        if finding.conclusion == "all charged" and len(tasks) < len(doubtful):
            laws.fail(
                "audit",
                f"{len(tasks)} of {len(doubtful)} POSTs in doubt were taken. It says: {text}",
            )

    def taken(self, post: Post) -> None:
        """Check that no audit has said of a POST that is taken now that it is not charged."""
        if post.name in self._said_untaken:
            self._laws.fail("audit", f"{post.content!r} is taken after an audit said it was not")

    def _others_between(self, begin: float, end: float) -> bool:
        """Whether anybody else bought on the account, or got a refund, in an interval."""
        return any(
            begin <= at <= end
            for content, tasks in self._laws.by_content.items()
            if self._laws.is_unkept(content)
            for task in tasks
            for at in (task.created, *((task.ends,) if task.refunded else ()))
        )
