"""What really happened: all tasks created, credits charged and refunded, and requests received.

It is recorded while the service runs, at a constant cost per request. Tests compare a client's
records with it.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

import attrs

from aivideo.simulator.faults import Endpoint, Fault
from aivideo.simulator.limits import Limiter

Outcome = Literal["completed", "failed"]
CallbackFate = Literal["sent", "recorded", "lost", "forged"]
"""`sent` (loopback host), `recorded` (other host, not sent), `lost` or `forged` (by a fault)."""


@attrs.define(eq=False)
class Account:
    """The balance and the limits of one API key. All amounts in credits."""

    key: str
    purchased: int
    balance: int
    consumed: int = 0
    charged: int = 0
    refunded: int = 0
    spent: int = 0
    """Credits that count towards the spend limit in `spend_window`."""
    spend_window: float = 0.0
    running: int = 0
    limiter: Limiter | None = None
    create_limiter: Limiter | None = None
    refusal: tuple[str, str] | None = None
    """Code and message of the error that every request of this key gets. None: it is accepted."""

    @property
    def masked_key(self) -> str:
        """The key, masked for display: only its last four characters, if it is long enough."""
        return f"sk-…{self.key[-4:]}" if len(self.key) >= 12 else "sk-…"


@attrs.define(eq=False)
class TaskRecord:
    """One task that was created and charged. Times are seconds of the service's clock."""

    id: str
    model: str
    kind: Literal["video", "image"]
    prompt: str | None
    duration: int | None
    aspect_ratio: str | None
    credits: int
    account: Account
    created: float
    starts: float
    """When its status changes from `pending` to `processing`."""
    ends: float
    outcome: Outcome
    """Its final status, from `ends` on."""
    callback_url: str | None
    image_urls: tuple[str, ...] = ()
    over: bool = False
    refunded: bool = False

    def status(self, now: float) -> str:
        """Its status at `now`: `pending`, `processing`, `completed` or `failed`."""
        if self.over or now >= self.ends:
            return self.outcome
        return "processing" if now >= self.starts else "pending"


@attrs.frozen
class CallbackRecord:
    """One callback that became due, sent or not."""

    task_id: str
    url: str
    event: str
    attempt: int
    at: float
    fate: CallbackFate


@attrs.define(eq=False)
class Truth:
    """The record of one run. The service updates it while it runs."""

    requests: Counter[Endpoint] = attrs.field(factory=Counter)
    """Requests received by endpoint, whatever the answer."""
    statuses: Counter[tuple[Endpoint, int]] = attrs.field(factory=Counter)
    """Answers sent by endpoint and HTTP status, without those whose connection was cut."""
    requests_per_second: Counter[int] = attrs.field(factory=Counter)
    """Requests to the API in each whole second of the service's clock."""
    creates_taken: int = 0
    rate_limited: int = 0
    """429 answers for any rate limit: all requests, creates only, or running tasks."""
    rate_limited_creates: int = 0
    spend_limited: int = 0
    charged: int = 0
    refunded: int = 0
    tasks: dict[str, TaskRecord] = attrs.field(factory=dict)
    accounts: dict[str, Account] = attrs.field(factory=dict)
    faults: Counter[tuple[Endpoint, Fault]] = attrs.field(factory=Counter)
    keys_at_results: int = 0
    """Requests to the results' origin that contained an API key. Must stay 0."""
    callbacks: list[CallbackRecord] = attrs.field(factory=list)
    callbacks_delivered: int = 0
    """Callbacks answered with a 2xx status."""
    connections: int = 0
    """Connections opened to the API."""
    result_connections: int = 0
    in_flight: int = 0
    """Requests to the API that are being processed now."""
    max_in_flight: int = 0
    running: int = 0
    """Tasks pending or processing at `now`."""
    max_running: int = 0
    bytes_downloaded: int = 0
    now: float = 0.0
    """Time of the last call to the service, in seconds of its clock."""

    @property
    def creates_seen(self) -> int:
        """Creates that reached the service, whatever the result."""
        return self.requests[Endpoint.CREATE]

    @property
    def polls(self) -> int:
        """Requests for the status of a task."""
        return self.requests[Endpoint.POLL]

    @property
    def downloads(self) -> int:
        """Requests to the results' origin."""
        return self.requests[Endpoint.DOWNLOAD]

    def request_begins(self) -> None:
        """Count a request in flight. Called by the transport; `request_ends` must follow."""
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def request_ends(self) -> None:
        """Stop counting a request in flight."""
        self.in_flight -= 1

    def prompts_taken(self) -> Counter[str]:
        """How many tasks were created and charged for each prompt."""
        return Counter(task.prompt for task in self.tasks.values() if task.prompt is not None)

    def summary(self) -> dict[str, object]:
        """The totals as JSON values. API keys are masked."""
        by_status = Counter(task.status(self.now) for task in self.tasks.values())
        return {
            "creates_seen": self.creates_seen,
            "creates_taken": self.creates_taken,
            "polls": self.polls,
            "requests": {str(endpoint): count for endpoint, count in self.requests.items()},
            "statuses": {
                f"{endpoint} {status}": count
                for (endpoint, status), count in sorted(self.statuses.items())
            },
            "rate_limited": self.rate_limited,
            "rate_limited_creates": self.rate_limited_creates,
            "spend_limited": self.spend_limited,
            "credits_charged": self.charged,
            "credits_refunded": self.refunded,
            "tasks_by_status": dict(by_status),
            "accounts": [
                {
                    "key": account.masked_key,
                    "balance": account.balance,
                    "total_purchased": account.purchased,
                    "total_consumed": account.consumed,
                    "charged": account.charged,
                    "refunded": account.refunded,
                }
                for account in self.accounts.values()
            ],
            "faults": {
                f"{endpoint} {fault}": count
                for (endpoint, fault), count in sorted(self.faults.items())
            },
            "keys_at_results": self.keys_at_results,
            "callbacks": dict(Counter(callback.fate for callback in self.callbacks)),
            "callbacks_delivered": self.callbacks_delivered,
            "connections": self.connections,
            "result_connections": self.result_connections,
            "max_in_flight": self.max_in_flight,
            "max_running": self.max_running,
            "max_requests_in_a_second": max(self.requests_per_second.values(), default=0),
            "bytes_downloaded": self.bytes_downloaded,
        }

    def task_list(self) -> list[dict[str, object]]:
        """All tasks as JSON values, in the order of their creation."""
        return [
            {
                "id": task.id,
                "model": task.model,
                "prompt": task.prompt,
                "duration": task.duration,
                "aspect_ratio": task.aspect_ratio,
                "credits": task.credits,
                "key": task.account.masked_key,
                "status": task.status(self.now),
                "created": task.created,
                "ends": task.ends,
                "refunded": task.refunded,
                "callback_url": task.callback_url,
            }
            for task in self.tasks.values()
        ]
