"""When to poll which task. Each poll costs one request of a rate limit that creates share.

**The problem.** A generation takes minutes to hours, and the service does not say how long. Polling
every second sees the end at once and costs thousands of requests per task; polling rarely leaves
results waiting. The possible gain is bounded. Let T be a task's duration, h its hazard (the
probability per second of ending now, having not ended yet), f its density and S its survival
function. With polls at density n(t) per second, the mean delay is D = ∫ f/2n and the mean number of
polls is M = ∫ nS, and every schedule has D·M ≥ ½(∫ S√h)². A fixed interval has D·M = E[T]/2. So at
the same number of polls, the best schedule has 0.37 to 0.39 of the fixed interval's delay if
durations are narrow or have two peaks, 0.74 if they are lognormal, and 1 if they are exponential.

**The simple schedules.** A fixed interval is better than its reputation. Exponential backoff (× 1.5
up to 60 s) has 3 to 5 times its delay *at the same number of polls*: it polls most when no task
ever ends. Pauses of 10 % of the age bound the relative delay, and are 3 to 4 times worse too.

**What is done here.** The hazard is learned for each kind of job (model, duration, …), and the next
poll is due when it is worth a request: when (time since the last poll) × P(ended since then) ÷ 2,
the expected delay so far, reaches ``POLL_WORTH`` seconds. Where the hazard is high, that is soon.
If the rate limit allows fewer polls than are due, the same number ranks the overdue tasks (to first
order, it is the Whittle index of the decision "poll or wait").

* The hazard is learned from ends, and from polls that find a task running, by age: see
  :mod:`aivideo._polling.hazard`. ``processing`` and ``progress`` are used as far as they have
  proved to predict the end: see :mod:`aivideo._polling.kind`.
* If a callback is registered, a poll is worth less: ``POLL_WORTH`` is divided by the learned share
  of callbacks that are lost. A task whose callback is lost is still found.
* While creates wait for the same rate limit, a poll is postponed until it finds an end with
  probability ``MIN_END_PROBABILITY``: polls that find nothing delay everything that waits. With
  1,000 jobs at 5 requests/s, the first hundred ends are seen 16 s sooner, and the last 3 % sooner.
* Two polls of a task are at least ``MIN_INTERVAL`` and at most ``max_interval(age)`` apart.

**Weak spots.** The first ten jobs of a kind, submitted at once, are polled by the prior (median
two and a half minutes): their delay is 0.9 to 1.1 times that of a fixed interval of the same cost
if they take minutes, 1.2 times if they take ten minutes, 1.5 times if they take two hours. If all
durations suddenly grow or shrink eightfold, the first twenty ends have 1.7 to 2 times the delay of
a fixed interval. Failed tasks teach nothing about how long a result takes.

Source of the formulas: Keller, Management Science 21(3), 1974, for the density. The figures are
reproduced on this code by ``benchmarks/watch.py``.
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heappop, heappush
from itertools import islice
from math import expm1, inf

from attrs import define, field

from aivideo._polling.kind import Entry, Kind

POLL_WORTH = 0.25
"""Expected delay, in seconds, that justifies one request."""

MIN_INTERVAL = 1.0
"""Shortest time between two polls of a task, in seconds."""

MAX_INTERVAL = 300.0
"""Longest time between two polls of a task, in seconds, at any age."""

MIN_END_PROBABILITY = 0.4
"""Minimum probability that a poll finds the task ended, while creates wait for the rate limit."""

RANKED_AT_ONCE = 32
"""Overdue tasks that are ranked together. The more valuable half is polled before a new ranking."""

RANKING_LIFETIME = 1.0
"""Seconds after which the overdue tasks are ranked again in any case."""

CALLBACK_DEADLINE = 60.0
"""Seconds after a task's end within which its callback counts as received; later it is useless."""


def max_interval(age: float) -> float:
    """Return the longest time between two polls of a task of that age, if the limit allows it."""
    return min(MAX_INTERVAL, max(60.0, age / 4))


