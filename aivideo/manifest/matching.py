"""Which line of a manifest is which job of a ledger: the same line is the same job, run after run.

A line is matched by its ``id``; one without, or whose id no job has, by its content and the
how-manieth of that content it is. So a manifest may be sorted, cut and added to between runs, and
the same prompt twice is two jobs. What has been bought for a line whose ``id`` asks for something
else now is not bought over: that is refused, with the line's number.
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

_ON_ITS_WAY = (JobStatus.SUBMITTING, JobStatus.RUNNING, JobStatus.COMPLETED)


@frozen
class Match:
    """A line, under the name of its job, and what the ledger knows of that (None: nothing)."""

    line: Line
    record: JobRecord | None = None

    @property
    def task_to_take_up(self) -> TaskId | None:
        """The task that the line says it has become, where the ledger knows of none."""
        task_id, record = self.line.task_id, self.record
        if task_id is None or record is None:
            return task_id
        known = record.task_id is not None or record.attempt_of(task_id) is not None
        return None if known else task_id

    def would_be_sent(self, *, retry_failed: bool = False) -> bool:
        """Whether a run would POST it."""
        if self.task_to_take_up is not None:
            return False
        if self.record is None:
            return not self.line.unknown
        again = (JobStatus.FAILED, JobStatus.REFUSED) if retry_failed else ()
        return self.record.status in (JobStatus.PLANNED, *again)


@frozen
class Plan:
    """What a manifest is, beside what a ledger knows.

    Attributes:
        matches: one a line.
        orphans: jobs of the batch that no line asks for any more, and that were bought, or may
            have been: they are seen to their end all the same.
    """

    matches: tuple[Match, ...]
    orphans: tuple[Match, ...] = ()


def match(lines: Iterable[Line], records: Iterable[JobRecord]) -> Plan:
    """Match lines with the jobs of their batch.

    Args:
        lines: the manifest.
        records: the batch's jobs, in the order they were written down.

    Raises:
        ManifestError: an ``id`` asks for something else than was bought under it.
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
                    f"line {line.number}: id {line.id!r} was made of another request "
                    f"(job {record.id}, {record.status}); give the changed line an id of its own"
                )
            # What it asks for now was never sent, and never refused.
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
            name += "+"  # a line that is new, where an older one went by that name
        taken.add(same_file(name))
        matches.append(Match(evolve(line, id=name), record))
    orphans = [
        Match(Line(number=0, id=key, request=record.request, named=True), record)
        for key, record in left.items()
        if record.status in _ON_ITS_WAY or (record.doubts and record.status is not JobStatus.SAVED)
    ]
    return Plan(tuple(matches), tuple(orphans))
