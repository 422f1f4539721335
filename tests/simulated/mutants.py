"""Mutants: each breaks one law of money by replacing an attribute of the package by its name.

A mutant is a function that replaces functions, methods, constants or table rows in the process that
runs the seeds (``python -m tests.simulated.faults --mutant NAME``). A name that no longer exists is
an error, so no mutant can become a no-op unnoticed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
from collections.abc import Callable
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

from attrs import evolve, frozen

from aivideo import RateLimit, SpendLimitError, models
from aivideo._api import verdict, wire
from aivideo._api.client import Client
from aivideo._pacing.limiter import Limiter
from aivideo._session import consequences, outage, recorder, session, submitter
from aivideo._session.downloads import Downloads
from aivideo._session.gate import Gate, OutageProbe
from aivideo._session.intake import Intake
from aivideo._session.live import LiveJob, LiveJobs, Submission
from aivideo._session.many import GenerateMany
from aivideo._session.outage import Outage
from aivideo._session.paced import Questions
from aivideo._session.recorder import Recorder
from aivideo._session.submitter import Submitter
from aivideo.delivery import download
from aivideo.errors import APIConnectionError, LedgerError
from aivideo.ledger import budget, events, rules, transitions
from aivideo.ledger.memory import MemoryLedger
from aivideo.ledger.records import AttemptStatus, JobRecord, JobStatus
from aivideo.ledger.sqlite import file as sqlite_file
from aivideo.ledger.sqlite import opening
from aivideo.ledger.totals import CreditTotals


@frozen
class Mutant:
    """A law, a way to break it, and the function that breaks it."""

    law: str
    name: str
    what: str
    apply: Callable[[], None]


MUTANTS: dict[str, Mutant] = {}


def mutant(law: str, what: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a mutant; its name is the function's, with dashes."""

    def register(apply: Callable[[], None]) -> Callable[[], None]:
        name = apply.__name__.replace("_", "-")
        MUTANTS[name] = Mutant(law, name, what, apply)
        return apply

    return register


def replace(owner: Any, name: str, value: Any) -> Any:
    """Replace an attribute, which must exist, and return its former value."""
    before = owner.__dict__[name]
    setattr(owner, name, value)
    return before


def replace_everywhere(before: Any, value: Any) -> None:
    """Replace a function in every module of the package that names it."""
    found = [
        (module, name)
        for path, module in list(sys.modules.items())
        if path.partition(".")[0] == "aivideo"
        for name, each in list(vars(module).items())
        if each is before
    ]
    assert found
    for module, name in found:
        setattr(module, name, value)


# --- law 1: on disk before the POST's first byte --------------------------------------------------


@mutant("1", "a commit need not be on disk before the POST leaves")
def unsynced() -> None:
    def prepare(connection: Any, *args: Any, **settings: Any) -> None:
        before(connection, *args, **settings)
        connection.execute("PRAGMA synchronous = NORMAL")

    before = replace(opening, "prepare", prepare)


@mutant("1", "the claim is written before the limiter has granted a permit")
def claimed_early() -> None:
    current: ContextVar[LiveJob] = ContextVar("current")
    early: dict[str, JobRecord | None] = {}

    async def run(self: Submitter, live: LiveJob, submission: Submission) -> None:
        current.set(live)
        await before_run(self, live, submission)

    async def permit(self: Submitter, retry_after: float | None) -> Any:
        live = current.get()
        early[live.id] = await before_claim(self._recorder, live, lease=90.0)
        return await before_permit(self, retry_after)

    async def claim(_: Recorder, live: LiveJob, *, lease: float) -> JobRecord | None:
        return early.pop(live.id) if lease else None

    before_run = replace(Submitter, "_run", run)
    before_permit = replace(Submitter, "_permit", permit)
    before_claim = replace(Recorder, "claim", claim)


@mutant("1", "the POST leaves, and only then is the attempt written down")
def written_after() -> None:
    client: ContextVar[Client] = ContextVar("client")
    heard: ContextVar[verdict.Verdict | None] = ContextVar("heard")

    async def post(self: Submitter, live: LiveJob, permit: Any) -> Any:
        client.set(self._client)
        return await before_post(self, live, permit)

    async def claim(self: Recorder, live: LiveJob, *, lease: float) -> JobRecord | None:
        heard.set(await before_submit(client.get(), live.record.request))
        found: JobRecord | None = await before_claim(self, live, lease=lease)
        return found

    async def submit(self: Client, *args: Any, **settings: Any) -> verdict.Verdict:
        return heard.get() or await before_submit(self, *args, **settings)

    before_post = replace(Submitter, "_post", post)
    before_claim = replace(Recorder, "claim", claim)
    before_submit = replace(Client, "submit", submit)


# --- law 2: who may POST, and once ----------------------------------------------------------------


