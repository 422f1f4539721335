from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from attrs import fields
from hypothesis import given
from hypothesis import strategies as st

from aivideo.errors import ContradictionError, LedgerError
from aivideo.ledger.events import (
    AttemptEvent,
    Claimed,
    Completed,
    Doubted,
    Event,
    Failed,
    Faulted,
    Refused,
    Released,
    Retried,
    Saved,
    Taken,
    Withdrawn,
)
from aivideo.ledger.records import Attempt, AttemptStatus, JobRecord, JobStatus, Reason
from aivideo.ledger.totals import CreditTotals, Holding, credits_moved, holding
from aivideo.ledger.transitions import TRANSITIONS, apply, apply_to_attempt
from tests.ledger.histories import AGAIN, CLAIM, FAILED, INSISTED, JOB, LOST, PAID, WHY, replay

S = JobStatus


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ([], S.PLANNED),
        ([CLAIM], S.SUBMITTING),
        ([CLAIM, Released()], S.PLANNED),
        ([CLAIM, Released(), Released()], S.PLANNED),
        ([CLAIM, Released(), *PAID], S.RUNNING),
        ([CLAIM, Refused(WHY)], S.REFUSED),
        (LOST, S.UNKNOWN),
        ([*LOST, Doubted(WHY)], S.UNKNOWN),
        ([*LOST, Taken("t")], S.RUNNING),
        ([*LOST, Refused(WHY)], S.REFUSED),  # its owner's own verdict, late
        ([*LOST, Faulted(WHY)], S.FAULTED),
        ([*LOST, Released()], S.PLANNED),  # the same, or a person's word
        ([CLAIM, Faulted(WHY)], S.FAULTED),
        ([CLAIM, Faulted(WHY), Doubted(WHY)], S.FAULTED),
        ([CLAIM, Faulted(WHY), Taken("t")], S.RUNNING),
        ([*PAID, Taken("t")], S.RUNNING),
        ([*PAID, Doubted(WHY)], S.RUNNING),  # a callback was faster than the POST's own end
        ([*PAID, Faulted(WHY)], S.RUNNING),
        ([CLAIM, Released(), Doubted(WHY)], S.PLANNED),
        ([CLAIM, Refused(WHY), Doubted(WHY)], S.REFUSED),
        ([*PAID, Completed(), Saved("p", 3)], S.SAVED),
        ([*PAID, Completed(), Saved("p"), Saved("q"), Completed()], S.SAVED),
        ([*FAILED, Failed(WHY)], S.FAILED),
        ([*FAILED, AGAIN], S.PLANNED),
        ([*FAILED, AGAIN, AGAIN], S.PLANNED),
        ([*PAID, Completed(), Faulted(WHY)], S.COMPLETED),
        ([*FAILED, Doubted(WHY)], S.FAILED),
        ([*LOST, Released(), Doubted(WHY)], S.PLANNED),  # a person was faster
        ([CLAIM, Refused(WHY), Refused(WHY)], S.REFUSED),
        ([*FAILED, AGAIN, CLAIM, Taken("t2")], S.RUNNING),
        ([CLAIM, Refused(WHY), AGAIN, CLAIM], S.SUBMITTING),
        ([*LOST, INSISTED], S.PLANNED),
        ([*LOST, INSISTED, CLAIM, Refused(WHY)], S.UNKNOWN),  # the first is still in doubt
        ([CLAIM, Faulted(WHY), INSISTED, CLAIM, Taken("t")], S.RUNNING),
        ([Withdrawn()], S.WITHDRAWN),
        ([CLAIM, Released(), Withdrawn()], S.WITHDRAWN),
        ([CLAIM, Released(), Withdrawn(), Released()], S.WITHDRAWN),
        ([CLAIM, Released(), Withdrawn(), Doubted(WHY)], S.WITHDRAWN),
        ([CLAIM, Released(), Withdrawn(), Taken("t")], S.RUNNING),  # a late success
        ([*FAILED, AGAIN, Withdrawn()], S.FAILED),  # the retry is withdrawn, not the job
        ([*LOST, INSISTED, Withdrawn()], S.UNKNOWN),
        ([CLAIM, Refused(WHY), AGAIN, Withdrawn()], S.REFUSED),
        ([*FAILED, AGAIN, CLAIM, Released()], S.PLANNED),  # a 429: it still waits
    ],
)
def test_the_life_of_a_job(events: list[Event], status: JobStatus) -> None:
    assert replay(*events).status is status


