"""What is learned about one kind of job (model, duration, …) from the tasks of that kind.

A kind keeps three hazards, each against a clock of its own:

* the task's age, from its creation;
* the time since the task was first seen ``processing``;
* the remaining time that the task's ``progress`` implies. It is measured in units: the implied
  remainder always has ``ESTIMATE_UNITS`` of them, however many seconds that is.

``processing`` and ``progress`` may say much about the end, or nothing. So their hazards are learned
like the one by age, and are used only while they have predicted past ends better: the difference of
the log likelihoods is summed up with decay, and the sum must exceed ``TRUST_MARGIN``. A service
whose statements are misleading is soon ignored, and no result is seen later because of it.
"""

from __future__ import annotations

from math import inf, log

from aivideo._polling.hazard import DECAY, Hazard

ESTIMATE_UNITS = 100.0
"""Units into which the remaining time implied by ``progress`` is divided, whatever its length."""

TRUST_MARGIN = 3.0
"""Log likelihood by which a hazard must have outperformed the hazard by age to be used."""

PRIOR_LOST_CALLBACKS, PRIOR_RECEIVED_CALLBACKS = 1.0, 19.0
"""Prior of the callback counts: one callback in twenty is lost."""


class Entry:
    """A task on the agenda, and what its polls have shown. The poller's subclass keeps more.

    There may be 100,000 entries. Python's full garbage collection stops the event loop and takes
    about 4 ms per 100,000 objects plus 0.6 ms for each slot, so there is one object per task with
    few slots, and what only few tasks need is kept elsewhere. All times are seconds of one
    monotonic clock.

    Attributes:
        task_id: the task's ID.
        kind: the kind of job that the task belongs to.
        due: when the next poll is due.
        created_at: when the task was created.
        polled_at: when a poll last found the task running; at first, ``created_at``.
        processing_since: when the task began processing, as far as polls show, or None.
        estimate: when ``progress`` was last reported, and the seconds that it implied were left;
            or None.
        failures: polls in a row that brought no usable answer.
        callback: whether the service sends a callback when the task ends.
        resumed: whether the task was created long before it was added. Such a task teaches
            nothing: tasks that ended sooner are missing from the sample.
        ended: whether the task needs no further poll.
    """

    __slots__ = (
        "callback",
        "created_at",
        "due",
        "ended",
        "estimate",
        "failures",
        "kind",
        "polled_at",
        "processing_since",
        "resumed",
        "task_id",
    )

    kind: Kind
    created_at: float
    polled_at: float

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.due = inf
        self.ended = False
        self.failures = 0
        self.callback = False
        self.resumed = False
        self.processing_since: float | None = None
        self.estimate: tuple[float, float] | None = None

    def __lt__(self, other: Entry) -> bool:
        return self.due < other.due


