from __future__ import annotations

import pytest

from aivideo._polling.kind import ESTIMATE_UNITS, TRUST_MARGIN, Entry, Kind


def entry_of(kind: Kind, created_at: float = 0.0) -> Entry:
    entry = Entry("t")
    entry.kind = kind
    entry.created_at = entry.polled_at = created_at
    return entry


def learn_running(
    entry: Entry, now: float, *, processing: bool = False, progress: float | None = None
) -> None:
    entry.kind.learn_running(entry, now, processing=processing, progress=progress)
    entry.polled_at = now


def test_one_callback_in_twenty_is_lost_before_any_was_counted() -> None:
    assert Kind().lost_callback_share == 0.05


def test_the_share_of_lost_callbacks_is_never_zero() -> None:
    kind = Kind()
    for _ in range(10_000):
        kind.count_callback(received=True)
    assert 0 < kind.lost_callback_share < 0.01, "the agenda divides by it"


def test_a_callback_counted_as_lost_can_be_corrected() -> None:
    kind = Kind()
    kind.count_callback(received=False)
    lost = kind.lost_callback_share
    kind.correct_lost_callback()
    assert kind.lost_callback_share < 0.05 < lost
    kind.correct_lost_callback()
    assert kind.lost_callbacks == 0.0, "never negative"


def test_processing_began_halfway_between_the_last_two_polls() -> None:
    entry = entry_of(Kind())
    learn_running(entry, 10.0)
    learn_running(entry, 30.0, processing=True)
    assert entry.processing_since == 20.0
    learn_running(entry, 50.0, processing=True)
    assert entry.processing_since == 20.0


def test_processing_in_the_first_poll_counts_from_that_poll() -> None:
    entry = entry_of(Kind())
    learn_running(entry, 30.0, processing=True)
    assert entry.processing_since == 30.0


@pytest.mark.parametrize(
    ("progress", "remaining"),
    [(25.0, 300.0), (0.25, 300.0), (50, 100.0), (99.9, 100.0 / 99), (0.001, 9900.0)],
)
def test_progress_implies_the_remaining_seconds(progress: float, remaining: float) -> None:
    entry = entry_of(Kind())
    learn_running(entry, 100.0, progress=progress)
    assert entry.estimate == pytest.approx((100.0, remaining))


@pytest.mark.parametrize("progress", [None, 0, 100, -5.0, 1e9, float("nan")])
def test_progress_that_says_nothing_removes_the_estimate(progress: float | None) -> None:
    entry = entry_of(Kind())
    learn_running(entry, 100.0, progress=50)
    learn_running(entry, 110.0, progress=progress)
    assert entry.estimate is None


def test_a_hazard_with_its_own_clock_is_used_only_above_the_trust_margin() -> None:
    kind = Kind()
    entry = entry_of(kind, 1000.0)
    entry.processing_since = 1100.0
    entry.estimate = (1200.0, 50.0)
    assert kind.hazard_for(entry) == (kind.by_age, 1000.0, 1.0)
    kind.trust_in_processing = TRUST_MARGIN + 1
    assert kind.hazard_for(entry) == (kind.by_processing_time, 1100.0, 1.0)
    kind.trust_in_estimate = TRUST_MARGIN + 0.5
    assert kind.hazard_for(entry) == (kind.by_processing_time, 1100.0, 1.0), "the better of the two"
    kind.trust_in_estimate = TRUST_MARGIN + 2
    assert kind.hazard_for(entry) == (kind.by_estimate, 1200.0, ESTIMATE_UNITS / 50.0)
    entry.estimate = entry.processing_since = None
    assert kind.hazard_for(entry) == (kind.by_age, 1000.0, 1.0)


def test_one_end_changes_the_trust_by_at_most_2_up_and_4_down() -> None:
    for length, change in ((2_000_000.0, 2.0), (20.0, -4.0)):
        kind = Kind()
        for _ in range(50):  # processing takes 5 s, whenever it begins
            kind.by_processing_time.ended(0.0, 5.0)
            kind.by_age.ended(0.0, 20.0)
        entry = entry_of(kind)
        entry.processing_since = length - 5.0 if change > 0 else 0.5
        kind.learn_end(entry, 0.0, length)
        assert kind.trust_in_processing == pytest.approx(change)
