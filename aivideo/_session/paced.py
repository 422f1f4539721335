"""GETs of the service under the rate limiter: polls, single questions, the balance."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from aivideo._api.client import Client
from aivideo._api.send_deadline import SendDeadline
from aivideo._pacing.limiter import GateClosed, Limiter, Permit
from aivideo._pacing.turns import RequestKind
from aivideo.errors import APIConnectionError, LedgerError, RateLimitError
from aivideo.ledger import Ledger
from aivideo.models import Credits, Task, TaskId

log = logging.getLogger("aivideo.session")

T = TypeVar("T")

READING_TIMEOUT = 60.0
"""Seconds from the question to the answer, at most, for a reading of the balance to be kept."""


class PacedPolls:
    """Where the poller gets its turns: implements :class:`aivideo._polling.poller.PollSource`.

    Args:
        client: the endpoints.
        limiter: grants the permits.
    """

    def __init__(self, client: Client, limiter: Limiter) -> None:
        self._client = client
        self._limiter = limiter

    @property
    def contended(self) -> bool:
        """Whether creates wait for the same permits."""
        return self._limiter.creates_wait

    async def admit(self) -> PacedPoll:
        """Wait until one poll may be sent."""
        return PacedPoll(await self._limiter.acquire(RequestKind.POLL), self._client)


class PacedPoll:
    """The permit to send one poll; which task it is for is decided when it is granted."""

    __slots__ = ("_client", "_permit")

    def __init__(self, permit: Permit, client: Client) -> None:
        self._permit = permit
        self._client = client

    async def fetch(self, task_id: TaskId) -> Task:
        """Send the poll; raises what :meth:`Client.retrieve` raises."""
        return await _with_permit(self._permit, self._client.retrieve(task_id))

    def give_back(self) -> None:
        """Send nothing: the permit is the next one's."""
        self._permit.unused()


class Questions:
    """Sends single GETs under the limiter, and again after a 429.

    Args:
        client: the endpoints.
        limiter: grants the permits.
    """

    def __init__(self, client: Client, limiter: Limiter) -> None:
        self._client = client
        self._limiter = limiter

    async def retrieve(self, task_id: TaskId) -> Task:
        """Ask for a task once; raises what :meth:`Client.retrieve` raises, but no 429."""
        return await self._ask(lambda: self._client.retrieve(task_id))

    async def credits(self) -> Credits:
        """Ask for the balance; raises what :meth:`Client.credits` raises, but no 429."""
        return await self._ask(self._client.credits)

    async def reading(self) -> tuple[Credits, SendDeadline]:
        """Ask for the balance; return it, and until when it is fresh enough to be kept."""
        fresh = SendDeadline.after(0.0)

        async def ask() -> Credits:
            nonlocal fresh
            fresh = SendDeadline.after(READING_TIMEOUT)  # not while it waits for its turn
            return await self._client.credits()

        return await self._ask(ask), fresh

    async def _ask(self, question: Callable[[], Coroutine[Any, Any, T]]) -> T:
        while True:
            try:
                permit = await self._limiter.acquire(RequestKind.OTHER)
            except GateClosed as closed:
                raise copy.copy(closed.error) from None
            try:
                return await _with_permit(permit, question())
            except RateLimitError:
                continue  # the limiter has been told, and decides when the next may go


class Account:
    """The account's balance; each answer is kept in the ledger, for audits.

    Args:
        questions: sends the GET.
        ledger: keeps the reading.
    """

    def __init__(self, questions: Questions, ledger: Ledger) -> None:
        self._questions = questions
        self._ledger = ledger

    async def credits(self) -> Credits:
        """Ask for the balance, and keep the answer beside what the ledger knows now.

        An answer that was on its way for long is not kept, as where this process was suspended
        meanwhile: the ledger may know purchases by now that the counter did not include.
        """
        account, fresh = await self._questions.reading()
        if fresh.has_passed():
            log.info("the balance was not recorded: its answer is more than a minute old")
            return account
        try:
            await self._ledger.note_credits(account)
        except LedgerError as error:
            log.info("the balance was not recorded: %s", error)
        return account


async def _with_permit(permit: Permit, request: Coroutine[Any, Any, T]) -> T:
    """Await a GET, and tell its permit what came of it."""
    try:
        answer = await request
    except RateLimitError as error:
        permit.rejected(error.retry_after)
        raise
    except (APIConnectionError, asyncio.CancelledError):
        permit.lost()
        raise
    except BaseException:
        permit.accepted()
        raise
    permit.accepted()
    return answer
