"""Settings: exact types, one error per wrong value, and secrets that are never shown."""

from __future__ import annotations

import copy
import inspect
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
from attrs.exceptions import FrozenInstanceError

from aivideo import Client, ConfigurationError, MemoryLedger, RateLimit, Session, Transport
from aivideo._secrets import Secret, SecretHeaders
from aivideo.catalog import Model, default_catalog
from aivideo.settings import SessionSettings
from aivideo.simulator import TokenBucket
from aivideo.testing import DirectTransport

KEY = "sk-" + "0123456789"
LONG = "9876543210" * 2
PASSWORD = "hunter-two"
PROXY = f"http://user:{PASSWORD}@proxy.example:3128"
HIDDEN = ("0123456789", "9876543210", PASSWORD)


def settings(**given: Any) -> SessionSettings:
    return SessionSettings(**{"api_key": KEY, **given})


def shown_by(error: BaseException) -> str:
    """Return the text of a traceback with local variables, without the frames of this file."""
    extracted = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = [frame for frame in extracted.stack if frame.filename != __file__]
    assert frames
    values = [value for frame in frames for value in (frame.locals or {}).values()]
    return "\n".join([*values, str(error), repr(error), repr(vars(error))])


# ---- wrong values -------------------------------------------------------------------------------


class IncompleteLedger:
    """It has only plan(), and not as a coroutine function."""

    def plan(self, job: object) -> None: ...


class IncompleteTransport:
    async def send(self) -> None: ...


NAN, INF = float("nan"), float("inf")
INVALID_INTS: list[Any] = [0, -1, 1.5, 64.0, "64", True, 10**400, []]
INVALID_NUMBERS: list[Any] = [0, -1.0, INF, NAN, "60", True, 10**400, Decimal(60), []]

WRONG: list[tuple[str, Any, str]] = [
    ("api_key", "", "there is no API key"),
    ("api_key", b"sk-bytes", "must be a str, not bytes"),
    ("api_key", 5, "must be a str, not int"),
    ("api_key", "pk-012", "must start with 'sk-'"),
    ("api_key", "sk-a b", "space"),
    ("base_url", 5, "must be a str, not int"),
    ("base_url", "", "needs a scheme and a host"),
    ("base_url", "api.example", "needs a scheme and a host"),
    ("base_url", "ftp://api.example", "needs a scheme and a host"),
    ("base_url", "http://api.example", "unencrypted"),
    ("base_url", "https://api.example:port", "is not a URL"),
    ("base_url", "https://u:p@api.example", "must not contain a user"),
    ("base_url", "https://api.example?a=b", "must not contain a user"),
    *((name, value, "int above 0") for name in ("max_requests_in_flight", "max_running_jobs")
      for value in INVALID_INTS),
    ("max_requests_in_flight", None, "int above 0"),
    *((name, value, "finite int or float above 0")
      for name in ("max_requests_per_minute", "poll_interval", "request_timeout")
      for value in INVALID_NUMBERS),
    ("request_timeout", None, "finite int or float above 0"),
    ("rate_limit", 50, "must be a RateLimit"),
    ("rate_limit", TokenBucket(rate=5.0, burst=5), "must be a RateLimit"),
    ("rate_limit", RateLimit, "must be a RateLimit"),
    ("ledger", 5, "has no method plan()"),
    ("ledger", "", "is not a path"),
    ("ledger", " ", "is not a path"),
    ("ledger", b"jobs.db", "must be a path or a Ledger"),
    ("ledger", IncompleteLedger(), "plan() is not a coroutine function, has no method claim()"),
    ("ledger", MemoryLedger, "MemoryLedger is a class"),
    ("max_credits", -1, "must not be negative"),
    ("max_credits", "-0.5", "must not be negative"),
    ("max_credits", 10.0, "not float"),
    ("max_credits", True, "an int, a str or a Decimal"),
    ("max_credits", "many", "decimal number"),
    ("max_credits", "inf", "finite"),
    ("max_credits", Decimal("NaN"), "finite"),
    *((name, value, "must be a bool")
      for name in ("resubmit_server_errors", "trust_env", "allow_insecure")
      for value in ("false", "true", "", 0, 1, None)),
    ("callback_base_url", 5, "without a query"),
    ("callback_base_url", "you.example", "without a query"),
    ("callback_base_url", "https://you.example/x?a=b", "without a query"),
    ("callback_base_url", "https://you.example/#x", "without a query"),
    ("callback_secret", "", "at least 16 characters"),
    ("callback_secret", " " * 20, "at least 16 characters"),
    ("callback_secret", "x" * 15, "at least 16 characters"),
    ("callback_secret", b"x" * 16, "must be a str, not bytes"),
    ("proxy", "proxy.example:3128", "http:// or https:// URL"),
    ("proxy", "socks5://proxy.example", "http:// or https:// URL"),
    ("proxy", 3128, "http:// or https:// URL"),
    ("transport", 5, "has no method send()"),
    ("transport", IncompleteTransport(), "has no method stream(), has no method aclose()"),
    ("transport", DirectTransport, "is a class"),
    ("catalog", [], "must be a Catalog"),
    ("catalog", Model(name="veo-3"), "must be a Catalog"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "rule"), WRONG)
