from __future__ import annotations

import inspect
import pickle
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from aivideo import errors
from aivideo._redaction import scrub
from aivideo._session.job import Job
from aivideo.errors import (
    AIVideoError,
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    BadRequestError,
    BudgetExceededError,
    ConfigurationError,
    ContradictionError,
    DownloadError,
    InsufficientCreditsError,
    InvalidRequestError,
    JobHandle,
    JobWithdrawnError,
    LedgerError,
    QueueFullError,
    RateLimitError,
    ResponseError,
    ResultExpiredError,
    SessionClosedError,
    SpendLimitError,
    SubmitUnknownError,
    TaskFailedError,
    UserCodeError,
    WaitTimeoutError,
)
from aivideo.ledger.records import JobStatus
from aivideo.models import FailedTask, Sora2, TaskFailure

KEY = "sk-live-abcdef0123456789"
SIGNED = "https://bucket.example/a.mp4?X-Amz-Signature=1f2e3d&X-Amz-Credential=who"
BOAT = Sora2("A paper boat", duration=4, aspect_ratio="16:9")


class Untouchable:
    """A session that must not be called."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"a detached job called {name} of its session")


def new_job() -> Job:
    owner: object = Untouchable()
    return Job("j1", BOAT, owner=owner, status=JobStatus.RUNNING, task_id="t1")  # type: ignore[arg-type]


def every_error() -> list[AIVideoError]:
    """Create one error of each class, with texts that contain secrets."""
    text = f"key {KEY} was used for {SIGNED}"
    failed = FailedTask(
        id="t1",
        model="sora-2",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        error=TaskFailure("upstream_error", text),
    )
    made: list[AIVideoError] = [
        AIVideoError("something"),
        ConfigurationError("something"),
        InvalidRequestError.because("image", SIGNED, "is too long", "shorten it"),
        APIConnectionError(text, written=True),
        APITimeoutError(text, written=False),
        ResponseError(text, status=502, body=text.encode()),
        errors.JobError(text, job=new_job()),
        SubmitUnknownError(text, job=new_job()),
        JobWithdrawnError(text, job=new_job()),
        WaitTimeoutError(text, job=new_job()),
        SessionClosedError(text, job=new_job()),
        TaskFailedError(failed),
        BudgetExceededError(text, needed=Decimal(100), held=Decimal(900), ceiling=Decimal(950)),
        QueueFullError(10),
        UserCodeError(text, function="on_job", index=3, job=new_job(), task_id="t1"),
        DownloadError(text, task=failed, status=500),
        ResultExpiredError(text, task=failed, status=403),
        LedgerError("something"),
        ContradictionError("something"),
    ]
    made.extend(
        cls(text, status=418, code="a_code", type="a_type", request_id="r1")
        for cls in vars(errors).values()
        if inspect.isclass(cls) and issubclass(cls, APIStatusError)
    )
    return made


def test_every_class_of_errors_is_covered_by_these_tests() -> None:
    classes = {
        cls
        for cls in vars(errors).values()
        if inspect.isclass(cls) and issubclass(cls, AIVideoError)
    }
    assert {type(error) for error in every_error()} == classes


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_every_error_is_one_line_without_key_or_signed_query(error: AIVideoError) -> None:
    for shown in (str(error), repr(error)):
        assert "\n" not in shown
        assert KEY not in shown
        assert "Signature=" not in shown


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_every_error_pickles_with_its_attributes(error: AIVideoError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert {*vars(copy)} == {*vars(error)}
    for name, value in vars(error).items():
        if isinstance(value, Job):
            assert (vars(copy)[name].id, vars(copy)[name].task_id) == ("j1", "t1")
            assert vars(copy)[name].request == BOAT
        else:
            assert vars(copy)[name] == value


def test_amounts_of_a_budget_error_are_decimals() -> None:
    error = BudgetExceededError("no", needed=100, held=Decimal("30.50"), ceiling=120)
    assert (str(error.needed), str(error.held), str(error.ceiling)) == ("100", "30.5", "120")
    assert all(isinstance(each, Decimal) for each in (error.needed, error.held, error.ceiling))


def test_a_configuration_error_keeps_no_secret_and_pickles() -> None:
    error = ConfigurationError.because("base_url", KEY, "needs a scheme", "give https://…")
    assert error.value == "sk-…"
    assert error.field == "base_url"
    unpicklable = ConfigurationError.because("ledger", lambda: KEY, "is not a ledger", "give one")
    assert pickle.loads(pickle.dumps(unpicklable)).value == unpicklable.value
    sealed = ConfigurationError.of_secret("api_key", "must start with 'sk-'", "copy it")
    assert sealed.value is None
    assert str(sealed) == "api_key: must start with 'sk-'; copy it"


def test_job_implements_the_protocol_used_by_errors() -> None:
    handle: JobHandle = new_job()  # the type checkers compare the two
    assert WaitTimeoutError("late", job=handle).job is handle
    required = {name for name in vars(JobHandle) if not name.startswith("_")}
    assert required <= set(dir(Job))


@pytest.mark.anyio
async def test_waiting_for_an_unpickled_job_raises_and_says_how_to_get_a_live_one() -> None:
    copy = pickle.loads(pickle.dumps(WaitTimeoutError("late", job=new_job()))).job
    with pytest.raises(SessionClosedError, match=r"session\.job"):
        await copy.result()


def test_the_docstring_shows_the_class_tree() -> None:
    listed: dict[str, int] = {}
    for line in (errors.__doc__ or "").splitlines():
        name = line.lstrip(" │├└─…").split(" ")[0].strip()
        if name.endswith("Error") and name in vars(errors):
            listed.setdefault(name, line.index(name))
    for name, cls in vars(errors).items():
        if inspect.isclass(cls) and issubclass(cls, AIVideoError) and name != "JobError":
            assert name in listed, f"{name} is missing in the docstring"
    assert listed["AIVideoError"] < listed["APIStatusError"] < listed["RateLimitError"]


def test_a_spend_limit_error_is_not_a_rate_limit_error() -> None:
    assert not issubclass(SpendLimitError, RateLimitError)
    assert not issubclass(RateLimitError, SpendLimitError)


def test_a_bad_request_error_is_an_invalid_request_and_a_status_error() -> None:
    error = BadRequestError("no", status=400, code="invalid_request")
    assert isinstance(error, InvalidRequestError)
    assert isinstance(error, APIStatusError)
    assert isinstance(error, ValueError)
    assert error.field is None


def test_insufficient_credits_names_where_to_see_the_balance_and_to_top_up() -> None:
    message = str(InsufficientCreditsError("too low", status=402, code="insufficient_credits"))
    assert "GET /v1/credits" in message
    assert "Dashboard > Billing" in message


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"Authorization: Bearer {KEY}", "Authorization: Bearer …"),
        (f'{{"key": "{KEY}"}}', '{"key": "sk-…"}'),
        (f"see {SIGNED} for it", "see https://bucket.example/a.mp4?… for it"),
        ("https://u:p@host/x", "https://…@host/x"),
        ("https://host/x#fragment", "https://host/x?…"),
        ("ask for task-1", "ask for task-1"),
        ("a risk-free prompt", "a risk-free prompt"),
    ],
)
def test_scrub_removes_secrets(text: str, kept: str) -> None:
    assert scrub(text) == kept


def test_a_response_error_quotes_only_the_beginning_of_a_page() -> None:
    page = b"<html>\n" + b"<p>bad gateway</p>\n" * 1000
    error = ResponseError("not an answer of this API", status=502, body=page)
    assert len(str(error)) < 300
    assert error.body == page