class Kind:
    """The hazards of one kind of job, and how many of its callbacks are lost."""

    __slots__ = (
        "by_age",
        "by_estimate",
        "by_processing_time",
        "lost_callbacks",
        "received_callbacks",
        "trust_in_estimate",
        "trust_in_processing",
    )

    def __init__(self) -> None:
        self.by_age = Hazard()
        self.by_processing_time = Hazard()
        self.by_estimate = Hazard(median=ESTIMATE_UNITS, shape=2.5)
        self.trust_in_processing = 0.0
        self.trust_in_estimate = 0.0
        self.lost_callbacks = self.received_callbacks = 0.0

    @property
    def lost_callback_share(self) -> float:
        """Share of the callbacks that do not arrive in time, above 0 and at most 1."""
        lost = PRIOR_LOST_CALLBACKS + self.lost_callbacks
        return lost / (lost + PRIOR_RECEIVED_CALLBACKS + self.received_callbacks)

    def count_callback(self, *, received: bool) -> None:
        """Count one callback as received in time, or as lost."""
        self.lost_callbacks = self.lost_callbacks * DECAY + (not received)
        self.received_callbacks = self.received_callbacks * DECAY + received

    def correct_lost_callback(self) -> None:
        """Count a callback as received that was counted as lost before."""
        self.lost_callbacks = max(0.0, self.lost_callbacks - 1.0)
        self.received_callbacks += 1.0

    def hazard_for(self, entry: Entry) -> tuple[Hazard, float, float]:
        """Select the hazard that predicts best for a task.

        Returns:
            The hazard, the time at which its clock is 0, and its units per second.
        """
        trusted = max(TRUST_MARGIN, self.trust_in_processing)
        if entry.estimate is not None and self.trust_in_estimate > trusted:
            at, remaining = entry.estimate
            return self.by_estimate, at, ESTIMATE_UNITS / remaining
        if entry.processing_since is not None and self.trust_in_processing > TRUST_MARGIN:
            return self.by_processing_time, entry.processing_since, 1.0
        return self.by_age, entry.created_at, 1.0

    def learn_running(
        self, entry: Entry, now: float, *, processing: bool, progress: float | None
    ) -> None:
        """Learn from a poll that found a task running, and note what the poll said.

        Args:
            entry: the task; ``polled_at`` still says when the poll before was.
            now: the time.
            processing: whether the task is ``processing``.
            progress: its ``progress``, if it reported one.
        """
        before = entry.polled_at
        self.by_age.survived(before - entry.created_at, now - entry.created_at)
        since = entry.processing_since
        if since is not None:
            self.by_processing_time.survived(max(0.0, before - since), now - since)
        elif processing:
            # It began between the two polls. Before the first poll, nothing is known but `now`.
            since = (before + now) / 2 if before > entry.created_at else now
            entry.processing_since = since
            self.by_processing_time.survived(0.0, now - since)
        if entry.estimate is not None:
            at, remaining = entry.estimate
            units = ESTIMATE_UNITS / remaining
            self.by_estimate.survived((before - at) * units, (now - at) * units)
        entry.estimate = None
        share = _share(progress)
        if share is not None:
            spent = now - (since if since is not None else entry.created_at)
            entry.estimate = (now, max(0.5, spent * (1 - share) / share))

    def learn_end(self, entry: Entry, since: float, age: float) -> None:
        """Learn from a task that has ended with a result.

        Each hazard with a clock of its own is first compared with the hazard by age: which of the
        two made this end more likely?

        Args:
            entry: the task.
            since: age in seconds up to which polls have found it running.
            age: age in seconds at which it ended.
        """
        if entry.processing_since is not None:
            began = entry.processing_since - entry.created_at
            if age > began:
                gain = self.by_processing_time.log_likelihood(0.0, age - began)
                gain -= self.by_age.log_likelihood(began, age)
                self.trust_in_processing = self.trust_in_processing * DECAY + _bounded(gain)
                self.by_processing_time.ended(max(0.0, since - began), age - began)
        if entry.estimate is not None:
            at, remaining = entry.estimate
            reported, units = at - entry.created_at, ESTIMATE_UNITS / remaining
            if age > reported:
                gain = self.by_estimate.log_likelihood(0.0, (age - reported) * units) + log(units)
                gain -= self.by_age.log_likelihood(reported, age)
                self.trust_in_estimate = self.trust_in_estimate * DECAY + _bounded(gain)
                since_report = max(0.0, since - reported)
                self.by_estimate.ended(since_report * units, (age - reported) * units)
        self.by_age.ended(since, age)


def _bounded(gain: float) -> float:
    """Limit what a single task can do to the trust in a hazard."""
    return min(2.0, max(-4.0, gain))


def _share(progress: float | None) -> float | None:
    """Return progress as a share from 0 to 1. The service does not say whether it is in percent."""
    if progress is None or not 0 < progress < 100:
        return None
    share = progress if progress < 1 else progress / 100
    return min(0.99, max(0.01, share))
