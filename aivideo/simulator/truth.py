"""What really happened: every task made, every credit moved, every request seen.

Kept while the service runs, at a constant cost per request; tests compare a client's account
with it.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

import attrs

from aivideo.simulator.faults import Endpoint, Fault
from aivideo.simulator.limits import Limiter

Outcome = Literal["completed", "failed"]
CallbackFate = Literal["sent", "recorded", "lost", "forged"]
"""`sent` (to a loopback host), `recorded` (any other host), `lost` or `forged` on purpose."""


@attrs.define(eq=False)
class Account:
    """One key's money and limits. All amounts in credits."""

    key: str
    purchased: int
    balance: int
    consumed: int = 0
    charged: int = 0
    refunded: int = 0
    spent: int = 0
    """Against the spend limit, in `spend_window`."""
    spend_window: float = 0.0
    running: int = 0
    limiter: Limiter | None = None
    create_limiter: Limiter | None = None
    refusal: tuple[str, str] | None = None
    """The code and message every request of this key is answered with, if it is not welcome."""

    @property
    def masked_key(self) -> str:
        """The key as it may be shown: its last four characters, if it is long enough."""
        return f"sk-…{self.key[-4:]}" if len(self.key) >= 12 else "sk-…"


@attrs.define(eq=False)
class TaskRecord:
    """One task that was taken and charged. Times are seconds of the service's clock."""

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
    """When it leaves `pending` for `processing`."""
    ends: float
    outcome: Outcome
    """How it will have ended at `ends`."""
    callback_url: str | None
    image_urls: tuple[str, ...] = ()
    over: bool = False
    refunded: bool = False

    def status(self, now: float) -> str:
        """`pending`, `processing`, `completed` or `failed`."""
        if self.over or now >= self.ends:
            return self.outcome
        return "processing" if now >= self.starts else "pending"


@attrs.frozen
class CallbackRecord:
    """One callback that was due."""

    task_id: str
    url: str
    event: str
    attempt: int
    at: float
    fate: CallbackFate


@attrs.define(eq=False)
class Truth:
    """The account of one run. Live: the service goes on writing in it."""

    requests: Counter[Endpoint] = attrs.field(factory=Counter)
    """Requests seen, by what they were for, whatever their answer."""
    statuses: Counter[tuple[Endpoint, int]] = attrs.field(factory=Counter)
    """Answers made, by HTTP status; cut connections are not in it."""
    requests_per_second: Counter[int] = attrs.field(factory=Counter)
    """Requests to the API, by the whole second of the service's clock."""
    creates_taken: int = 0
    rate_limited: int = 0
    """429s by time, by jobs cap and by the limit of creates."""
    rate_limited_creates: int = 0
    spend_limited: int = 0
    charged: int = 0
    refunded: int = 0
    tasks: dict[str, TaskRecord] = attrs.field(factory=dict)
    accounts: dict[str, Account] = attrs.field(factory=dict)
    faults: Counter[tuple[Endpoint, Fault]] = attrs.field(factory=Counter)
    keys_at_results: int = 0
    """Requests with an `Authorization` header or a key at the results' origin. Must stay 0."""
    callbacks: list[CallbackRecord] = attrs.field(factory=list)
    callbacks_delivered: int = 0
    """Callbacks answered with a 2xx."""
    connections: int = 0
    """Connections opened to the API."""
    result_connections: int = 0
    in_flight: int = 0
    """Requests being answered by the API right now."""
    max_in_flight: int = 0
    running: int = 0
    """Tasks pending or processing, as of the service's last look at its clock."""
    max_running: int = 0
    bytes_downloaded: int = 0
    now: float = 0.0
    """The service's clock at its last look, in seconds."""

    @property
    def creates_seen(self) -> int:
        """Creates that reached the service, whatever became of them."""
        return self.requests[Endpoint.CREATE]

    @property
    def polls(self) -> int:
        """Queries of a task."""
        return self.requests[Endpoint.POLL]

    @property
    def downloads(self) -> int:
        """Requests to the results' origin."""
        return self.requests[Endpoint.DOWNLOAD]

    def request_begins(self) -> None:
        """Count a request in flight. For whoever carries requests; `request_ends` must follow."""
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def request_ends(self) -> None:
        """The other end of `request_begins`."""
        self.in_flight -= 1

    def prompts_taken(self) -> Counter[str]:
        """How often each prompt was taken and charged."""
        return Counter(task.prompt for task in self.tasks.values() if task.prompt is not None)

    def summary(self) -> dict[str, object]:
        """The figures as JSON values. Keys are masked."""
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
        """Every task as JSON values, in the order they were taken."""
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
