"""Proof that the simulation of faults can fail: each law of money is broken, and must be caught.

    python -m tests.simulated.mutations [NAME ...] [--seeds 2000] [--jobs 2]

A mutation is a small patch of the code that is shipped: texts that stand in it once, and what
stands there instead. It is tried in a copy of the project, seed after seed, until a seed fails.
One that is not caught, or does not fit the code any more, fails the run.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from attrs import frozen

PROJECT = Path(__file__).resolve().parents[2]


@frozen
class Mutation:
    """A law, and a way to break it: ``(file, text, instead)``, one or more."""

    law: str
    name: str
    what: str
    patches: tuple[tuple[str, str, str], ...]


MUTATIONS = (
    Mutation(
        "1",
        "unsynced",
        "a commit need not be on disk before the POST leaves",
        (
            (
                "aivideo/ledger/sqlite/opening.py",
                "PRAGMA synchronous = FULL",
                "PRAGMA synchronous = NORMAL",
            ),
        ),
    ),
    Mutation(
        "1",
        "claimed-early",
        "the claim is written before the limiter has granted a permit",
        (
            (
                "aivideo/_session/purchase.py",
                "            permit = await self._permit(retry_after)\n",
                "            early = await self._books.claim(job, record, lease=90.0)\n"
                "            self._urls.early[job.id] = early\n"
                "            permit = await self._permit(retry_after)\n",
            ),
            (
                "aivideo/_session/purchase.py",
                "            claimed = await self._books.claim(job, record, lease=lease)\n",
                "            claimed = self._urls.early.pop(job.id) if lease else None\n",
            ),
            (
                "aivideo/_session/purchase.py",
                "    secret: bytes = field(repr=False)\n",
                "    secret: bytes = field(repr=False)\n    early = {}\n",
            ),
        ),
    ),
    Mutation(
        "1",
        "written-after",
        "the POST leaves, and only then is the attempt written down",
        (
            (
                "aivideo/_session/purchase.py",
                "            claimed = await self._books.claim(job, record, lease=lease)\n",
                "            heard = await self._client.submit(record.request)\n"
                "            claimed = await self._books.claim(job, record, lease=lease)\n",
            ),
            (
                "aivideo/_session/purchase.py",
                "            heard = await self._client.submit(claimed.request, callback_url=url)\n",
                "            pass\n",
            ),
        ),
    ),
    Mutation(
        "2",
        "no-compare-and-set",
        "whoever claims a job gets it, planned or not",
        (
            (
                "aivideo/ledger/rules.py",
                "    if job.status is not JobStatus.PLANNED:\n        return None\n",
                "",
            ),
            (
                "aivideo/ledger/transitions.py",
                '        raise ContradictionError(f"job {job.id} is {job.status}, '
                'which a claim cannot follow")\n',
                "        pass\n",
            ),
        ),
    ),
    Mutation(
        "2",
        "repeated-below",
        "a POST whose connection broke is sent again by the client",
        (
            (
                "aivideo/_api/client.py",
                "            except APIConnectionError as error:\n                heard = error\n",
                "            except APIConnectionError:\n"
                "                try:\n"
                "                    heard = await self._send(message)\n"
                "                except APIConnectionError as error:\n"
                "                    heard = error\n",
            ),
        ),
    ),
    Mutation(
        "2",
        "cancelled-with-caller",
        "a caller that is cancelled cancels the POST",
        (
            (
                "aivideo/_session/engine.py",
                "            await asyncio.wait([submission])\n",
                "            await submission\n",
            ),
        ),
    ),
    Mutation(
        "2",
        "close-cuts",
        "closing does not wait for POSTs under way",
        (
            (
                "aivideo/_session/engine.py",
                "            while self._submissions:\n",
                "            for each in self._submissions.values():\n"
                "                each.cancel()\n"
                "            while self._submissions:\n",
            ),
        ),
    ),
    Mutation(
        "2",
        "withdrawn-under-way",
        "leaving a batch takes back a POST that is under way",
        (("aivideo/_session/engine.py", " and job.id not in self._purchase.posting", ""),),
    ),
    Mutation(
        "3",
        "unknown-is-untaken",
        "a POST that got no answer counts as not taken",
        (
            (
                "aivideo/_session/books.py",
                "            return events.Doubted(_reason(error))\n",
                "            return events.Released()\n",
            ),
        ),
    ),
    Mutation(
        "3",
        "written-bytes-ignored",
        "a connection that broke counts as if not a byte had been written",
        (
            (
                "aivideo/_api/verdict.py",
                "return Unknown(heard) if heard.written else Unsent(heard)",
                "return Unsent(heard)",
            ),
        ),
    ),
    Mutation(
        "3",
        "faulted-is-refused",
        "a 500 frees the credits, as if nothing had been charged",
        (
            (
                "aivideo/_session/books.py",
                "            return events.Faulted(_reason(error))\n",
                "            return events.Refused(_reason(error))\n",
            ),
        ),
    ),
    Mutation(
        "3",
        "taken-is-not-written",
        "that a POST was taken is kept in memory alone",
        (
            (
                "aivideo/_session/books.py",
                "        try:\n            return await self.ledger.record(job.id, event, attempt=number)\n",
                "        try:\n"
                "            if isinstance(event, events.Taken):\n"
                "                return None\n"
                "            return await self.ledger.record(job.id, event, attempt=number)\n",
            ),
        ),
    ),
    Mutation(
        "4",
        "lapse-plans",
        "a claim whose owner died is planned again",
        (
            (
                "aivideo/ledger/events.py",
                'ABANDONED = Doubted(\n    Reason(message="its process died, or its lease ran out, '
                'before an answer was written down")\n)\n',
                "ABANDONED = Released()\n",
            ),
        ),
    ),
    Mutation(
        "4",
        "never-lapses",
        "a claim whose owner died stays claimed for ever",
        (
            (
                "aivideo/ledger/rules.py",
                "        expired = attempt.lease_until < now or attempt.owner in gone\n",
                "        expired = attempt.lease_until < 0 and attempt.owner in gone\n",
            ),
        ),
    ),
    Mutation(
        "4",
        "late-success-dropped",
        "an attempt that is unknown cannot turn out to have been taken",
        (
            (
                "aivideo/ledger/transitions.py",
                "            lands_from=_UNANSWERED | {AttemptStatus.RELEASED, AttemptStatus.REFUSED},\n",
                "            lands_from=frozenset({AttemptStatus.SUBMITTING}),\n",
            ),
        ),
    ),
    Mutation(
        "4",
        "callback-believed",
        "what a callback says is taken for true, unasked",
        (
            (
                "aivideo/_session/engine.py",
                "        task = await self.ask(lambda: self.client.retrieve(said.id))\n",
                "        task = said\n",
            ),
        ),
    ),
    Mutation(
        "5",
        "sums-forgotten",
        "credits of a second attempt are not added up",
        (
            (
                "aivideo/ledger/sqlite/file.py",
                "credits_moved(before, after))\n",
                "credits_moved(before, after) if len(after.attempts) < 2 else {})\n",
            ),
        ),
    ),
    Mutation(
        "5",
        "ceiling-counts-charged",
        "a ceiling counts what was charged, and not what is reserved or unknown",
        (
            (
                "aivideo/ledger/totals.py",
                "        return _amounts.plain(self.charged + self.reserved + self.unknown)\n",
                "        return self.charged\n",
            ),
        ),
    ),
    Mutation(
        "5",
        "reserved-late",
        "a session reserves only after it has claimed: two callers pass its ceiling together",
        (
            (
                "aivideo/_session/books.py",
                "        self._hold(job, Holding.RESERVED)\n        claimed: JobRecord | None = None\n",
                "        claimed: JobRecord | None = None\n",
            ),
            (
                "aivideo/_session/books.py",
                "        if claimed is not None:\n            job.attempt = claimed.latest\n",
                "        if claimed is not None:\n"
                "            self._hold(job, Holding.RESERVED)\n"
                "            job.attempt = claimed.latest\n",
            ),
        ),
    ),
    Mutation(
        "6",
        "spend-cap-is-a-pace",
        "spend_limit_exceeded is taken for a rate limit, and tried again",
        (
            (
                "aivideo/_api/verdict.py",
                "isinstance(error, SpendLimitError | InsufficientCreditsError)",
                "isinstance(error, InsufficientCreditsError)",
            ),
        ),
    ),
    Mutation(
        "6",
        "gate-stays-open",
        "no money, and the next create goes out all the same",
        (
            (
                "aivideo/_session/purchase.py",
                "                permit.accepted()\n                self.close_gate(error)\n",
                "                permit.accepted()\n",
            ),
        ),
    ),
    Mutation(
        "7",
        "outage-unseen",
        "five unknowns in a row close nothing",
        (("aivideo/_session/purchase.py", "UNKNOWNS_IN_A_ROW = 5\n", "UNKNOWNS_IN_A_ROW = 500\n"),),
    ),
    Mutation(
        "7",
        "outage-over-unanswered",
        "creates go on after a pause, whether the service has answered or not",
        (
            (
                "aivideo/_session/purchase.py",
                "                self._outage.relapse()\n            else:\n",
                "                self._outage.over()\n"
                "                self._limiter.release_creates()\n"
                "            else:\n",
            ),
        ),
    ),
    Mutation(
        "7",
        "pause-does-not-grow",
        "each relapse waits no longer than the one before",
        (
            (
                "aivideo/_session/purchase.py",
                "        self.pause = min(600.0, self.pause * 2)\n",
                "        self.pause = self.FIRST_PAUSE\n",
            ),
        ),
    ),
    Mutation(
        "8",
        "failed-again-unasked",
        "a batch that is run again sends what failed again, though nobody asked",
        (
            (
                "aivideo/_session/engine.py",
                "        if retry_failed and record.status in",
                "        if record.status in",
            ),
        ),
    ),
    Mutation(
        "8",
        "another-job-each-run",
        "the same line of a batch is another job in another run",
        (
            (
                "aivideo/_session/bulk.py",
                '        return f"{content}-{self._seen[content]}"\n',
                '        return f"{content}-{self._seen[content]}-{secrets.token_hex(4)}"\n',
            ),
        ),
    ),
    Mutation(
        "8",
        "file-not-synced",
        "a file counts as saved before it is on disk",
        (("aivideo/delivery/download.py", "        os.fsync(file.fileno())\n", ""),),
    ),
    Mutation(
        "pace",
        "window-off-by-one",
        "a stated window lets one more through",
        (
            (
                "aivideo/_pacing/stated.py",
                "        over = len(self._arrivals) + len(counted) - self.count\n",
                "        over = len(self._arrivals) + len(counted) - self.count - 1\n",
            ),
        ),
    ),
    Mutation(
        "secrets",
        "signed-url-logged",
        "the URL of a result is logged as it is",
        (
            (
                "aivideo/_session/engine.py",
                "        async with self._downloads:\n",
                '        log.debug("fetching %s", task.urls[:1])\n        async with self._downloads:\n',
            ),
        ),
    ),
)


@frozen
class Caught:
    """What became of a mutation; ``seed`` is None where nothing caught it."""

    mutation: Mutation
    seed: int | None
    said: str
    seconds: float


def tried(mutation: Mutation, seeds: int) -> Caught:
    """Break a copy of the project, and run seeds until one fails."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="aivideo-mutation-") as folder:
        copy = Path(folder)
        leave = shutil.ignore_patterns("__pycache__")
        for name in ("aivideo", "tests"):
            shutil.copytree(PROJECT / name, copy / name, ignore=leave)
        for name, text, instead in mutation.patches:
            path = copy / name
            source = path.read_text("utf-8")
            if source.count(text) != 1:
                return Caught(mutation, None, f"does not fit {name} any more", 0.0)
            path.write_text(source.replace(text, instead), "utf-8")
        run = subprocess.run(
            [sys.executable, "-m", "tests.simulated.faults", "--seeds", str(seeds), "--stop"],
            cwd=copy,
            capture_output=True,
            text=True,
            check=False,
        )
    found = re.search(r"^seed (\d+): (.*)$", run.stdout, re.MULTILINE)
    said = found[2] if found else (run.stderr.strip().splitlines() or ["nothing was said"])[-1]
    seed = int(found[1]) if found else None
    return Caught(mutation, seed, said, time.perf_counter() - began)


def all_tried(mutations: list[Mutation], seeds: int, jobs: int) -> Iterator[Caught]:
    """Try many, some at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda mutation: tried(mutation, seeds), mutations)


def main() -> int:
    """Try what was asked for; 1 where a mutation was not caught."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulated.mutations", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("names", nargs="*", help="mutations; by default all")
    parser.add_argument("--seeds", type=int, default=2000, help="seeds at most for each")
    parser.add_argument("--jobs", type=int, default=2, help="mutations at once")
    said = parser.parse_args()
    chosen = [each for each in MUTATIONS if not said.names or each.name in said.names]
    missed = 0
    print(f"{'law':8} {'mutation':24} {'seed':>5}  caught by")
    for caught in all_tried(chosen, said.seeds, said.jobs):
        missed += caught.seed is None
        seed = "NONE" if caught.seed is None else str(caught.seed)
        print(f"{caught.mutation.law:8} {caught.mutation.name:24} {seed:>5}  {caught.said[:110]}")
        sys.stdout.flush()
    print(f"{len(chosen) - missed} of {len(chosen)} were caught within {said.seeds} seeds")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
