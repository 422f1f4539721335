"""Wires a session together, top down: each part is given the parts that it uses, and no other.

::

    POST:  Session ─► Intake ─► Submitter ─► Limiter, Recorder (ledger), Client
                                    └─► consequences ─► Recorder, Limiter, Gate
    end:   Poller ─► TaskEnds ─► LiveJobs, Limiter, Recorder
    file:  Job.save ─► Actions ─► Downloads ─► Recorder
"""

from __future__ import annotations

import asyncio

from attrs import frozen

from aivideo._api.client import Client
from aivideo._pacing.limiter import Limiter
from aivideo._polling.poller import Poller
from aivideo._session.actions import Actions
from aivideo._session.callback_receiver import CallbackReceiver
from aivideo._session.downloads import Downloads
from aivideo._session.gate import Gate, OutageProbe
from aivideo._session.intake import Intake
from aivideo._session.live import LiveJobs
from aivideo._session.many import Workers
from aivideo._session.paced import Account, PacedPolls, Questions
from aivideo._session.recorder import Recorder
from aivideo._session.submitter import CallbackURLs, Submitter
from aivideo._session.supervisor import Supervisor
from aivideo._session.watching import TaskEnds, Watching
from aivideo.errors import SessionClosedError
from aivideo.ledger import Ledger
from aivideo.settings import SessionSettings


@frozen
class Parts:
    """The parts of one session."""

    client: Client
    ledger: Ledger
    supervisor: Supervisor
    limiter: Limiter
    live: LiveJobs
    gate: Gate
    recorder: Recorder
    questions: Questions
    account: Account
    poller: Poller
    watching: Watching
    submitter: Submitter
    downloads: Downloads
    actions: Actions
    intake: Intake
    callbacks: CallbackReceiver

    @property
    def workers(self) -> Workers:
        """What ``generate_many`` drives."""
        return Workers(
            ledger=self.ledger,
            live=self.live,
            intake=self.intake,
            submitter=self.submitter,
            watching=self.watching,
            poller=self.poller,
            downloads=self.downloads,
            actions=self.actions,
        )


def assemble(settings: SessionSettings, client: Client, ledger: Ledger) -> Parts:
    """Make the parts of a session.

    Args:
        settings: checked already.
        client: the endpoints.
        ledger: where jobs are recorded.
    """
    catalog = settings.catalog
    supervisor = Supervisor()
    limiter = Limiter(
        max_in_flight=settings.max_requests_in_flight,
        max_running_jobs=settings.max_running_jobs,
        rate_limit=settings.rate_limit,
        max_requests_per_minute=settings.max_requests_per_minute,
    )
    live = LiveJobs(settings.instrumentation)
    gate = Gate(limiter, live)
    recorder = Recorder(ledger, live, gate, supervisor, max_credits=settings.max_credits)
    questions = Questions(client, limiter)
    account = Account(questions, ledger)
    ends = TaskEnds(live, limiter, recorder, supervisor)
    poller = Poller(PacedPolls(client, limiter), ends, poll_interval=settings.poll_interval)
    urls = CallbackURLs(
        settings.callback_base_url,
        client.callback_secret(settings.callback_secret),
    )
    watching = Watching(live, poller, ends, limiter, catalog, called_back=urls.base is not None)
    submitter = Submitter(
        client,
        limiter,
        gate,
        live,
        recorder,
        watching,
        supervisor,
        OutageProbe(gate, account),
        urls=urls,
        resubmit_server_errors=settings.resubmit_server_errors,
    )
    downloads = Downloads(client.transport, live, recorder, watching)
    actions = Actions(live, poller, watching, submitter, recorder, downloads, supervisor)
    intake = Intake(live, recorder, submitter, watching, supervisor, actions, catalog)
    callbacks = CallbackReceiver(
        urls.secret, ledger, live, intake, watching, poller, questions, limiter
    )
    return Parts(
        client=client,
        ledger=ledger,
        supervisor=supervisor,
        limiter=limiter,
        live=live,
        gate=gate,
        recorder=recorder,
        questions=questions,
        account=account,
        poller=poller,
        watching=watching,
        submitter=submitter,
        downloads=downloads,
        actions=actions,
        intake=intake,
        callbacks=callbacks,
    )


async def shut_down(parts: Parts) -> None:
    """Close the parts in order; runs in the supervisor task.

    Nothing more is sent; POSTs under way get their verdict; every waiter is released; what is being
    recorded is recorded.
    """
    for live in parts.live:
        parts.submitter.interrupt(live)
    try:
        while parts.supervisor.submissions:
            await asyncio.wait([*parts.supervisor.submissions])
    finally:
        await parts.poller.aclose()
        parts.limiter.close(SessionClosedError("the session is closed; nothing was sent"))
        await parts.actions.finish_updates()
        await parts.downloads.aclose()
