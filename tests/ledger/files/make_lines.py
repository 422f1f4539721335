"""Make ``b9a0047-lines.db``, a ledger whose lines without ids are named by their numbers.

    git clone . /tmp/old && git -C /tmp/old checkout b9a0047
    PYTHONPATH=/tmp/old python tests/ledger/files/make_lines.py

The functions of that commit take other arguments than those of today.
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
MADE = HERE / "b9a0047-lines.db"
HOURS = 3600.0

aivideo: Any = import_module("aivideo")
manifest: Any = import_module("aivideo.manifest")
simulator: Any = import_module("aivideo.simulator")
sqlite: Any = import_module("aivideo.ledger.sqlite")


class Lengths:
    """How long a task is processed: hours if its prompt says that it runs on."""

    seconds = 0.2

    def draw(self, _source: object, _now: float) -> float:
        """Answer for the task of the create that was seen last."""
        return self.seconds

    def seen(self, occasion: Any) -> Any:
        """Note a create; cut the connection if its prompt says so."""
        if occasion.endpoint is not simulator.Endpoint.CREATE:
            return None
        self.seconds = 9 * HOURS if b"runs on" in occasion.body else 0.2
        return simulator.Fault.CUT_AFTER if b"cut loose" in occasion.body else None


async def run(sim: Any, path: Path, file: Path, most: int) -> None:
    """Run a manifest as ``aivideo batch`` does; stop when so many of its lines were sent."""
    lines = manifest.read_manifest(file, manifest.Defaults(4, "16:9"))
    folder = path.parent / file.stem
    folder.mkdir(exist_ok=True)
    before = sim.truth.creates_seen
    ledger = sqlite.SqliteLedger(path)
    async with aivideo.Session(
        "sk-test", base_url=sim.url, ledger=ledger, max_requests_in_flight=1, poll_interval=0.5
    ) as session:
        plan = await manifest.prepare(ledger, folder.name, lines)
        settings = manifest.BatchSettings(name=folder.name)
        working = manifest.Batch(session, plan, folder, settings)
        running = asyncio.create_task(working.run())
        while not running.done():
            await asyncio.sleep(0.002)
            if sim.truth.creates_seen - before >= most and not working.stopped:
                working.stop()
        await running
    await ledger.aclose()


async def main() -> None:
    """Make the file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "aivideo.db"
        lengths = Lengths()
        scenario = simulator.Scenario(
            task_seconds=lengths, queue_seconds=0.0, latency=0.3, media="stub", seed=5
        )
        async with simulator.serve(scenario) as sim:
            sim.hook = lengths.seen
            await run(sim, path, HERE / "ships.txt", 5)
            # Before it was edited, a line of masts.csv asked for the same words at 4 seconds: its
            # job has the name that the line would get, so the edited line gets another one.
            earlier = folder / "masts.csv"
            text = (HERE / "masts.csv").read_bytes().decode()
            earlier.write_bytes(text.replace("A red mast,8", "A red mast,4").encode())
            await run(sim, path, earlier, 2)
            await run(sim, path, HERE / "masts.csv", 3)
            MADE.unlink(missing_ok=True)
            source, copy = sqlite3.connect(path), sqlite3.connect(MADE)
            source.backup(copy)
            # One plain file: without a log beside it.
            copy.execute("PRAGMA journal_mode = DELETE")
            copy.execute("VACUUM")
            copy.close()
            source.close()
    connection = sqlite3.connect(MADE)
    for row in connection.execute("SELECT batch, key, status FROM jobs ORDER BY seq"):
        sys.stdout.write(f"{row}\n")
    connection.close()


if __name__ == "__main__":
    asyncio.run(main())
