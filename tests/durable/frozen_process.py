"""A process that is stopped between its claim and its POST; used by test_frozen.py.

Run as ``python -m tests.durable.frozen_process LEDGER URL``. It prints ``claimed``, stops itself,
and prints the task of its job once it goes on.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from aivideo import Session, Sora2, SqliteLedger
from aivideo._session import submitter
from aivideo.ledger.records import JobRecord

BOAT = Sora2("A paper boat", duration=4, aspect_ratio="16:9")
KEY = "boat"
REQUEST_TIMEOUT = 0.5
LEASE_MARGIN = 0.5
"""Seconds, instead of 30."""


class StoppingLedger(SqliteLedger):
    """Stops its process after its first claim."""

    _stopped = False

    async def claim(self, job_id: str, *, lease: float, **settings: Any) -> JobRecord | None:
        """Claim, and stop."""
        claimed = await super().claim(job_id, lease=lease, **settings)
        if not self._stopped:
            self._stopped = True
            sys.stdout.write("claimed\n")
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGSTOP)
        return claimed


async def main(path: str, url: str) -> None:
    """Submit one job."""
    submitter.LEASE_MARGIN, submitter.WRITE_MARGIN = LEASE_MARGIN, 0.1
    ledger = StoppingLedger(path)
    async with Session(
        "sk-test", base_url=url, ledger=ledger, request_timeout=REQUEST_TIMEOUT
    ) as session:
        job = await session.submit(BOAT, key=KEY)
        sys.stdout.write(f"{job.task_id}\n")
    await ledger.aclose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
