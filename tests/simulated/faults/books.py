"""The books at the end: the ledger compared with the simulated service's true state."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from aivideo.simulator import TaskRecord
from tests.simulated.faults.content import content_of, content_of_task
from tests.simulated.faults.plan import KEY

if TYPE_CHECKING:
    from tests.simulated.faults.laws import Laws

ENDED_WITHOUT_FILE = ("failed", "refused", "unknown", "faulted")
"""Final statuses, other than saved, that are allowed when a completed task's file must be saved."""

NEVER_SENT = ("withdrawn", "refused", "planned")


class Books:
    """Checks the ledger of a simulation that has ended.

    Args:
        laws: what was seen while it ran.
    """

    def __init__(self, laws: Laws) -> None:
        self.laws = laws
        self.world = laws.world
        self.fail = laws.fail

    def check(self) -> None:
        """Compare the ledger with the simulator's true state, after everything has ended."""
        world = self.world
        path = world.ledger
        connection = sqlite3.connect(path)
        try:
            (integrity,) = connection.execute("PRAGMA integrity_check").fetchone()
            if integrity != "ok":
                self.fail("ledger file", f"integrity_check: {integrity}")
            rows = connection.execute(
                "SELECT seq, id, batch, key, input, "
                "credits_millionths / 1e6, status, path, size FROM jobs"
            ).fetchall()
            attempts = connection.execute(
                "SELECT job, number, status, task_id FROM attempts ORDER BY job, number"
            ).fetchall()
            totals = connection.execute(
                "SELECT batch, charged / 1e6, reserved / 1e6, unknown / 1e6, refunded / 1e6 "
                "FROM credit_totals"
            ).fetchall()
        finally:
            connection.close()
        self._check_secrets()
        jobs: list[tuple[Any, ...]] = [
            (*row[:4], content_of(orjson.loads(row[4])), row[5] or 0, *row[6:]) for row in rows
        ]
        of_job: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
        for attempt in attempts:
            of_job[attempt[0]].append(attempt[1:])
        self._check_totals(jobs, of_job, totals)
        known = {job[4] for job in jobs}
        sent = Counter(job[4] for job in jobs if job[6] not in NEVER_SENT)
        for content, number in sent.items():
            if number > self.laws.asked[content]:
                self.fail("law 8", f"{content!r} has {number} jobs")
        for content, tasks in self.laws.by_content.items():
            excused = self.laws.is_unkept(content) or self.laws.wrongly_settled
            if tasks and content not in known and not excused:
                self.fail("no task lost", f"{content!r} was taken, but has no job")
        for content, number in self.world.manifest.contents().items():
            if sent[content] < number:
                self.fail("no task lost", f"{content!r} is wanted {number} times, and was not sent")
        self._check_tasks(jobs, of_job)
        for job in jobs:
            self._check_job(job, of_job[job[0]])
        self._check_credits(jobs, of_job)

    def _check_tasks(self, jobs: list[Any], of_job: dict[int, list[tuple[Any, ...]]]) -> None:
        """Check that each task is listed by a job of its content, or counted there as unknown."""
        listed = {a[2]: a[1] for attempts in of_job.values() for a in attempts if a[2] is not None}
        doubts: Counter[str] = Counter()
        for job in jobs:
            doubts[job[4]] += sum(
                a[1] in ("unknown", "faulted", "submitting") for a in of_job[job[0]]
            )
        for content, truth in self.laws.by_content.items():
            if self.laws.is_unkept(content):
                continue
            unlisted = [task for task in truth if task.id not in listed]
            if len(unlisted) > doubts[content] and not self.laws.wrongly_settled:
                self.fail(
                    "no task lost",
                    f"{content!r} was taken as {[t.id[:8] for t in unlisted]}, but its jobs have "
                    f"{doubts[content]} attempts in doubt",
                )
            for task in unlisted:
                if task.id in self.world.delivered and not self._may_be_deaf(content):
                    self.fail("law 4", f"{content!r}: the callback of {task.id[:8]} had no effect")

    def _may_be_deaf(self, content: str) -> bool:
        """Whether a callback may have had no effect: after a manual change, or a clock's jump."""
        return content in self.world.changed_manually or any(
            post.content == content and post.process.has_other_clock for post in self.laws.posts
        )

    def _check_job(self, job: tuple[Any, ...], attempts: list[tuple[Any, ...]]) -> None:
        """Check the final status of a job, and of each of its tasks."""
        _, _, _, _, content, _, status, path, size = job
        truth = {task.id: task for task in self.laws.by_content[content]}
        for _, listed_status, task_id in attempts:
            if task_id is None:
                continue
            if task_id not in truth:
                self.fail("true results", f"{content!r}: task {task_id} is of another content")
                continue
            task = truth[task_id]
            # A task that ended while the job had a newer task may still be listed as running.
            running = listed_status == "running" and (not task.over or len(attempts) > 1)
            if listed_status != task.outcome and not (running or self._has_left(content)):
                self.fail(
                    "no task lost",
                    f"{content!r}: task {task_id[:8]} is {task.outcome}, listed as {listed_status}",
                )
        if status == "submitting":
            self.fail("law 4", f"{content!r} is still submitting, but no process is")
        if status == "saved":
            done = [a[2] for a in attempts if a[1] == "completed"]
            complete = self.laws.is_complete
            if size is None or not any(complete(task_id, Path(path)) for task_id in done):
                self.fail(
                    "complete files", f"{content!r} is saved as {path}, but the file is incomplete"
                )
        elif self.world.must_be_saved(content, status) and status not in ENDED_WITHOUT_FILE:
            self.fail("no task lost", f"{content!r} ends as {status}")

    def _has_left(self, content: str) -> bool:
        """Whether nobody has asked for a content again, so that nobody looks at its task."""
        return "loose" in content and not self.world.resumes_at_end

    def _check_totals(
        self, jobs: list[Any], of_job: dict[int, list[tuple[Any, ...]]], totals: list[Any]
    ) -> None:
        columns = ("charged", "reserved", "unknown", "refunded")
        sums: dict[str, Counter[str]] = defaultdict(Counter)
        for job in jobs:
            for _, status, _ in of_job[job[0]]:
                column = {
                    "submitting": "reserved",
                    "running": "charged",
                    "completed": "charged",
                    "unknown": "unknown",
                    "faulted": "unknown",
                    "failed": "refunded",
                }.get(status)
                if column:
                    sums[job[2]][column] += job[5]
        for batch, *row in totals:
            if list(row) != [sums[batch][column] for column in columns]:
                self.fail(
                    "totals",
                    f"{batch!r}: the totals are {row}, the sums of the attempts {sums[batch]}",
                )

    def _check_credits(self, jobs: list[Any], of_job: dict[int, list[tuple[Any, ...]]]) -> None:
        """Check that the credits in the ledger, known and unknown, match the credits charged."""
        truth = self.world.service.truth
        known = refunded = doubt = unseen_refunds = 0
        listed = set()
        unpriced_doubts = False
        for job in jobs:
            for _, status, task_id in of_job[job[0]]:
                task = truth.tasks.get(task_id)
                price = job[5] or (0 if task is None else task.credits)
                if task_id is not None:
                    known += price
                    listed.add(task_id)
                    refunded += price if status == "failed" else 0
                    if status == "running" and task is not None and task.refunded:
                        unseen_refunds += price
                elif status in ("unknown", "faulted", "submitting"):
                    doubt += price
                    unpriced_doubts = unpriced_doubts or not price
        unlisted = [task for task in truth.tasks.values() if task.id not in listed]
        unlisted_credits = sum(task.credits for task in unlisted)
        if known + unlisted_credits != truth.charged:
            self.fail(
                "credits",
                f"{known} listed + {unlisted_credits} unlisted, but {truth.charged} charged",
            )
        own = sum(task.credits for task in unlisted if not self._is_unkept(task))
        if own > doubt and not (self.laws.wrongly_settled or unpriced_doubts):
            self.fail(
                "credits", f"{own} charged for unlisted tasks, the ledger has {doubt} unknown"
            )
        unlisted_refunded = sum(task.credits for task in unlisted if task.refunded)
        if refunded + unlisted_refunded + unseen_refunds != truth.refunded:
            self.fail(
                "credits", f"{refunded} refunded in the ledger, but {truth.refunded} by the service"
            )

    def _is_unkept(self, task: TaskRecord) -> bool:
        return self.laws.is_unkept(content_of_task(task))

    def _check_secrets(self) -> None:
        for name, data in self.world.ledger_files():
            for secret in (KEY[3:].encode(), b"X-Signature"):
                if secret in data:
                    self.fail("secrets", f"{secret.decode()} is in {name}")
