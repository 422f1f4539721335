"""When to look at which task: each look costs one request of a limit that creates need too.

**The problem.** A generation takes minutes to hours, and nobody says how long. Looking every
second finds the end at once and costs thousands of requests a task; looking rarely leaves results
lying. What can be won at all is bounded: let T be the time a task takes, h its hazard (the chance
to end in the next second, having not ended yet) and S its survival. With looks at density n(t) per
second, delay and looks are D = ∫ f/2n and M = ∫ nS, and whatever the schedule, D·M is at least
½(∫ S√h)². A fixed interval has D·M = E[T]/2. So the best possible schedule halves the delay at the
same number of looks when durations are narrow or come in two humps (0.37 to 0.39 of the fixed
interval's), and saves a quarter on a lognormal (0.74); on an exponential, nothing.

**The naive ways.** A fixed interval is far better than its name. Exponential backoff (× 1.5 up to
60 s) is late by 3 to 5 times as much *for the same number of looks*: it looks most where nothing
ever ends. A share of the age (10 %, say) bounds the relative delay and is 3 to 4 times worse too.

**What is done here.** Per kind of job (model, duration, …) the hazard is learned, and the next
look is due when it is worth a request: when (time since the last look) × P(it has ended since) ÷ 2,
which is the expected delay that has piled up, reaches ``WORTH`` seconds. Where the hazard is high,
that is soon. The same number ranks those who are late when the pace allows too few looks
(it is the Whittle index of "look or wait", to first order).

* The hazard is learned from ends and from looks that find a task alive, by age: see
  :mod:`aivideo._polling.hazard`.
* ``processing`` may restart the age clock, and ``progress`` may foretell the end; or both may mean
  nothing. So each is a law of its own, learned likewise, and used only while it has foretold past
  ends better than the age alone (a running sum of log likelihoods, forgotten like the rest). A
  service that lies loses its vote, and nobody's result comes later for it.
* A callback that was registered makes a look worth less, by the learned share of callbacks that
  get lost: ``WORTH`` ÷ that share. A lost one is still found.
* While creates wait for the same requests, a look must have fair ``ODDS`` to find an end, or it is
  put off: looks that find nothing make all that wait later. 1,000 jobs at 5/s see their first
  hundred ends 16 s sooner for it, and their last 3 %.
* Never sooner than ``SOONEST`` after the last look, never later than ``latest(age)``.

**Weak spots.** The first ten jobs of a kind, submitted at once, are watched by the prior (median
two and a half minutes): 0.9 to 1.1 times as late as at a fixed interval of the same cost where
they take minutes, 1.2 where they take ten, 1.5 where they take two hours. When all durations
suddenly grow or shrink eightfold, the first twenty are seen 1.7 to 2 times as late as at a fixed
interval. Failed tasks teach nothing about how long a result takes.

Formulas and figures: Keller, Management Science 21(3), 1974, for the density; section A of a study
whose simulation ``benchmarks/watch.py`` repeats on this very code.
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heappop, heappush
from itertools import islice
from math import expm1, inf, log

from attrs import define, field

from aivideo._polling.hazard import MEMORY, Hazard

WORTH = 0.25
"""Seconds of expected delay that are worth one request."""

SOONEST = 1.0
"""Seconds between two looks at a task, at least."""

ODDS = 0.4
"""Chance to find an end that a look must have while creates wait for the same requests."""

LATEST = 300.0
"""Seconds between two looks at most, in any case."""

AT_ONCE = 32
"""Of the late ones, so many are compared for the most valuable look, and the better half taken."""

RANKED_FOR = 1.0
"""Seconds after which they are compared anew in any case."""

FORETOLD = 100.0
"""What a progress says is left is this many units of its own law, whatever it is in seconds."""

MARGIN = 3.0
"""Log likelihood by which a law must have been better than the age alone to be believed."""

LOST, HEARD = 1.0, 19.0
"""Prior of lost callbacks: one of twenty."""

CALLED_WITHIN = 60.0
"""Seconds after the end within which a callback counts as heard; later, it was of no use."""


def latest(age: float) -> float:
    """Seconds between two looks at most, of a task of that age, when the pace allows."""
    return min(LATEST, max(60.0, age / 4))


class Kind:
    """What is known of one kind of job."""

    __slots__ = ("begun", "by_age", "foretold", "heard", "lost", "trust_begun", "trust_foretold")

    def __init__(self) -> None:
        self.by_age = Hazard()
        self.begun = Hazard()
        """By the time since it was seen to be processing."""
        self.foretold = Hazard(median=FORETOLD, shape=2.5)
        """By the time since a look, in units of what its progress said was left."""
        self.trust_begun = 0.0
        self.trust_foretold = 0.0
        self.lost = self.heard = 0.0

    @property
    def lost_share(self) -> float:
        """Share of callbacks that do not come in time."""
        lost = LOST + self.lost
        return lost / (lost + HEARD + self.heard)


class Entry:
    """A task on the agenda; whoever watches it may keep more in a subclass.

    Attributes:
        task_id: its id.
        due: when the next look is due, seconds of the clock that the agenda is given.
        ended: whether it needs no look any more.
    """

    __slots__ = (
        "begun_at",
        "born",
        "callback",
        "due",
        "ended",
        "failures",
        "kind",
        "looked_at",
        "progress",
        "taken_up",
        "task_id",
    )

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.due = inf
        self.ended = False
        self.failures = 0
        self.callback = False
        self.taken_up = False
        """Whether it was made before it was watched: then it teaches nothing, for those that ended
        sooner are not among the watched."""
        self.begun_at: float | None = None
        self.progress: tuple[float, float] | None = None
        """When progress was last told, and the seconds that it says were left then."""
        self.kind: Kind
        self.born: float
        self.looked_at: float

    def __lt__(self, other: Entry) -> bool:
        return self.due < other.due


@define
class Agenda:
    """Who is to be looked at, and when. ``now`` is seconds of any steady clock.

    An entry lies in one of the heaps once, or is out for a look; one that has ended is skipped
    when it surfaces, so nothing is ever searched for.
    """

    poll_interval: float | None = None
    _heap: list[Entry] = field(factory=list)
    _late: list[Entry] = field(factory=list)
    _put_off: list[Entry] = field(factory=list)
    """A heap of those that were due, but not worth a create's turn."""
    _kinds: dict[tuple[Hashable, ...], Kind] = field(factory=dict)
    _missed: dict[str, tuple[float, Kind]] = field(factory=dict)
    """Tasks that a look found ended before their callback came: until when it may yet come."""
    _entries: int = 0
    _ranked_until: float = -inf
    _rank_below: int = 0

    def __len__(self) -> int:
        return self._entries

    def kind(self, kind: tuple[Hashable, ...]) -> Kind:
        """What is known of a kind of job."""
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
        """Begin to look at a task.

        Args:
            entry: the task.
            kind: jobs of a kind take about as long.
            now: the time.
            callback: a callback tells of its end too.
            age: seconds since it was made; more than 0, or None where nobody knows: it is taken
                up again, may have ended long ago, and is looked at once.
        """
        entry.kind = self.kind(kind)
        entry.born = entry.looked_at = now
        entry.callback = callback
        self._entries += 1
        if age == 0:
            self._schedule(entry, now)
        else:
            entry.taken_up = True
            entry.born = now - (age or 0.0)
            entry.looked_at = now - (age or LATEST)  # so long has nobody looked
            self._at(entry, now)

    def looked(
        self, entry: Entry, now: float, *, processing: bool = False, progress: float | None = None
    ) -> None:
        """Note that a look found it still running, and what it said."""
        if entry.ended:
            return
        if self.poll_interval is None and not entry.taken_up:
            self._survived(entry, now, processing=processing, progress=progress)
        entry.failures = 0
        entry.looked_at = now
        self._schedule(entry, now)

    def _survived(
        self, entry: Entry, now: float, *, processing: bool, progress: float | None
    ) -> None:
        """Teach every law that it has not ended, and note what may sharpen the next guess."""
        kind, before = entry.kind, entry.looked_at
        kind.by_age.alive(before - entry.born, now - entry.born)
        if entry.begun_at is not None:
            kind.begun.alive(max(0.0, before - entry.begun_at), now - entry.begun_at)
        elif processing:
            entry.begun_at = (before + now) / 2 if before > entry.born else now
            kind.begun.alive(0.0, now - entry.begun_at)
        if entry.progress is not None:
            at, left = entry.progress
            unit = FORETOLD / left
            kind.foretold.alive((before - at) * unit, (now - at) * unit)
        share = _share(progress)
        entry.progress = None
        if share is not None:
            spent = now - (entry.begun_at if entry.begun_at is not None else entry.born)
            left = max(0.5, spent * (1 - share) / share)
            entry.progress = (now, left)

    def failed(self, entry: Entry, now: float) -> None:
        """Note that a look brought no answer: look again, a little later each time."""
        if not entry.ended:
            entry.failures = min(10, entry.failures + 1)
            wait = self.poll_interval or min(60.0, SOONEST * 2.0**entry.failures)
            self._at(entry, now + wait)

    def end(
        self,
        entry: Entry,
        now: float,
        duration: float | None = None,
        *,
        by_callback: bool = False,
    ) -> None:
        """Note that it has ended.

        Args:
            entry: the task.
            now: when that was heard.
            duration: seconds it took to its result by the service's clock; None: it has failed, or
                the service did not say, and nothing is learned of how long results take.
            by_callback: a callback brought the news.
        """
        if entry.ended:
            return
        self.drop(entry)
        if self.poll_interval is not None or entry.taken_up:
            return
        kind = entry.kind
        if entry.callback:
            ended_at = now if duration is None else min(now, entry.born + max(0.0, duration))
            self._called(entry, now, ended_at, by_callback=by_callback)
        if duration is None:
            kind.by_age.alive(entry.looked_at - entry.born, now - entry.born)
            return
        # The service's clock gives the length; ours its bounds: seen running, and now over.
        seen = entry.looked_at - entry.born
        self._learn(entry, kind, seen, min(max(duration, seen), now - entry.born))

    def called(self, task_id: str, now: float) -> None:
        """Note a callback about a task that a look has found ended: it was not lost after all."""
        missed = self._missed.pop(task_id, None)
        if missed is not None:
            until, kind = missed
            if now <= until:
                kind.lost = max(0.0, kind.lost - 1.0)
                kind.heard += 1.0

    def _called(self, entry: Entry, now: float, ended_at: float, *, by_callback: bool) -> None:
        """Count the callback of an entry that has ended, as far as can be told by now."""
        kind, until = entry.kind, ended_at + CALLED_WITHIN
        kind.lost, kind.heard = kind.lost * MEMORY, kind.heard * MEMORY
        if by_callback and now <= until:
            kind.heard += 1.0
            return
        kind.lost += 1.0
        if not by_callback and now < until:
            self._missed[entry.task_id] = (until, kind)
        for task_id in [*islice(self._missed, 2)]:
            if self._missed[task_id][0] < now:
                del self._missed[task_id]

    def drop(self, entry: Entry) -> None:
        """Look at it no more."""
        if not entry.ended:
            entry.ended = True
            self._entries -= 1
            if not self._entries:  # what lies in them has ended
                self._heap.clear()
                self._late.clear()
                self._put_off.clear()

    def next_due(self, now: float, *, contended: bool = False) -> float | None:
        """When the next look is due, or None where nothing is.

        Args:
            now: the time.
            contended: creates wait for the same requests: a look that is due is put off until it
                has fair ``ODDS`` to find an end.
        """
        late, off = self._late, self._put_off
        while late and late[-1].ended:
            late.pop()
        if off:
            self._bring_back(now, contended=contended)
        if late:
            return late[-1].due
        if contended:
            self._put_off_due(now)
        times = [heap[0].due for heap in (self._heap, off) if heap]
        return min(times, default=None)

    def _bring_back(self, now: float, *, contended: bool) -> None:
        """Let what was put off be due again, where its time has come or no create waits."""
        off = self._put_off
        for _ in range(AT_ONCE):
            if not off or (contended and off[0].due > now):
                return
            entry = heappop(off)
            if not entry.ended:
                self._at(entry, min(entry.due, now))

    def _put_off_due(self, now: float) -> None:
        """Put off what is due until it has fair odds."""
        heap = self._heap
        for _ in range(AT_ONCE):
            if not heap:
                return
            entry = heap[0]
            if not entry.ended:
                if entry.due > now or (later := self._fair_at(entry)) <= now:
                    return
                entry.due = later
                heappush(self._put_off, entry)
            heappop(heap)

    def take(self, now: float) -> Entry | None:
        """Take the task whose look is worth most of those that are due; say what came of it."""
        late = self._late
        if len(late) <= self._rank_below or now >= self._ranked_until:
            self._rank(now)
        while late:
            entry = late.pop()
            if not entry.ended:
                return entry
        return None

    def _rank(self, now: float) -> None:
        """Bring in who is due, and put the most valuable last."""
        late = self._late
        while self._heap and len(late) < AT_ONCE and self._heap[0].due <= now:
            entry = heappop(self._heap)
            if not entry.ended:
                late.append(entry)
        # Where nearly all that are due get their look at once, their order matters little.
        self._rank_below = len(late) // 2 if len(late) == AT_ONCE else 0
        self._ranked_until = now + RANKED_FOR
        if self.poll_interval is not None:
            late.reverse()  # the user's own interval: first come, first served
        elif len(late) > 1:
            late.sort(key=lambda entry: self._value(entry, now))

    # --- deciding ---------------------------------------------------------------------------

    def _value(self, entry: Entry, now: float) -> float:
        """Seconds of expected delay piled up since the last look, roughly: wait² × hazard."""
        law, origin, scale = self._law(entry)
        waited = now - entry.looked_at
        piled = min(50.0, law.rate((now - origin) * scale) * scale * waited)
        return waited * (expm1(piled) / piled - 1) if piled > 1e-9 else 0.0

    def _fair_at(self, entry: Entry) -> float:
        """When a look has fair odds, but within ``LATEST`` whatever is believed."""
        if self.poll_interval is not None:
            return entry.due
        law, origin, scale = self._law(entry)
        since = max(0.0, (entry.looked_at - origin) * scale)
        return entry.looked_at + law.until(since, ODDS, LATEST * scale) / scale

    def _law(self, entry: Entry) -> tuple[Hazard, float, float]:
        """The law to go by, where its clock begins, and its units per second."""
        kind = entry.kind
        if entry.progress is not None and kind.trust_foretold > max(MARGIN, kind.trust_begun):
            at, left = entry.progress
            return kind.foretold, at, FORETOLD / left
        if entry.begun_at is not None and kind.trust_begun > MARGIN:
            return kind.begun, entry.begun_at, 1.0
        return kind.by_age, entry.born, 1.0

    def _schedule(self, entry: Entry, now: float) -> None:
        if self.poll_interval is not None:
            self._at(entry, now + self.poll_interval)
            return
        law, origin, scale = self._law(entry)
        most = latest(now - entry.born)
        worth = WORTH / entry.kind.lost_share if entry.callback else WORTH
        wait = law.wait((now - origin) * scale, worth * scale, most * scale) / scale
        self._at(entry, now + max(SOONEST, wait))

    def _at(self, entry: Entry, due: float) -> None:
        entry.due = due
        heappush(self._heap, entry)

    def _learn(self, entry: Entry, kind: Kind, since: float, age: float) -> None:
        """Teach every law that had a say, after asking what it would have foretold."""
        plain = kind.by_age
        if entry.begun_at is not None:
            begun = entry.begun_at - entry.born
            if age > begun:
                foretold = kind.begun.log_likelihood(0.0, age - begun)
                gain = foretold - plain.log_likelihood(begun, age)
                kind.trust_begun = kind.trust_begun * MEMORY + _bounded(gain)
                kind.begun.ended(max(0.0, since - begun), age - begun)
        if entry.progress is not None:
            at, left = entry.progress
            told, unit = at - entry.born, FORETOLD / left
            if age > told:
                foretold = kind.foretold.log_likelihood(0.0, (age - told) * unit) + log(unit)
                gain = foretold - plain.log_likelihood(told, age)
                kind.trust_foretold = kind.trust_foretold * MEMORY + _bounded(gain)
                kind.foretold.ended(max(0.0, since - told) * unit, (age - told) * unit)
        plain.ended(since, age)


def _bounded(gain: float) -> float:
    # One miracle, or one disaster, decides nothing.
    return min(2.0, max(-4.0, gain))


def _share(progress: float | None) -> float | None:
    """Progress as a share, from 0 to 1: the service does not say whether it counts in percent."""
    if progress is None or not 0 < progress < 100:
        return None
    share = progress if progress < 1 else progress / 100
    return min(0.99, max(0.01, share))
