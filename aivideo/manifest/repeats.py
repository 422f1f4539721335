"""Find lines that a run would buy although they seem to have been bought before.

A ledger that is not the one a batch was made with, or is an older copy of it, knows less than was
bought. Two things tell: a file that exists already, and another batch of the ledger that has the
same contents. Such a run is refused; ``--pay-again`` is the explicit word for it.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable

from attrs import frozen

from aivideo import models
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.manifest.matching import Match
from aivideo.manifest.names import file_stem, same_file, slug, text_of
from aivideo.manifest.reading import Line

_MAY_BE_BOUGHT = frozenset(
    {
        *(JobStatus.SUBMITTING, JobStatus.RUNNING, JobStatus.COMPLETED, JobStatus.SAVED),
        *JobStatus.in_doubt(),
    }
)
_NUMBERED = re.compile(r"[0-9]{4,}-(.+)\.mp4")
"""Files of lines without an id, as earlier versions named them: by line number and prompt."""


@frozen
class ExistingFile:
    """A line that would be sent although a file of it exists.

    Attributes:
        line: the line.
        name: the file's name.
        is_replaced: whether the line's result would be saved under that name.
    """

    line: Line
    name: str
    is_replaced: bool


@frozen
class OtherBatch:
    """Another batch of the ledger in which lines that would be sent were bought.

    Attributes:
        name: the batch; of several, the one that has the most of the lines.
        count: how many of the lines it has.
        lines: all lines that were bought in other batches.
    """

    name: str
    count: int
    lines: tuple[Line, ...]


def existing_files(
    to_send: Iterable[Match], files: Collection[str], records: Iterable[JobRecord]
) -> list[ExistingFile]:
    """Find lines whose file exists, and that the ledger says were never bought.

    Args:
        to_send: the lines that would be sent.
        files: the names of the files in the folder. Read them before the ledger: a file that is
            saved in between belongs to a job that ``records`` calls unsent.
        records: the jobs of the batch.
    """
    names = {same_file(name): name for name in files}
    of_jobs = {same_file(f"{file_stem(each.key)}.mp4") for each in records if each.key is not None}
    numbered: dict[str, list[str]] = defaultdict(list)
    for folded, name in sorted(names.items(), reverse=True):
        if (found := _NUMBERED.fullmatch(name)) and folded not in of_jobs:
            numbered[found[1]].append(name)
    existing = []
    for each in to_send:
        line = each.line
        own = names.get(same_file(line.file_name))
        alike = numbered.get(slug(text_of(line.request)))
        if own is not None:
            existing.append(ExistingFile(line, own, is_replaced=True))
        elif each.record is None and not line.named and alike:
            existing.append(ExistingFile(line, alike.pop(), is_replaced=False))
    return existing


def other_batch(to_send: Iterable[Match], records: Iterable[JobRecord]) -> OtherBatch | None:
    """Find the batch in which lines that would be sent were bought already, or may have been.

    Args:
        to_send: the lines that would be sent, of a batch that the ledger does not know.
        records: all jobs of the ledger.
    """
    bought: dict[str, Counter[str]] = defaultdict(Counter)  # by fingerprint, then by batch
    for record in records:
        if record.batch is not None and (record.status in _MAY_BE_BOUGHT or record.doubts):
            bought[record.fingerprint][record.batch] += 1
    counts: Counter[str] = Counter()
    lines = []
    for each in to_send:
        content = models.fingerprint(each.line.request)
        batches = [name for name, left in bought.get(content, {}).items() if left > 0]
        for name in batches:
            bought[content][name] -= 1
            counts[name] += 1
        if batches:
            lines.append(each.line)
    if not lines:
        return None
    [(name, count)] = counts.most_common(1)
    return OtherBatch(name, count, tuple(lines))
