"""Every setting of a session, validated once: Session, Client and the command line share it.

:class:`SessionSettings` takes exact types: ``"60"`` is not a number, and ``"false"`` is not False
(a non-empty text is true, and ``resubmit_server_errors`` may pay twice). Text is parsed in one
place, :meth:`SessionSettings.from_env`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self

from attrs import field, fields, frozen

from aivideo._checks import (
    DEFAULT_BASE_URL,
    because,
    flag,
    is_callback_base_url,
    is_callback_secret,
    is_catalog,
    is_instrumentation,
    is_ledger,
    is_proxy,
    is_transport,
    number,
    read_base_url,
    read_credits,
    read_key,
    whole,
)
from aivideo._redaction import scrub
from aivideo._secrets import Secret, seal
from aivideo.catalog import Catalog, default_catalog
from aivideo.errors import ConfigurationError

if TYPE_CHECKING:
    from aivideo._api.transport import Transport
    from aivideo.events import Instrumentation
    from aivideo.ledger import Ledger

DEFAULT_REQUEST_TIMEOUT = 60.0
"""Seconds."""


def _scrubbed(value: object) -> str:
    return scrub(repr(value))


# --- a rate limit that the user knows ----------------------------------------------------------


@frozen
class RateLimit:
    """A rate limit that the user knows, so that no 429 occurs.

    Create it with :meth:`bucket` or :meth:`window`.

    Attributes:
        count: requests …
        seconds: … per so many seconds.
        burst: requests that a token bucket accepts at once; None for a window.

    Raises:
        ConfigurationError: a value is not a number above 0 and below 1e9, ``burst`` is below 1 or
            not an int, or ``count`` of a window is below 1.
    """

    count: float
    seconds: float
    burst: int | None = None

    def __attrs_post_init__(self) -> None:
        cure = "use RateLimit.bucket(50, burst=10) or RateLimit.window(20, seconds=10)"
        for name, value in (("count", self.count), ("seconds", self.seconds)):
            is_number = type(value) is int or type(value) is float
            if not is_number or not 0 < value < 1e9:
                rule = "must be an int or float above 0 and below 1e9"
                raise because(f"RateLimit {name}", value, rule, cure)
        if self.burst is None:
            if self.count < 1:
                raise because("RateLimit count", self.count, "of a window is at least 1", cure)
        elif type(self.burst) is not int or not 1 <= self.burst < 1e9:
            raise because("RateLimit burst", self.burst, "must be an int, at least 1", cure)

    @classmethod
    def bucket(cls, rate: float, *, burst: int = 1) -> Self:
        """Return a token bucket: ``rate`` requests per second, ``burst`` at once after a pause."""
        return cls(rate, 1.0, burst)

    @classmethod
    def window(cls, count: int, *, seconds: float) -> Self:
        """Return a window: at most ``count`` requests in any ``seconds`` seconds."""
        return cls(count, seconds)

    @property
    def rate(self) -> float:
        """Requests per second in the long run."""
        return self.count / self.seconds


def _is_rate_limit(_: object, attribute: Any, value: Any) -> None:
    if value is not None and not isinstance(value, RateLimit):
        raise because(
            attribute.name,
            value,
            "must be a RateLimit",
            "give RateLimit.bucket(50, burst=10) or RateLimit.window(20, seconds=10)",
        )


# --- the settings -----------------------------------------------------------------------------


@frozen(kw_only=True, init=False)
class SessionSettings:
    """Every setting of a :class:`~aivideo.Session`, validated.

    Secrets (``api_key``, ``callback_secret``, ``proxy``) are :class:`Secret` objects: repr, str,
    ``attrs.asdict``, errors and tracebacks do not show them, and pickle refuses them.

    Attributes:
        api_key: ``sk-…``; by default ``AIVIDEO_API_KEY``.
        base_url: by default ``AIVIDEO_BASE_URL``, otherwise the service's own.
        max_requests_in_flight: the largest number of concurrent HTTP requests.
        max_running_jobs: the largest number of tasks running at the service; None: no limit.
        max_requests_per_minute: the key's rate limit, if known; None: it is learned.
        rate_limit: the same, exactly: a :class:`~aivideo.RateLimit`. Give one of the two.
        poll_interval: seconds between two polls of a task; None: learned, which costs less.
        ledger: where jobs are recorded: a path (an SQLite file, created if missing) or a
            :class:`~aivideo.Ledger`; None: in memory.
        max_credits: the most credits that may be charged, reserved or of unknown outcome in this
            session; an int, a str such as ``"30.5"``, or a Decimal; None: no ceiling.
        resubmit_server_errors: send a create request again after a 500 or 503. Whether it was
            charged is not documented, so this may pay twice.
        callback_base_url: the public URL of your callback handler, without a query.
        callback_secret: what callback tokens are made with, at least 16 characters; None: derived
            from the API key.
        request_timeout: seconds for one HTTP request, connecting included.
        trust_env: read proxies from ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY``, ``NO_PROXY``.
        proxy: URL of an HTTP proxy for all requests; it may contain a user and a password.
        transport: what sends the requests; None: an :class:`~aivideo.AiohttpTransport`.
        catalog: rules and prices; None: the built-in catalogue.
        instrumentation: what is told of events, or None.
        allow_insecure: allow an ``http://`` base URL to a host other than this machine.

    Raises:
        ConfigurationError: a value is invalid; the error has field, value, rule and cure.
    """

    api_key: Secret
    base_url: str
    max_requests_in_flight: int = field(validator=whole("give 64, for example"))
    max_running_jobs: int | None = field(
        default=None, validator=whole("give 100, for example, or None for no limit")
    )
    max_requests_per_minute: float | None = field(
        default=None, validator=number("give 600, for example, or None to learn the limit")
    )
    rate_limit: RateLimit | None = field(validator=_is_rate_limit)
    poll_interval: float | None = field(
        default=None, validator=number("give 5.0 (seconds), for example, or None to learn it")
    )
    ledger: Ledger | str | os.PathLike[str] | None = field(validator=is_ledger)
    max_credits: Decimal | None
    resubmit_server_errors: bool = field(validator=flag)
    callback_base_url: str | None = field(validator=is_callback_base_url)
    callback_secret: Secret | None = field(validator=is_callback_secret)
    request_timeout: float = field(validator=number("give 60.0 (seconds), for example"))
    trust_env: bool = field(validator=flag)
    proxy: Secret | None = field(validator=is_proxy)
    transport: Transport | None = field(validator=is_transport)
    catalog: Catalog = field(validator=is_catalog, repr=False)
    instrumentation: Instrumentation | None = field(validator=is_instrumentation)
    allow_insecure: bool = field(validator=flag)

    def __init__(
        self,
        *,
        api_key: str | Secret | None = None,
        base_url: str | None = None,
        max_requests_in_flight: int = 64,
        max_running_jobs: int | None = None,
        max_requests_per_minute: float | None = None,
        rate_limit: RateLimit | None = None,
        poll_interval: float | None = None,
        ledger: Ledger | str | os.PathLike[str] | None = None,
        max_credits: int | str | Decimal | None = None,
        resubmit_server_errors: bool = False,
        callback_base_url: str | None = None,
        callback_secret: str | Secret | None = None,
        request_timeout: float = DEFAULT_REQUEST_TIMEOUT,
        trust_env: bool = False,
        proxy: str | Secret | None = None,
        transport: Transport | None = None,
        catalog: Catalog | None = None,
        instrumentation: Instrumentation | None = None,
        allow_insecure: bool = False,
    ) -> None:
        # Written out, and not made by attrs: the plain secrets must leave the frame before
        # anything can raise, for a traceback may show a frame's locals.
        api_key, callback_secret, proxy = seal(api_key), seal(callback_secret), seal(proxy)
        if isinstance(callback_base_url, str):
            callback_base_url = callback_base_url.rstrip("/")
        self.__attrs_init__(  # pyright: ignore[reportAttributeAccessIssue]  attrs makes it
            api_key=read_key(api_key),
            base_url=read_base_url(base_url, insecure=allow_insecure is True),
            max_requests_in_flight=max_requests_in_flight,
            max_running_jobs=max_running_jobs,
            max_requests_per_minute=max_requests_per_minute,
            rate_limit=rate_limit,
            poll_interval=poll_interval,
            ledger=ledger,
            max_credits=read_credits("max_credits", max_credits),
            resubmit_server_errors=resubmit_server_errors,
            callback_base_url=callback_base_url,
            callback_secret=callback_secret,
            request_timeout=request_timeout,
            trust_env=trust_env,
            proxy=proxy,
            transport=transport,
            catalog=default_catalog() if catalog is None else catalog,
            instrumentation=instrumentation,
            allow_insecure=allow_insecure,
        )

    def __repr__(self) -> str:
        # Of an instance whose constructor raised, a traceback shows this with no attributes set.
        shown = ", ".join(
            f"{each.name}={_scrubbed(getattr(self, each.name))}"
            for each in fields(type(self))
            if each.repr and hasattr(self, each.name)
        )
        return f"SessionSettings({shown})"

    def __attrs_post_init__(self) -> None:
        if self.rate_limit is not None and self.max_requests_per_minute is not None:
            raise because(
                "rate_limit",
                self.rate_limit,
                "states the limit a second time, besides max_requests_per_minute",
                "give one of the two",
            )
        if self.transport is not None and (self.proxy is not None or self.trust_env):
            raise because(
                "transport",
                self.transport,
                "does not use proxy or trust_env, which were given too",
                "give AiohttpTransport(proxy=…, trust_env=…), or no transport",
            )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """Read settings from environment variables: ``AIVIDEO_`` and the setting's name.

        ``AIVIDEO_API_KEY``, ``AIVIDEO_BASE_URL``, ``AIVIDEO_LEDGER`` (a path),
        ``AIVIDEO_MAX_CREDITS``, ``AIVIDEO_MAX_REQUESTS_PER_MINUTE``, ``AIVIDEO_MAX_RUNNING_JOBS``,
        ``AIVIDEO_MAX_REQUESTS_IN_FLIGHT``, ``AIVIDEO_POLL_INTERVAL`` and
        ``AIVIDEO_REQUEST_TIMEOUT`` (seconds), ``AIVIDEO_CALLBACK_BASE_URL``,
        ``AIVIDEO_CALLBACK_SECRET``; and, each true, false, 1, 0, yes or no,
        ``AIVIDEO_RESUBMIT_SERVER_ERRORS``, ``AIVIDEO_ALLOW_INSECURE``, ``AIVIDEO_TRUST_ENV``.
        Other variables are ignored. An empty variable is an error, except for an empty
        ``AIVIDEO_BASE_URL``: an empty ``AIVIDEO_MAX_CREDITS`` must not mean “no ceiling”.

        Args:
            environ: the variables; None: those of this process (``os.environ``).
            overrides: settings that take precedence over the environment, as the constructor
                takes them. None counts: ``max_credits=None`` lifts ``AIVIDEO_MAX_CREDITS``.

        Raises:
            ConfigurationError: a value is invalid; the error names the variable.
        """
        values: dict[str, Any] = {
            name: seal(value) if name in _SECRETS else value for name, value in overrides.items()
        }
        del overrides
        environ = os.environ if environ is None else environ
        texts = {
            name: Secret(environ[variable])
            for name, (variable, _) in _VARIABLES.items()
            if values.get(name, _ABSENT) is _ABSENT and variable in environ
        }
        if values.get("api_key") is None:
            values["api_key"] = Secret(environ.get("AIVIDEO_API_KEY", ""))
        base_url = environ.get("AIVIDEO_BASE_URL") or DEFAULT_BASE_URL
        del environ  # a traceback may show a frame's locals
        used = {name: _VARIABLES[name][0] for name in texts}
        if values.get("base_url") is None:
            values["base_url"], used["base_url"] = base_url, "AIVIDEO_BASE_URL"
        for name, text in texts.items():
            variable, parse = _VARIABLES[name]
            values[name] = parse(variable, text)
        try:
            return cls(**values)
        except ConfigurationError as error:
            if error.field not in used:
                raise
            raise _renamed(error, used[error.field]) from None


def _renamed(error: ConfigurationError, variable: str) -> ConfigurationError:
    """Make the same error, about an environment variable."""
    rule, cure = str(error.rule), str(error.cure)
    if error.value is None:
        return ConfigurationError.of_secret(variable, rule, cure)
    return because(variable, error.value, rule, cure)


# --- text -------------------------------------------------------------------------------------


def _as_text(_: str, text: Secret) -> str:
    return text.reveal()


def _as_secret(_: str, text: Secret) -> Secret:
    return text


def _as_int(variable: str, text: Secret) -> int:
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text.reveal()):
        return int(text.reveal())
    raise because(variable, text.reveal(), "must be a whole number", "write 64, for example")


def _as_float(variable: str, text: Secret) -> float:
    if re.fullmatch(r"[+-]?[0-9]{1,18}(\.[0-9]*)?", text.reveal()):
        return float(text.reveal())
    raise because(variable, text.reveal(), "must be a number", "write 60 or 7.5, for example")


def _as_bool(variable: str, text: Secret) -> bool:
    found = _FLAGS.get(text.reveal().lower())
    if found is None:
        raise because(variable, text.reveal(), "must be true or false", f"write {_ONE_OF}")
    return found


_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_ONE_OF = "true, false, 1, 0, yes or no"
_SECRETS = {"api_key", "callback_secret", "proxy"}
_ABSENT: Any = object()
_VARIABLES: Mapping[str, tuple[str, Callable[[str, Secret], object]]] = {
    name: (f"AIVIDEO_{name.upper()}", parse)
    for name, parse in (
        ("ledger", _as_text),
        ("max_credits", _as_text),
        ("max_requests_per_minute", _as_float),
        ("max_running_jobs", _as_int),
        ("max_requests_in_flight", _as_int),
        ("poll_interval", _as_float),
        ("request_timeout", _as_float),
        ("resubmit_server_errors", _as_bool),
        ("callback_base_url", _as_text),
        ("callback_secret", _as_secret),
        ("allow_insecure", _as_bool),
        ("trust_env", _as_bool),
    )
}
"""Setting -> its variable and how its text is parsed."""
