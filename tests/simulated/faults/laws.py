"""The laws of money: invariants that are checked against the simulator's true state.

Some are checked at each event. The others are checked at the end, when every task and every
process has ended. The checks share no code with the code under test: :func:`verdict_of` is a second
implementation of the API's table of responses.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aivideo import (
    AIVideoError,
    APIConnectionError,
    BudgetExceededError,
    InvalidRequestError,
    Outcome,
    Request,
    Succeeded,
    TaskFailedError,
)
from aivideo._api.wire import Answer
from aivideo.ledger import events
from aivideo.ledger.events import Event
from aivideo.ledger.records import AttemptStatus, JobRecord
from aivideo.simulator import TaskRecord
from tests.simulated.faults.audits import Audits
from tests.simulated.faults.ceilings import Ceilings
from tests.simulated.faults.content import content_of, content_of_body, content_of_task
from tests.simulated.faults.ledgers import CLAIM, WatchedLedger
from tests.simulated.faults.process import Claim, Post, Process
from tests.simulated.faults.promises import Promises
from tests.simulated.faults.verdicts import verdict_of

if TYPE_CHECKING:
    from tests.simulated.faults.world import World

TOLERANCE = 1e-6
CREDITS = "/v1/credits"
ABANDONED = events.ABANDONED.reason
"""The reason of an attempt that lapsed; kept here, since a mutant may replace the event."""


class Laws:
    """Checks a simulation. ``violations`` lists what it found, as readable lines."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.violations: list[str] = []
        self.posts: list[Post] = []
        self.post_of_task: dict[str, Post] = {}
        """The POST that created each task, by task id."""
        self.by_content: dict[str, list[TaskRecord]] = defaultdict(list)
        self.asked: Counter[str] = Counter()
        """By content: how often users asked for it."""
        self.allowed_repeats: Counter[str] = Counter()
        """By content: how many additional creates were explicitly allowed."""
        self.wrongly_settled = False
        """Whether a job was settled manually as not taken although a task exists."""
        self.listed: set[str] = set()
        """Tasks that a ledger on disk has recorded."""
        self.audits = Audits(self)
        self.ceilings = Ceilings(self)
        self._posts_of_claim: dict[tuple[str, int], Post] = {}
        self.promises = Promises(self)
        self._lapsed: set[tuple[str, int]] = set()

    def fail(self, law: str, text: str) -> None:
        """Record a violation."""
        self.violations.append(f"{law}: {text}")
        self.world.log("LAW", f"!!! {law}: {text}")

    def ask(self, requests: Sequence[Request]) -> None:
        """Note that users ask for these, in addition to what they asked for before."""
        self.asked.update(content_of(request.input) for request in requests)

    def ask_at_least(self, contents: Counter[str]) -> None:
        """Note that users ask for so many of each content, earlier ones included."""
        self.asked |= contents

    @staticmethod
    def is_unkept(content: str) -> bool:
        """Whether a content is asked for by another program, which keeps no ledger on disk."""
        return "unkept" in content

    # --- claims and POSTs ---------------------------------------------------------------------

    def claim_begins(self, process: Process, job_id: str) -> None:
        """A process starts to claim a job: check that the gate and the outage state allow it."""
        now, hold = self.world.now(), process.hold
        closed = process.gate_closed_at
        if closed is not None and now > closed + TOLERANCE:
            self.fail("law 6", f"{process.name} claims {job_id} after the gate was closed")
        if hold.since is not None and now > hold.since + TOLERANCE:
            self.fail(
                "law 7",
                f"{process.name} claims {job_id} during an outage, before a probe succeeded",
            )
        released = hold.released_at
        if released is not None:
            probes = process.claiming + sum(
                post.verdict is None and post.sent_at > released for post in process.posts
            )
            if probes:
                self.fail("law 7", f"{process.name} probes with more than one create after a hold")

    def claimed(self, process: Process, record: JobRecord, since: float) -> Claim:
        """A process claimed a job, and began to do so at ``since``."""
        content = content_of(record.request.input)
        claim = Claim(record.id, record.latest, content, process.own_time(), since)
        process.claims.append(claim)
        self._check_repeat(process, record, content)
        if record.id in process.not_wanted:
            self.fail("user code", f"{process.name} claims {record.id}, whose on_job has raised")
        if self.promises.forbid(record.id):
            self.fail("unsent", f"{process.name} claims {record.id}, which was said to be unsent")
        if self.world.tracing:
            process.log(f"claimed {content!r}, attempt {record.latest}")
        return claim

    def _check_repeat(self, process: Process, record: JobRecord, content: str) -> None:
        """Check that nobody sends again, unasked, what may have been charged."""
        allowed = process.plan.settings.get("resubmit_server_errors")
        doubts = {each.status for each in record.attempts[:-1] if each.status.is_in_doubt}
        doubts -= {AttemptStatus.FAULTED} if allowed else set()
        if doubts and content not in self.world.changed_manually:
            self.fail("law 4", f"{process.name} sends {content!r} again, which is in doubt")

    def sent(self, process: Process, method: str, path: str, body: bytes | None) -> Post | None:
        """A process sends a request."""
        self._pace(process)
        now = self.world.now()
        if path == CREDITS and process.hold.since is not None and process.asks_only_if_held:
            early = process.hold.asks_from - now
            if early > TOLERANCE:
                self.fail(
                    "law 7",
                    f"{process.name} probes {early:.1f} s too early for the end of an outage",
                )
        if method != "POST":
            return None
        content = content_of_body(body)
        claim = CLAIM.get()
        if claim is None or claim.posted or claim.content != content:
            self.fail("law 2", f"{process.name} POSTs {content!r} without a claim")
            claim = Claim("", 0, content, process.own_time(), now)
        claim.posted = True
        waited = process.own_time() - claim.at
        if waited > TOLERANCE:
            self.fail(
                "law 1", f"{content!r} was claimed {waited:.2f} s before its permit was granted"
            )
        assert process.ledger is not None
        status = process.ledger.status_of(claim.job_id, claim.number) if claim.number else None
        # Somebody whose clock is ahead finds that the lease of a live claim has passed. The job is
        # unknown then, and the POST's verdict lands all the same.
        lapsed_early = status == "unknown" and process.has_other_clock
        if status != "submitting" and not lapsed_early:
            self.fail("law 1", f"{content!r} is POSTed, but its ledger row is {status}")
        if "manifest" in content and content not in process.lines:
            self.fail(
                "law 2", f"{process.name} POSTs {content!r}, which its manifest does not hold"
            )
        self.ceilings.sent(process, content)
        post = Post(process, claim, content, now)
        process.posts.append(post)
        self.posts.append(post)
        self._posts_of_claim[claim.job_id, claim.number] = post
        return post

    def _pace(self, process: Process) -> None:
        now = self.world.now()
        sends = process.sends
        limit = self.world.plan.stated
        if not process.plan.states_limit or limit is None or now < process.pace_from:
            return
        sends.append(now)
        # A create is sent after its claim is on disk: after its permit, the claim waits for the
        # transaction that is under way, and then for its own.
        late = 2 * self.world.plan.ledger_delay + TOLERANCE
        if limit.burst is None:
            earlier = len(sends) - 1 - int(limit.count)
            if earlier >= 0 and now - sends[earlier] < limit.seconds - late:
                self.fail("pace", f"{process.name} sends more than {limit} allows")
            return
        level, at = float(limit.burst), sends[0]
        for send in sends:
            level = min(limit.burst, level + (send - at) * limit.rate) - 1
            at = send
        if level < -late * limit.rate:
            self.fail("pace", f"{process.name} sends more than {limit} allows")

    def taken(self, process: Process, post: Post | None) -> None:
        """The service accepted a create, whatever its response will be."""
        task = next(reversed(self.world.service.truth.tasks.values()))
        assert post is not None
        content = content_of_task(task)
        self.post_of_task[task.id] = post
        tasks = self.by_content[content]
        tasks.append(task)
        if len(tasks) > self.asked[content] + self.allowed_repeats[content]:
            self.fail(
                "paid twice",
                f"{content!r} was taken {len(tasks)} times, and asked for {self.asked[content]}",
            )
        self.ceilings.taken(process, content)
        self.audits.taken(post)

    # --- answers ----------------------------------------------------------------------------------

    def unsent(self, process: Process, post: Post | None) -> None:
        """A request could not connect: nothing was sent."""
        if post is not None:
            post.verdict = "again"

    def received(
        self, process: Process, path: str, post: Post | None, response: Answer | APIConnectionError
    ) -> None:
        """A process receives a response or a connection error."""
        if path == CREDITS:
            status = response.status if isinstance(response, Answer) else None
            process.hold.asked(status, self.world.now())
        if post is None:
            return
        post.verdict, post.task_id = verdict_of(response)
        if post.verdict == "taken" and self.world.creates.repeated.get(post) == post.task_id:
            post.verdict = "repeated"
        if post.verdict == "faulted" and process.plan.settings.get("resubmit_server_errors"):
            self.allowed_repeats[post.content] += 1  # the setting allows a second payment
        if post.verdict in ("unknown", "faulted") and self.world.outages.all_creates_fail(
            post.sent_at
        ):
            self.world.reached["a create in doubt while all creates fail"] += 1
            wrong = process.hold.doubted_in_outage(process.pending_posts)
            if wrong is not None:
                self.fail("law 7", f"{process.name}: {wrong}")

    def recorded(
        self, process: Process, job_id: str, number: int | None, event: Event, *, written: bool
    ) -> None:
        """A process recorded an event, or failed to."""
        if (
            written
            and isinstance(event, events.Taken)
            and isinstance(process.ledger, WatchedLedger)
        ):
            self.listed.add(event.task_id)
        post = self._posts_of_claim.get((job_id, number or 0))
        if post is None:
            return
        if written and isinstance(event, events.Taken):
            post.is_known = True
        if post.process is not process or post.verdict is None:
            return
        post.written = post.written or written
        if post.write_attempted:
            return
        post.write_attempted = True
        now = self.world.now()
        if process.hold.heard(_as_the_gate_hears(post.verdict), now):
            self.world.reached["creates were held"] += 1
        if post.verdict == "spent" and process.gate_closed_at is None:
            process.gate_closed_at = now
        if written:
            self._check_event(post, event)

    def _check_event(self, post: Post, event: Event) -> None:
        """Check that the recorded event matches the verdict on the response."""
        expected: dict[str, tuple[type[Any], ...]] = {
            "taken": (events.Taken,),
            "no": (events.Refused, events.Released),
            "spent": (events.Released,),
            "again": (events.Released,),
            "faulted": (events.Faulted, events.Doubted),
            "unknown": (events.Doubted,),
            "unlisted": (events.Doubted,),
            "repeated": (events.Doubted,),
        }
        assert post.verdict is not None
        late = isinstance(event, events.Taken) and event.task_id in {
            task.id for task in self.by_content[post.content]
        }  # a callback may have arrived first
        if not isinstance(event, expected[post.verdict]) and not late:
            self.fail(
                "law 3", f"{post.content!r}: the verdict is {post.verdict}, recorded was {event}"
            )

    # --- claims that lapse ----------------------------------------------

    def lapsed(self, who: str, unix: float, records: Sequence[JobRecord]) -> None:
        """Somebody recorded claims as abandoned: check that each was due.

        Args:
            who: the name of whoever did so.
            unix: Unix seconds by their clock.
            records: the jobs as they are now.
        """
        for record in records:
            for attempt in record.attempts:
                lapse = (record.id, attempt.number)
                if attempt.reason != ABANDONED or lapse in self._lapsed:
                    continue
                self._lapsed.add(lapse)
                owner = self.world.owners.get(attempt.owner)
                if owner is None or not owner.alive or owner.closed:
                    continue
                self.world.reached["the claim of a live owner lapsed"] += 1
                if attempt.lease_until > unix + TOLERANCE:
                    self.fail(
                        "law 4",
                        f"{who} takes the claim of {owner.name} for abandoned, which lives and has "
                        f"{attempt.lease_until - unix:.0f} s left",
                    )
                post = self._posts_of_claim.get(lapse)
                waiting = post is not None and post.verdict is None
                passed = self.world.now() - (post.claim.since if post is not None else 0.0)
                clocks_agree = not (self.world.clocks_differ or owner.has_other_clock)
                if waiting and clocks_agree and passed < owner.request_timeout - TOLERANCE:
                    self.fail(
                        "law 4",
                        f"{who} takes the claim of {owner.name} for abandoned after "
                        f"{passed:.0f} s, while its POST may be answered within "
                        f"{owner.request_timeout:g} s",
                    )

    # --- ends -------------------------------------------------------------------------------------

    def ended(self, process: Process) -> None:
        """A process closed normally: check that each of its POSTs has a verdict."""
        for post in process.posts:
            if post.verdict is None:
                self.fail("law 2", f"{process.name} did not wait for its POST of {post.content!r}")
        if isinstance(process.ledger, WatchedLedger):
            return
        assert process.ledger is not None
        for post in process.posts:
            # A ledger in memory forgets jobs that have ended, but none that may have been charged.
            if post.verdict not in ("unknown", "faulted") or post.is_known or not post.written:
                continue
            self.world.reached["a doubt in a ledger in memory"] += 1
            if process.ledger.status_of(post.claim.job_id, post.claim.number) is None:
                self.fail(
                    "no task lost",
                    f"{process.name} forgot {post.content!r}, which may have been charged",
                )

    def outcome(
        self, process: Process, requests: Sequence[Request], outcome: Outcome, seen: set[int]
    ) -> None:
        """``generate_many`` of a live process yielded an outcome."""
        index = outcome.index
        content = content_of(requests[index].input)
        process.log(f"outcome {index}: {outcome!r}"[:160]) if self.world.tracing else None
        if index in seen:
            self.fail("one outcome", f"outcome {index} came twice")
        seen.add(index)
        if isinstance(outcome, Succeeded):
            self.succeeded(content, outcome.task.id)
            if outcome.path is not None and not self.is_complete(outcome.task.id, outcome.path):
                self.fail("complete files", f"{outcome.path} is incomplete")
        elif isinstance(outcome.error, TaskFailedError):
            self.failed(content, outcome.error.task.id)
        else:
            self.heard(outcome.error)

    def heard(self, error: AIVideoError) -> None:
        """A user was told an error: count those that show an interesting state."""
        reached = self.world.reached
        if isinstance(error, BudgetExceededError):
            reached["a request of unknown price met a ceiling"] += error.needed is None
        if isinstance(error, InvalidRequestError):
            meanwhile = "another request meanwhile" in str(error)
            reached["a key was used for another request meanwhile"] += meanwhile

    def succeeded(self, content: str, task_id: str | None) -> None:
        """A caller got a successful result for a content: check it."""
        tasks = {task.id: task for task in self.by_content[content]}
        task = tasks.get(task_id or "")
        if task is None or task.outcome != "completed":
            self.fail(
                "true results",
                f"{content!r} is reported as completed by task {task_id}, but is not",
            )

    def failed(self, content: str, task_id: str) -> None:
        """A caller was told that the task of a content failed: check it."""
        tasks = {task.id: task for task in self.by_content[content]}
        task = tasks.get(task_id)
        if task is None or task.outcome != "failed":
            self.fail("true results", f"{content!r} is reported as failed, but did not fail")

    def is_complete(self, task_id: str, path: Any) -> bool:
        """Whether a file has exactly the bytes of a task's result."""
        service = self.world.service
        expected = service.library.get(service.truth.tasks[task_id]).data
        return bool(path.is_file() and path.read_bytes() == expected)


def _as_the_gate_hears(verdict: str) -> str:
    """Return a verdict as the gate for creates counts it."""
    if verdict == "repeated":
        return "unknown"
    return verdict