@pytest.mark.parametrize(
    "events",
    [
        [CLAIM, CLAIM],
        [*LOST, CLAIM],
        [CLAIM, Faulted(WHY), CLAIM],
        [CLAIM, Refused(WHY), CLAIM],
        [*FAILED, CLAIM],
        [*LOST, AGAIN],
        [CLAIM, Faulted(WHY), AGAIN],
        [CLAIM, AGAIN],
        [CLAIM, INSISTED],
        [*PAID, INSISTED],
        [*PAID, Completed(), INSISTED],
        [*PAID, Taken("t2")],
        [*PAID, Released()],
        [*PAID, Refused(WHY)],
        [Taken("t")],
        [Completed()],
        [CLAIM, Completed()],
        [*FAILED, Completed()],
        [*PAID, Completed(), Failed(WHY)],
        [*PAID, Saved("p")],
        [*FAILED, Saved("p")],
        [CLAIM, Withdrawn()],
        [*LOST, Withdrawn()],
        [*PAID, Withdrawn()],
        [*FAILED, Withdrawn()],
        [CLAIM, Refused(WHY), Withdrawn()],
        [Withdrawn(), Withdrawn()],
        [Withdrawn(), CLAIM],
        [Withdrawn(), AGAIN],
        [Withdrawn(), INSISTED],
        [Withdrawn(), Saved("p")],
        [CLAIM, Released(), Withdrawn(), Refused(WHY)],
    ],
)
def test_what_cannot_follow_is_refused_instead_of_moving_money(events: list[Event]) -> None:
    before = replay(*events[:-1])
    with pytest.raises(LedgerError):
        apply(before, events[-1])


ATTEMPT_EVENTS: dict[str, AttemptEvent] = {
    "Taken": Taken("t"),
    "Released": Released(),
    "Refused": Refused(WHY),
    "Faulted": Faulted(WHY),
    "Doubted": Doubted(WHY),
    "Completed": Completed(1.0, 2.0),
    "Failed": Failed(WHY, 1.0),
}

# Each line: the attempt's status, then its status after each event. "-" means that the event is
# ignored, "!" that it contradicts. Attempts that are running, completed or failed have the task
# "t", which is also the task of the event Taken.
EXPECTED = """
            Taken    Released  Refused  Faulted  Doubted  Completed  Failed
submitting  running  released  refused  faulted  unknown  !          !
unknown     running  released  refused  faulted  -        !          !
faulted     running  released  refused  -        -        !          !
released    running  -         !        -        -        !          !
refused     running  !         -        -        -        !          !
running     -        !         !        -        -        completed  failed
completed   -        !         !        -        -        -          !
failed      -        !         !        -        -        !          -
"""


def cells() -> list[tuple[AttemptStatus, str, str]]:
    header, *lines = EXPECTED.strip().splitlines()
    names = header.split()
    return [
        (AttemptStatus(status), name, cell)
        for status, *row in map(str.split, lines)
        for name, cell in zip(names, row, strict=True)
    ]


def test_the_expectations_name_every_status_and_every_event() -> None:
    assert {(status, name) for status, name, _ in cells()} == {
        (status, event.__name__) for status in AttemptStatus for event in TRANSITIONS
    }


@pytest.mark.parametrize(("status", "name", "cell"), cells())
def test_each_event_in_each_status_of_an_attempt(
    status: AttemptStatus, name: str, cell: str
) -> None:
    has_task = status in (AttemptStatus.RUNNING, AttemptStatus.COMPLETED, AttemptStatus.FAILED)
    attempt = Attempt(number=1, status=status, task_id="t" if has_task else None)
    event = ATTEMPT_EVENTS[name]
    if cell == "!":
        with pytest.raises(ContradictionError, match=f"is {status}, which {name} cannot follow"):
            apply_to_attempt(attempt, event, job_id="j")
    elif cell == "-":
        assert apply_to_attempt(attempt, event, job_id="j") is attempt
    else:
        assert apply_to_attempt(attempt, event, job_id="j").status.value == cell


@pytest.mark.parametrize("status", AttemptStatus)
def test_an_attempt_that_has_a_task_gets_no_other_and_is_not_faulted(
    status: AttemptStatus,
) -> None:
    attempt = Attempt(number=1, status=status, task_id="t")
    with pytest.raises(ContradictionError):
        apply_to_attempt(attempt, Taken("another"), job_id="j")
    assert apply_to_attempt(attempt, Taken("t"), job_id="j") is attempt
    assert apply_to_attempt(attempt, Faulted(WHY), job_id="j") is attempt


