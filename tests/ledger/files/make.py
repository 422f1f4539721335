"""Make ``85b51a5.db``, a ledger of the first schema, with the code of commit 85b51a5.

    git clone . /tmp/old && git -C /tmp/old checkout 85b51a5
    PYTHONPATH=/tmp/old python tests/ledger/files/make.py

The modules it needs are looked up when it runs: this repository has other ones by now.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MADE = HERE / "85b51a5.db"
HOURS = 3600.0

aivideo: Any = import_module("aivideo")
batch: Any = import_module("aivideo.batch")
journal: Any = import_module("aivideo.sansio.journal")
simulator: Any = import_module("aivideo.simulator")
sqlite: Any = import_module("aivideo.ledger.sqlite")


def fault_of(occasion: Any) -> Any:
    """Choose what goes wrong with a create by a word of its prompt."""
    for word, fault in (
        (b"cut loose", simulator.Fault.CUT_AFTER),
        (b"broken", simulator.Fault.INTERNAL_ERROR),
        (b"hangs", simulator.Fault.HANG),
    ):
        if occasion.endpoint is simulator.Endpoint.CREATE and word in occasion.body:
            return fault
    return None


class Lengths:
    """How long a task is processed: hours if its prompt says that it runs on."""

    seconds = 0.2

    def draw(self, _source: object, _now: float) -> float:
        """Answer for the task of the create that was seen last."""
        return self.seconds

    def seen(self, occasion: Any) -> Any:
        """Note a create, and choose what goes wrong with it."""
        if occasion.endpoint is simulator.Endpoint.CREATE:
            self.seconds = 9 * HOURS if b"runs on" in occasion.body else 0.2
        return fault_of(occasion)


async def let_some_fail(sim: Any) -> None:
    """Let tasks fail whose prompts say so."""
    while True:
        for task in sim.truth.tasks.values():
            if "fails" in task.prompt:
                task.outcome = "failed"
        await asyncio.sleep(0.001)


async def run(sim: Any, path: Path, manifest: str, most: int, **settings: Any) -> None:
    """Run a manifest as ``aivideo batch`` does; stop when so many of its lines were sent."""
    lines = batch.read_manifest(HERE / manifest, batch.Defaults(None, None))
    folder = path.parent / Path(manifest).stem
    folder.mkdir(exist_ok=True)
    before = sim.truth.creates_seen
    ledger = sqlite.SqliteLedger(path)
    async with aivideo.Session(
        "sk-test", base_url=sim.url, ledger=ledger, max_requests_in_flight=1, poll_interval=0.5
    ) as session:
        plan = await batch.prepare(ledger, folder.name, lines)
        working = batch.Batch(
            session, plan, folder, batch.Settings(name=folder.name, max_credits=5000, **settings)
        )
        running = asyncio.create_task(working.run())
        while not running.done():
            await asyncio.sleep(0.002)
            if sim.truth.creates_seen - before >= most and not working.stopped:
                working.stop()
        await running
    await ledger.aclose()


def planned(prompt: str, **fields: Any) -> Any:
    """A job that no batch has, as ``enqueue`` records it."""
    request = aivideo.Sora2(prompt, duration=4, aspect_ratio="16:9")
    return journal.JobRecord(
        id=prompt.lower().replace(" ", "-"),
        request=request,
        fingerprint=import_module("aivideo.sansio.wire").fingerprint(request),
        credits=request.credits,
        planned_at=1_780_000_000.0,
        **fields,
    )


async def main() -> None:
    """Make the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "aivideo.db"
        lengths = Lengths()
        scenario = simulator.Scenario(
            task_seconds=lengths, queue_seconds=0.0, latency=0.3, media="stub", seed=5
        )
        async with simulator.serve(scenario) as sim:
            sim.hook = lengths.seen
            failing = asyncio.create_task(let_some_fail(sim))
            await run(sim, path, "boats.csv", 12)
            await run(sim, path, "kites.jsonl", 2)
            ledger = sqlite.SqliteLedger(path)
            # What a person did: one of the failed films is sent again, and saved.
            key = await ledger.find_key("boats", "again")
            await ledger.record(key.id, journal.Retried())
            await ledger.plan(planned("Enqueued without a key", callback_url="https://me.example/"))
            await ledger.plan(planned("Submitted under a key", key="k-1"))
            claimed = await ledger.claim(key.id, lease=HOURS)
            await ledger.record(key.id, journal.Taken("11111111-2222-4333-8444-555555555555"))
            await ledger.record(key.id, journal.Completed(1_780_000_000.0, 1_780_000_060.5))
            await ledger.record(key.id, journal.Saved("boats/again.mp4", 7))
            assert claimed is not None
            # And a POST that is on its way when the process dies: its claim is in the copy.
            await ledger.plan(planned("A POST on its way"))
            await ledger.claim("a-post-on-its-way", lease=HOURS)
            await ledger.note_credits(
                aivideo.Credits(balance=9000, total_purchased=10_000, total_consumed=1000)
            )
            MADE.unlink(missing_ok=True)
            source, copy = sqlite3.connect(path), sqlite3.connect(MADE)
            source.backup(copy)
            # One plain file: without a log beside it.
            copy.execute("PRAGMA journal_mode = DELETE")
            copy.execute("VACUUM")
            copy.close()
            source.close()
            await ledger.aclose()
            failing.cancel()
    connection = sqlite3.connect(MADE)
    for row in connection.execute("SELECT batch, key, status, credits FROM jobs ORDER BY seq"):
        sys.stdout.write(f"{row}\n")
    connection.close()


if __name__ == "__main__":
    asyncio.run(main())