@mutant("2", "a claim succeeds whether the job is planned or not")
def no_compare_and_set() -> None:
    def claim(job: JobRecord, **settings: Any) -> JobRecord | None:
        return before(evolve(job, status=JobStatus.PLANNED), **settings)  # type: ignore[no-any-return]

    before = replace(rules, "claim", claim)


@mutant("2", "a caller that follows a job is given another request's task")
def followed_unchecked() -> None:
    replace(submitter, "_check_unchanged", lambda *_: None)


@mutant("2", "a POST whose connection broke is sent again by the client")
def repeated_below() -> None:
    async def send(self: Client, message: wire.Message) -> wire.Answer:
        try:
            return await before(self, message)  # type: ignore[no-any-return]
        except APIConnectionError:
            if message.method != "POST":
                raise
            return await before(self, message)  # type: ignore[no-any-return]

    before = replace(Client, "_send", send)


@mutant("2", "a caller that is cancelled cancels the POST")
def cancelled_with_caller() -> None:
    async def ended(self: Submission) -> None:
        if self._task is not None:
            await self._task

    replace(Submission, "ended", ended)


@mutant("2", "closing does not wait for POSTs in flight")
def close_cuts() -> None:
    async def shut_down(parts: Any) -> None:
        for submission in parts.supervisor.submissions:
            submission.cancel()
        await before(parts)

    before = replace(session, "shut_down", shut_down)


@mutant("2", "leaving a batch cancels a POST in flight")
def withdrawn_under_way() -> None:
    def interrupt(self: Submission) -> None:
        if self._task is not None:
            self._task.cancel()

    replace(Submission, "interrupt", interrupt)


# --- law 3: what an answer means ------------------------------------------------------------------


def consequence_of(kind: type, event: Callable[[Any], events.AttemptEvent]) -> None:
    """Have verdicts of one kind recorded as another event."""

    def of(heard: verdict.Verdict) -> consequences.Consequence:
        what: consequences.Consequence = before(heard)
        return evolve(what, event=event(what)) if isinstance(heard, kind) else what

    before = replace(consequences, "of", of)


@mutant("3", "a POST that got no answer counts as not taken")
def unknown_is_untaken() -> None:
    consequence_of(verdict.Unknown, lambda _: events.Released())


@mutant("3", "a 500 frees the credits, as if nothing had been charged")
def faulted_is_refused() -> None:
    consequence_of(verdict.Faulted, lambda what: events.Refused(what.event.reason))


@mutant("3", "a connection that broke counts as if not a byte had been written")
def written_bytes_ignored() -> None:
    def of_create(heard: Any, *, wall_now: float) -> verdict.Verdict:
        if isinstance(heard, APIConnectionError):
            return verdict.Unsent(heard)
        return before(heard, wall_now=wall_now)  # type: ignore[no-any-return]

    before = replace(verdict, "of_create", of_create)


@mutant("3", "that a POST was taken is kept in memory only")
def taken_is_not_written() -> None:
    async def write(self: Recorder, job_id: str, event: Any, number: int) -> JobRecord | None:
        if isinstance(event, events.Taken):
            return None
        found: JobRecord | None = await before(self, job_id, event, number)
        return found

    before = replace(Recorder, "_write_or_find", write)


# --- law 4: claims that lapse ---------------------------------------------------------------------


@mutant("4", "a claim whose owner died is planned again")
def lapse_plans() -> None:
    replace(events, "ABANDONED", events.Released())


@mutant("4", "a claim whose owner died stays claimed forever")
def never_lapses() -> None:
    replace(rules, "lapse", lambda job, **_: job)


@mutant("4", "an attempt that is unknown cannot turn out to have been taken")
def late_success_dropped() -> None:
    table = dict(transitions.TRANSITIONS)
    row = table[events.Taken]
    table[events.Taken] = evolve(row, lands_from=frozenset({AttemptStatus.SUBMITTING}))
    replace(transitions, "TRANSITIONS", table)


@mutant("4", "a callback is believed without a poll")
def callback_believed() -> None:
    said: ContextVar[Any] = ContextVar("said", default=None)

    def read_callback(body: bytes) -> Any:
        task = before_read(body)
        said.set(task)
        return task

    async def retrieve(self: Questions, task_id: str) -> Any:
        task = said.get()
        return task if task is not None else await before_retrieve(self, task_id)

    before_read = replace(wire, "read_callback", read_callback)
    before_retrieve = replace(Questions, "retrieve", retrieve)


@mutant("4", "a lease ends before its POST may time out")
def lease_too_short() -> None:
    replace(submitter, "LEASE_MARGIN", -15.0)


@mutant("4", "a ledger in memory forgets jobs that may have been charged")
def doubts_forgotten() -> None:
    def drop_oldest(self: MemoryLedger) -> None:
        while len(self._ended) > self._keep_ended:
            job = self._jobs.pop(self._ended.popleft(), None)
            for attempt in () if job is None else job.attempts:
                if attempt.task_id is not None:
                    self._by_task.pop(attempt.task_id, None)

    replace(MemoryLedger, "_drop_oldest", drop_oldest)


