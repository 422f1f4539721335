from __future__ import annotations

from decimal import Decimal

import pytest
from attrs import evolve

from aivideo.ledger.events import Completed, Failed
from aivideo.ledger.records import AttemptStatus, JobStatus, Reason
from aivideo.models import CompletedTask, FailedTask
from tests.ledger.histories import AGAIN, CLAIM, FAILED, JOB, PAID, replay

S = JobStatus


def test_the_status_sets_of_jobs() -> None:
    assert {*S.in_doubt()} == {each for each in S if each.is_in_doubt} == {S.UNKNOWN, S.FAULTED}
    assert {*S.sendable()} == {each for each in S if each.is_sendable} == {S.PLANNED, S.SUBMITTING}
    assert {*S.retryable()} == {each for each in S if each.is_retryable} == {S.FAILED, S.REFUSED}
    assert {each for each in S if each.is_final} == {
        S.SAVED,
        S.FAILED,
        S.REFUSED,
        S.WITHDRAWN,
    }


def test_the_status_sets_of_attempts() -> None:
    assert {each.value for each in AttemptStatus if each.is_in_doubt} == {"unknown", "faulted"}
    on_its_way = {"submitting", "running", "completed"}
    assert {each.value for each in AttemptStatus if each.is_open} == on_its_way


@pytest.mark.parametrize(
    ("value", "shown"), [(100, "100"), ("30.50", "30.5"), (Decimal("1E+3"), "1000"), (None, "None")]
)
def test_amounts_are_exact_decimals(value: object, shown: str) -> None:
    job = evolve(JOB, credits=value)
    assert str(job.credits) == shown
    (attempt,) = replay(CLAIM, job=job).attempts
    assert attempt.credits == job.credits, "a claim reserves the job's price"


@pytest.mark.parametrize("value", [30.5, 1.0, True, "many", "0.0000001"])
def test_what_is_no_exact_amount_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must "):
        evolve(JOB, credits=value)


def test_an_end_is_told_without_urls() -> None:
    done = replay(*PAID, Completed(1_774_790_227.0, 1_774_796_529.0)).ended_task()
    assert isinstance(done, CompletedTask)
    assert done.urls == ()
    assert (done.completed_at - done.created_at).total_seconds() == 6302
    failed = replay(*PAID, Failed(Reason(message="no", code="upstream_error"), 5.0)).ended_task()
    assert isinstance(failed, FailedTask)
    assert (failed.error.code, failed.error.message) == ("upstream_error", "no")
    assert replay(*PAID).ended_task() is None


def test_a_job_that_waits_to_be_sent_again_has_neither_a_task_nor_an_end() -> None:
    job = replay(*FAILED, AGAIN)
    assert job.task_id is None
    assert job.ended_task() is None
    assert replay(*FAILED, AGAIN, CLAIM).task_id is None


def test_a_record_shows_no_secret_of_a_users_own_callback_url() -> None:
    shown = repr(evolve(JOB, callback_url="https://me.example/done?token=0123456789"))
    assert "me.example/done" in shown
    assert "0123456789" not in shown
