"""Match the lines of a manifest with the jobs of a ledger, so that runs continue earlier runs.

A line is matched by its ``id``. A line without one, or whose id no job has, is matched by its
content and its occurrence number among lines of equal content. So a manifest may be sorted,
shortened and extended between runs, and the same prompt twice is two jobs. If a line's ``id`` was
bought for another request, the manifest is refused, with the line's number.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable

from attrs import evolve, frozen

from aivideo import models
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.ledger.rules import is_untaken
from aivideo.manifest.reading import Line, ManifestError, same_file
from aivideo.models import TaskId

_SENT = (JobStatus.SUBMITTING, JobStatus.RUNNING, JobStatus.COMPLETED)


@frozen
class Match:
    """A line, with the ``id`` of its job, and that job's record if the ledger has one."""

    line: Line
    record: JobRecord | None = None

    @property
    def stated_task(self) -> TaskId | None:
        """The task that the line says it became, if the ledger does not know that task."""
        task_id, record = self.line.task_id, self.record
        if task_id is None or record is None:
            return task_id
        known = record.task_id is not None or record.attempt_of(task_id) is not None
        return None if known else task_id

    def would_be_sent(self, *, retry_failed: bool = False) -> bool:
        """Whether a run would send a create for it."""
        if self.stated_task is not None:
            return False
        if self.record is None:
            return not self.line.unknown
        if retry_failed and self.record.status.is_retryable:
            return True
        # To ask for a withdrawn job again revives it.
        return self.record.status in (JobStatus.PLANNED, JobStatus.WITHDRAWN)


@frozen
class Plan:
    """The lines of a manifest, matched with the jobs of a ledger.

    Attributes:
        matches: one per line.
        orphans: jobs of the batch that no line asks for any more but that were, or may have been,
            bought: they are polled and saved all the same.
    """

    matches: tuple[Match, ...]
    orphans: tuple[Match, ...] = ()


def match(lines: Iterable[Line], records: Iterable[JobRecord]) -> Plan:
    """Match lines with the jobs of their batch.

    Args:
        lines: the manifest.
        records: the batch's jobs, in the order they were recorded.

    Raises:
        ManifestError: an ``id`` was bought for another request.
    """
    lines = list(lines)
    left = {record.key: record for record in records if record.key is not None}
    found: dict[int, JobRecord] = {}
    problems = []
    for line in lines:
        record = left.get(line.id) if line.named else None
        if record is None:
            continue
        del left[line.id]
        if models.fingerprint(line.request) != record.fingerprint:
            if not is_untaken(record):
                problems.append(
                    f"line {line.number}: id {line.id!r} was used for another request "
                    f"(job {record.id}, {record.status}); give the changed line a new id"
                )
            # The changed request was never sent, and never refused.
            record = evolve(record, status=JobStatus.PLANNED)
        found[line.number] = record
    if problems:
        raise ManifestError(problems)
    by_content: dict[str, deque[JobRecord]] = defaultdict(deque)
    for record in left.values():
        by_content[record.fingerprint].append(record)
    for line in lines:
        alike = by_content.get(models.fingerprint(line.request))
        if line.number not in found and alike:
            found[line.number] = record = alike.popleft()
            left.pop(record.key or "", None)
    known = (*found.values(), *left.values())
    taken = {same_file(record.key) for record in known if record.key is not None}
    matches = []
    for line in lines:
        record = found.get(line.number)
        name = line.id if record is None else record.key
        assert name is not None
        while record is None and same_file(name) in taken:
            name += "+"  # a new line, where an older one had that name
        taken.add(same_file(name))
        matches.append(Match(evolve(line, id=name), record))
    orphans = [
        Match(Line(number=0, id=key, request=record.request, named=True), record)
        for key, record in left.items()
        if record.status in _SENT or (record.doubts and record.status is not JobStatus.SAVED)
    ]
    return Plan(tuple(matches), tuple(orphans))
