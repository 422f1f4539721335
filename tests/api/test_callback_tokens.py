from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivideo._api.callback_tokens import (
    CLOCKS_APART,
    Attribution,
    derived_secret,
    mismatch,
    read_token,
    token,
)
from aivideo.models import (
    CompletedTask,
    FailedTask,
    Generation,
    ProcessingTask,
    Sora2,
    Task,
    TaskFailure,
)

SECRET = b"secret"
JOB = "00c0ffee00c0ffee"
RIGHT = token(SECRET, JOB, 3)


def test_a_token_names_its_job_and_attempt() -> None:
    assert read_token(SECRET, RIGHT) == Attribution(JOB, 3)


@given(st.binary(min_size=1), st.integers(0, 2**64 - 1), st.integers(1, 10**9 - 1))
def test_every_token_is_read_back_and_is_safe_in_a_path(
    secret: bytes, job: int, attempt: int
) -> None:
    text = token(secret, f"{job:016x}", attempt)
    assert read_token(secret, text) == Attribution(f"{job:016x}", attempt)
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


@pytest.mark.parametrize(
    "text",
    [
        RIGHT.replace(".3.", ".4."),
        RIGHT.replace(".3.", ".03."),
        RIGHT.replace(JOB, JOB[:-1] + "f"),
        RIGHT[:-1],
        RIGHT + "A",
        RIGHT + "\n",
        " " + RIGHT,
        RIGHT + "/",
        RIGHT.upper(),
        RIGHT.replace(".3.", ".٣."),  # an Arabic-Indic digit
        RIGHT.replace(".3.", ".-3."),
        RIGHT.replace(".3.", ".0."),
        RIGHT.replace(".3.", ".9999999999."),
        f"{JOB}.3.",
        f"{JOB}.3.{'A' * 22}",
        f"{JOB}.3.{'ä' * 22}",
        "..",
        "",
        "x" * 100_000,
        "%2e%2e/%2e%2e/etc",
        "\0",
    ],
)
def test_malformed_or_forged_text_is_not_a_token(text: str) -> None:
    assert read_token(SECRET, text) is None


@given(st.text())
def test_any_text_can_be_checked(text: str) -> None:
    assert read_token(SECRET, text) is None


def test_a_token_of_another_secret_is_refused() -> None:
    assert read_token(b"another", RIGHT) is None


def test_the_mac_of_another_attempt_or_job_is_refused() -> None:
    mac = token(SECRET, JOB, 4).rpartition(".")[2]
    assert read_token(SECRET, f"{JOB}.3.{mac}") is None
    # Job and attempt are delimited: job 1, attempt 12 has another MAC than job 11, attempt 2.
    assert token(SECRET, "1", 12).split(".")[2] != token(SECRET, "11", 2).split(".")[2]


def test_the_derived_secret_depends_on_the_key_alone() -> None:
    assert derived_secret("sk-a") == derived_secret("sk-a")
    assert derived_secret("sk-a") != derived_secret("sk-b")
    assert b"sk-a" not in derived_secret("sk-a")


# --- what a callback's task must match ----------------------------------------------------------

SENT = 1_800_000_000.0
BOAT = Sora2("a boat", duration=8, aspect_ratio="16:9")


def completed(created: float = SENT + 1, model: str = "sora-2", **metadata: Any) -> CompletedTask:
    reported = {"prompt": "a boat", "duration": 8} | metadata
    at = datetime.fromtimestamp(created, UTC)
    return CompletedTask(
        id="t", model=model, created_at=at, completed_at=at, urls=("https://r/a.mp4",),
        metadata={name: value for name, value in reported.items() if value is not None},
    )  # fmt: skip


def failed(created: float = SENT + 1, model: str = "sora-2") -> FailedTask:
    at = datetime.fromtimestamp(created, UTC)
    return FailedTask(id="t", model=model, created_at=at, error=TaskFailure("c", "m"))


@pytest.mark.parametrize(
    "task",
    [
        completed(),
        completed(extra="an unknown field"),
        completed(prompt=None, duration=None),  # not reported: nothing to compare
        completed(SENT - CLOCKS_APART + 1),  # the service's clock is behind ours
        completed(SENT + 10**6),
        failed(),
        failed(SENT - CLOCKS_APART + 1),
        ProcessingTask(id="t", model="sora-2", created_at=datetime.fromtimestamp(SENT, UTC)),
    ],
)
def test_a_task_that_can_be_ours_matches(task: Task) -> None:
    assert mismatch(BOAT, task, sent_at=SENT) is None


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (completed(model="veo-3"), "model"),
        (failed(model="veo-3"), "model"),
        (completed(prompt="another boat"), "prompt"),
        (completed(prompt="A boat"), "prompt"),
        (completed(duration=12), "duration"),
        (completed(SENT - CLOCKS_APART - 1), "before the POST"),
        (failed(SENT - CLOCKS_APART - 1), "before the POST"),
    ],
)
def test_a_task_that_cannot_be_ours_is_a_mismatch(task: Task, why: str) -> None:
    reason = mismatch(BOAT, task, sent_at=SENT)
    assert reason is not None
    assert why in reason


def test_a_field_that_the_request_lacks_is_not_compared() -> None:
    other = Generation("veo-3", {"text": "a boat"})
    assert mismatch(other, completed(model="veo-3"), sent_at=SENT) is None
