"""When to look at which task: each look costs one request of a limit that creates need too.

A task that has run for ``age`` seconds is looked at again after a share of its age: whatever the
durations turn out to be, the end is then noticed late by that share of the wait at most, and the
number of looks grows with the logarithm of the wait only. The share is narrowed by what is known:
when tasks of the same kind have ended before, no look is worth much long before the quickest of
them took, and looks are densest around their middle.

``poll_interval`` overrides all of it. Entries that are due are kept in a heap; one that was moved
or dropped stays in it as a husk and is skipped when it surfaces, so nothing is ever searched for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from heapq import heappop, heappush

from attrs import define, field

SOONEST, LATEST = 1.0, 60.0
"""Seconds between two looks, at the least and (of a task younger than four minutes) at the most."""

SHARE = 0.10
"""Share of its age after which a task of unknown kind is looked at again."""

KNOWN = 5
"""Tasks of a kind that must have ended before their durations count for anything."""

MEMORY = 100
"""Ended tasks of a kind that are remembered."""


@define
class _Entry:
    kind: tuple[Hashable, ...]
    born: float
    due: float
    rarer: float = 1.0
    failures: int = 0


@define
class Agenda:
    """Who is to be looked at, and when. ``now`` is seconds of any steady clock."""

    poll_interval: float | None = None
    _entries: dict[str, _Entry] = field(factory=dict)
    _heap: list[tuple[float, str]] = field(factory=list)
    _durations: dict[tuple[Hashable, ...], deque[float]] = field(factory=dict)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._entries

    def add(
        self, task_id: str, kind: tuple[Hashable, ...], now: float, *, rarer: float = 1.0
    ) -> None:
        """Begin to look at a task, which was made just now; ``rarer``: times the usual wait."""
        if task_id not in self._entries:
            self._entries[task_id] = _Entry(kind, now, now, rarer)
            self._schedule(task_id, now)

    def looked(self, task_id: str, now: float) -> None:
        """Note that a look found it still running."""
        entry = self._entries.get(task_id)
        if entry is not None:
            entry.failures = 0
            self._schedule(task_id, now)

    def failed(self, task_id: str, now: float) -> None:
        """Note that a look brought no answer: look again, a little later each time."""
        entry = self._entries.get(task_id)
        if entry is not None:
            entry.failures += 1
            self._at(task_id, now + min(LATEST, SOONEST * 2**entry.failures))

    def ended(self, task_id: str, now: float, duration: float | None = None) -> None:
        """Note that it ended, after ``duration`` seconds by the service's clock, if known."""
        entry = self._entries.pop(task_id, None)
        if entry is not None:
            known = self._durations.setdefault(entry.kind, deque(maxlen=MEMORY))
            known.append(now - entry.born if duration is None else max(0.0, duration))

    def drop(self, task_id: str) -> None:
        """Look at it no more."""
        self._entries.pop(task_id, None)

    def next_due(self) -> float | None:
        """When the next look is due, or None where nothing is."""
        while self._heap:
            due, task_id = self._heap[0]
            entry = self._entries.get(task_id)
            if entry is not None and entry.due == due:
                return due
            heappop(self._heap)
        return None

    def take(self, now: float) -> str | None:
        """Take the task whose look is most overdue, or None; say what came of it afterwards."""
        due = self.next_due()
        if due is None or due > now:
            return None
        _, task_id = heappop(self._heap)
        self._entries[task_id].due = float("inf")  # in nobody's heap until it was looked at
        return task_id

    def again(self, task_id: str, now: float) -> None:
        """Put back a task that was taken and not looked at."""
        if task_id in self._entries:
            self._at(task_id, now)

    def _schedule(self, task_id: str, now: float) -> None:
        self._at(task_id, now + self._interval(self._entries[task_id], now))

    def _at(self, task_id: str, due: float) -> None:
        self._entries[task_id].due = due
        heappush(self._heap, (due, task_id))

    def _interval(self, entry: _Entry, now: float) -> float:
        if self.poll_interval is not None:
            return self.poll_interval
        age = max(0.0, now - entry.born)
        latest = min(300.0, max(LATEST, age / 4))
        return min(latest, max(SOONEST, entry.rarer * self._wish(entry, age)))

    def _wish(self, entry: _Entry, age: float) -> float:
        known = self._durations.get(entry.kind)
        if known is None or len(known) < KNOWN:
            return SHARE * age
        ordered = sorted(known)
        quick, middle = ordered[len(ordered) // 20], ordered[len(ordered) // 2]
        if age < quick:
            return 0.9 * quick - age
        return SHARE / 2 * middle if age < 2 * middle else SHARE * age