def test_an_event_tells_more_than_the_status() -> None:
    doubted = Attempt(number=1, status=AttemptStatus.UNKNOWN, reason=WHY)
    other = Reason(message="other")

    def after(attempt: Attempt, event: AttemptEvent) -> tuple[object, ...]:
        now = apply_to_attempt(attempt, event, job_id="j")
        return now.task_id, now.reason, now.created_at, now.completed_at

    assert after(doubted, Taken("t")) == ("t", None, None, None)
    assert after(doubted, Released()) == (None, None, None, None)
    assert after(doubted, Refused(other)) == (None, other, None, None)
    assert after(doubted, Faulted(other)) == (None, other, None, None)
    running = Attempt(number=1, status=AttemptStatus.RUNNING, task_id="t")
    assert after(running, Completed(1.0, 2.0)) == ("t", None, 1.0, 2.0)
    assert after(running, Failed(other, 1.0)) == ("t", other, 1.0, None)


def test_a_late_success_of_an_older_attempt_is_kept_and_counted_too() -> None:
    job = replay(*LOST, INSISTED, CLAIM, Taken("t2"))
    both = apply(job, Taken("t1"), 1)
    assert [attempt.task_id for attempt in both.attempts] == ["t1", "t2"]
    assert credits_moved(None, both) == {Holding.CHARGED: 200}
    assert (both.attempt_of("t1"), both.attempt_of("t2")) == (1, 2)


SAVED: list[Event] = [*PAID, Completed(), Saved("old.mp4", 3)]
COMPLETED: list[Event] = [*PAID, Completed()]


def paid_again(history: list[Event]) -> JobRecord:
    """Return the job of a history, after somebody asked for it to be paid for again."""
    job = replay(*history)
    return apply(job, Retried.of(job, pay_again=True))


@pytest.mark.parametrize("history", [PAID, COMPLETED, SAVED])
def test_a_job_that_was_taken_is_sent_again_only_by_who_pays_again_and_has_seen_its_status(
    history: list[Event],
) -> None:
    job = replay(*history)
    seen = (job.status, job.latest)
    for event in (
        Retried(),
        Retried(pay_again=True),
        Retried.of(job, pay_again=False),
        Retried(pay_again=True, seen=(S.UNKNOWN, 1)),
        Retried(pay_again=True, seen=(job.status, 2)),
    ):
        with pytest.raises(ContradictionError):
            apply(job, event)
    again = apply(job, Retried(pay_again=True, seen=seen))
    assert (again.status, again.task_id, again.best) == (S.PLANNED, None, None)
    assert credits_moved(None, again) == {Holding.CHARGED: 100}
    assert apply(again, Retried(pay_again=True, seen=seen)) is again


@pytest.mark.parametrize("history", [PAID, COMPLETED, SAVED])
@pytest.mark.parametrize(
    ("events", "status"),
    [
        ([CLAIM], S.SUBMITTING),
        ([CLAIM, Released()], S.PLANNED),  # a 429: it still waits
        ([CLAIM, Doubted(WHY)], S.UNKNOWN),
        ([CLAIM, Faulted(WHY)], S.FAULTED),
        ([CLAIM, Refused(WHY)], S.REFUSED),
        ([CLAIM, Taken("t2")], S.RUNNING),
        ([CLAIM, Taken("t2"), Failed(WHY)], S.FAILED),
        ([CLAIM, Taken("t2"), Completed()], S.COMPLETED),
        ([CLAIM, Taken("t2"), Completed(), Saved("new.mp4", 4)], S.SAVED),
    ],
)
def test_the_new_attempt_of_a_job_that_is_paid_for_again_decides_its_status(
    history: list[Event], events: list[Event], status: JobStatus
) -> None:
    job = replay(*events, job=paid_again(history))
    assert job.status is status
    assert job.attempt_of("t") == 1, "the earlier task is not forgotten"
    assert holding(job.attempts[0].status) is Holding.CHARGED, "both count"
    assert (job.best is None) or job.best.number == 2
    if status is S.SAVED:
        assert (job.path, job.size) == ("new.mp4", 4)


@pytest.mark.parametrize(
    ("history", "status"), [(PAID, S.RUNNING), (COMPLETED, S.COMPLETED), (SAVED, S.SAVED)]
)
@pytest.mark.parametrize("events", [[], [CLAIM, Released()]])
def test_withdrawing_to_pay_again_leaves_the_status_as_it_was(
    history: list[Event], status: JobStatus, events: list[Event]
) -> None:
    job = replay(*events, Withdrawn(), job=paid_again(history))
    assert job.status is status
    assert job.task_id == "t"


