"""The simulated service, without sockets and without a clock of its own.

`Service.handle(request, now)` answers requests to the API, `Service.handle_result(request, now)`
requests to the object store that holds the results, and `Service.due_callbacks(now)` returns the
callbacks to POST. `now` is in seconds since the service started and must never decrease from one
call to the next. An HTTP server (`serve`) or an in-process transport under a virtual clock can
drive the service; either must apply the delay and the connection cut that a `SimAnswer` states.

A create is checked in this order: fault, key (401, 403), rate limit (429), body (400, 404), cap on
running tasks (429), spend limit (429), balance (402).
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import math
import random
import uuid
from collections.abc import Callable
from urllib.parse import parse_qs

import attrs

from aivideo.simulator import results
from aivideo.simulator.accounts import Accounts
from aivideo.simulator.callbacks import Callback, CallbackSchedule
from aivideo.simulator.error_answers import apply_fault, bad_gateway, error_answer
from aivideo.simulator.exchange import JSON_HEADERS, SimAnswer, SimRequest, http_date, json_answer
from aivideo.simulator.faults import Endpoint, Fault, FaultStream, Hook
from aivideo.simulator.limits import JobsCap
from aivideo.simulator.media import Library, Media
from aivideo.simulator.rules import Order, RefusedError, read_order
from aivideo.simulator.scenario import Scenario, draw_seconds
from aivideo.simulator.truth import Account, TaskRecord, Truth

# Unix time of a Service without an `epoch`: the creation time in the provider's own example.
DEFAULT_EPOCH = 1_774_706_165.0

_CarryOut = Callable[[SimRequest, Account, float], SimAnswer]

_TASKS = "/v1/tasks/"
_CREATES = {"/v1/videos/generations": "video", "/v1/images/generations": "image"}


class Service:
    """One service that runs one scenario. See the module docstring.

    Attributes:
        scenario: how the service behaves.
        truth: what really happened so far.
        results_url: the origin in result URLs. Set by the server that serves the results.
        library: makes the contents of the results.
        on_callback_planned: called when a create schedules a callback, so that a task that sleeps
            until `next_callback()` can be woken.
    """

    def __init__(
        self, scenario: Scenario | None = None, *, results_url: str = "http://results.invalid"
    ) -> None:
        """Start a service at time 0."""
        scenario = Scenario() if scenario is None else scenario
        self._scenario = scenario
        self.truth: Truth = Truth()
        self.results_url = results_url
        self.library: Library = Library(scenario.media, scenario.seed)
        self.epoch: float = DEFAULT_EPOCH if scenario.epoch is None else scenario.epoch
        self._random = random.Random(f"{scenario.seed} tasks")
        self._latency = random.Random(f"{scenario.seed} latency")
        self._secret = hashlib.sha256(f"{scenario.seed} results".encode()).digest()
        self._faults = {
            endpoint: FaultStream(scenario.faults, endpoint, scenario.seed) for endpoint in Endpoint
        }
        self._hook: Hook | None = None
        self._endings: list[tuple[float, int, TaskRecord]] = []
        self._numbers = itertools.count()
        self._callbacks = CallbackSchedule(scenario, self.truth)
        self.on_callback_planned: Callable[[], None] | None = None
        cap = scenario.rate_limit
        caps = [scenario.jobs_in_flight, cap.limit if isinstance(cap, JobsCap) else None]
        self._jobs_cap = min((limit for limit in caps if limit is not None), default=None)
        self._accounts = Accounts(scenario, self.truth)

    @property
    def scenario(self) -> Scenario:
        """How the service behaves. May be replaced at any time, e.g. to lift a spend limit."""
        return self._scenario

    @scenario.setter
    def scenario(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._accounts.scenario = scenario

    @property
    def hook(self) -> Hook | None:
        """Decides faults before the scenario does: see `faults.Hook`. May be set at any time."""
        return self._hook

    @hook.setter
    def hook(self, hook: Hook | None) -> None:
        self._hook = hook
        self._callbacks.hook = hook

    def unix(self, now: float) -> float:
        """The Unix time at `now`, without the scenario's clock skew."""
        return self.epoch + now

    # -- time -------------------------------------------------------------------------------

    def next_event(self) -> float | None:
        """When the next task ends or the next callback is due. None if neither is pending."""
        ending = self._endings[0][0] if self._endings else None
        callback = self._callbacks.next_at
        return min((at for at in (ending, callback) if at is not None), default=None)

    def next_callback(self) -> float | None:
        """When the next callback is due. None if none is scheduled."""
        return self._callbacks.next_at

    def due_callbacks(self, now: float) -> list[Callback]:
        """Remove and return the callbacks to loopback hosts that are due.

        Pass the result of each to `callback_answered`. Callbacks to other hosts are not returned:
        they are only recorded in the truth.
        """
        self._advance(now)
        return self._callbacks.due(now, self)

    def callback_answered(self, callback: Callback, status: int | None, now: float) -> None:
        """Report the HTTP status that a callback was answered with. None: it was unreachable."""
        self._callbacks.answered(callback, status, now)

    def _advance(self, now: float) -> None:
        truth = self.truth
        truth.now = now
        endings = self._endings
        while endings and endings[0][0] <= now:
            task = heapq.heappop(endings)[2]
            task.over = True
            task.account.running -= 1
            truth.running -= 1
            if task.outcome == "failed":
                self._accounts.refund(task)

    # -- API requests ------------------------------------------------------------------------

    def handle(self, request: SimRequest, now: float) -> SimAnswer:
        """Answer one request to the API's origin."""
        self._advance(now)
        truth = self.truth
        path = request.path
        carry_out: _CarryOut
        if request.method == "POST" and path in _CREATES:
            endpoint = Endpoint.CREATE
            carry_out = self._create
        elif request.method == "GET" and path.startswith(_TASKS):
            endpoint = Endpoint.POLL
            carry_out = self._query
        elif request.method == "GET" and path == "/v1/credits":
            endpoint = Endpoint.CREDITS
            carry_out = self._credits
        elif request.method == "GET" and path == "/_sim/truth":
            truth.requests[Endpoint.TRUTH] += 1
            return self._truth_answer(request)
        else:
            endpoint = Endpoint.OTHER
            carry_out = self._no_such_path
        truth.requests[endpoint] += 1
        truth.requests_per_second[int(now)] += 1
        fault = self._faults[endpoint].decide(self._hook, path, request.body)
        if fault is Fault.NONE:
            answer = self._checked(carry_out, request, now)
        else:
            truth.faults[endpoint, fault] += 1
            answer = apply_fault(
                fault,
                lambda: self._checked(carry_out, request, now),
                settings=self.scenario.faults,
                redirect_url=f"{self.results_url}{path}",
            )
        if answer.cut is None:
            truth.statuses[endpoint, answer.status] += 1
        return self._with_latency(answer)

    def _checked(self, carry_out: _CarryOut, request: SimRequest, now: float) -> SimAnswer:
        """Check the key and the rate limit, then carry the request out."""
        try:
            account = self._accounts.authenticate(request)
            if account.limiter is not None and (wait := account.limiter.take(now)):
                return self._rate_limited(carry_out == self._create, wait, now)
            return carry_out(request, account, now)
        except RefusedError as refusal:
            return error_answer(refusal.code, refusal.message)

    def _with_latency(self, answer: SimAnswer) -> SimAnswer:
        latency = self.scenario.latency
        if latency == 0.0:
            return answer
        return attrs.evolve(answer, delay=answer.delay + draw_seconds(latency, self._latency, 0.0))

    def _rate_limited(self, create: bool, wait: float | None, now: float) -> SimAnswer:
        self.truth.rate_limited += 1
        self.truth.rate_limited_creates += create
        answer = error_answer("rate_limit_exceeded", "Too many requests. Please slow down.")
        if wait is None or self.scenario.retry_after == "none":
            return answer
        if self.scenario.retry_after == "seconds":
            value = str(max(1, math.ceil(wait)))
        else:
            value = http_date(math.ceil(self.unix(now) + wait))
        return SimAnswer(answer.status, {**JSON_HEADERS, "Retry-After": value}, answer.body)

    # -- endpoints --------------------------------------------------------------------------

    def _create(self, request: SimRequest, account: Account, now: float) -> SimAnswer:
        limiter = account.create_limiter
        if limiter is not None and (wait := limiter.take(now)):
            return self._rate_limited(True, wait, now)
        order = read_order(request.body, _CREATES[request.path], self.scenario.models)
        if self._jobs_cap is not None and account.running >= self._jobs_cap:
            return self._rate_limited(True, None, now)
        self._accounts.charge(account, order.credits, now)
        task = self._take(order, account, now)
        return json_answer(200, {"code": 200, "msg": "success", "data": {"taskId": task.id}})

    def _take(self, order: Order, account: Account, now: float) -> TaskRecord:
        scenario, source, truth = self.scenario, self._random, self.truth
        given = order.input
        starts = now + draw_seconds(scenario.queue_seconds, source, now) / scenario.speed
        ends = starts + draw_seconds(scenario.task_seconds, source, now) / scenario.speed
        prompt, duration, ratio = (given.get(n) for n in ("prompt", "duration", "aspect_ratio"))
        images = given.get("image_urls")
        task = TaskRecord(
            id=str(uuid.UUID(int=source.getrandbits(128), version=4)),
            model=order.model,
            kind=scenario.models[order.model].kind,
            prompt=prompt if isinstance(prompt, str) else None,
            duration=duration if isinstance(duration, int) else None,
            aspect_ratio=ratio if isinstance(ratio, str) else None,
            credits=order.credits,
            account=account,
            created=now,
            starts=starts,
            ends=ends,
            outcome="failed" if source.random() < scenario.failure_rate else "completed",
            callback_url=order.callback_url,
            image_urls=tuple(str(url) for url in images) if isinstance(images, list) else (),
        )
        truth.tasks[task.id] = task
        truth.creates_taken += 1
        truth.running += 1
        truth.max_running = max(truth.max_running, truth.running)
        account.running += 1
        heapq.heappush(self._endings, (ends, next(self._numbers), task))
        if task.callback_url is not None:
            self._callbacks.task_created(task, task.callback_url)
            if self.on_callback_planned is not None:
                self.on_callback_planned()
        return task

    def _query(self, request: SimRequest, account: Account, now: float) -> SimAnswer:
        task = self.truth.tasks.get(request.path[len(_TASKS) :])
        hidden = self.scenario.not_found_for
        if task is None or task.account is not account or (hidden and now < task.created + hidden):
            raise RefusedError("task_not_found", "The task does not exist.")
        return json_answer(200, self.task_object(task, now))

    def task_object(self, task: TaskRecord, now: float) -> dict[str, object]:
        """The JSON object of a task at `now` (API.md, "The task object")."""
        skew = self.scenario.clock_skew
        status = task.status(now)
        shown: dict[str, object] = {
            "id": task.id,
            "status": status,
            "model": task.model,
            "created_at": int(self.unix(task.created) + skew),
        }
        if status == "completed":
            completed = self.unix(task.ends)
            shown["completed_at"] = int(completed + skew)
            expires = math.ceil(completed + self.scenario.result_ttl)
            url = results.signed_url(
                self.results_url, self._secret, task, self.unix(task.created), expires
            )
            metadata = {"duration": task.duration, "prompt": task.prompt}
            shown["output"] = {
                "urls": [url],
                "metadata": {name: value for name, value in metadata.items() if value is not None},
            }
        elif status == "failed":
            scenario = self.scenario
            shown["error"] = {"code": scenario.failure_code, "message": scenario.failure_message}
        elif self.scenario.progress == "null":
            shown["progress"] = None
        else:
            done = (now - task.starts) / max(task.ends - task.starts, 1e-9)
            shown["progress"] = min(99, max(0, int(100 * done)))
        return shown

    def _credits(self, _request: SimRequest, account: Account, _now: float) -> SimAnswer:
        data = {
            "balance": account.balance,
            "total_purchased": account.purchased,
            "total_consumed": account.consumed,
        }
        return json_answer(200, {"code": 200, "msg": "success", "data": data})

    def _no_such_path(self, request: SimRequest, _account: Account, _now: float) -> SimAnswer:
        # Undocumented: uses the shape of the documented errors, with a code not in their table.
        message = f"No such endpoint: {request.method} {request.path}"
        error = {"code": "not_found", "message": message, "type": "invalid_request_error"}
        return json_answer(404, {"error": error})

    def _truth_answer(self, request: SimRequest) -> SimAnswer:
        summary = self.truth.summary()
        if parse_qs(request.query).get("tasks") == ["1"]:
            summary["tasks"] = self.truth.task_list()
        return json_answer(200, summary)

    # -- results --------------------------------------------------------------------------

    def handle_result(self, request: SimRequest, now: float) -> SimAnswer:
        """Answer one request to the results' origin. Makes the content if it is not cached."""
        task = self.find_result(request, now)
        if isinstance(task, SimAnswer):
            return task
        return self.send_result(request, task, self.library.get(task))

    def find_result(self, request: SimRequest, now: float) -> TaskRecord | SimAnswer:
        """Return the task whose result is requested, or an error answer.

        First half of `handle_result`, for callers that make the content (`library.get(task)`) in
        another thread and then call `send_result`.
        """
        self._advance(now)
        truth = self.truth
        truth.requests[Endpoint.DOWNLOAD] += 1
        if results.carries_key(request):
            truth.keys_at_results += 1
        found = results.admit(request, self._secret, self.unix(now))
        if isinstance(found, str):
            task = truth.tasks.get(found)
            if task is not None:
                return task
            found = results.no_such_key()  # signed by an earlier run with the same seed
        truth.statuses[Endpoint.DOWNLOAD, found.status] += 1
        return found

    def send_result(self, request: SimRequest, task: TaskRecord, media: Media) -> SimAnswer:
        """Return the answer that contains a result. Second half of `handle_result`."""
        truth = self.truth
        fault = self._faults[Endpoint.DOWNLOAD].decide(self._hook, request.path)
        if fault is not Fault.NONE:
            truth.faults[Endpoint.DOWNLOAD, fault] += 1
        answer = results.content(
            request,
            media.data,
            content_type=media.content_type,
            etag=media.etag,
            modified=http_date(self.unix(task.ends)),
            ignore_range=fault is Fault.IGNORE_RANGE,
        )
        match fault:
            case Fault.CUT:
                answer = attrs.evolve(answer, cut="body")
            case Fault.RESET:
                answer = SimAnswer(0, cut="reset")
            case Fault.HTML_502:
                answer = bad_gateway()
            case Fault.NONE | Fault.IGNORE_RANGE:
                pass
            case _:
                raise ValueError(f"fault {fault} does not apply to downloads")
        if answer.cut is None:
            truth.statuses[Endpoint.DOWNLOAD, answer.status] += 1
        truth.bytes_downloaded += len(answer.sent_body)
        return answer
