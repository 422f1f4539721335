"""Which callbacks are sent, when, and what they say.

API.md, "Callbacks": the task object, POSTed when a task ends, tried three times in all. There is
no signature, which is why a forged one looks like any other.
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
    """One POST that is due now, to a loopback host."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    task_id: str
    attempt: int
    """From 1. A forged one is 0, and is never tried again."""
    ends: float = attrs.field(repr=False)


@attrs.frozen
class _Planned:
    task: TaskRecord
    url: str
    attempt: int
    fault: Fault = Fault.NONE


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # another name, or no URL at all


def _fate(url: str, fault: Fault) -> CallbackFate:
    if fault is Fault.LOST:
        return "lost"
    if fault is Fault.FORGED:
        return "forged"
    return "sent" if is_loopback(url) else "recorded"


class TaskView(Protocol):
    """Shows tasks as the API does; the service is one."""

    def task_object(self, task: TaskRecord, now: float) -> dict[str, object]:
        """Return the task object at `now`."""
        ...

    def unix(self, now: float) -> float:
        """Return the Unix time at `now`."""
        ...


class CallbackSchedule:
    """The callbacks of one service: plans them, and hands over those that are due."""

    def __init__(self, scenario: Scenario, truth: Truth) -> None:
        self.hook: Hook | None = None
        self._scenario = scenario
        self._truth = truth
        self._faults = FaultStream(scenario.faults, Endpoint.CALLBACK, scenario.seed)
        self._random = random.Random(f"{scenario.seed} callback times")
        self._queue: list[tuple[float, int, _Planned]] = []
        self._numbers = itertools.count()

    @property
    def next_at(self) -> float | None:
        """When the next one is due."""
        return self._queue[0][0] if self._queue else None

    def task_created(self, task: TaskRecord, url: str) -> None:
        """Decide what will happen to the callback of a new task, and plan it."""
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
            self._plan(at, _Planned(task, url, 0, Fault.FORGED))
        self._plan(first, _Planned(task, url, 1, Fault.LOST if fault is Fault.LOST else Fault.NONE))
        if fault is Fault.DOUBLED:
            self._plan(first, _Planned(task, url, len(scenario.callback_tries)))

    def due(self, now: float, view: TaskView) -> list[Callback]:
        """Take those that are due. What goes to another machine is noted, and not handed over.

        Args:
            now: seconds of the service's clock.
            view: shows tasks as the API does.
        """
        callbacks = []
        while self._queue and self._queue[0][0] <= now:
            at, _, planned = heapq.heappop(self._queue)
            task = planned.task
            url = planned.url
            forged = planned.fault is Fault.FORGED
            said = _forgery(task, view) if forged else view.task_object(task, task.ends)
            event = f"task.{said['status']}"
            fate = _fate(url, planned.fault)
            self._truth.callbacks.append(
                CallbackRecord(task.id, url, event, planned.attempt, at, fate)
            )
            if fate in ("sent", "forged") and is_loopback(url):
                headers = {
                    "Content-Type": "application/json",
                    "X-Event": event,
                    "X-Task-Id": task.id,
                    "X-Timestamp": str(int(view.unix(now))),
                }
                body = orjson.dumps(said)
                callbacks.append(Callback(url, headers, body, task.id, planned.attempt, task.ends))
        return callbacks

    def answered(self, callback: Callback, status: int | None, now: float) -> None:
        """Say how a callback was received; a failed one is planned again, if tries are left.

        Args:
            callback: one that `due` handed over.
            status: the HTTP status, or None if it was unreachable.
            now: seconds of the service's clock.
        """
        if status is not None and 200 <= status < 300:
            self._truth.callbacks_delivered += 1
            return
        tries = self._scenario.callback_tries
        if 1 <= callback.attempt < len(tries):
            at = callback.ends + tries[callback.attempt] / self._scenario.speed
            task = self._truth.tasks[callback.task_id]
            self._plan(max(at, now), _Planned(task, callback.url, callback.attempt + 1))

    def _plan(self, at: float, planned: _Planned) -> None:
        heapq.heappush(self._queue, (at, next(self._numbers), planned))


def _forgery(task: TaskRecord, view: TaskView) -> dict[str, object]:
    """Return the opposite of what will be true, with a URL that is not the service's."""
    honest = view.task_object(task, task.created)
    said = {name: honest[name] for name in ("id", "model", "created_at")}
    if task.outcome == "completed":
        error = {"code": "upstream_error", "message": "Video generation failed"}
        return {**said, "status": "failed", "error": error}
    return {
        **said,
        "status": "completed",
        "completed_at": honest["created_at"],
        "output": {"urls": ["https://forged.invalid/video.mp4"], "metadata": {}},
    }