def test_nothing_is_paid_again_once_the_earlier_task_completes_or_its_file_is_saved() -> None:
    completed = apply(paid_again(PAID), Completed(1.0, 2.0), 1)
    assert (completed.status, completed.waiting) == (S.COMPLETED, False)
    saved = apply(paid_again(COMPLETED), Saved("late.mp4", 3))
    assert (saved.status, saved.waiting, saved.path) == (S.SAVED, False, "late.mp4")
    failed = apply(paid_again(PAID), Failed(WHY), 1)
    assert failed.status is S.PLANNED, "refunded; it is still to be sent"
    assert credits_moved(None, failed) == {Holding.REFUNDED: 100}


def test_an_earlier_task_that_completes_late_is_the_result_of_a_job_that_was_paid_for_again() -> (
    None
):
    job = replay(CLAIM, Taken("t2"), job=paid_again(PAID))
    assert (job.status, job.task_id) == (S.RUNNING, "t2")
    late = apply(job, Completed(1.0, 2.0), 1)
    assert (late.status, late.task_id) == (S.COMPLETED, "t")
    saved = apply(apply(late, Saved("t.mp4", 3)), Completed(), 2)
    assert (saved.status, saved.path) == (S.SAVED, "t.mp4"), "its file is not forgotten"


def test_the_file_of_an_earlier_result_is_not_that_of_the_new_one() -> None:
    job = replay(CLAIM, Taken("t2"), Completed(), job=paid_again(SAVED))
    assert (job.status, job.path, job.size) == (S.COMPLETED, None, None)


def test_a_job_with_a_post_under_way_is_not_paid_for_again() -> None:
    job = apply(replay(*LOST, INSISTED, CLAIM), Taken("t1"), 1)
    assert job.status is S.RUNNING
    with pytest.raises(ContradictionError):
        apply(job, Retried.of(job, pay_again=True))


def test_a_job_in_doubt_that_has_changed_since_it_was_seen_is_not_sent_again() -> None:
    seen = replay(*LOST)
    insisted = Retried.of(seen, pay_again=True)
    assert apply(seen, insisted).status is S.PLANNED
    for event in (Taken("t"), Faulted(WHY)):
        with pytest.raises(ContradictionError, match="has changed since"):
            apply(apply(seen, event), insisted)


def test_a_task_is_that_of_one_attempt() -> None:
    job = replay(*LOST, INSISTED, *PAID)
    with pytest.raises(LedgerError):
        apply(job, Taken("t"), 1)


def test_a_late_success_takes_a_job_that_waits_again_out_of_the_queue() -> None:
    waiting = replay(*LOST, INSISTED)
    job = apply(waiting, Taken("t1"), 1)
    assert job.status is JobStatus.RUNNING
    with pytest.raises(LedgerError):
        apply(job, CLAIM)


def test_a_late_release_of_an_older_attempt_sends_nothing_again() -> None:
    job = replay(*LOST, INSISTED, CLAIM, Refused(WHY))
    assert apply(job, Released(), 1).status is JobStatus.REFUSED


SETTLED: list[Event] = [*LOST, Released()]  # by a person, as not taken
BOUGHT_AGAIN: list[Event] = [CLAIM, Taken("t2")]


@pytest.mark.parametrize(
    ("meanwhile", "status"),
    [
        (LOST, S.PLANNED),
        (SETTLED, S.PLANNED),
        ([*SETTLED, CLAIM], S.SUBMITTING),
        ([*SETTLED, CLAIM, Doubted(WHY)], S.UNKNOWN),
        ([*SETTLED, CLAIM, Faulted(WHY)], S.FAULTED),
        ([*SETTLED, CLAIM, Refused(WHY)], S.REFUSED),
        ([*SETTLED, *BOUGHT_AGAIN], S.RUNNING),
        ([*SETTLED, *BOUGHT_AGAIN, Completed()], S.COMPLETED),
        ([*SETTLED, *BOUGHT_AGAIN, Completed(), Saved("p")], S.SAVED),
        ([*SETTLED, *BOUGHT_AGAIN, Failed(WHY)], S.FAILED),
        ([*SETTLED, Withdrawn()], S.WITHDRAWN),
        ([*LOST, INSISTED], S.PLANNED),
        ([*LOST, INSISTED, CLAIM], S.SUBMITTING),
        ([*LOST, INSISTED, CLAIM, Doubted(WHY)], S.UNKNOWN),
        ([*LOST, INSISTED, *BOUGHT_AGAIN], S.RUNNING),
        ([*LOST, INSISTED, *BOUGHT_AGAIN, Completed(), Saved("p")], S.SAVED),
        ([*LOST, INSISTED, *BOUGHT_AGAIN, Failed(WHY)], S.FAILED),
    ],
)
def test_a_late_owner_that_has_not_sent_releases_its_own_attempt_only(
    meanwhile: list[Event], status: JobStatus
) -> None:
    """Its claim lapsed while it was frozen; when it wakes up, it proves its POST unsent."""
    before = replay(*meanwhile)
    after = apply(before, Released(), 1)
    assert after.status is status
    assert after.attempts[0].status is AttemptStatus.RELEASED
    assert after.attempts[1:] == before.attempts[1:]


