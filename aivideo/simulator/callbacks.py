"""Which callbacks are sent, when, and with which content.

API.md, "Callbacks": the task object is POSTed when a task ends, with up to three attempts.
Callbacks are not signed, so a receiver cannot tell a forged one from a real one.
"""

from __future__ import annotations

import heapq
import ipaddress
import itertools
import random
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import urlsplit

import attrs
import orjson

from aivideo.simulator.faults import Endpoint, Fault, FaultStream, Hook
from aivideo.simulator.scenario import Scenario
from aivideo.simulator.truth import CallbackFate, CallbackRecord, TaskRecord, Truth


@attrs.frozen
class Callback:
    """A POST to a loopback host that is due now."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    task_id: str
    attempt: int
    """Counted from 1. A forged callback has 0 and is never retried."""
    ends: float = attrs.field(repr=False)


@attrs.frozen
class _Scheduled:
    task: TaskRecord
    url: str
    attempt: int
    fault: Fault = Fault.NONE


def is_loopback(url: str) -> bool:
    """Whether a URL's host is a loopback address or `localhost`."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # another host name, or not a URL


def _fate(url: str, fault: Fault) -> CallbackFate:
    if fault is Fault.LOST:
        return "lost"
    if fault is Fault.FORGED:
        return "forged"
    return "sent" if is_loopback(url) else "recorded"


class TaskView(Protocol):
    """Formats tasks as the API does. `Service` implements it."""

    def task_object(self, task: TaskRecord, now: float) -> dict[str, object]:
        """Return the task object at `now`."""
        ...

    def unix(self, now: float) -> float:
        """Return the Unix time at `now`."""
        ...


class CallbackSchedule:
    """Schedules the callbacks of one service and returns those that are due."""

    def __init__(self, scenario: Scenario, truth: Truth) -> None:
        self.hook: Hook | None = None
        self._scenario = scenario
        self._truth = truth
        self._faults = FaultStream(scenario.faults, Endpoint.CALLBACK, scenario.seed)
        self._random = random.Random(f"{scenario.seed} callback times")
        self._queue: list[tuple[float, int, _Scheduled]] = []
        self._numbers = itertools.count()

    @property
    def next_at(self) -> float | None:
        """When the next callback is due, in seconds. None: none is scheduled."""
        return self._queue[0][0] if self._queue else None

    def task_created(self, task: TaskRecord, url: str) -> None:
        """Decide the fault of a new task's callback and schedule it."""
        scenario = self._scenario
        fault = self._faults.decide(self.hook, url)
        if fault is not Fault.NONE:
            self._truth.faults[Endpoint.CALLBACK, fault] += 1
        first = task.ends + scenario.callback_tries[0] / scenario.speed
        late = scenario.faults.late_seconds / scenario.speed
        if fault is Fault.LATE:
            first += late
        elif fault is Fault.DISORDERED:
            first += late * self._random.random()
        elif fault is Fault.FORGED:
            at = self._random.uniform(task.created, task.ends)
            self._schedule(at, _Scheduled(task, url, 0, Fault.FORGED))
        self._schedule(
            first, _Scheduled(task, url, 1, Fault.LOST if fault is Fault.LOST else Fault.NONE)
        )
        if fault is Fault.DOUBLED:
            self._schedule(first, _Scheduled(task, url, len(scenario.callback_tries)))

    def due(self, now: float, view: TaskView) -> list[Callback]:
        """Remove and return the callbacks that are due.

        Callbacks to other machines are only recorded in the truth.

        Args:
            now: seconds of the service's clock.
            view: formats tasks as the API does.
        """
        callbacks = []
        while self._queue and self._queue[0][0] <= now:
            at, _, scheduled = heapq.heappop(self._queue)
            task = scheduled.task
            url = scheduled.url
            forged = scheduled.fault is Fault.FORGED
            shown = _forged_object(task, view) if forged else view.task_object(task, task.ends)
            event = f"task.{shown['status']}"
            fate = _fate(url, scheduled.fault)
            self._truth.callbacks.append(
                CallbackRecord(task.id, url, event, scheduled.attempt, at, fate)
            )
            if fate in ("sent", "forged") and is_loopback(url):
                headers = {
                    "Content-Type": "application/json",
                    "X-Event": event,
                    "X-Task-Id": task.id,
                    "X-Timestamp": str(int(view.unix(now))),
                }
                body = orjson.dumps(shown)
                callbacks.append(
                    Callback(url, headers, body, task.id, scheduled.attempt, task.ends)
                )
        return callbacks

    def answered(self, callback: Callback, status: int | None, now: float) -> None:
        """Report the response to a callback. A failed one is retried, if attempts are left.

        Args:
            callback: one that `due` returned.
            status: the HTTP status, or None if it was unreachable.
            now: seconds of the service's clock.
        """
        if status is not None and 200 <= status < 300:
            self._truth.callbacks_delivered += 1
            return
        offsets = self._scenario.callback_tries
        if 1 <= callback.attempt < len(offsets):
            at = callback.ends + offsets[callback.attempt] / self._scenario.speed
            task = self._truth.tasks[callback.task_id]
            self._schedule(max(at, now), _Scheduled(task, callback.url, callback.attempt + 1))

    def _schedule(self, at: float, scheduled: _Scheduled) -> None:
        heapq.heappush(self._queue, (at, next(self._numbers), scheduled))


def _forged_object(task: TaskRecord, view: TaskView) -> dict[str, object]:
    """Return a task object with the opposite outcome and a URL of another server."""
    actual = view.task_object(task, task.created)
    shown = {name: actual[name] for name in ("id", "model", "created_at")}
    if task.outcome == "completed":
        error = {"code": "upstream_error", "message": "Video generation failed"}
        return {**shown, "status": "failed", "error": error}
    return {
        **shown,
        "status": "completed",
        "completed_at": actual["created_at"],
        "output": {"urls": ["https://forged.invalid/video.mp4"], "metadata": {}},
    }
