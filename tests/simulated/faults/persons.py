"""What people do: settle and retry jobs of the ledger, and edit the manifest."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import orjson
from attrs import evolve

from aivideo.errors import ContradictionError
from aivideo.ledger import events
from aivideo.ledger.records import AttemptStatus, JobRecord, JobStatus
from aivideo.ledger.sqlite.file import LedgerFile
from tests.simulated.faults.content import content_of
from tests.simulated.faults.plan import Row

if TYPE_CHECKING:
    from tests.simulated.faults.world import Boot, World


def change_manually(world: World) -> None:
    """Settle or retry a job between two boots, as a user does after looking at the account."""
    if world.ledger.exists():
        _open_and(world, _settle_or_retry)


def look(world: World) -> None:
    """Look at the ledger while no process runs."""
    if world.ledger.exists():
        _open_and(world, None)


def visit(boot: Boot) -> None:
    """Look at the ledger while processes run, and perhaps settle a job."""
    if not boot.over and boot.uses_ledger:
        _open_and(boot.world, _settle if boot.plan.settles else None)


def _open_and(world: World, change: object) -> None:
    file = LedgerFile(world.ledger, now=world.unix)
    try:
        (lapsed,) = file.group([LedgerFile.lapse])
        assert isinstance(lapsed, list)
        world.laws.lapsed("a person", world.unix(), lapsed)
        (jobs,) = file.group([lambda file: file.page(0, None, ())])
        assert isinstance(jobs, list)
        if callable(change):
            change(world, file, [job for _, job in jobs])
    finally:
        file.close()


def _settle(world: World, file: LedgerFile, jobs: list[JobRecord]) -> None:
    """Settle a job of unknown outcome as the account shows it."""
    unknown = [job for job in jobs if job.doubts and not _is_under_way(world, job)]
    if not unknown:
        return
    job = world.rng.choice(unknown)
    content, number = content_of(job.request.input), _number_in_doubt(job)
    hidden = _hidden(world, job)
    event = events.Taken(hidden[0]) if hidden else events.Released()
    world.reached["a person settled a job while processes ran"] += 1
    _change(world, file, job, content, event, number)


def _is_under_way(world: World, job: JobRecord) -> bool:
    """Whether a POST of a job may still be taken, so that nobody can say what became of it."""
    content = content_of(job.request.input)
    return world.creates.is_on_its_way(content)


def _settle_or_retry(world: World, file: LedgerFile, jobs: list[JobRecord]) -> None:
    rng, laws = world.rng, world.laws
    unknown = [job for job in jobs if job.doubts and not _is_under_way(world, job)]
    ended = [job for job in jobs if job.status in (JobStatus.FAILED, JobStatus.REFUSED)]
    if unknown and rng.random() < 0.7:
        job = rng.choice(unknown)
        content = content_of(job.request.input)
        number: int | None = _number_in_doubt(job)
        hidden = _hidden(world, job)
        event: events.Event
        if rng.random() < 0.1 and job.status is not JobStatus.PLANNED:
            event, number = events.Retried(pay_again=True), None
            if job.status not in (JobStatus.UNKNOWN, JobStatus.FAULTED):
                return
            laws.allowed_repeats[content] += 1
        elif hidden and rng.random() < 0.9:
            event = events.Taken(hidden[0])
        else:
            event = events.Released()
            if hidden:
                laws.allowed_repeats[content] += 1
                laws.wrongly_settled = True
    elif ended:
        job = rng.choice(ended)
        content = content_of(job.request.input)
        event, number = events.Retried(), None
        laws.allowed_repeats[content] += 1
    else:
        return
    _change(world, file, job, content, event, number)


def _number_in_doubt(job: JobRecord) -> int:
    return next(
        a.number for a in job.attempts if a.status in (AttemptStatus.UNKNOWN, AttemptStatus.FAULTED)
    )


def _hidden(world: World, job: JobRecord) -> list[str]:
    """Return the tasks of a job's content that no job lists."""
    known = {a.task_id for a in job.attempts} | world.laws.listed
    tasks = world.laws.by_content[content_of(job.request.input)]
    return [task.id for task in tasks if task.id not in known]


def _change(
    world: World,
    file: LedgerFile,
    job: JobRecord,
    content: str,
    event: events.Event,
    number: int | None,
) -> None:
    world.log("MANUAL", f"{type(event).__name__} for {content!r}")
    world.changed_manually.add(content)
    (result,) = file.group([lambda file: file.record(job.id, event, number)])
    if isinstance(result, ContradictionError) and isinstance(event, events.Taken):
        return  # the service gave another job this task's id first: nobody can settle it by that
    if isinstance(result, Exception):
        world.laws.fail("law 4", f"a manual change was rejected: {result}")
    elif isinstance(event, events.Taken):
        world.laws.listed.add(event.task_id)


class Manifest:
    """The manifest on disk, and the people who edit it.

    Args:
        world: the simulation it belongs to.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._rows = list(world.plan.manifest)
        self._added = 0
        self.path = world.folder / "manifest.jsonl"
        self._save()

    def contents(self) -> Counter[str]:
        """Return how often each content is asked for now."""
        return Counter(row.prompt for row in self._rows)

    def edit(self) -> None:
        """Change one line."""
        if not self._rows:
            return
        rng, rows = self._world.rng, self._rows
        at = rng.randrange(len(rows))
        kinds = ["add", "add", "move", "remove", "duplicate", "reword"]
        kinds += ["reword"] * (9 if self._world.plan.rewords else 0)
        kind = rng.choice([*kinds, "rename"])
        match kind:
            case "add":
                rows.insert(rng.choice((0, 0, at)), self._new(f"A boat, manifest +{self._added}"))
            case "move":
                rows.insert(rng.randrange(len(rows)), rows.pop(at))
            case "remove" if len(rows) > 1:
                del rows[at]
            case "duplicate":
                rows.insert(at, self._new(rows[at].prompt))
            case "reword":
                rows[at] = evolve(rows[at], prompt=f"A boat, manifest reworded {self._added}")
                self._added += 1
            case "rename":
                self._added += 1
                rows[at] = evolve(rows[at], id=f"named-{self._added}")
            case _:
                return
        self._world.log("EDITOR", f"{kind} line {at + 1} of the manifest")
        self._world.reached["the manifest was edited"] += 1
        self._save()

    def edit_while_running(self, boot: Boot) -> None:
        """Change one line while processes run."""
        if not boot.over and self._rows:
            self._world.reached["the manifest was edited while processes ran"] += 1
            self.edit()

    def give_new_ids(self, problems: list[str]) -> None:
        """Give every line a new id whose id was used for another request, as the problems say."""
        text = " ".join(problems)
        self._rows = [
            self._new(row.prompt) if f"id {row.id!r} was used" in text else row
            for row in self._rows
        ]
        self._save()

    def _new(self, prompt: str) -> Row:
        self._added += 1
        return Row(prompt=prompt, id=f"line-{self._added}+" if self._world.plan.ids else None)

    def _save(self) -> None:
        if not self._rows:
            return
        self._world.laws.ask_at_least(self.contents())
        lines = [
            {"prompt": row.prompt} | ({} if row.id is None else {"id": row.id})
            for row in self._rows
        ]
        self.path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
