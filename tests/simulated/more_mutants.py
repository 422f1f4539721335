"""Mutants of promises that not every version of the package makes.

Each names what it replaces. Where that is not there, it is left out, and ``make mutations`` says
so.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import reduce
from typing import Any

from attrs import evolve

from tests.simulated.mutants import MUTANTS, Mutant, replace

PRESENT: dict[str, Mutant] = {}
"""The mutants that fit this package."""

ABSENT: dict[str, str] = {}
"""The names of the others, and what they would replace."""


def of(path: str) -> Any:
    """Return what a path such as ``aivideo.ledger.audit:SETTLING_TIME`` names."""
    module, _, name = path.partition(":")
    return reduce(getattr, name.split("."), importlib.import_module(module))


def is_there(path: str) -> bool:
    """Whether a path names anything."""
    try:
        of(path)
    except (ImportError, AttributeError):
        return False
    return True


def mutant(law: str, what: str, target: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a mutant, if what it replaces is there.

    Args:
        law: the law that it breaks.
        what: how it breaks it.
        target: the path of what it replaces.
    """

    def register(apply: Callable[[], None]) -> Callable[[], None]:
        name = apply.__name__.replace("_", "-")
        if is_there(target):
            PRESENT[name] = Mutant(law, name, what, apply)
        else:
            ABSENT[name] = target
        return apply

    return register


def all_mutants() -> dict[str, Mutant]:
    """Return the mutants that fit this package."""
    return MUTANTS | PRESENT


_OUTAGE = "aivideo._session.outage:Outage.begin_probing"


@mutant("7", "after a hold all creates go at once", _OUTAGE)
def all_probe() -> None:
    def begin_probing(self: Any) -> None:
        before(self)
        self.allowed = None

    before = replace(of("aivideo._session.outage:Outage"), "begin_probing", begin_probing)


@mutant("7", "creates answered by 500 do not count as doubts", _OUTAGE)
def server_errors_uncounted() -> None:
    from aivideo._api import verdict
    from aivideo._session import consequences

    def row(heard: Any) -> Any:
        found = before(heard)
        if isinstance(heard, verdict.Faulted):
            return evolve(found, gate=consequences.GateEffect.NONE)
        return found

    before = replace(consequences, "_row", row)


@mutant(
    "8",
    "a line without an id is not found by its content",
    "aivideo.manifest.preparing:match",
)
def content_ignored() -> None:
    from aivideo.manifest import preparing

    def match(lines: Any, records: Any) -> Any:
        return before(lines, [evolve(record, fingerprint=record.id) for record in records])

    before = replace(preparing, "match", match)


@mutant(
    "4",
    "a claim whose lease has passed is sent all the same",
    "aivideo._api.send_deadline:SendDeadline.has_passed",
)
def sent_after_lease() -> None:
    replace(of("aivideo._api.send_deadline:SendDeadline"), "has_passed", lambda _: False)


@mutant(
    "audit",
    "an audit concludes at once, and takes a growth by less than all doubts for none",
    "aivideo.ledger.audit:_of_one",
)
def audit_too_sure() -> None:
    audit = importlib.import_module("aivideo.ledger.audit")

    def of_one(rest: Any, prices: Any) -> str:
        found: str = before(rest, prices)
        return "none charged" if found in ("some charged", "all charged") else found

    before = replace(audit, "_of_one", of_one)
    replace(audit, "SETTLING_TIME", 0.0)


@mutant(
    "4",
    "to send again after a 500 is written before the claim",
    "aivideo._session.reasons:still_faulted",
)
def retried_before_claim() -> None:
    from aivideo._session.submitter import Submitter
    from aivideo.ledger.events import Retried
    from aivideo.ledger.records import JobStatus

    async def permit(self: Any, live: Any, submission: Any, retry_after: Any) -> Any:
        if submission.fault is not None and live.record.status is JobStatus.FAULTED:
            await self._recorder.ledger.record(live.id, Retried(pay_again=True))
        return await before(self, live, submission, retry_after)

    before = replace(Submitter, "_permit", permit)


@mutant("3", "any 4xx counts as refused", "aivideo._api.verdict:_is_final")
def any_4xx_is_final() -> None:
    from aivideo._api import verdict

    def is_final(error: Any) -> bool:
        return 400 <= int(error.status) < 500

    replace(verdict, "_is_final", is_final)


@mutant("5", "an attempt of unknown price counts as free", "aivideo.ledger.totals:holds_unpriced")
def unpriced_is_free() -> None:
    replace(importlib.import_module("aivideo.ledger.totals"), "holds_unpriced", lambda _: 0)


@mutant(
    "places",
    "a create answered with another job's task keeps its place",
    "aivideo._session.consequences:contradicted",
)
def place_kept() -> None:
    from aivideo._session import consequences

    def contradicted(text: str) -> Any:
        return evolve(before(text), permit=consequences.PermitEnd.JOB_TAKEN)

    before = replace(consequences, "contradicted", contradicted)


@mutant(
    "user code",
    "a job whose on_job raised has no outcome",
    "aivideo._session.many:GenerateMany._refuse",
)
def callback_swallowed() -> None:
    from aivideo._session.many import GenerateMany

    async def refuse(*_: Any, **__: Any) -> None:
        return None

    replace(GenerateMany, "_refuse", refuse)


@mutant(
    "8",
    "what may have been charged is bought again, though nobody asked",
    "aivideo._session.intake:Intake.buy_again",
)
def pays_again_unasked() -> None:
    from aivideo._session.intake import Intake

    async def plan(self: Any, *args: Any, **settings: Any) -> Any:
        return await before(self, *args, **{**settings, "retry_failed": True, "pay_again": True})

    before = replace(Intake, "plan", plan)
