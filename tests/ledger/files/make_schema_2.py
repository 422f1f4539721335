"""Make ``b9a0047.db``, a ledger of the second schema, with the code of commit b9a0047.

    git clone . /tmp/old && git -C /tmp/old checkout b9a0047
    PYTHONPATH=/tmp/old python tests/ledger/files/make_schema_2.py

It holds attempts without a known price, which that schema does not count.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

from aivideo import Credits, Generation, Request, Sora2, SqliteLedger
from aivideo.ledger.events import (
    Completed,
    Doubted,
    Failed,
    Faulted,
    Refused,
    Released,
    Retried,
    Saved,
    Taken,
)
from aivideo.ledger.records import JobRecord, Reason
from aivideo.models import fingerprint

MADE = Path(__file__).parent / "b9a0047.db"
WHY = Reason(message="why")
CLAIM = "claim"
HISTORIES: dict[str, tuple[Any, ...]] = {
    "saved": (CLAIM, Taken("{}"), Completed(1.0, 2.0), Saved("saved.mp4", 7)),
    "running": (CLAIM, Taken("{}")),
    "unknown": (CLAIM, Doubted(WHY)),
    "faulted": (CLAIM, Faulted(WHY)),
    "failed": (CLAIM, Taken("{}"), Failed(WHY)),
    "refused": (CLAIM, Refused(WHY)),
    "released": (CLAIM, Released()),
    "planned": (),
    "sent twice": (CLAIM, Doubted(WHY), Retried(pay_again=True), CLAIM, Taken("{}")),
    "submitting": (CLAIM,),
}


async def make(path: Path) -> None:
    """Fill a new ledger."""
    clock = 1_780_000_000.0
    ledger = SqliteLedger(path, now=lambda: clock)

    async def add(batch: str, name: str, request: Request) -> None:
        nonlocal clock
        clock += 10
        job = JobRecord(
            id=f"{batch}-{name}".replace(" ", "-"),
            request=request,
            fingerprint=fingerprint(request),
            credits=request.credits,
            batch=batch,
            key=name,
            planned_at=clock,
        )
        await ledger.plan(job)
        for event in HISTORIES[name]:
            if event == CLAIM:
                await ledger.claim(job.id, lease=3600.0)
            else:
                happened = Taken(f"task-{job.id}") if isinstance(event, Taken) else event
                await ledger.record(job.id, happened)

    account = Credits(balance=9000, total_purchased=10_000, total_consumed=1000)
    await ledger.note_credits(account)
    for name in HISTORIES:
        await add("unpriced", name, Generation("nobody-knows-1", {"prompt": name}))
    clock += 10
    await ledger.note_credits(account)
    for name in ("saved", "planned"):
        await add("mixed", name, Sora2(name, duration=4, aspect_ratio="16:9"))
    await add("mixed", "running", Generation("nobody-knows-1", {"prompt": "mixed"}))
    for name in ("saved", "unknown", "planned"):
        await add("priced", name, Sora2(name, duration=4, aspect_ratio="16:9"))
    await ledger.set_ceiling("priced", Decimal(300))
    source, copy = sqlite3.connect(path), sqlite3.connect(MADE)
    source.backup(copy)
    copy.execute("PRAGMA journal_mode = DELETE")  # one plain file: without a log beside it
    copy.execute("VACUUM")
    copy.close()
    source.close()
    await ledger.aclose()


if __name__ == "__main__":
    MADE.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(make(Path(folder) / "aivideo.db"))
    connection = sqlite3.connect(MADE)
    for row in connection.execute("SELECT batch, key, status FROM jobs ORDER BY seq"):
        sys.stdout.write(f"{row}\n")
    connection.close()
