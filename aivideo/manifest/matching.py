"""Match the lines of a manifest with the jobs of a ledger, so that runs continue earlier runs.

A line is matched by its ``id``. A line without one, or whose id no job has, is matched by its
content and its occurrence number among lines of equal content. So a manifest may be sorted,
shortened and extended between runs, and also while another run goes on; and the same prompt twice
is two jobs. If a line's ``id`` was bought for another request, the manifest is refused, with the
line's number.

A run gives a content a new job only where the ledger has fewer jobs of that content than the
manifest has lines. So a content is never bought more often than the version of the manifest asked
for that repeats it most, whatever runs at the same time.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterable
from itertools import count

from attrs import evolve, frozen

from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.ledger.rules import is_untaken
from aivideo.manifest.names import content_name, same_file
from aivideo.manifest.reading import Line, ManifestError
from aivideo.models import TaskId, fingerprint

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

    @property
    def is_to_be_planned(self) -> bool:
        """Whether the ledger does not hold it as the line asks for it, and may still do so."""
        record, request = self.record, self.line.request
        if self.stated_task is not None:
            return False
        if record is None:
            return not self.line.unknown
        # To ask for a withdrawn job again revives it.
        if record.status is JobStatus.WITHDRAWN or record.fingerprint != fingerprint(request):
            return True
        is_repriced = request.credits not in (None, record.credits)
        return is_repriced and (record.status is JobStatus.PLANNED or record.status.is_retryable)

    @property
    def is_in_doubt(self) -> bool:
        """Whether its job may or may not have been charged."""
        return self.record is not None and self.record.status.is_in_doubt

    def would_be_sent(self, *, retry_failed: bool = False, pay_again: bool = False) -> bool:
        """Whether a run would send a create for it."""
        if self.stated_task is not None:
            return False
        if self.record is None:
            return not self.line.unknown
        if retry_failed and (
            self.record.status.is_retryable or (pay_again and self.record.status.is_in_doubt)
        ):
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
        repeated: lines that are bought again, as far as files and ledger tell, because the run's
            settings allow it.
    """

    matches: tuple[Match, ...]
    orphans: tuple[Match, ...] = ()
    repeated: tuple[Line, ...] = ()


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
    found, changed = _by_id(lines, left)
    _by_content(lines, left, found, changed)
    known = (*found.values(), *left.values())
    taken = {same_file(record.key) for record in known if record.key is not None}
    stated = {same_file(line.id) for line in lines if line.named}
    matches = []
    for line in lines:
        record = found.get(line.number)
        name = _new_name(line, taken, stated) if record is None else record.key
        assert name is not None
        taken.add(same_file(name))
        matches.append(Match(evolve(line, id=name), record))
    orphans = [
        Match(Line(number=0, id=key, request=record.request, named=True), record)
        for key, record in left.items()
        if record.status in _SENT or (record.doubts and record.status is not JobStatus.SAVED)
    ]
    return Plan(tuple(matches), tuple(orphans))


def _by_id(
    lines: Iterable[Line], left: dict[str, JobRecord]
) -> tuple[dict[int, JobRecord], dict[int, JobRecord]]:
    """Take the jobs that lines state by their ``id`` out of ``left``.

    Returns:
        Jobs by line number: those that are the line's, and those that were planned for another
        request and were never taken.

    Raises:
        ManifestError: an ``id`` was bought for another request.
    """
    found: dict[int, JobRecord] = {}
    changed: dict[int, JobRecord] = {}
    problems = []
    for line in lines:
        record = left.get(line.id) if line.named else None
        if record is None:
            continue
        del left[line.id]
        if fingerprint(line.request) == record.fingerprint:
            found[line.number] = record
        elif is_untaken(record):
            changed[line.number] = record
        else:
            problems.append(
                f"line {line.number}: id {line.id!r} was used for another request "
                f"(job {record.id}, {record.status}); give the changed line a new id"
            )
    if problems:
        raise ManifestError(problems)
    return found, changed


def _by_content(
    lines: Iterable[Line],
    left: dict[str, JobRecord],
    found: dict[int, JobRecord],
    changed: dict[int, JobRecord],
) -> None:
    """Match the other lines with the jobs in ``left`` that have their content."""
    alike: dict[str, deque[JobRecord]] = defaultdict(deque)
    for record in left.values():
        alike[record.fingerprint].append(record)

    def take(line: Line) -> bool:
        jobs = alike.get(fingerprint(line.request))
        if not jobs:
            return False
        found[line.number] = record = jobs.popleft()
        del left[record.key or ""]
        return True

    others = [line for line in lines if line.number not in found]
    # A line whose request was changed under its id takes a job that has its new content already
    # before its own job is changed: that job may be sent by another run. This leaves its own job,
    # and that one may be what another changed line asks for.
    again = True
    while again:
        again = False
        for line in others:
            if line.number in changed and take(line):
                freed = changed.pop(line.number)
                left[freed.key or ""] = freed
                alike[freed.fingerprint].append(freed)
                again = True
    for line in others:
        if line.number in changed:
            # The changed request was never sent, and never refused.
            found[line.number] = evolve(changed[line.number], status=JobStatus.PLANNED)
        elif line.number not in found:
            take(line)


def _new_name(line: Line, taken: Collection[str], stated: Collection[str]) -> str:
    """Return a name for a line without a job: its id, unless a job has that already.

    Args:
        line: the line.
        taken: names of jobs.
        stated: names that lines of the manifest state.
    """
    name = line.id
    if line.named:
        while same_file(name) in taken:
            name += "+"  # a new line, where an older one had that name
        return name
    occurrences = count(2)
    while same_file(name) in taken or same_file(name) in stated:
        name = content_name(line.request, next(occurrences))
    return name
