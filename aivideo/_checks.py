"""Checks of single settings; :mod:`aivideo.settings` puts them together.

A validator is what attrs calls with the instance, the attribute and its value. ``read_…``
functions return the value that is used.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from aivideo import _amounts
from aivideo._secrets import Secret
from aivideo.catalog import Catalog, is_web_url
from aivideo.errors import ConfigurationError

DEFAULT_BASE_URL = "https://api.aivideoapi.ai"

SHORTEST_CALLBACK_SECRET = 16
"""Characters. Whoever guesses the secret can forge callbacks."""

_LARGEST = 1e9

because = ConfigurationError.because


# --- validators -------------------------------------------------------------------------------

Validator: TypeAlias = Callable[[Any, Any, Any], None]
"""What attrs calls with the instance, the attribute and the value."""


def whole(cure: str) -> Validator:
    """Accept an int above 0, or None if that is the default."""

    def validate(_: object, attribute: Any, value: Any) -> None:
        if value is None and attribute.default is None:
            return
        if type(value) is not int or not 0 < value <= _LARGEST:
            raise because(attribute.name, value, "must be an int above 0", cure)

    return validate


def number(cure: str) -> Validator:
    """Accept a finite int or float above 0, or None if that is the default."""

    def validate(_: object, attribute: Any, value: Any) -> None:
        if value is None and attribute.default is None:
            return
        if not (type(value) is int or type(value) is float) or not 0 < value <= _LARGEST:
            rule = "must be a finite int or float above 0"
            raise because(attribute.name, value, rule, cure)

    return validate


def flag(_: object, attribute: Any, value: Any) -> None:
    """Accept a bool."""
    if type(value) is not bool:
        raise because(attribute.name, value, "must be a bool", "give True or False")


def is_ledger(_: object, attribute: Any, value: Any) -> None:
    """Accept a path, an object with a ledger's methods, or None."""
    if value is None:
        return
    if isinstance(value, str | os.PathLike):
        path = os.fspath(value)
        if not isinstance(path, str) or not path.strip():
            raise because(attribute.name, value, "is not a path", 'give "jobs.db", for example')
        return
    from aivideo.ledger import Ledger

    methods = {
        name: inspect.iscoroutinefunction(member)
        for name, member in vars(Ledger).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }
    _implements(attribute.name, value, methods, "a path or a Ledger (aivideo.ledger.Ledger)")


def is_transport(_: object, attribute: Any, value: Any) -> None:
    """Accept an object with a transport's methods, or None."""
    if value is not None:
        methods = {"send": True, "stream": False, "aclose": True}
        _implements(attribute.name, value, methods, "a Transport, such as AiohttpTransport()")


def _implements(name: str, value: object, methods: Mapping[str, bool], what: str) -> None:
    """Check that an object has the methods of a Protocol, and which of them are ``async def``."""
    wrong = [] if not isinstance(value, type) else [f"{value.__name__} is a class, not an object"]
    for method, is_async in methods.items():
        found = getattr(value, method, None)
        if not callable(found):
            wrong.append(f"has no method {method}()")
        elif is_async and not inspect.iscoroutinefunction(found):
            wrong.append(f"{method}() is not a coroutine function")
    if wrong:
        raise because(name, value, f"must be {what}: {', '.join(wrong[:3])}", f"give {what}")


def is_catalog(_: object, attribute: Any, value: Any) -> None:
    """Accept a catalogue."""
    if not isinstance(value, Catalog):
        raise because(
            attribute.name,
            value,
            "must be a Catalog",
            "give aivideo.catalog.default_catalog().with_models(…) or None",
        )


def is_instrumentation(_: object, attribute: Any, value: Any) -> None:
    """Accept a callable, or None."""
    if value is not None and not callable(value):
        raise because(
            attribute.name, value, "must be callable", "give a function of one event, or None"
        )


def is_proxy(_: object, attribute: Any, value: Secret | None) -> None:
    """Accept the sealed URL of a proxy, or None."""
    if value is not None and not (value.type_name == "str" and is_web_url(value.reveal())):
        raise ConfigurationError.of_secret(
            attribute.name,
            "must be an http:// or https:// URL",
            "give http://proxy.example:3128, for example",
        )