def test_a_wrong_value_raises_an_error_with_field_value_rule_and_remedy(
    name: str, value: Any, rule: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings(**{name: value})
    error = caught.value
    assert error.field == name
    assert rule in str(error.rule)
    assert error.cure
    assert str(error).startswith((f"{name}=", f"{name}: "))
    assert "\n" not in str(error)
    assert len(str(error)) <= 400
    assert pickle.loads(pickle.dumps(error)).rule == error.rule
    assert "0123456789" not in shown_by(error)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("resubmit_server_errors", "false"),  # a non-empty str is true: jobs would be paid twice
        ("callback_secret", ""),  # anybody could forge tokens
        ("max_requests_per_minute", INF),
        ("rate_limit", 50),
        ("rate_limit", TokenBucket(rate=5.0, burst=5)),
        ("base_url", 5),
        ("request_timeout", "60"),
        ("ledger", 5),
        ("poll_interval", INF),
    ],
)
def test_a_session_refuses_a_wrong_setting_before_anything_is_sent(name: str, value: Any) -> None:
    given: dict[str, Any] = {name: value}
    with pytest.raises(ConfigurationError, match=name) as caught:
        Session(KEY, **given)
    assert "0123456789" not in shown_by(caught.value)


def test_every_setting_with_a_rule_is_tested() -> None:
    names = {each.name for each in attrs.fields(SessionSettings)}
    assert names - {name for name, _, _ in WRONG} == {"instrumentation"}


def test_the_attributes_are_the_arguments() -> None:
    arguments = list(inspect.signature(SessionSettings).parameters)
    assert [each.name for each in attrs.fields(SessionSettings)] == arguments


def test_the_rate_limit_is_stated_once() -> None:
    with pytest.raises(ConfigurationError, match="give one of the two"):
        settings(rate_limit=RateLimit.bucket(5), max_requests_per_minute=300)


@pytest.mark.parametrize("given", [{"proxy": PROXY}, {"trust_env": True}])
def test_a_proxy_that_a_transport_would_not_use_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="does not use proxy or trust_env") as caught:
        settings(transport=Dummy(), **given)
    assert PASSWORD not in shown_by(caught.value)


class Dummy:
    """The three methods of a Transport."""

    async def send(self, *args: Any) -> Any: ...

    def stream(self, *args: Any) -> Any: ...

    async def aclose(self) -> None: ...


def test_the_checked_methods_of_a_transport_are_those_of_the_protocol() -> None:
    methods = {
        name: inspect.iscoroutinefunction(member)
        for name, member in vars(Transport).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }
    assert methods == {"send": True, "stream": False, "aclose": True}


UNTYPED_RATE_LIMIT: Any = RateLimit


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: UNTYPED_RATE_LIMIT.bucket(INF), "RateLimit count=inf: must be an int or float"),
        (lambda: UNTYPED_RATE_LIMIT.bucket("50"), "RateLimit count='50': must be an int or float"),
        (lambda: UNTYPED_RATE_LIMIT.bucket(50, burst=1.5), "RateLimit burst=1.5: must be an int"),
        (lambda: UNTYPED_RATE_LIMIT.window(0.5, seconds=1), "RateLimit count=0.5: of a window"),
        (lambda: UNTYPED_RATE_LIMIT.window(20, seconds=True), "RateLimit seconds=True"),
    ],
)
def test_an_error_about_a_rate_limit_names_its_field(make: Callable[[], Any], rule: str) -> None:
    with pytest.raises(ConfigurationError, match=rule):
        make()


