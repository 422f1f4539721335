"""The stand-in service itself: no socket, no clock.

`Service.handle(request, now)` answers the API, `Service.handle_result(request, now)` the object
store the results lie in, and `Service.due_callbacks(now)` gives what is to be POSTed. `now` is in
seconds, never less than at the call before, and its zero is the service's start. An HTTP server
(`serve`) or a fake transport under a virtual clock can drive it; both enact what a `SimAnswer`
says about delays and cuts.

Order in which a create is refused: fault · key (401, 403) · rate (429) · body (400, 404) · jobs
cap (429) · spend limit (429) · balance (402).

The file is long because it is one conversation, from the request's first check to the response;
what it draws from (limits, faults, results, callbacks, truth) has modules of its own.
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
from aivideo.simulator.callbacks import Callback, CallbackSchedule
from aivideo.simulator.exchange import JSON_HEADERS, SimAnswer, SimRequest, http_date, json_answer
from aivideo.simulator.faults import Endpoint, Fault, FaultStream, Hook
from aivideo.simulator.limits import JobsCap
from aivideo.simulator.media import Library, Media
from aivideo.simulator.rules import ERRORS, Order, RefusedError, read_order
from aivideo.simulator.scenario import Scenario, draw_seconds
from aivideo.simulator.truth import Account, TaskRecord, Truth

# The creation time of the provider's own example: what a bare Service's clock begins with.
DEFAULT_EPOCH = 1_774_706_165.0

_CarryOut = Callable[[SimRequest, Account, float], SimAnswer]

_TASKS = "/v1/tasks/"
_CREATES = {"/v1/videos/generations": "video", "/v1/images/generations": "image"}
_HTML_502 = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n"
    b"<body><center><h1>502 Bad Gateway</h1></center></body>\r\n</html>\r\n"
)

_TAKEN_AND_ANSWERED_AS = {
    Fault.HTML_502_TAKEN: Fault.HTML_502,
    Fault.INTERNAL_ERROR_TAKEN: Fault.INTERNAL_ERROR,
    Fault.UPSTREAM_ERROR_TAKEN: Fault.UPSTREAM_ERROR,
}
_SPOILED = {
    Fault.CUT_AFTER,
    Fault.HANG,
    Fault.SLOW,
    Fault.TRUNCATED,
    Fault.MALFORMED,
    Fault.MISSING_TASK_ID,
}


class Service:
    """One service under one scenario. See the top of this file.

    Attributes:
        scenario: what it was asked to be.
        truth: what really happened so far.
        results_url: the origin in result URLs; whoever serves it says where it is.
        library: makes what the results hold.
        on_callback_planned: called when a create plans a callback, for whoever sleeps until
            `next_callback()`.
    """

    def __init__(
        self, scenario: Scenario | None = None, *, results_url: str = "http://results.invalid"
    ) -> None:
        """Start a service whose clock reads 0."""
        scenario = Scenario() if scenario is None else scenario
        self.scenario = scenario
        self.truth = Truth()
        self.results_url = results_url
        self.library = Library(scenario.media, scenario.seed)
        self.epoch = DEFAULT_EPOCH if scenario.epoch is None else scenario.epoch
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
        for key in scenario.keys or ():
            self._account(key)

    @property
    def hook(self) -> Hook | None:
        """Decides faults before the scenario does; see `faults.Hook`. May be set at any time."""
        return self._hook

    @hook.setter
    def hook(self, hook: Hook | None) -> None:
        self._hook = hook
        self._callbacks.hook = hook

    def unix(self, now: float) -> float:
        """The Unix time at `now`, without the skew of the scenario."""
        return self.epoch + now

    # -- time -------------------------------------------------------------------------------

    def next_event(self) -> float | None:
        """When something happens by itself next: a task ends, a callback is due. Or never: None."""
        ending = self._endings[0][0] if self._endings else None
        callback = self._callbacks.next_at
        return min((at for at in (ending, callback) if at is not None), default=None)

    def next_callback(self) -> float | None:
        """When a callback is due next; None: none is planned."""
        return self._callbacks.next_at

    def due_callbacks(self, now: float) -> list[Callback]:
        """Take the callbacks to loopback hosts that are due.

        Tell each one's fate to `callback_answered`. Those to other hosts are only noted in the
        truth.
        """
        self._advance(now)
        return self._callbacks.due(now, self)

    def callback_answered(self, callback: Callback, status: int | None, now: float) -> None:
        """Say with which HTTP status a callback was answered; None: it was unreachable."""
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
                self._refund(task)

    # -- the API ----------------------------------------------------------------------------

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
            return self._tell_truth(request)
        else:
            endpoint = Endpoint.OTHER
            carry_out = self._no_such_path
        truth.requests[endpoint] += 1
        truth.requests_per_second[int(now)] += 1
        fault = self._faults[endpoint].decide(self._hook, path, request.body)
        if fault is Fault.NONE:
            answer = self._carried_out(carry_out, request, now)
        else:
            truth.faults[endpoint, fault] += 1
            answer = self._faulty(fault, lambda: self._carried_out(carry_out, request, now), path)
        if answer.cut is None:
            truth.statuses[endpoint, answer.status] += 1
        return self._with_latency(answer)

    def _carried_out(
        self,
        carry_out: _CarryOut,
        request: SimRequest,
        now: float,
    ) -> SimAnswer:
        try:
            account = self._authenticate(request)
            if account.limiter is not None and (wait := account.limiter.take(now)):
                return self._too_many(carry_out == self._create, wait, now)
            return carry_out(request, account, now)
        except RefusedError as refusal:
            return _error(refusal.code, refusal.message)

    def _with_latency(self, answer: SimAnswer) -> SimAnswer:
        latency = self.scenario.latency
        if latency == 0.0:
            return answer
        return attrs.evolve(answer, delay=answer.delay + draw_seconds(latency, self._latency, 0.0))

    def _faulty(self, fault: Fault, carried_out: Callable[[], SimAnswer], path: str) -> SimAnswer:
        if fault in _TAKEN_AND_ANSWERED_AS:
            carried_out()
            return self._untaken(_TAKEN_AND_ANSWERED_AS[fault], path)
        if fault in _SPOILED:
            return self._spoiled(fault, carried_out())
        return self._untaken(fault, path)

    def _untaken(self, fault: Fault, path: str) -> SimAnswer:
        """The answer to a request that is not carried out."""
        match fault:
            case Fault.CUT_BEFORE:
                return SimAnswer(0, cut="before")
            case Fault.RESET:
                return SimAnswer(0, cut="reset")
            case Fault.HTML_502:
                return _bad_gateway()
            case Fault.WRONG_ENVELOPE:
                return json_answer(200, {"code": 402, "msg": "insufficient credits", "data": None})
            case Fault.REDIRECT:
                return SimAnswer(307, {"Location": f"{self.results_url}{path}"})
            case Fault.INTERNAL_ERROR:
                return _error("internal_error", "Internal server error.")
            case Fault.UPSTREAM_ERROR:
                return _error("upstream_error", "The upstream AI service returned an error.")
            case _:
                raise ValueError(f"the fault {fault} does not happen to requests to the API")

    def _spoiled(self, fault: Fault, answer: SimAnswer) -> SimAnswer:
        """What becomes of a good answer on its way."""
        faults = self.scenario.faults
        match fault:
            case Fault.CUT_AFTER:
                return SimAnswer(0, cut="after")
            case Fault.HANG:
                return attrs.evolve(answer, delay=faults.hang_seconds)
            case Fault.SLOW:
                return attrs.evolve(answer, delay=faults.slow_seconds)
            case Fault.TRUNCATED:
                return attrs.evolve(answer, cut="body")
            case Fault.MALFORMED:
                return attrs.evolve(answer, body=answer.body[:-2])
            case _ if answer.status == 200:  # MISSING_TASK_ID
                return json_answer(200, {"code": 200, "msg": "success", "data": {}})
            case _:
                return answer

    def _too_many(self, create: bool, wait: float | None, now: float) -> SimAnswer:
        self.truth.rate_limited += 1
        self.truth.rate_limited_creates += create
        answer = _error("rate_limit_exceeded", "Too many requests. Please slow down.")
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
            return self._too_many(True, wait, now)
        order = read_order(request.body, _CREATES[request.path], self.scenario.models)
        if self._jobs_cap is not None and account.running >= self._jobs_cap:
            return self._too_many(True, None, now)
        self._charge(account, order.credits, now)
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
        """A task as the API shows it at `now` (API.md, "The task object")."""
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
        # Undocumented; the envelope of the documented errors, and a code outside their table.
        message = f"No such endpoint: {request.method} {request.path}"
        error = {"code": "not_found", "message": message, "type": "invalid_request_error"}
        return json_answer(404, {"error": error})

    def _tell_truth(self, request: SimRequest) -> SimAnswer:
        told = self.truth.summary()
        if parse_qs(request.query).get("tasks") == ["1"]:
            told["tasks"] = self.truth.task_list()
        return json_answer(200, told)

    # -- keys and money ---------------------------------------------------------------------

    def _authenticate(self, request: SimRequest) -> Account:
        scheme, _, key = (request.header("Authorization") or "").partition(" ")
        account = self.truth.accounts.get(key)
        if scheme != "Bearer" or not key.startswith("sk-"):
            raise RefusedError(
                "invalid_api_key", "The API key is missing or does not start with 'sk-'."
            )
        if account is None:
            account = self._account(key)
        if account.refusal is not None:
            raise RefusedError(*account.refusal)
        return account

    def _account(self, key: str) -> Account:
        scenario = self.scenario
        refusal = None
        if key in scenario.disabled_keys:
            refusal = ("invalid_api_key", "The API key is disabled or deleted.")
        elif key in scenario.blocked_keys:
            refusal = ("invalid_api_key", "The account is blocked.")
        elif key in scenario.refused_ip_keys:
            refusal = ("ip_not_allowed", "The caller's IP is not on the key's allow-list.")
        elif scenario.keys is not None and key not in scenario.keys:
            raise RefusedError("invalid_api_key", "The API key does not exist.")
        balance = scenario.default_balance
        if scenario.keys is not None:
            balance = scenario.keys.get(key, balance)
        rate, create_rate = scenario.rate_limit, scenario.create_rate_limit
        account = Account(
            key,
            purchased=balance,
            balance=balance,
            limiter=None if rate is None or isinstance(rate, JobsCap) else rate.start(),
            create_limiter=None if create_rate is None else create_rate.start(),
            refusal=refusal,
        )
        self.truth.accounts[key] = account
        return account

    def _charge(self, account: Account, price: int, now: float) -> None:
        limit = self.scenario.spend_limit
        if limit is not None:
            window = self._spend_window(now)
            if window != account.spend_window:
                account.spend_window, account.spent = window, 0
            if account.spent + price > limit:
                self.truth.spend_limited += 1
                raise RefusedError(
                    "spend_limit_exceeded", "The spend limit of this key is reached."
                )
        if account.balance < price:
            raise RefusedError(
                "insufficient_credits", "Your credit balance is too low. Please top up."
            )
        account.balance -= price
        account.consumed += price
        account.charged += price
        account.spent += price
        self.truth.charged += price

    def _refund(self, task: TaskRecord) -> None:
        account, price = task.account, task.credits
        task.refunded = True
        account.balance += price
        account.refunded += price
        self.truth.refunded += price
        if self.scenario.refund_lowers_consumed:
            account.consumed -= price
        # The cap counts what was spent in its window: a refund gives back what it took there.
        if self._spend_window(task.created) == account.spend_window:
            account.spent -= price

    def _spend_window(self, now: float) -> float:
        length = self.scenario.spend_window
        return 0.0 if length is None else now // length

    # -- the results ------------------------------------------------------------------------

    def handle_result(self, request: SimRequest, now: float) -> SimAnswer:
        """Answer one request to the results' origin, making its content if need be."""
        task = self.find_result(request, now)
        if isinstance(task, SimAnswer):
            return task
        return self.send_result(request, task, self.library.get(task))

    def find_result(self, request: SimRequest, now: float) -> TaskRecord | SimAnswer:
        """The task whose result is asked for, or the refusal.

        First half of `handle_result`, for callers who make the content (`library.get(task)`)
        elsewhere, and then `send_result`.
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
            found = results.no_such_key()  # signed by an earlier run of the same seed
        truth.statuses[Endpoint.DOWNLOAD, found.status] += 1
        return found

    def send_result(self, request: SimRequest, task: TaskRecord, media: Media) -> SimAnswer:
        """The answer that carries a result. Second half of `handle_result`."""
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
                answer = _bad_gateway()
            case Fault.NONE | Fault.IGNORE_RANGE:
                pass
            case _:
                raise ValueError(f"the fault {fault} does not happen to downloads")
        if answer.cut is None:
            truth.statuses[Endpoint.DOWNLOAD, answer.status] += 1
        truth.bytes_downloaded += len(answer.sent_body)
        return answer


def _error(code: str, message: str) -> SimAnswer:
    status, kind = ERRORS[code]
    return json_answer(status, {"error": {"code": code, "message": message, "type": kind}})


def _bad_gateway() -> SimAnswer:
    return SimAnswer(502, {"Content-Type": "text/html"}, _HTML_502)