def is_callback_base_url(_: object, attribute: Any, value: Any) -> None:
    """Accept a URL to whose path a token can be added, or None."""
    if value is not None and (not is_web_url(value) or "?" in value or "#" in value):
        raise because(
            attribute.name,
            value,
            "must be an http:// or https:// URL without a query: a token is added to its path",
            "give https://you.example/callbacks, for example",
        )


def is_callback_secret(_: object, attribute: Any, value: Secret | None) -> None:
    """Accept a sealed text that is too long to guess, or None."""
    if value is None:
        return
    cure = "give the output of secrets.token_urlsafe(), or None to derive it from the API key"
    if value.type_name != "str":
        raise ConfigurationError.of_secret(
            attribute.name, f"must be a str, not {value.type_name}", cure
        )
    if len(value.reveal()) < SHORTEST_CALLBACK_SECRET:
        raise ConfigurationError.of_secret(
            attribute.name, f"must have at least {SHORTEST_CALLBACK_SECRET} characters", cure
        )


# --- API key, base URL and amounts ------------------------------------------------------------


def read_key(given: Secret | None) -> Secret:
    """Return the given API key, or the one in ``AIVIDEO_API_KEY``.

    Raises:
        ConfigurationError: no key was given, or the value is not an API key (it must start with
            ``sk-``).
    """
    secret = Secret(os.environ.get("AIVIDEO_API_KEY", "")) if given is None else given
    problem = _key_problem(secret)
    if problem is not None:
        raise ConfigurationError.of_secret("api_key", *problem)
    return secret


def _key_problem(secret: Secret) -> tuple[str, str] | None:
    """Return the rule that an API key breaks and the cure, or None."""
    key = secret.reveal()
    copy = "copy the whole key from the dashboard"
    if secret.type_name != "str":
        return f"the API key must be a str, not {secret.type_name}", copy
    if not key:
        return "there is no API key", (
            "set AIVIDEO_API_KEY, or pass api_key=… (to try without a key: `aivideo demo`, or "
            "`aivideo simulate` and any key sk-…)"
        )
    if not key.startswith("sk-") or len(key) < 4:
        return "the API key must start with 'sk-'", copy
    if not key.isascii() or not key.isprintable() or " " in key:
        return "the API key contains a space or an unprintable character", copy
    return None


def read_base_url(given: str | None, *, insecure: bool = False) -> str:
    """Return the given base URL, or ``AIVIDEO_BASE_URL``, or the service's own.

    Args:
        given: scheme, host and optionally a port and a path. One trailing ``/v1`` is dropped:
            this package's paths begin with it.
        insecure: allow ``http://`` to hosts other than this machine.

    Raises:
        ConfigurationError: not a URL, no scheme, no host, or the key would be sent unencrypted.
    """
    if given is None:
        given, name = os.environ.get("AIVIDEO_BASE_URL") or DEFAULT_BASE_URL, "AIVIDEO_BASE_URL"
    else:
        name = "base_url"
    cure = f"give {DEFAULT_BASE_URL}, for example"
    if not isinstance(given, str):
        raise because(name, given, f"must be a str, not {type(given).__name__}", cure)
    url = given.strip()
    if not url.isascii() or not url.isprintable() or " " in url:
        raise because(
            name,
            url,
            "contains a character that no URL may contain",
            "percent-encode the path, and write the host in its xn-- form",
        )
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise because(name, url, f"is not a URL ({error})", cure) from None
    if parts.scheme not in ("http", "https") or not host:
        raise because(name, url, "needs a scheme and a host", cure)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError.of_secret(
            name, "must not contain a user, a password, a query or a fragment", cure
        )
    if parts.scheme == "http" and not insecure and not _is_loopback(host):
        raise because(
            name,
            url,
            "would send the API key unencrypted",
            "use https://, or pass allow_insecure=True if you must",
        )
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _is_loopback(host: str) -> bool:
    import ipaddress

    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_credits(name: str, value: object) -> Decimal | None:
    """Convert a ceiling on credits, the argument ``name``: an int, a str, a Decimal or None.

    Raises:
        ConfigurationError: it is a float, not a number, negative or not finite.
    """
    if value is None:
        return None
    try:
        amount = _amounts.exact(value)
    except ValueError as error:
        raise because(name, value, str(error), 'give 1000, "30.5" or None') from None
    if amount < 0:
        raise because(name, value, "must not be negative", "give 0 or more, or None")
    return amount