# --- law 5: ceilings ------------------------------------------------------------------------------


@mutant("5", "credits of a second attempt are not added up")
def sums_forgotten() -> None:
    def credits_moved(before_: JobRecord | None, after: JobRecord) -> Any:
        return {} if len(after.attempts) > 1 else before(before_, after)

    before = replace(sqlite_file, "credits_moved", credits_moved)


@mutant("5", "a ceiling counts what was charged, and not what is reserved or unknown")
def ceiling_counts_charged() -> None:
    replace(CreditTotals, "held", property(lambda totals: totals.charged))


@mutant("5", "a session reserves only after it has claimed: two callers pass its ceiling together")
def reserved_late() -> None:
    async def claim(self: Recorder, live: LiveJob, *, lease: float) -> JobRecord | None:
        claimed: JobRecord | None = await before_claim(self, live, lease=lease)
        if claimed is not None:
            reserve(self._live, live)
        return claimed

    before_claim = replace(Recorder, "claim", claim)
    reserve = replace(LiveJobs, "reserve", lambda *_: None)


@mutant("5", "a session's ceiling admits requests of unknown price")
def unpriced_admitted() -> None:
    def admit(model: str, needed: Any, **settings: Any) -> None:
        if needed is not None:
            budget.admit(model, needed, **settings)

    replace(recorder, "budget", SimpleNamespace(admit=admit))


# --- law 6: money that is spent -------------------------------------------------------------------


@mutant("6", "spend_limit_exceeded is taken for a rate limit, and tried again")
def spend_cap_is_a_pace() -> None:
    def of_create(heard: Any, *, wall_now: float) -> verdict.Verdict:
        found: verdict.Verdict = before(heard, wall_now=wall_now)
        if isinstance(found, verdict.Exhausted) and isinstance(found.error, SpendLimitError):
            return verdict.Throttled(found.error, None)
        return found

    before = replace(verdict, "of_create", of_create)


@mutant("6", "creates go on although the credits are spent")
def gate_stays_open() -> None:
    def close(self: Gate, error: Any) -> None:
        if isinstance(error, LedgerError):
            before(self, error)

    before = replace(Gate, "close", close)


# --- law 7: outages -------------------------------------------------------------------------------


@mutant("7", "five unknowns in a row do not hold creates")
def outage_unseen() -> None:
    replace(outage, "FAILURES_IN_A_ROW", 500)


@mutant("7", "creates go on after a pause, whether the service has answered or not")
def outage_over_unanswered() -> None:
    async def run(self: OutageProbe) -> None:
        await asyncio.sleep(self._gate.outage.next_pause())
        self._gate.begin_probing()

    replace(OutageProbe, "run", run)


@mutant("7", "each relapse waits no longer than the one before")
def pause_does_not_grow() -> None:
    replace(Outage, "next_pause", lambda _: outage.FIRST_PAUSE)


# --- law 8: batches that are run again ------------------------------------------------------------


@mutant("8", "a batch that is run again sends what failed again, though nobody asked")
def failed_again_unasked() -> None:
    async def plan(self: Intake, *args: Any, **settings: Any) -> Any:
        return await before(self, *args, **{**settings, "retry_failed": True})

    before = replace(Intake, "plan", plan)


@mutant("8", "the same line of a batch is another job in another run")
def another_job_each_run() -> None:
    def key(self: GenerateMany, index: int, request: Any) -> str | None:
        return f"{before(self, index, request)}-{secrets.token_hex(4)}"

    before = replace(GenerateMany, "_key", key)


@mutant("8", "requests that differ in their image only are the same job")
def image_not_compared() -> None:
    def fingerprint(request: Any) -> str:
        fields = {name: each for name, each in request.input.items() if name != "image_urls"}
        return before(SimpleNamespace(model=request.model, input=fields))  # type: ignore[no-any-return]

    before: Any = models.fingerprint
    replace_everywhere(before, fingerprint)


@mutant("8", "a file counts as saved before it is on disk")
def file_not_synced() -> None:
    shim = SimpleNamespace(**{**vars(os), "fsync": lambda _: None})
    replace(download, "os", shim)


# --- the pace, and secrets ------------------------------------------------------------------------


@mutant("pace", "a stated window permits one request more")
def window_off_by_one() -> None:
    def init(self: Limiter, **settings: Any) -> None:
        limit: RateLimit | None = settings.get("rate_limit")
        if limit is not None and limit.burst is None:
            settings["rate_limit"] = evolve(limit, count=limit.count + 1)
        before(self, **settings)

    before = replace(Limiter, "__init__", init)


@mutant("secrets", "the signed URL of a result is logged")
def signed_url_logged() -> None:
    async def fetch(self: Downloads, task: Any, path: Any) -> Any:
        logging.getLogger("aivideo.session").debug("fetching %s", task.urls[:1])
        return await before(self, task, path)

    before = replace(Downloads, "_fetch", fetch)