@pytest.mark.parametrize("task", [Taken("t"), Completed(), Failed(WHY)])
def test_a_release_does_not_undo_that_a_person_named_the_task(task: Event) -> None:
    job = replay(*LOST, Taken("t"), *([] if isinstance(task, Taken) else [task]))
    with pytest.raises(ContradictionError):
        apply(job, Released(), 1)


def test_an_unknown_attempt_is_not_hidden_by_a_later_one() -> None:
    job = replay(*LOST, INSISTED, *PAID, Completed())
    assert job.status is JobStatus.COMPLETED
    assert job.doubts == 1
    assert credits_moved(None, job) == {Holding.UNKNOWN: 100, Holding.CHARGED: 100}


EVENTS: list[Any] = [
    CLAIM,
    Taken("t1"),
    Taken("t2"),
    Released(),
    Refused(WHY),
    Faulted(WHY),
    Doubted(WHY),
    Completed(),
    Failed(WHY),
    Saved("a.mp4"),
    Retried(),
    Withdrawn(),
]


@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(1, 3) | st.none()), max_size=14))
def test_no_history_leads_to_two_open_posts_unless_a_person_insists(
    told: list[tuple[Event, int | None]],
) -> None:
    """Whatever is told in whatever order: at most one attempt that may have been paid for."""
    job, totals = JOB, CreditTotals()
    for event, number in told:
        try:
            after = apply(job, event, number)
        except LedgerError:
            continue
        if isinstance(event, Claimed):
            held = [a for a in job.attempts if holding(a.status) in _PAID_OR_MAYBE]
            assert not held
        totals = totals.plus(credits_moved(job, after))
        if job.task_id is not None and job.status is not JobStatus.FAILED:
            assert after.task_id is not None
        assert len(after.attempts) >= len(job.attempts)
        assert (after.status is JobStatus.SAVED) <= (after.path is not None)
        if after.status is JobStatus.WITHDRAWN:
            assert not after.waiting
            assert {holding(attempt.status) for attempt in after.attempts} <= {Holding.NONE}
        job = after
    by_attempt = [holding(attempt.status) for attempt in job.attempts]
    assert totals.charged == 100 * by_attempt.count(Holding.CHARGED)
    assert totals.unknown == 100 * by_attempt.count(Holding.UNKNOWN)
    assert totals.reserved == 100 * by_attempt.count(Holding.RESERVED)
    assert totals.refunded == 100 * by_attempt.count(Holding.REFUNDED)


@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(1, 3) | st.none()), max_size=14))
def test_no_late_release_makes_a_job_planned_that_another_attempt_is_buying(
    told: list[tuple[Event, int | None]],
) -> None:
    job = JOB
    for event, number in told:
        with suppress(LedgerError):
            job = apply(job, event, number)
    for attempt in job.attempts:
        with suppress(ContradictionError):
            after = apply(job, Released(), attempt.number)
            others = [each for each in after.attempts if each.number != attempt.number]
            assert others == [each for each in job.attempts if each.number != attempt.number]
            if any(each.status.is_open for each in others):
                assert after.status is not JobStatus.PLANNED


_PAID_OR_MAYBE = (Holding.CHARGED, Holding.UNKNOWN, Holding.RESERVED)


def test_an_event_keeps_every_field_of_the_record_that_it_does_not_change() -> None:
    """The record is rebuilt by hand, for speed: a new field must not be forgotten there."""
    kept: dict[str, Any] = {
        "id": "a",
        "request": JOB.request,
        "fingerprint": "f",
        "credits": Decimal("30.5"),
        "batch": "b",
        "key": "k",
        "callback_url": "https://you.example/done",
        "path": "boat.mp4",
        "size": 7,
        "planned_at": 3.0,
        "resumable": True,
    }
    before = JobRecord(**kept)
    after = apply(before, Claimed())
    changed = {"status", "waiting", "attempts"}
    assert {each.name for each in fields(JobRecord)} == {*kept, *changed}
    assert {name: getattr(after, name) for name in kept} == kept
