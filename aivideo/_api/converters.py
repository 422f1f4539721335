"""Task objects, callbacks and the balance, structured by cattrs: the fast of two readings.

The hooks here accept what the provider's page documents, with exact types and plain URLs, and
raise some exception for anything else. They never decide that an answer is wrong: what they refuse
is read once more by :mod:`aivideo._api.tolerant`, which has no time target, accepts more, and
names the field that it cannot read. ``tests/api/test_converters.py`` holds that both readings
agree on every documented body.

cattrs is imported when the first answer is read, so ``import aivideo`` and ``Session(...)`` do not
pay for it. To read another type, write a ``configure_…(converter)`` function of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from aivideo._amounts import exact
from aivideo.models import (
    CompletedTask,
    Credits,
    FailedTask,
    PendingTask,
    ProcessingTask,
    Task,
)

if TYPE_CHECKING:
    import cattrs

_PLAIN_URL = re.compile(
    r"https?://[A-Za-z0-9][A-Za-z0-9.-]*(?::[1-9][0-9]{0,3})?(?:[/?#][!-~]*)?"
).fullmatch
"""Matches URLs that :func:`aivideo.catalog.is_web_url` accepts too, in a fraction of its time. Any
other URL (a port of five digits, IPv6, non-ASCII) is left to the tolerant reading."""


@cache
def task_hook() -> Callable[[Any, Any], Task]:
    """Return the hook that structures a documented task object; call it with ``Task``."""
    converter = _strict_converter()
    configure_tasks(converter)
    return converter.get_structure_hook(Task)


@cache
def credits_hook() -> Callable[[Any, Any], Credits]:
    """Return the hook that structures a documented balance; call it with ``Credits``."""
    converter = _strict_converter()
    configure_credits(converter)
    return converter.get_structure_hook(Credits)


def _strict_converter() -> cattrs.Converter:
    import cattrs

    # Without detailed validation: its error groups would only be thrown away.
    return cattrs.Converter(detailed_validation=False)


def configure_tasks(converter: cattrs.Converter) -> None:
    """Teach a converter to structure :data:`~aivideo.models.Task` ("处理中", "完成", "失败")."""
    from cattrs.gen import make_dict_structure_fn, override

    converter.register_structure_hook(str, _text)
    converter.register_structure_hook(datetime, _moment)
    progress = override(struct_hook=_progress)
    fields_of: dict[type[Any], dict[str, Any]] = {
        PendingTask: {"progress": progress},
        ProcessingTask: {"progress": progress},
        CompletedTask: {  # two attributes from one nested object
            "urls": override(rename="output", struct_hook=_urls),
            "metadata": override(rename="output", struct_hook=_metadata),
        },
        FailedTask: {},
    }
    by_status: dict[str, Callable[[Any, Any], Any]] = {}
    for cls, overrides in fields_of.items():
        hook = make_dict_structure_fn(
            cls, converter, raw=override(struct_hook=_unchanged), **overrides
        )
        converter.register_structure_hook(cls, hook)
        by_status[cls.status.value] = hook

    def structure_task(body: Any, _: object) -> Any:
        return by_status[body["status"]]({**body, "raw": body}, None)

    converter.register_structure_hook(Task, structure_task)


def configure_credits(converter: cattrs.Converter) -> None:
    """Teach a converter to structure :class:`~aivideo.Credits`, with the envelope around it."""
    from cattrs.gen import make_dict_structure_fn, override

    amount = override(struct_hook=_whole_amount)
    structure_data = make_dict_structure_fn(
        Credits, converter, balance=amount, total_purchased=amount, total_consumed=amount
    )

    def structure_credits(body: Any, _: object) -> Credits:
        if body["code"] != 200:
            raise ValueError("the envelope does not report a success")
        return structure_data(body["data"], Credits)

    converter.register_structure_hook(Credits, structure_credits)


# Hooks of single fields. `type(…) is …`, not isinstance: True is not a number. Nothing is coerced.


def _text(value: Any, _: object) -> str:
    if type(value) is str and value:
        return value
    raise TypeError("expected a non-empty string")


def _moment(value: Any, _: object) -> datetime:
    if type(value) is int:
        return datetime.fromtimestamp(value, UTC)
    raise TypeError("expected Unix seconds")


def _progress(value: Any, _: object) -> float | None:
    if value is None or type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    raise TypeError("expected a number or null")


def _urls(output: Any, _: object) -> tuple[str, ...]:
    urls = output["urls"]
    if type(urls) is list and all(map(_PLAIN_URL, urls)):
        return tuple(urls)
    raise TypeError("expected an array of plain http(s) URLs")


def _metadata(output: Any, _: object) -> Mapping[str, Any]:
    metadata = output["metadata"]
    if type(metadata) is dict:
        return metadata
    raise TypeError("expected an object")


def _whole_amount(value: Any, _: object) -> Decimal:
    if type(value) is int:
        return exact(value)
    raise TypeError("expected an integer")  # a fraction is parsed from its text: see `tolerant`


def _unchanged(value: Any, _: object) -> Any:
    return value