@define
class Agenda:
    """Which task to poll, and when. ``now`` is in seconds of any monotonic clock.

    An entry is in exactly one of the heaps, or is being polled. An entry that has ended is skipped
    when it comes to the top, so nothing is ever searched for.

    Attributes:
        poll_interval: the user's fixed interval in seconds; None: learned.
    """

    poll_interval: float | None = None
    _scheduled: list[Entry] = field(factory=list)
    """Heap of the entries by due time."""
    _overdue: list[Entry] = field(factory=list)
    """Entries whose poll is due, the most valuable last."""
    _postponed: list[Entry] = field(factory=list)
    """Heap of the entries that were due, but were not worth a create's turn."""
    _kinds: dict[tuple[Hashable, ...], Kind] = field(factory=dict)
    _awaited_callbacks: dict[str, tuple[float, Kind]] = field(factory=dict)
    """Tasks that a poll found ended before their callback came -> the callback's deadline."""
    _count: int = 0
    _ranked_until: float = -inf
    _rank_again_at: int = 0
    """Number of overdue entries left at which the next ranking is made."""

    def __len__(self) -> int:
        return self._count

    def kind(self, kind: tuple[Hashable, ...]) -> Kind:
        """Return what is learned about a kind of job."""
        known = self._kinds.get(kind)
        if known is None:
            known = self._kinds[kind] = Kind()
        return known

    def add(
        self,
        entry: Entry,
        kind: tuple[Hashable, ...],
        now: float,
        *,
        callback: bool = False,
        age: float | None = 0.0,
    ) -> None:
        """Add a task.

        Args:
            entry: the task.
            kind: identifies the kind of job: jobs of one kind take similarly long.
            now: the time.
            callback: whether the service sends a callback when the task ends.
            age: seconds since the task was created. If it is more than 0 or None (unknown), the
                task may have ended long ago, and is polled at once.
        """
        entry.kind = self.kind(kind)
        entry.created_at = entry.polled_at = now
        entry.callback = callback
        self._count += 1
        if age == 0:
            self._schedule(entry, now)
        else:
            entry.resumed = True
            entry.created_at = now - (age or 0.0)
            entry.polled_at = now - (age or MAX_INTERVAL)  # rank it as not polled for so long
            self._schedule_at(entry, now)

    def still_running(
        self, entry: Entry, now: float, *, processing: bool = False, progress: float | None = None
    ) -> None:
        """Report that a poll found the task running, and what it said; schedule the next poll."""
        if entry.ended:
            return
        if self.poll_interval is None and not entry.resumed:
            entry.kind.learn_running(entry, now, processing=processing, progress=progress)
        entry.failures = 0
        entry.polled_at = now
        self._schedule(entry, now)

    def poll_failed(self, entry: Entry, now: float) -> None:
        """Report that a poll brought no usable answer; poll again after 2, 4, 8, … 60 s."""
        if not entry.ended:
            entry.failures = min(10, entry.failures + 1)
            wait = self.poll_interval or min(60.0, MIN_INTERVAL * 2.0**entry.failures)
            self._schedule_at(entry, now + wait)

    def end(
        self,
        entry: Entry,
        now: float,
        duration: float | None = None,
        *,
        by_callback: bool = False,
    ) -> None:
        """Report that a task has ended.

        Args:
            entry: the task.
            now: when the end became known.
            duration: seconds it took to its result by the service's clock. None if it failed or the
                service did not say: then nothing is learned about how long results take.
            by_callback: whether a callback reported the end.
        """
        if entry.ended:
            return
        self.drop(entry)
        if self.poll_interval is not None or entry.resumed:
            return
        kind = entry.kind
        if entry.callback:
            ended_at = now if duration is None else min(now, entry.created_at + max(0.0, duration))
            self._count_callback(entry, now, ended_at, by_callback=by_callback)
        if duration is None:
            kind.by_age.survived(entry.polled_at - entry.created_at, now - entry.created_at)
            return
        # The service's clock gives the duration, ours its bounds: last seen running, and now.
        seen = entry.polled_at - entry.created_at
        kind.learn_end(entry, seen, min(max(duration, seen), now - entry.created_at))

    def callback_received(self, task_id: str, now: float) -> None:
        """Report a callback about a task that a poll found ended: the callback was not lost."""
        awaited = self._awaited_callbacks.pop(task_id, None)
        if awaited is not None:
            deadline, kind = awaited
            if now <= deadline:
                kind.correct_lost_callback()

    def _count_callback(
        self, entry: Entry, now: float, ended_at: float, *, by_callback: bool
    ) -> None:
        """Count the callback of a task that has ended, as far as it can be judged by now."""
        deadline, awaited = ended_at + CALLBACK_DEADLINE, self._awaited_callbacks
        received = by_callback and now <= deadline
        entry.kind.count_callback(received=received)
        if received:
            return
        if not by_callback and now < deadline:
            awaited[entry.task_id] = (deadline, entry.kind)
        for task_id in [*islice(awaited, 2)]:
            if awaited[task_id][0] < now:
                del awaited[task_id]

    def drop(self, entry: Entry) -> None:
        """Do not poll the task any more."""
        if not entry.ended:
            entry.ended = True
            self._count -= 1
            if not self._count:  # every entry in the heaps has ended
                self._scheduled.clear()
                self._overdue.clear()
                self._postponed.clear()

    def next_due(self, now: float, *, contended: bool = False) -> float | None:
        """Return when the next poll is due, or None if there is none.

        Args:
            now: the time.
            contended: whether creates wait for the same rate limit. Then a due poll is postponed
                until it finds an end with probability ``MIN_END_PROBABILITY``.
        """
        overdue, postponed = self._overdue, self._postponed
        while overdue and overdue[-1].ended:
            overdue.pop()
        if postponed:
            self._reschedule_postponed(now, contended=contended)
        if overdue:
            return overdue[-1].due
        if contended:
            self._postpone_due(now)
        times = [heap[0].due for heap in (self._scheduled, postponed) if heap]
        return min(times, default=None)

    def _reschedule_postponed(self, now: float, *, contended: bool) -> None:
        """Make postponed polls due again if their time has come, or if no create waits."""
        postponed = self._postponed
        for _ in range(RANKED_AT_ONCE):
            if not postponed or (contended and postponed[0].due > now):
                return
            entry = heappop(postponed)
            if not entry.ended:
                self._schedule_at(entry, min(entry.due, now))

    def _postpone_due(self, now: float) -> None:
        """Postpone each due poll until it is likely enough to find an end."""
        scheduled = self._scheduled
        for _ in range(RANKED_AT_ONCE):
            if not scheduled:
                return
            entry = scheduled[0]
            if not entry.ended:
                if entry.due > now or (later := self._likely_ended_at(entry)) <= now:
                    return
                entry.due = later
                heappush(self._postponed, entry)
            heappop(scheduled)

    def take(self, now: float) -> Entry | None:
        """Pop the due task most worth polling, or None.

        Report the result with :meth:`still_running`, :meth:`poll_failed` or :meth:`end`.
        """
        overdue = self._overdue
        if len(overdue) <= self._rank_again_at or now >= self._ranked_until:
            self._rank(now)
        while overdue:
            entry = overdue.pop()
            if not entry.ended:
                return entry
        return None

    def _rank(self, now: float) -> None:
        """Fill the overdue list, and sort it by value: the most valuable last."""
        overdue, scheduled = self._overdue, self._scheduled
        while scheduled and len(overdue) < RANKED_AT_ONCE and scheduled[0].due <= now:
            entry = heappop(scheduled)
            if not entry.ended:
                overdue.append(entry)
        # If all due tasks fit in, they are polled at once and their order matters little.
        self._rank_again_at = len(overdue) // 2 if len(overdue) == RANKED_AT_ONCE else 0
        self._ranked_until = now + RANKING_LIFETIME
        if self.poll_interval is not None:
            overdue.reverse()  # the user's own interval: first come, first served
        elif len(overdue) > 1:
            overdue.sort(key=lambda entry: _value(entry, now))

    # --- scheduling -------------------------------------------------------------------------

    def _schedule(self, entry: Entry, now: float) -> None:
        if self.poll_interval is not None:
            self._schedule_at(entry, now + self.poll_interval)
            return
        hazard, origin, units = entry.kind.hazard_for(entry)
        longest = max_interval(now - entry.created_at)
        worth = POLL_WORTH / entry.kind.lost_callback_share if entry.callback else POLL_WORTH
        wait = hazard.wait((now - origin) * units, worth * units, longest * units) / units
        self._schedule_at(entry, now + max(MIN_INTERVAL, wait))

    def _schedule_at(self, entry: Entry, due: float) -> None:
        entry.due = due
        heappush(self._scheduled, entry)

    def _likely_ended_at(self, entry: Entry) -> float:
        """When the task has ended with ``MIN_END_PROBABILITY``, within ``MAX_INTERVAL``."""
        if self.poll_interval is not None:
            return entry.due
        hazard, origin, units = entry.kind.hazard_for(entry)
        since = max(0.0, (entry.polled_at - origin) * units)
        wait = hazard.until(since, MIN_END_PROBABILITY, MAX_INTERVAL * units)
        return entry.polled_at + wait / units


def _value(entry: Entry, now: float) -> float:
    """Return the expected delay since the last poll, in seconds: about wait² × hazard."""
    hazard, origin, units = entry.kind.hazard_for(entry)
    waited = now - entry.polled_at
    cumulative = min(50.0, hazard.rate((now - origin) * units) * units * waited)
    return waited * (expm1(cumulative) / cumulative - 1) if cumulative > 1e-9 else 0.0