# ---- good values --------------------------------------------------------------------------------


def test_good_values_are_kept_and_amounts_are_decimals() -> None:
    limit, ledger, mine = RateLimit.bucket(5), MemoryLedger(), default_catalog()
    made = settings(
        base_url="https://api.example/",
        max_requests_in_flight=1,
        max_running_jobs=2,
        rate_limit=limit,
        poll_interval=5,
        ledger=ledger,
        max_credits="30.50",
        resubmit_server_errors=True,
        callback_base_url="https://you.example/x/",
        callback_secret=LONG,
        request_timeout=1,
        transport=Dummy(),
        catalog=mine,
        allow_insecure=True,
    )
    assert made.base_url == "https://api.example"
    assert (made.rate_limit, made.ledger, made.catalog) == (limit, ledger, mine)
    assert isinstance(made.max_credits, Decimal)
    assert str(made.max_credits) == "30.5"
    assert made.callback_base_url == "https://you.example/x"
    assert made.resubmit_server_errors is True
    assert settings(max_credits=0).max_credits == 0
    assert settings(ledger=Path("jobs.db")).ledger == Path("jobs.db")
    assert settings(max_requests_per_minute=0.5).max_requests_per_minute == 0.5
    with pytest.raises(FrozenInstanceError):
        made.max_credits = None  # type: ignore[misc]


def test_left_out_settings_have_the_documented_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIVIDEO_BASE_URL", raising=False)
    made = settings()
    assert made.base_url == "https://api.aivideoapi.ai"
    assert made.max_requests_in_flight == 64
    assert made.request_timeout == 60.0
    assert made.catalog is default_catalog()
    others = {"api_key", "base_url", "max_requests_in_flight", "request_timeout", "catalog"}
    rest = {each.name: getattr(made, each.name) for each in attrs.fields(SessionSettings)}
    assert {name for name, value in rest.items() if value} == others
    assert {name for name, value in rest.items() if value is False} == {
        *("resubmit_server_errors", "trust_env", "allow_insecure"),
    }


@pytest.mark.parametrize("maker", [SessionSettings, Client])
def test_key_and_base_url_come_from_the_environment(
    maker: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIVIDEO_API_KEY", KEY)
    monkeypatch.setenv("AIVIDEO_BASE_URL", "http://localhost:8811/")
    assert maker().base_url == "http://localhost:8811"
    monkeypatch.setenv("AIVIDEO_BASE_URL", "ftp://x")
    with pytest.raises(ConfigurationError, match=r"^AIVIDEO_BASE_URL="):
        maker()
    monkeypatch.delenv("AIVIDEO_API_KEY")
    with pytest.raises(ConfigurationError, match="there is no API key; set AIVIDEO_API_KEY"):
        maker()


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("https://api.example/v1", "https://api.example"),
        ("https://api.example/v1/", "https://api.example"),
        ("https://api.example/behind/v1", "https://api.example/behind"),
        ("https://api.example/v1/v1", "https://api.example/v1"),
        ("https://api.example/xv1", "https://api.example/xv1"),
        ("https://api.example/v1beta", "https://api.example/v1beta"),
    ],
)
def test_one_trailing_version_of_the_base_url_is_dropped(given: str, used: str) -> None:
    assert settings(base_url=given).base_url == used
    assert Client(KEY, base_url=given).base_url == used


def test_evolve_validates_again() -> None:
    made = settings(callback_secret=LONG, proxy=PROXY, max_credits=5)
    changed = attrs.evolve(made, max_credits="7.5")
    assert changed.max_credits == Decimal("7.5")
    assert changed.callback_secret == made.callback_secret
    assert changed != made
    assert attrs.evolve(made) == made
    with pytest.raises(ConfigurationError, match="poll_interval"):
        attrs.evolve(made, poll_interval=INF)


def test_a_client_uses_the_settings_that_concern_it() -> None:
    made = settings(base_url="https://api.example", request_timeout=5, proxy=PROXY)
    client = Client.of(made)
    assert (client.base_url, client.request_timeout) == ("https://api.example", 5)
    assert PASSWORD in client.transport._proxy  # type: ignore[attr-defined]
    transport = Dummy()
    assert Client.of(settings(transport=transport)).transport is transport


# ---- secrets ------------------------------------------------------------------------------------


