"""What must hold, whatever happens: the laws of money, checked against the simulator's truth.

Some hold at every moment and are checked as things happen; the others are the account at the end,
when every task is over and every process has ended. Whoever judges here shares no code with what
is judged: :func:`judged` is read from the API's table of answers once more.
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

MOMENT = 1e-6
CREDITS = "/v1/credits"
OVER = ("failed", "refused", "unknown", "faulted")
"""How a job may end whose file must be saved, if there is one."""
UNKNOWNS_IN_A_ROW = 5
FIRST_PAUSE = 5.0

FINAL_CODES = {
    *("invalid_request", "invalid_api_key", "ip_not_allowed", "model_not_found", "task_not_found"),
}
SPENT_CODES = {"insufficient_credits", "spend_limit_exceeded"}
SERVER_CODES = {(500, "internal_error"), (503, "upstream_error")}


def judged(heard: Answer | APIConnectionError) -> tuple[str, str | None]:
    """Say what came of a create, and its task: taken, no, spent, again, faulted or unknown."""
    if isinstance(heard, APIConnectionError):
        return "unknown", None
    try:
        body = orjson.loads(heard.body)
    except orjson.JSONDecodeError:
        body = None
    body = body if isinstance(body, dict) else {}
    data, error = body.get("data"), body.get("error")
    if isinstance(data, dict) and data.get("taskId"):
        return "taken", data["taskId"]
    code = error.get("code") if isinstance(error, dict) else None
    if code in SPENT_CODES and heard.status in (402, 429):
        return "spent", None
    if heard.status == 429:
        return "again", None
    if code in FINAL_CODES and 400 <= heard.status < 500:
        return "no", None
    if (heard.status, code) in SERVER_CODES:
        return "faulted", None
    return "unknown", None


class Laws:
    """Watches a world; ``broken`` is what it has seen, as lines for a person."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.broken: list[str] = []
        self.made_by: dict[str, Post] = {}
        """The POST that made each task."""
        self.by_prompt: dict[str, list[TaskRecord]] = defaultdict(list)
        self.permits: Counter[str] = Counter()
        """How often more than once a prompt may be taken, because somebody said so."""
        self.lied = False
        """Whether a person said that a POST was not taken, and it was."""
        self._posts_of_claim: dict[tuple[str, int], Post] = {}

    def fail(self, law: str, text: str) -> None:
        """Note that a law is broken."""
        self.broken.append(f"{law}: {text}")
        self.world.say("LAW", f"!!! {law}: {text}")

    # --- as it happens ------------------------------------------------------------------------

    def claim_begins(self, process: Process, job_id: str) -> None:
        """A process asks to claim a job: may it, as things stand?"""
        now = asyncio.get_running_loop().time()
        closed, outage = process.gate_closed_at, process.outage_since
        if closed is not None and now > closed + MOMENT:
            self.fail("law 6", f"{process.name} claims {job_id} after its money was spent")
        if outage is not None and now > outage + MOMENT:
            self.fail(
                "law 7", f"{process.name} claims {job_id} in an outage, before the service answered"
            )

    def claimed(self, process: Process, record: JobRecord) -> None:
        """A process won a claim."""
        now = asyncio.get_running_loop().time()
        prompt = str(record.request.input["prompt"])
        process.claims[prompt] = Claim(record.id, record.latest, now)
        if self.world.tracing:
            process.say(f"claimed {prompt!r}, attempt {record.latest}")

    def sent(self, process: Process, method: str, path: str, body: bytes | None) -> Post | None:
        """A request leaves a process."""
        self._pace(process)
        if path == CREDITS and process.outage_since is not None:
            early = process.probes_from - asyncio.get_running_loop().time()
            if early > MOMENT:
                self.fail("law 7", f"{process.name} asks {early:.1f} s early whether it is over")
        if method != "POST":
            return None
        prompt = prompt_of(body)
        claim = process.claims.get(prompt)
        if claim is None or claim.posted:
            self.fail("law 2", f"{process.name} POSTs {prompt!r} without a claim of its own")
            claim = claim or Claim("", 0, 0.0)
        claim.posted = True
        now = asyncio.get_running_loop().time()
        if now > claim.at + MOMENT:
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
            self.fail("law 1", f"{prompt!r} is POSTed, and stands as {row} in the ledger")
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
        # A create leaves once its claim is on disk, which is that much later than its permit.
        late = self.world.plan.ledger_delay + MOMENT
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
        """The service took a create, whatever its answer will be."""
        task = next(reversed(self.world.service.truth.tasks.values()))
        assert task.prompt is not None
        assert post is not None
        self.made_by[task.id] = post
        tasks = self.by_prompt[task.prompt]
        tasks.append(task)
        if len(tasks) > 1 + self.permits[task.prompt]:
            self.fail("paid twice", f"{task.prompt!r} was taken {len(tasks)} times")
        own = process.plan.settings.get("max_credits")
        if own is not None:
            held = sum(
                each.credits
                for each in self.world.service.truth.tasks.values()
                if self.made_by[each.id].process is process and not each.refunded
            )
            if held > own and not self.lied:
                self.fail("law 5", f"{process.name} was charged {held}, its ceiling is {own}")
        ceiling = self.world.plan.batch_ceiling
        if ceiling is not None and not self.lied:
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
        """A request found no connection."""
        if post is not None:
            post.verdict = "again"

    def heard(
        self, process: Process, path: str, post: Post | None, heard: Answer | APIConnectionError
    ) -> None:
        """An answer, or the lack of one, reaches a process."""
        # A 429 says nothing of the outage: the same question goes again, when the pace allows.
        slowed = isinstance(heard, Answer) and heard.status == 429
        if path == CREDITS and process.outage_since is not None and not slowed:
            process.pause = min(600.0, 2 * process.pause)
            process.probes_from = asyncio.get_running_loop().time() + process.pause
            if isinstance(heard, Answer) and heard.status == 200:
                process.outage_since = None
                process.unknowns_in_a_row = UNKNOWNS_IN_A_ROW - 1
        if post is None:
            return
        post.verdict, post.task_id = judged(heard)
        if post.verdict == "faulted" and process.plan.settings.get("resubmit_server_errors"):
            self.permits[post.prompt] += 1  # the user said beforehand that it may be paid twice

    def recorded(
        self, process: Process, job_id: str, number: int | None, event: Event, *, written: bool
    ) -> None:
        """A process wrote something down, or failed to."""
        post = self._posts_of_claim.get((job_id, number or 0))
        if post is None or post.process is not process or post.verdict is None:
            return
        post.written = post.written or written
        if post.known:
            return
        post.known = True
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
            self._fits(post, event)

    def _fits(self, post: Post, event: Event) -> None:
        """Check that what is written is what was heard."""
        right: dict[str, tuple[type[Any], ...]] = {
            "taken": (events.Taken,),
            "no": (events.Refused, events.Released),
            "spent": (events.Released,),
            "again": (events.Released,),
            "faulted": (events.Faulted, events.Doubted),
            "unknown": (events.Doubted,),
        }
        assert post.verdict is not None
        late = isinstance(event, events.Taken)  # a callback may have been faster
        if not isinstance(event, right[post.verdict]) and not late:
            self.fail("law 3", f"{post.prompt!r}: heard {post.verdict}, written {event}")

    def ended(self, process: Process) -> None:
        """A process has ended in order: each of its POSTs has had its verdict."""
        for post in process.posts:
            if post.verdict is None:
                self.fail("law 2", f"{process.name} did not wait for its POST of {post.prompt!r}")

    def written(self, process: Process) -> None:
        """A transaction has happened."""
        own = process.plan.settings.get("max_credits")
        if own is not None and process.session is not None:
            held = process.session.statistics().credits.held
            if held > own:
                self.fail("law 5", f"{process.name} counts {held} itself, its ceiling is {own}")
        ceiling = self.world.plan.batch_ceiling
        if ceiling is None or self.lied:
            return
        assert process.ledger is not None
        if process.ledger._file is None:
            return  # it has just been closed
        row = process.ledger.file.connection.execute(
            "SELECT (charged + reserved + unknown) / 1e6 FROM credit_totals WHERE batch = 'b'"
        ).fetchone()
        if row is not None and row[0] > ceiling:
            self.fail("law 5", f"the ledger holds {row[0]} for a batch whose ceiling is {ceiling}")

    def outcome(self, process: Process, outcome: Outcome, seen: set[int]) -> None:
        """``generate_many`` of a living process yielded something."""
        index = outcome.index
        assert index is not None
        prompt = self.world.plan.batch[index].prompt
        process.say(f"outcome {index}: {outcome!r}"[:160]) if self.world.tracing else None
        if index in seen:
            self.fail("resolved once", f"outcome {index} came twice")
        seen.add(index)
        tasks = {task.id: task for task in self.by_prompt[prompt]}
        if isinstance(outcome, Succeeded):
            self._succeeded(prompt, outcome.task.id)
            if outcome.path is not None and not self.is_whole(outcome.task.id, outcome.path):
                self.fail("whole files", f"{outcome.path} is not whole")
        elif isinstance(outcome.error, TaskFailedError):
            task = tasks.get(outcome.error.task.id)
            if task is None or task.outcome != "failed":
                self.fail("truth", f"{prompt!r} is told to have failed, and did not")

    def succeeded(self, prompt: str, task_id: str | None) -> None:
        """Somebody was told that a job of a prompt succeeded."""
        self._succeeded(prompt, task_id)

    def _succeeded(self, prompt: str, task_id: str | None) -> None:
        tasks = {task.id: task for task in self.by_prompt[prompt]}
        task = tasks.get(task_id or "")
        if task is None or task.outcome != "completed":
            self.fail("truth", f"{prompt!r} is told to have succeeded as {task_id}, and did not")

    def is_whole(self, task_id: str, path: Any) -> bool:
        """Whether a file is what the service made for a task."""
        service = self.world.service
        expected = service.library.get(service.truth.tasks[task_id]).data
        return bool(path.is_file() and path.read_bytes() == expected)

    # --- the account at the end -----------------------------------------------------------------

    def close_books(self) -> None:
        """Compare the ledger with the truth, when all is over."""
        world = self.world
        path = world.ledger
        connection = sqlite3.connect(path)
        try:
            (sound,) = connection.execute("PRAGMA integrity_check").fetchone()
            if sound != "ok":
                self.fail("the file", f"integrity_check: {sound}")
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
        self._no_secrets()
        of_job: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
        for row in attempts:
            of_job[row[0]].append(row[1:])
        self._sums(jobs, of_job, totals)
        prompts = Counter(job[4] for job in jobs)
        for prompt, number in prompts.items():
            if number > 1:
                self.fail("law 8", f"{prompt!r} is {number} jobs")
        for prompt in self.by_prompt:
            if prompt not in prompts:
                self.fail("nothing forgotten", f"{prompt!r} was taken, and is no job")
        for job in jobs:
            self._job(job, of_job[job[0]])
        self._money(jobs, of_job)

    def _job(self, job: tuple[Any, ...], attempts: list[tuple[Any, ...]]) -> None:
        """Check how a job ended, and that each of its tasks is listed, or at least in doubt."""
        _, job_id, _, _, prompt, _, status, path, size = job
        truth = {task.id: task for task in self.by_prompt[prompt]}
        listed = {a[2]: a[1] for a in attempts if a[2] is not None}
        doubts = sum(a[1] in ("unknown", "faulted", "submitting") for a in attempts)
        unlisted = [task for task_id, task in truth.items() if task_id not in listed]
        if len(unlisted) > doubts and not self.lied:
            self.fail(
                "nothing forgotten",
                f"{prompt!r} was taken as {[t.id[:8] for t in unlisted]}, and job {job_id} is "
                f"{status} with attempts {attempts}",
            )
        for task in unlisted:
            if task.id in self.world.told and prompt not in self.world.touched:
                self.fail("law 4", f"{prompt!r}: a callback told of {task.id[:8]}, in vain")
        for task_id, stands in listed.items():
            if task_id not in truth:
                self.fail("truth", f"{prompt!r}: task {task_id} is not its own")
                continue
            task = truth[task_id]
            # What ended while the job had another task at hand is still listed as running.
            running = stands == "running" and (not task.over or len(attempts) > 1)
            if stands != task.outcome and not running:
                self.fail(
                    "nothing forgotten",
                    f"{prompt!r}: task {task_id[:8]} {task.outcome}, listed as {stands}",
                )
        if status == "submitting":
            self.fail("law 4", f"{prompt!r} is still being submitted, by nobody")
        if status == "saved":
            done = [a[2] for a in attempts if a[1] == "completed"]
            if size is None or not any(self.is_whole(task_id, Path(path)) for task_id in done):
                self.fail("whole files", f"{prompt!r} is saved as {path}, which is not whole")
        elif self.world.must_be_saved(prompt) and status not in OVER:
            self.fail("nothing forgotten", f"{prompt!r} ends as {status}")

    def _sums(
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
                self.fail("totals", f"{batch!r}: {row} is written, the attempts say {sums[batch]}")

    def _money(self, jobs: list[Any], of_job: dict[int, list[tuple[Any, ...]]]) -> None:
        """Credits reported are credits charged: what is known, and what is in doubt."""
        truth = self.world.service.truth
        known = refunded = doubt = unheard = 0
        listed = set()
        for job in jobs:
            for _, status, task_id in of_job[job[0]]:
                if task_id is not None:
                    known += job[5]
                    listed.add(task_id)
                    refunded += job[5] if status == "failed" else 0
                    task = truth.tasks.get(task_id)
                    if status == "running" and task is not None and task.refunded:
                        unheard += job[5]
                elif status in ("unknown", "faulted", "submitting"):
                    doubt += job[5]
        hidden = [task for task in truth.tasks.values() if task.id not in listed]
        of_hidden = sum(task.credits for task in hidden)
        if known + of_hidden != truth.charged:
            self.fail("money", f"{known} listed + {of_hidden} in doubt, charged {truth.charged}")
        if of_hidden > doubt and not self.lied:
            self.fail("money", f"{of_hidden} charged unknown to the ledger, which doubts {doubt}")
        of_hidden_refunded = sum(task.credits for task in hidden if task.refunded)
        if refunded + of_hidden_refunded + unheard != truth.refunded:
            self.fail("money", f"{refunded} known to be refunded, {truth.refunded} were")

    def _no_secrets(self) -> None:
        for name, data in self.world.leavings():
            for secret in (KEY[3:].encode(), b"X-Signature"):
                if secret in data:
                    self.fail("secrets", f"{secret.decode()} stands in {name}")
