"""The second reading of an answer: tolerant of odd shapes, exact about what is wrong.

:mod:`aivideo._api.converters` reads documented answers fast and refuses all others. Those come
here. A field that is extra is kept in ``raw``; one that is missing, null or mistyped is replaced
where a paid result can still be delivered without it; else :class:`UnreadableFieldError` names its
path (``$.output.urls[0]``).

To accept another shape of a field, change its one function. To read another field, add a row to
the table of its class.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

import orjson

from aivideo import catalog
from aivideo._amounts import exact
from aivideo.models import (
    CompletedTask,
    Credits,
    FailedTask,
    PendingTask,
    ProcessingTask,
    Task,
    TaskFailure,
    UnrecognizedTask,
)


class UnreadableFieldError(Exception):
    """A field that is missing, or that cannot be read; the message begins with its path."""


# --- JSON -------------------------------------------------------------------------------------


def task_object(body: bytes) -> dict[str, Any] | None:
    """Parse a JSON object, or return None where the body is not one.

    Where orjson refuses (a byte-order mark, half a surrogate pair, a cut UTF-8 character, a
    control character in a string), the standard library reads; what is no text becomes U+FFFD.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = _standard_json(body, float)
    return value if isinstance(value, dict) else None


def object_with_decimals(body: bytes) -> dict[str, Any] | None:
    """Parse a JSON object with its fractions as exact Decimals, or return None."""
    value = _standard_json(body, _decimal)
    return value if isinstance(value, dict) else None


def _standard_json(body: bytes, parse_float: Callable[[str], object]) -> object:
    try:
        text = body.decode("utf-8-sig", "replace")
        value = json.loads(
            text, strict=False, parse_float=parse_float, parse_constant=lambda _name: None
        )
        return _without_surrogates(value)
    except (ValueError, RecursionError):  # no JSON, an int of 4,300 digits, nested too deep
        return None


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent beyond what Decimal holds
        return Decimal("NaN")


def _without_surrogates(value: Any) -> Any:
    """Replace lone surrogates by U+FFFD: no file, database or terminal would take them."""
    match value:
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case list():
            return [_without_surrogates(each) for each in value]
        case dict():
            return {
                _without_surrogates(name): _without_surrogates(each) for name, each in value.items()
            }
        case _:
            return value


# --- tasks ------------------------------------------------------------------------------------

Fields: TypeAlias = Mapping[str, Callable[[Mapping[str, Any]], object]]
"""Name of an attribute -> the function that reads it from the whole object."""


def task(body: Mapping[str, Any]) -> Task:
    """Read a task object; a status that is not documented makes an ``UnrecognizedTask``.

    Raises:
        UnreadableFieldError: a field without which the task is of no use cannot be read.
    """
    cls, fields = _TASKS.get(_status(body), (UnrecognizedTask, _UNRECOGNIZED))
    return cls(**{name: read(body) for name, read in fields.items()}, raw=body)


def _status(body: Mapping[str, Any]) -> str:
    return _text(body, "status")


def _id(body: Mapping[str, Any]) -> str:
    return _text(body, "id")


def _model(body: Mapping[str, Any]) -> str:
    return _text(body, "model")


def _created_at(body: Mapping[str, Any]) -> datetime:
    return _moment(body, "created_at")


def _completed_at(body: Mapping[str, Any]) -> datetime:
    return _moment(body, "completed_at")


def _progress(body: Mapping[str, Any]) -> float | None:
    """Read the progress. The page shows null alone: anything but a number stays in ``raw``."""
    value = body.get("progress")
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _urls(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Read the URLs; none where they are missing: :mod:`aivideo._polling.lifecycle` waits then."""
    value = _output(body).get("urls")
    if value is None:
        return ()
    if not isinstance(value, list):
        raise UnreadableFieldError(f"$.output.urls is {_shown(value)}, expected an array")
    for place, url in enumerate(value):
        if not catalog.is_web_url(url):
            raise UnreadableFieldError(
                f"$.output.urls[{place}] is {_shown(url)}, expected an http(s) URL"
            )
    return tuple(value)


def _metadata(body: Mapping[str, Any]) -> Mapping[str, Any]:
    value = _output(body).get("metadata")
    return value if isinstance(value, dict) else {}


def _output(body: Mapping[str, Any]) -> Mapping[str, Any]:
    value = body.get("output")
    return value if isinstance(value, dict) else {}


def _failure(body: Mapping[str, Any]) -> TaskFailure:
    """Read the reason. A failed task without one has failed all the same: polling must end."""
    value = body.get("error")
    error = value if isinstance(value, dict) else {}
    code, message = error.get("code"), error.get("message")
    return TaskFailure(
        code if isinstance(code, str) and code else "unspecified",
        message if isinstance(message, str) and message else "the service gave no reason",
    )


_COMMON: Fields = {"id": _id, "model": _model, "created_at": _created_at}
_RUNNING: Fields = {**_COMMON, "progress": _progress}
_COMPLETED: Fields = {
    **_COMMON,
    "completed_at": _completed_at,
    "urls": _urls,
    "metadata": _metadata,
}
_UNRECOGNIZED: Fields = {**_RUNNING, "status": _status}

_TASKS: dict[str, tuple[Callable[..., Task], Fields]] = {
    "pending": (PendingTask, _RUNNING),
    "processing": (ProcessingTask, _RUNNING),
    "completed": (CompletedTask, _COMPLETED),
    "failed": (FailedTask, {**_COMMON, "error": _failure}),
}
"""Status -> the class of its tasks, and how each attribute is read."""


# --- the balance ------------------------------------------------------------------------------


def account_credits(body: Mapping[str, Any]) -> Credits:
    """Read a balance from an object whose fractions are Decimals.

    Raises:
        UnreadableFieldError: the envelope does not report a success, or an amount cannot be read.
    """
    code, data = body.get("code"), body.get("data")
    if code != 200:
        raise UnreadableFieldError(f"$.code is {_shown(code)}, expected 200")
    if not isinstance(data, dict):
        raise UnreadableFieldError(f"$.data is {_shown(data)}, expected an object")
    amounts: dict[str, Any] = {
        name: _amount(data, name) for name in ("balance", "total_purchased", "total_consumed")
    }
    return Credits(**amounts)


def _amount(data: Mapping[str, Any], name: str) -> Decimal:
    value = data.get(name)
    if not isinstance(value, int | Decimal) or isinstance(value, bool):
        raise UnreadableFieldError(f"$.data.{name} is {_shown(value)}, expected a number")
    try:
        return exact(value)
    except ValueError as error:
        raise UnreadableFieldError(f"$.data.{name} {error}") from None


# --- kinds of fields --------------------------------------------------------------------------


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if isinstance(value, str) and value:
        return value
    raise UnreadableFieldError(f"$.{name} is {_shown(value)}, expected a non-empty string")


def _moment(body: Mapping[str, Any], name: str) -> datetime:
    value = body.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            pass
    raise UnreadableFieldError(f"$.{name} is {_shown(value)}, expected a time in Unix seconds")


def _shown(value: object) -> str:
    """Describe a value by its type; its content may be a signed URL."""
    match value:
        case None:
            return "missing or null"
        case bool():
            return "a boolean"
        case int() | float() | Decimal():
            return "a number" if len(text := str(value)) > 20 else f"the number {text}"
        case "":
            return "empty"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"
