"""What users were told is unsent: nobody may send it, but those who ask for it again."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from tests.simulated.faults.ledgers import WatchedLedger
from tests.simulated.faults.process import Process

if TYPE_CHECKING:
    from tests.simulated.faults.laws import Laws


class Promises:
    """Keeps in mind what users were told.

    Args:
        laws: knows the POSTs.
    """

    def __init__(self, laws: Laws) -> None:
        self._laws = laws
        self._told_unsent: dict[str, str | None] = {}
        """Jobs that somebody was told are unsent: the key under which they may be sent later."""
        self._asking: dict[str, list[Process]] = defaultdict(list)
        self._enqueued: set[str] = set()

    def asks(self, process: Process, key: str) -> None:
        """A user asks for a key: it may be sent until their process ends."""
        self._asking[key].append(process)

    def enqueued(self, key: str) -> None:
        """A user enqueued a job under a key: `resume()` may send it, whoever else asks for it."""
        self._enqueued.add(key)
        for job_id in [job_id for job_id, each in self._told_unsent.items() if each == key]:
            del self._told_unsent[job_id]

    def told_unsent(self, process: Process, job_id: str, key: str | None = None) -> None:
        """A user was told that a job is unsent: only its key, if it has one, may send it."""
        if key in self._enqueued:
            return  # somebody else has left it to `resume()`
        process.log(f"job {job_id} was said to be unsent, key {key}")
        self._told_unsent[job_id] = key
        if key is not None:
            self._asking[key].remove(process)
        assert isinstance(process.ledger, WatchedLedger)
        if process.ledger.is_in_doubt(job_id):
            self._laws.fail("unsent", f"job {job_id} is in doubt, and was said to be unsent")

    def forbid(self, job_id: str) -> bool:
        """Whether a job must not be sent."""
        if job_id not in self._told_unsent:
            return False
        key = self._told_unsent[job_id]
        return key is None or not any(
            process.alive and not process.closed for process in self._asking[key]
        )
