"""The laws of money: invariants that are checked against the simulator's true state.

Some are checked at each event. The others are checked at the end, when every task and every
process has ended. The checks share no code with the code under test: :func:`verdict_of` is a second
implementation of the API's table of responses.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from aivideo import APIConnectionError, Outcome, Succeeded, TaskFailedError
from aivideo._api.wire import Answer
from aivideo.ledger import events
from aivideo.ledger.events import Event
from aivideo.ledger.records import JobRecord
from aivideo.simulator import TaskRecord
from tests.simulated.faults.plan import KEY
from tests.simulated.faults.process import Claim, Post, Process, prompt_of

if TYPE_CHECKING:
    from tests.simulated.faults.world import World

TOLERANCE = 1e-6
CREDITS = "/v1/credits"
ENDED_WITHOUT_FILE = ("failed", "refused", "unknown", "faulted")
"""Final statuses, other than saved, that are allowed when a completed task's file must be saved."""
UNKNOWNS_IN_A_ROW = 5
FIRST_PAUSE = 5.0

FINAL_CODES = {
    *("invalid_request", "invalid_api_key", "ip_not_allowed", "model_not_found", "task_not_found"),
}
SPENT_CODES = {"insufficient_credits", "spend_limit_exceeded"}
SERVER_CODES = {(500, "internal_error"), (503, "upstream_error")}


def verdict_of(response: Answer | APIConnectionError) -> tuple[str, str | None]:
    """Classify the response to a create; also return its task id, if it has one.

    The verdicts are "taken", "no" (refused), "spent" (no credits or spend limit reached), "again"
    (rate-limited), "faulted" (server error) and "unknown".
    """
    if isinstance(response, APIConnectionError):
        return "unknown", None
    try:
        body = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        body = None
    body = body if isinstance(body, dict) else {}
    data, error = body.get("data"), body.get("error")
    if isinstance(data, dict) and data.get("taskId"):
        return "taken", data["taskId"]
    code = error.get("code") if isinstance(error, dict) else None
    if code in SPENT_CODES and response.status in (402, 429):
        return "spent", None
    if response.status == 429:
        return "again", None
    if code in FINAL_CODES and 400 <= response.status < 500:
        return "no", None
    if (response.status, code) in SERVER_CODES:
        return "faulted", None
    return "unknown", None


