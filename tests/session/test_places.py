"""Places under ``max_running_jobs`` are freed, whatever the service answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from aivideo import AuthenticationError, Failed, Session, Sora2, SubmitUnknownError
from aivideo._api.verdict import Accepted
from aivideo._api.wire import Answer
from aivideo._session import consequences
from aivideo._session.consequences import PermitEnd
from aivideo._session.submitter import _checked
from aivideo.ledger.events import Claimed, Completed, Taken
from aivideo.ledger.transitions import apply
from aivideo.simulator import Scenario, Service
from aivideo.testing import DirectTransport
from tests.ledger.jobs import job

pytestmark = pytest.mark.anyio

CAP = 3


def boats(count: int) -> list[Sora2]:
    return [Sora2(f"Boat {n}", duration=4, aspect_ratio="16:9") for n in range(count)]


class Odd(DirectTransport):
    """Changes what the service answers."""

    def __init__(self, **settings: Any) -> None:
        scenario = {"task_seconds": 60.0, "media": "stub", "latency": 0.2, **settings}
        self.service = Service(Scenario(**scenario))
        super().__init__(self.service)

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Answer:
        answer = await super().send(method, url, headers, body, timeout)
        if method == "POST":
            return self.create(answer)
        return self.poll(answer) if "/tasks/" in url else answer

    def create(self, answer: Answer) -> Answer:
        return answer

    def poll(self, answer: Answer) -> Answer:
        return answer


class RepeatsTheFirstId(Odd):
    first: Answer | None = None

    def create(self, answer: Answer) -> Answer:
        self.first = self.first or answer
        return self.first


async def test_a_create_answered_with_another_jobs_task_takes_no_place() -> None:
    transport = RepeatsTheFirstId()
    async with Session("sk-test", transport=transport, max_running_jobs=CAP) as session:
        outcomes = [outcome async for outcome in session.generate_many(boats(12))]
        unknown = [o for o in outcomes if isinstance(getattr(o, "error", None), SubmitUnknownError)]
        assert len(outcomes) == 12
        assert len(unknown) == 11
        assert session.statistics().limiter.running_jobs == 0
        assert session.statistics().credits.unknown == 1100


class OneUnauthorizedPoll(Odd):
    polls = 0

    def poll(self, answer: Answer) -> Answer:
        self.polls += 1
        if self.polls != 1:
            return answer
        error = {"code": "invalid_api_key", "message": "no", "type": "authentication_error"}
        return Answer(401, orjson.dumps({"error": error}), {})


async def test_one_401_to_a_poll_leaks_no_place() -> None:
    transport = OneUnauthorizedPoll()
    async with Session("sk-test", transport=transport, max_running_jobs=CAP) as session:
        outcomes = [outcome async for outcome in session.generate_many(boats(12))]
        lost = [o for o in outcomes if isinstance(getattr(o, "error", None), AuthenticationError)]
        assert len(outcomes) == 12
        assert len(lost) <= CAP
    assert transport.service.truth.creates_taken == 12


class NewStatus(Odd):
    def poll(self, answer: Answer) -> Answer:
        task = orjson.loads(answer.body)
        if task.get("status") in ("completed", "failed"):
            return answer
        return Answer(200, orjson.dumps({**task, "status": "dreaming"}), {})


class Unreadable(Odd):
    def poll(self, answer: Answer) -> Answer:
        return Answer(200, b"[1, 2, 3]", {})


@pytest.mark.parametrize("transport", [NewStatus, Unreadable])
async def test_tasks_whose_status_cannot_be_read_leak_no_place(transport: type[Odd]) -> None:
    odd = transport(task_seconds=1e9)
    async with Session("sk-test", transport=odd, max_running_jobs=CAP) as session:
        jobs = [await session.enqueue(boat) for boat in boats(9)]
        await asyncio.sleep(3600)
        assert odd.service.truth.creates_taken >= 3 * CAP
        assert all(job.task_id for job in jobs)


async def test_the_cap_holds_while_tasks_can_be_read() -> None:
    odd = Odd(task_seconds=3600.0)
    async with Session("sk-test", transport=odd, max_running_jobs=CAP) as session:
        for boat in boats(9):
            await session.enqueue(boat)
        await asyncio.sleep(3000)
        assert odd.service.truth.creates_taken == CAP


async def test_a_task_that_ended_before_its_create_was_recorded_takes_no_place() -> None:
    odd = Odd(task_seconds=0.0, latency=0.0)
    async with Session("sk-test", transport=odd, max_running_jobs=1) as session:
        outcomes = [outcome async for outcome in session.generate_many(boats(4))]
        assert not any(isinstance(outcome, Failed) for outcome in outcomes)
        assert session.statistics().limiter.running_jobs == 0


async def test_a_task_whose_end_is_recorded_before_its_create_takes_no_place() -> None:
    running = apply(apply(job(), Claimed()), Taken("t"))
    what = consequences.of(Accepted("t"))
    assert _checked(what, running, 1).permit is PermitEnd.JOB_TAKEN
    assert _checked(what, apply(running, Completed()), 1).permit is PermitEnd.ACCEPTED