def test_secrets_are_never_shown() -> None:
    made = settings(callback_secret=LONG, proxy=PROXY)
    plain = attrs.asdict(made)
    for shown in (repr(made), str(made), f"{made}", repr(plain), f"{made.api_key}"):
        assert not any(each in shown for each in HIDDEN)
    assert repr(plain["api_key"]) == repr(plain["proxy"]) == "<secret>"
    assert isinstance(plain["callback_secret"], Secret)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(made)
    assert copy.deepcopy(made) == made
    assert made.api_key.reveal() == KEY
    assert KEY not in repr(SecretHeaders({"Authorization": KEY}))


@pytest.mark.parametrize(
    "wrong", [{"poll_interval": -1}, {"max_credits": 1.5}, {"base_url": "x"}, {"ledger": 5}]
)
def test_no_secret_is_shown_by_an_error_about_another_setting(wrong: dict[str, Any]) -> None:
    makers: list[Callable[..., Any]] = [settings, SessionSettings.from_env]
    for maker in makers:
        with pytest.raises(ConfigurationError) as caught:
            maker(**{"api_key": KEY, "callback_secret": LONG, "proxy": PROXY, **wrong})
        assert not any(each in shown_by(caught.value) for each in HIDDEN)


@pytest.mark.parametrize(
    "wrong",
    [
        {"api_key": "pk-0123456789"},
        {"api_key": "sk-0123456789 é"},
        {"callback_secret": "9876543210"},
        {"proxy": f"socks5://user:{PASSWORD}@proxy.example"},
        {"base_url": f"https://user:{PASSWORD}@api.example"},
        {"callback_base_url": f"https://user:{PASSWORD}@you.example/?token={KEY}"},
    ],
)
def test_no_wrong_secret_is_shown(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings(**wrong)
    assert not any(each in str(caught.value) for each in HIDDEN)
    assert not any(each in repr(vars(caught.value)) for each in HIDDEN)
    if "base_url" not in wrong and "callback_base_url" not in wrong:  # a frame parses the URL
        assert not any(each in shown_by(caught.value) for each in HIDDEN)


# ---- the environment ----------------------------------------------------------------------------

FULL_ENVIRONMENT = {
    "AIVIDEO_API_KEY": KEY,
    "AIVIDEO_BASE_URL": "http://api.example/v1",
    "AIVIDEO_LEDGER": "jobs.db",
    "AIVIDEO_MAX_CREDITS": "30.50",
    "AIVIDEO_MAX_REQUESTS_PER_MINUTE": "600.5",
    "AIVIDEO_MAX_RUNNING_JOBS": "100",
    "AIVIDEO_MAX_REQUESTS_IN_FLIGHT": " 32 ",
    "AIVIDEO_POLL_INTERVAL": "7.5",
    "AIVIDEO_REQUEST_TIMEOUT": "30",
    "AIVIDEO_RESUBMIT_SERVER_ERRORS": "Yes",
    "AIVIDEO_CALLBACK_BASE_URL": "https://you.example/x",
    "AIVIDEO_CALLBACK_SECRET": LONG,
    "AIVIDEO_ALLOW_INSECURE": "1",
    "AIVIDEO_TRUST_ENV": "no",
    "AIVIDEO_UNRELATED": "is ignored",
    "PATH": "/bin",
}


def test_every_variable_is_read() -> None:
    assert SessionSettings.from_env(FULL_ENVIRONMENT) == settings(
        base_url="http://api.example",
        ledger="jobs.db",
        max_credits=Decimal("30.5"),
        max_requests_per_minute=600.5,
        max_running_jobs=100,
        max_requests_in_flight=32,
        poll_interval=7.5,
        request_timeout=30.0,
        resubmit_server_errors=True,
        callback_base_url="https://you.example/x",
        callback_secret=LONG,
        allow_insecure=True,
        trust_env=False,
    )
    named = SessionSettings.from_env.__doc__ or ""
    assert [each for each in FULL_ENVIRONMENT if each[:8] == "AIVIDEO_" and each not in named] == [
        "AIVIDEO_UNRELATED"
    ]


def test_overrides_take_precedence_none_included() -> None:
    made = SessionSettings.from_env(
        FULL_ENVIRONMENT,
        api_key="sk-other",
        base_url="https://other.example",
        max_credits=None,
        poll_interval=1.0,
        proxy=PROXY,
    )
    assert made.api_key == Secret("sk-other")
    assert made.base_url == "https://other.example"
    assert made.max_credits is None
    assert made.poll_interval == 1.0
    assert made.max_running_jobs == 100
    wrong = {**FULL_ENVIRONMENT, "AIVIDEO_POLL_INTERVAL": "often"}
    assert SessionSettings.from_env(wrong, poll_interval=2.0).poll_interval == 2.0
    with pytest.raises(ConfigurationError, match=r"^max_running_jobs="):
        SessionSettings.from_env(FULL_ENVIRONMENT, max_running_jobs=0)
    with pytest.raises(TypeError, match="timeout"):
        SessionSettings.from_env(FULL_ENVIRONMENT, timeout=3)


def test_the_environment_of_this_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("AIVIDEO_"):
            monkeypatch.delenv(name)
    with pytest.raises(ConfigurationError, match="there is no API key"):
        SessionSettings.from_env()
    monkeypatch.setenv("AIVIDEO_API_KEY", KEY)
    monkeypatch.setenv("AIVIDEO_MAX_CREDITS", "5")
    assert SessionSettings.from_env() == settings(max_credits=5)
    with pytest.raises(ConfigurationError, match="there is no API key"):
        SessionSettings.from_env({})


@pytest.mark.parametrize(
    ("variable", "text", "rule"),
    [
        ("AIVIDEO_BASE_URL", "api.example", "needs a scheme"),
        ("AIVIDEO_LEDGER", "", "is not a path"),
        ("AIVIDEO_MAX_CREDITS", "", "decimal number"),
        ("AIVIDEO_MAX_CREDITS", "none", "decimal number"),
        ("AIVIDEO_MAX_CREDITS", "-5", "must not be negative"),
        ("AIVIDEO_MAX_REQUESTS_PER_MINUTE", "inf", "must be a number"),
        ("AIVIDEO_MAX_REQUESTS_PER_MINUTE", "0", "above 0"),
        ("AIVIDEO_MAX_RUNNING_JOBS", "1.5", "must be a whole number"),
        ("AIVIDEO_MAX_RUNNING_JOBS", "٣", "must be a whole number"),
        ("AIVIDEO_MAX_REQUESTS_IN_FLIGHT", "-1", "above 0"),
        ("AIVIDEO_MAX_REQUESTS_IN_FLIGHT", "", "must be a whole number"),
        ("AIVIDEO_POLL_INTERVAL", "nan", "must be a number"),
        ("AIVIDEO_POLL_INTERVAL", "1e3", "must be a number"),
        ("AIVIDEO_REQUEST_TIMEOUT", "60s", "must be a number"),
        ("AIVIDEO_RESUBMIT_SERVER_ERRORS", "on", "must be true or false"),
        ("AIVIDEO_RESUBMIT_SERVER_ERRORS", "", "must be true or false"),
        ("AIVIDEO_TRUST_ENV", "2", "must be true or false"),
        ("AIVIDEO_ALLOW_INSECURE", "maybe", "must be true or false"),
        ("AIVIDEO_CALLBACK_BASE_URL", "you.example", "without a query"),
        ("AIVIDEO_CALLBACK_SECRET", "", "at least 16 characters"),
        ("AIVIDEO_CALLBACK_SECRET", "9876543210", "at least 16 characters"),
    ],
)
def test_an_error_names_the_variable(variable: str, text: str, rule: str) -> None:
    environ = {**FULL_ENVIRONMENT, variable: text}
    with pytest.raises(ConfigurationError) as caught:
        SessionSettings.from_env(environ)
    error = caught.value
    assert error.field == variable
    assert str(error).startswith((f"{variable}=", f"{variable}: "))
    assert rule in str(error)
    assert error.cure
    assert not any(each in shown_by(error) for each in HIDDEN)


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("1", True), ("YES", True), ("false", False), ("0", False), ("no", False)],
)
def test_a_flag_accepts_a_few_words(text: str, value: bool) -> None:
    environ = {"AIVIDEO_API_KEY": KEY, "AIVIDEO_RESUBMIT_SERVER_ERRORS": text}
    assert SessionSettings.from_env(environ).resubmit_server_errors is value


def test_settings_import_no_aiohttp() -> None:
    program = (
        "import sys; from aivideo.settings import SessionSettings; "
        "SessionSettings(api_key='sk-x', ledger=None); "
        "print({'aiohttp', 'anyio', 'cattrs', 'sqlite3'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "set()"