class Laws:
    """Checks a simulation. ``violations`` lists what it found, as readable lines."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.violations: list[str] = []
        self.post_of_task: dict[str, Post] = {}
        """The POST that created each task, by task id."""
        self.by_prompt: dict[str, list[TaskRecord]] = defaultdict(list)
        self.allowed_repeats: Counter[str] = Counter()
        """By prompt: how many additional creates were explicitly allowed."""
        self.wrongly_settled = False
        """Whether a job was settled manually as not taken although a task exists."""
        self._posts_of_claim: dict[tuple[str, int], Post] = {}

    def fail(self, law: str, text: str) -> None:
        """Record a violation."""
        self.violations.append(f"{law}: {text}")
        self.world.log("LAW", f"!!! {law}: {text}")

    # --- checks at each event -----------------------------------------------------------------

    def claim_begins(self, process: Process, job_id: str) -> None:
        """A process starts to claim a job: check that the gate and the outage state allow it."""
        now = asyncio.get_running_loop().time()
        closed, outage = process.gate_closed_at, process.outage_since
        if closed is not None and now > closed + TOLERANCE:
            self.fail("law 6", f"{process.name} claims {job_id} after the gate was closed")
        if outage is not None and now > outage + TOLERANCE:
            self.fail(
                "law 7",
                f"{process.name} claims {job_id} during an outage, before a probe succeeded",
            )

    def claimed(self, process: Process, record: JobRecord) -> None:
        """A process claimed a job."""
        now = asyncio.get_running_loop().time()
        prompt = str(record.request.input["prompt"])
        process.claims[prompt] = Claim(record.id, record.latest, now)
        if self.world.tracing:
            process.log(f"claimed {prompt!r}, attempt {record.latest}")

    def sent(self, process: Process, method: str, path: str, body: bytes | None) -> Post | None:
        """A process sends a request."""
        self._pace(process)
        if path == CREDITS and process.outage_since is not None:
            early = process.probes_from - asyncio.get_running_loop().time()
            if early > TOLERANCE:
                self.fail(
                    "law 7",
                    f"{process.name} probes {early:.1f} s too early for the end of an outage",
                )
        if method != "POST":
            return None
        prompt = prompt_of(body)
        claim = process.claims.get(prompt)
        if claim is None or claim.posted:
            self.fail("law 2", f"{process.name} POSTs {prompt!r} without a claim")
            claim = claim or Claim("", 0, 0.0)
        claim.posted = True
        now = asyncio.get_running_loop().time()
        if now > claim.at + TOLERANCE:
            self.fail(
                "law 1",
                f"{prompt!r} was claimed {now - claim.at:.2f} s before its permit was granted",
            )
        assert process.ledger is not None
        row = process.ledger.file.connection.execute(
            "SELECT a.status, a.owner FROM attempts a JOIN jobs j ON j.seq = a.job "
            "WHERE j.id = ? AND a.number = ?",
            (claim.job_id, claim.number),
        ).fetchone()
        if row is None or row[0] != "submitting":
            self.fail("law 1", f"{prompt!r} is POSTed, but its ledger row is {row}")
        post = Post(process, claim, prompt)
        process.posts.append(post)
        self._posts_of_claim[claim.job_id, claim.number] = post
        return post

    def _pace(self, process: Process) -> None:
        now = asyncio.get_running_loop().time()
        sends = process.sends
        sends.append(now)
        limit = self.world.plan.stated
        if not process.plan.states_limit or limit is None:
            return
        # A create is sent after its claim is on disk: up to `ledger_delay` after its permit.
        late = self.world.plan.ledger_delay + TOLERANCE
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
        assert task.prompt is not None
        assert post is not None
        self.post_of_task[task.id] = post
        tasks = self.by_prompt[task.prompt]
        tasks.append(task)
        if len(tasks) > 1 + self.allowed_repeats[task.prompt]:
            self.fail("paid twice", f"{task.prompt!r} was taken {len(tasks)} times")
        ceiling_of_process = process.plan.settings.get("max_credits")
        if ceiling_of_process is not None:
            held = sum(
                each.credits
                for each in self.world.service.truth.tasks.values()
                if self.post_of_task[each.id].process is process and not each.refunded
            )
            if held > ceiling_of_process and not self.wrongly_settled:
                self.fail(
                    "law 5",
                    f"{process.name} was charged {held}, its ceiling is {ceiling_of_process}",
                )
        ceiling = self.world.plan.batch_ceiling
        if ceiling is not None and not self.wrongly_settled:
            held = sum(
                each.credits
                for prompt, made in self.by_prompt.items()
                if "batch" in prompt
                for each in made
                if not each.refunded
            )
            if held > ceiling:
                self.fail("law 5", f"the batch was charged {held}, its ceiling is {ceiling}")

    def unsent(self, process: Process, post: Post | None) -> None:
        """A request could not connect: nothing was sent."""
        if post is not None:
            post.verdict = "again"

    def received(
        self, process: Process, path: str, post: Post | None, response: Answer | APIConnectionError
    ) -> None:
        """A process receives a response or a connection error."""
        # A 429 says nothing about the outage: the same probe is repeated under the rate limiter.
        slowed = isinstance(response, Answer) and response.status == 429
        if path == CREDITS and process.outage_since is not None and not slowed:
            process.pause = min(600.0, 2 * process.pause)
            process.probes_from = asyncio.get_running_loop().time() + process.pause
            if isinstance(response, Answer) and response.status == 200:
                process.outage_since = None
                process.unknowns_in_a_row = UNKNOWNS_IN_A_ROW - 1
        if post is None:
            return
        post.verdict, post.task_id = verdict_of(response)
        if post.verdict == "faulted" and process.plan.settings.get("resubmit_server_errors"):
            self.allowed_repeats[post.prompt] += 1  # the setting allows a second payment

    def recorded(
        self, process: Process, job_id: str, number: int | None, event: Event, *, written: bool
    ) -> None:
        """A process recorded an event, or failed to."""
        post = self._posts_of_claim.get((job_id, number or 0))
        if post is None or post.process is not process or post.verdict is None:
            return
        post.written = post.written or written
        if post.write_attempted:
            return
        post.write_attempted = True
        now = asyncio.get_running_loop().time()
        if post.verdict == "unknown":
            process.unknowns_in_a_row += 1
        elif post.verdict in ("taken", "no"):
            process.unknowns_in_a_row = 0
            process.pause = FIRST_PAUSE
            process.probes_from = min(process.probes_from, now + FIRST_PAUSE)
        if post.verdict == "spent" and process.gate_closed_at is None:
            process.gate_closed_at = now
        if (
            post.verdict == "unknown"
            and process.unknowns_in_a_row >= UNKNOWNS_IN_A_ROW
            and process.outage_since is None
        ):
            process.outage_since = now
            process.probes_from = now + process.pause
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
        }
        assert post.verdict is not None
        late = isinstance(event, events.Taken)  # a callback may have arrived first
        if not isinstance(event, expected[post.verdict]) and not late:
            self.fail(
                "law 3", f"{post.prompt!r}: the verdict is {post.verdict}, recorded was {event}"
            )

    def ended(self, process: Process) -> None:
        """A process closed normally: check that each of its POSTs has a verdict."""
        for post in process.posts:
            if post.verdict is None:
                self.fail("law 2", f"{process.name} did not wait for its POST of {post.prompt!r}")

    def transaction_done(self, process: Process) -> None:
        """A ledger transaction has completed: check the ceilings."""
        ceiling_of_process = process.plan.settings.get("max_credits")
        if ceiling_of_process is not None and process.session is not None:
            held = process.session.statistics().credits.held
            if held > ceiling_of_process:
                self.fail(
                    "law 5",
                    f"{process.name} counts {held} credits, its ceiling is {ceiling_of_process}",
                )
        ceiling = self.world.plan.batch_ceiling
        if ceiling is None or self.wrongly_settled:
            return
        assert process.ledger is not None
        if process.ledger._file is None:
            return  # it was closed by this transaction
        row = process.ledger.file.connection.execute(
            "SELECT (charged + reserved + unknown) / 1e6 FROM credit_totals WHERE batch = 'b'"
        ).fetchone()
        if row is not None and row[0] > ceiling:
            self.fail("law 5", f"the ledger holds {row[0]} for a batch whose ceiling is {ceiling}")

    def outcome(self, process: Process, outcome: Outcome, seen: set[int]) -> None:
        """``generate_many`` of a live process yielded an outcome."""
        index = outcome.index
        assert index is not None
        prompt = self.world.plan.batch[index].prompt
        process.log(f"outcome {index}: {outcome!r}"[:160]) if self.world.tracing else None
        if index in seen:
            self.fail("one outcome", f"outcome {index} came twice")
        seen.add(index)
        tasks = {task.id: task for task in self.by_prompt[prompt]}
        if isinstance(outcome, Succeeded):
            self._succeeded(prompt, outcome.task.id)
            if outcome.path is not None and not self.is_complete(outcome.task.id, outcome.path):
                self.fail("complete files", f"{outcome.path} is incomplete")
        elif isinstance(outcome.error, TaskFailedError):
            task = tasks.get(outcome.error.task.id)
            if task is None or task.outcome != "failed":
                self.fail("true results", f"{prompt!r} is reported as failed, but did not fail")

    def succeeded(self, prompt: str, task_id: str | None) -> None:
        """A caller got a successful result for a prompt: check it."""
        self._succeeded(prompt, task_id)

    def _succeeded(self, prompt: str, task_id: str | None) -> None:
        tasks = {task.id: task for task in self.by_prompt[prompt]}
        task = tasks.get(task_id or "")
        if task is None or task.outcome != "completed":
            self.fail(
                "true results", f"{prompt!r} is reported as completed by task {task_id}, but is not"
            )

    def is_complete(self, task_id: str, path: Any) -> bool:
        """Whether a file has exactly the bytes of a task's result."""
        service = self.world.service
        expected = service.library.get(service.truth.tasks[task_id]).data
        return bool(path.is_file() and path.read_bytes() == expected)

    # --- checks at the end ----------------------------------------------------------------------

    def check_ledger(self) -> None:
        """Compare the ledger with the simulator's true state, after everything has ended."""
        world = self.world
        path = world.ledger
        connection = sqlite3.connect(path)
        try:
            (integrity,) = connection.execute("PRAGMA integrity_check").fetchone()
            if integrity != "ok":
                self.fail("ledger file", f"integrity_check: {integrity}")
            jobs = connection.execute(
                "SELECT seq, id, batch, key, json_extract(input, '$.prompt'), "
                "credits_millionths / 1e6, status, path, size FROM jobs"
            ).fetchall()
            attempts = connection.execute(
                "SELECT job, number, status, task_id FROM attempts ORDER BY job, number"
            ).fetchall()
            totals = connection.execute(
                "SELECT batch, charged / 1e6, reserved / 1e6, unknown / 1e6, refunded / 1e6 "
                "FROM credit_totals"
            ).fetchall()
        finally:
            connection.close()
        self._check_secrets()
        of_job: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
        for row in attempts:
            of_job[row[0]].append(row[1:])
        self._check_totals(jobs, of_job, totals)
        prompts = Counter(job[4] for job in jobs)
        for prompt, number in prompts.items():
            if number > 1:
                self.fail("law 8", f"{prompt!r} has {number} jobs")
        for prompt in self.by_prompt:
            if prompt not in prompts:
                self.fail("no task lost", f"{prompt!r} was taken, but has no job")
        for job in jobs:
            self._check_job(job, of_job[job[0]])
        self._check_credits(jobs, of_job)

    def _check_job(self, job: tuple[Any, ...], attempts: list[tuple[Any, ...]]) -> None:
        """Check a job's final status, and that each task is listed or counted as unknown."""
        _, job_id, _, _, prompt, _, status, path, size = job
        truth = {task.id: task for task in self.by_prompt[prompt]}
        listed = {a[2]: a[1] for a in attempts if a[2] is not None}
        doubts = sum(a[1] in ("unknown", "faulted", "submitting") for a in attempts)
        unlisted = [task for task_id, task in truth.items() if task_id not in listed]
        if len(unlisted) > doubts and not self.wrongly_settled:
            self.fail(
                "no task lost",
                f"{prompt!r} was taken as {[t.id[:8] for t in unlisted]}, but job {job_id} is "
                f"{status} with attempts {attempts}",
            )
        for task in unlisted:
            if task.id in self.world.delivered and prompt not in self.world.changed_manually:
                self.fail("law 4", f"{prompt!r}: the callback of {task.id[:8]} had no effect")
        for task_id, listed_status in listed.items():
            if task_id not in truth:
                self.fail("true results", f"{prompt!r}: task {task_id} belongs to another prompt")
                continue
            task = truth[task_id]
            # A task that ended while the job had a newer task may still be listed as running.
            running = listed_status == "running" and (not task.over or len(attempts) > 1)
            if listed_status != task.outcome and not running:
                self.fail(
                    "no task lost",
                    f"{prompt!r}: task {task_id[:8]} is {task.outcome}, listed as {listed_status}",
                )
        if status == "submitting":
            self.fail("law 4", f"{prompt!r} is still submitting, but no process is")
        if status == "saved":
            done = [a[2] for a in attempts if a[1] == "completed"]
            if size is None or not any(self.is_complete(task_id, Path(path)) for task_id in done):
                self.fail(
                    "complete files", f"{prompt!r} is saved as {path}, but the file is incomplete"
                )
        elif self.world.must_be_saved(prompt) and status not in ENDED_WITHOUT_FILE:
            self.fail("no task lost", f"{prompt!r} ends as {status}")

    def _check_totals(
        self, jobs: list[Any], of_job: dict[int, list[tuple[Any, ...]]], totals: list[Any]
    ) -> None:
        columns = ("charged", "reserved", "unknown", "refunded")
        sums: dict[str, Counter[str]] = defaultdict(Counter)
        for job in jobs:
            for _, status, _ in of_job[job[0]]:
                column = {
                    "submitting": "reserved",
                    "running": "charged",
                    "completed": "charged",
                    "unknown": "unknown",
                    "faulted": "unknown",
                    "failed": "refunded",
                }.get(status)
                if column:
                    sums[job[2]][column] += job[5]
        for batch, *row in totals:
            if list(row) != [sums[batch][column] for column in columns]:
                self.fail(
                    "totals",
                    f"{batch!r}: the totals are {row}, the sums of the attempts {sums[batch]}",
                )

    def _check_credits(self, jobs: list[Any], of_job: dict[int, list[tuple[Any, ...]]]) -> None:
        """Check that the credits in the ledger, known and unknown, match the credits charged."""
        truth = self.world.service.truth
        known = refunded = doubt = unseen_refunds = 0
        listed = set()
        for job in jobs:
            for _, status, task_id in of_job[job[0]]:
                if task_id is not None:
                    known += job[5]
                    listed.add(task_id)
                    refunded += job[5] if status == "failed" else 0
                    task = truth.tasks.get(task_id)
                    if status == "running" and task is not None and task.refunded:
                        unseen_refunds += job[5]
                elif status in ("unknown", "faulted", "submitting"):
                    doubt += job[5]
        unlisted = [task for task in truth.tasks.values() if task.id not in listed]
        unlisted_credits = sum(task.credits for task in unlisted)
        if known + unlisted_credits != truth.charged:
            self.fail(
                "credits",
                f"{known} listed + {unlisted_credits} unlisted, but {truth.charged} charged",
            )
        if unlisted_credits > doubt and not self.wrongly_settled:
            self.fail(
                "credits",
                f"{unlisted_credits} charged for unlisted tasks, the ledger has {doubt} unknown",
            )
        unlisted_refunded = sum(task.credits for task in unlisted if task.refunded)
        if refunded + unlisted_refunded + unseen_refunds != truth.refunded:
            self.fail(
                "credits", f"{refunded} refunded in the ledger, but {truth.refunded} by the service"
            )

    def _check_secrets(self) -> None:
        for name, data in self.world.ledger_files():
            for secret in (KEY[3:].encode(), b"X-Signature"):
                if secret in data:
                    self.fail("secrets", f"{secret.decode()} is in {name}")
