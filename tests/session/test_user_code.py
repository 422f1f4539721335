"""What functions of the user raise becomes the error of one job, without secrets."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from aivideo import ConfigurationError, Job, JobStatus, Sora2, UserCodeError
from aivideo._session import user_code

BOAT = Sora2("A paper boat", duration=4, aspect_ratio="16:9")


def job_of(status: JobStatus, task_id: str | None = None) -> Job:
    return Job("j1", BOAT, owner=None, status=status, task_id=task_id)


class NoTextError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (None, "request 4: KeyError: 'x'. The request was not sent"),
        (job_of(JobStatus.WITHDRAWN), "(job j1): KeyError: 'x'. The job was not sent, and is with"),
        (job_of(JobStatus.PLANNED), "is not sent yet: its batch sends it"),
        (job_of(JobStatus.RUNNING, "t1"), "(job j1, task t1): KeyError: 'x'. The task is not lost"),
        (job_of(JobStatus.COMPLETED, "t1"), "session.job('t1').save(…)"),
        (job_of(JobStatus.FAILED, "t1"), "status is failed"),
        (job_of(JobStatus.UNKNOWN), "status is unknown"),
    ],
)
def test_an_error_names_the_function_the_job_its_task_and_what_became_of_it(
    job: Job | None, said: str
) -> None:
    raised = KeyError("x")
    error = user_code.error_of("save_to", raised, 4, job)
    assert str(error).startswith("save_to raised an exception for request 4")
    assert said in str(error)
    assert (error.function, error.index, error.job) == ("save_to", 4, job)
    assert error.task_id == (None if job is None else job.task_id)
    assert error.__cause__ is raised


def test_an_error_shows_no_secret_and_needs_no_text_of_the_exception() -> None:
    signed = RuntimeError("https://bucket.example/a.mp4?X-Signature=1f2e\nsk-live-1")
    error = user_code.error_of("on_job", signed, 0)
    assert "https://bucket.example/a.mp4?…" in str(error)
    assert "\n" not in str(error)
    assert "sk-live-1" not in str(error)
    assert "NoTextError" in str(user_code.error_of("on_job", NoTextError(), 0))
    assert "sk-live-1" not in user_code.traceback_of(signed)


@pytest.mark.parametrize("raised", [KeyError("x"), SystemExit(1), asyncio.CancelledError()])
def test_a_call_raises_one_class_of_error_whatever_the_function_raises(
    raised: BaseException,
) -> None:
    def function() -> None:
        raise raised

    with pytest.raises(UserCodeError) as caught:
        user_code.call("key", function, 2)
    assert caught.value.__cause__ is raised
    assert user_code.raised_by(lambda _: function(), job_of(JobStatus.PLANNED)) is raised
    assert user_code.raised_by(lambda _: None, job_of(JobStatus.PLANNED)) is None


@pytest.mark.parametrize("value", ["a/b.mp4", Path("a/b.mp4")])
def test_a_path_is_a_str_or_an_object_with_a_path(value: str | os.PathLike[str]) -> None:
    job = job_of(JobStatus.COMPLETED, "t1")
    assert user_code.path_from(lambda index, request: value, BOAT, 0, job) == Path("a/b.mp4")


@pytest.mark.parametrize("value", [None, 5, b"a.mp4", "a\0.mp4", "\ud800"])
def test_what_is_no_path_is_an_error_of_save_to(value: object) -> None:
    job = job_of(JobStatus.COMPLETED, "t1")
    with pytest.raises(UserCodeError, match="save_to raised"):
        user_code.path_from(lambda index, request: value, BOAT, 0, job)


def test_functions_and_folders_are_checked() -> None:
    user_code.check_functions(None, None, None)
    user_code.check_functions("videos", str, print)
    user_code.check_functions(print, None, None)
    for wrong in ((5, None, None), (None, 5, None), (None, None, 5)):
        with pytest.raises(ConfigurationError):
            user_code.check_functions(*wrong)


@pytest.mark.anyio
async def test_a_cancellation_is_told_from_a_cancelled_error_of_user_code() -> None:
    seen: list[bool] = []

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            seen.append(user_code.is_cancellation(error))
            raise

    task = asyncio.create_task(wait())
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    seen.append(user_code.is_cancellation(asyncio.CancelledError()))
    assert seen == [True, False]
