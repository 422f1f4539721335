"""Law 5: no ceiling is passed, neither by what is charged nor by what the books hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulated.faults.ledgers import WatchedLedger
from tests.simulated.faults.process import Process

if TYPE_CHECKING:
    from tests.simulated.faults.laws import Laws


class Ceilings:
    """Checks the ceilings of processes and of the batch.

    Args:
        laws: has the tasks of each content.
    """

    def __init__(self, laws: Laws) -> None:
        self._laws = laws

    def sent(self, process: Process, content: str) -> None:
        """Check that under a ceiling nothing of unknown price is sent, and nothing after it."""
        if self._ceiling_over(process, content) is None:
            return
        if "unpriced" in content:
            self._laws.fail(
                "law 5", f"{content!r} has no known price and is POSTed under a ceiling"
            )
        elif "batch" in content and self._laws.world.ceiling_now() is not None:
            held = [
                asked
                for asked, tasks in self._laws.by_content.items()
                if "batch" in asked and "unpriced" in asked
                if any(not task.refunded and task.id in self._laws.listed for task in tasks)
            ]
            if held:
                self._laws.fail(
                    "law 5", f"{content!r} is POSTed under a ceiling that {held[0]!r} fills"
                )

    def _ceiling_over(self, process: Process, content: str) -> int | None:
        """Return a ceiling that counts for a content in a process, or None."""
        own: int | None = process.plan.settings.get("max_credits")
        if own is not None or "batch" not in content:
            return own
        return self._laws.world.ceiling_now()

    def taken(self, process: Process, content: str) -> None:
        """Check, when a create was taken, what the service has charged."""
        ceiling_of_process = process.plan.settings.get("max_credits")
        if ceiling_of_process is not None:
            held = sum(
                each.credits
                for each in self._laws.world.service.truth.tasks.values()
                if self._laws.post_of_task[each.id].process is process and not each.refunded
            )
            if held > ceiling_of_process and not self._laws.wrongly_settled:
                self._laws.fail(
                    "law 5",
                    f"{process.name} was charged {held}, its ceiling is {ceiling_of_process}",
                )
        ceiling = self._laws.world.ceiling_now()
        if ceiling is not None and "batch" in content and not self._laws.wrongly_settled:
            held = sum(
                each.credits
                for asked, made in self._laws.by_content.items()
                if "batch" in asked
                for each in made
                if not each.refunded
            )
            if held > ceiling:
                self._laws.fail("law 5", f"the batch was charged {held}, its ceiling is {ceiling}")

    def transaction_done(self, process: Process) -> None:
        """A ledger transaction has completed: check the ceilings."""
        ceiling_of_process = process.plan.settings.get("max_credits")
        if ceiling_of_process is not None and process.session is not None:
            held = process.session.statistics().credits.held
            if held > ceiling_of_process:
                self._laws.fail(
                    "law 5",
                    f"{process.name} counts {held} credits, its ceiling is {ceiling_of_process}",
                )
        ceiling = self._laws.world.plan.batch_ceiling
        if ceiling is None or self._laws.wrongly_settled or self._laws.world.plan.ceiling_from:
            return
        assert isinstance(process.ledger, WatchedLedger)
        if process.ledger._file is None:
            return  # it was closed by this transaction
        row = process.ledger.file.connection.execute(
            "SELECT (charged + reserved + unknown) / 1e6 FROM credit_totals WHERE batch = 'b'"
        ).fetchone()
        if row is not None and row[0] > ceiling:
            self._laws.fail(
                "law 5", f"the ledger holds {row[0]} for a batch whose ceiling is {ceiling}"
            )
