"""How creates reach the simulated service: at once, late, or with another task's id as answer."""

from __future__ import annotations

import heapq
import random
from itertools import count
from typing import TYPE_CHECKING

import orjson
from attrs import evolve

from aivideo.simulator import SimAnswer, SimRequest
from tests.simulated.faults.boots import Boot
from tests.simulated.faults.ledgers import WatchedLedger
from tests.simulated.faults.process import Post, Process

if TYPE_CHECKING:
    from tests.simulated.faults.world import World


class Creates:
    """Carries requests to the service.

    Args:
        world: has the service and the checks.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.repeated: dict[Post, str] = {}
        """Creates that were answered with the id of an earlier task."""
        self._late: list[tuple[float, int, Process, Post, SimRequest]] = []
        self._numbers = count()

    def boot(self, boot: Boot) -> None:
        """Have those arrive while a boot runs that are on their way since an earlier one."""
        for at, *_ in self._late:
            boot.loop.call_outside(at - self._world.now(), self.deliver_due)

    @property
    def last_at(self) -> float:
        """When the last one arrives that is on its way."""
        return max((at for at, *_ in self._late), default=0.0)

    def serve(
        self, process: Process, post: Post | None, request: SimRequest
    ) -> tuple[SimAnswer, bool]:
        """Have a request carried out; return the answer, and whether a create was taken."""
        truth = self._world.service.truth
        before = truth.creates_taken
        odd = post is not None and self._is_odd()
        if odd and self._world.rng.random() < 0.5:
            return _odd_answer(self._world.rng), False
        answer = self._world.service.handle(request, self._world.now())
        taken = truth.creates_taken > before
        if odd and answer.status == 200:
            answer = _odd_answer(self._world.rng)
        if taken:
            self._world.laws.taken(process, post)
            self._note_content(process, post)
            if post is not None and _names_a_task(answer):
                answer = self._with_repeated_id(answer, post)
        return answer, taken

    def _note_content(self, process: Process, post: Post | None) -> None:
        assert post is not None
        reached, content = self._world.reached, post.content
        reached["a request with an image was bought"] += " with " in content
        reached["a request of unknown price was bought"] += "unpriced" in content
        reached["another spender bought"] += self._world.laws.is_unkept(content)
        reached["equal requests were bought"] += len(self._world.laws.by_content[content]) > 1
        if process.alive and not process.closed and process.ledger is not None:
            status = process.ledger.status_of(post.claim.job_id, post.claim.number)
            reached["a create was taken whose claim had lapsed"] += status == "unknown"

    def _with_repeated_id(self, answer: SimAnswer, post: Post) -> SimAnswer:
        earlier = sorted(self._world.laws.listed)
        kept = isinstance(post.process.ledger, WatchedLedger)
        if not earlier or not kept or self._world.faults_off or not self._world.plan.repeated_ids:
            return answer
        if self._world.rng.random() >= self._world.plan.repeated_ids:
            return answer
        self.repeated[post] = self._world.rng.choice(earlier)
        self._world.reached["a create was answered with another task's id"] += 1
        return _with_task_id(answer, self.repeated[post])

    def _is_odd(self) -> bool:
        """Draw whether a create is answered by a 4xx that the API does not list."""
        world, share = self._world, self._world.plan.odd_answers
        if not share or world.faults_off or world.rng.random() >= share:
            return False
        world.reached["a create was answered by an unlisted 4xx"] += 1
        return True

    def is_late(self) -> bool:
        """Draw whether a create reaches the service late."""
        share = self._world.plan.late_creates
        return bool(share) and not self._world.faults_off and self._world.rng.random() < share

    def deliver_late(self, process: Process, post: Post, request: SimRequest) -> None:
        """Have a create reach the service when nobody waits for its response any more."""
        at = self._world.now() + process.request_timeout + self._world.rng.random() * 240.0
        heapq.heappush(self._late, (at, next(self._numbers), process, post, request))
        process.boot.loop.call_outside(at - self._world.now(), self.deliver_due)

    def deliver_due(self) -> None:
        while self._late and self._late[0][0] <= self._world.now() + 1e-9:
            _, _, process, post, request = heapq.heappop(self._late)
            _, taken = self.serve(process, post, request)
            self._world.reached["a create was taken after its sender had given up"] += taken

    def is_on_its_way(self, content: str) -> bool:
        """Whether a create of a content may still be taken."""
        return any(post.content == content for _, _, _, post, _ in self._late) or any(
            post.content == content
            and post.verdict is None
            and (post.process.alive or self._world.now() - post.sent_at < 1.0)
            for post in self._world.laws.posts
        )


def _odd_answer(rng: random.Random) -> SimAnswer:
    """Return a 4xx that says nothing about whether a task was made."""
    status = rng.choice((408, 409, 413, 425, 499))
    error = {"code": "request_timeout", "message": "Try later.", "type": "timeout_error"}
    body = orjson.dumps({"error": error}) if rng.random() < 0.7 else b"<html>Payload</html>"
    return SimAnswer(status, {}, body)


def _names_a_task(answer: SimAnswer) -> bool:
    """Whether the sender of a create will read the id of a task in its answer."""
    try:
        body = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return False
    return answer.status == 200 and answer.cut is None and "taskId" in (body.get("data") or {})


def _with_task_id(answer: SimAnswer, task_id: str) -> SimAnswer:
    """Return the answer to a create with another task id."""
    body = orjson.loads(answer.body)
    body["data"]["taskId"] = task_id
    return evolve(answer, body=orjson.dumps(body))
