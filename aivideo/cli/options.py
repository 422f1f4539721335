"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, Token

from aivideo._amounts import exact


def _whole_number(_: object, tokens: Sequence[Token]) -> int:
    value = tokens[0].value
    if not re.fullmatch(r"[+-]?[0-9][0-9_]*", value):  # 7.6 is not rounded to 8, which costs more
        raise ValueError(f"{value!r} is not a whole number")
    return int(value)


def _ceiling(_: object, tokens: Sequence[Token]) -> Decimal | Literal["none"]:
    value = tokens[0].value
    if value == "none":
        return "none"
    try:
        amount = exact(value)
    except ValueError as error:
        raise ValueError(f"{value!r} {error}, or none") from None
    if amount < 0:
        raise ValueError(f"{value!r} must be 0 credits or more, or none")
    return amount


BaseURL = Annotated[
    str | None, Parameter(help="The service's URL; default: AIVIDEO_BASE_URL, else the real one.")
]
AsJSON = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON to stdout.")]
LedgerPath = Annotated[
    Path, Parameter(name="--ledger", help="The ledger file, or the folder that holds aivideo.db.")
]
Flag = Annotated[bool, Parameter(negative="")]
Whole = Annotated[int, Parameter(converter=_whole_number)]
WholeOrNone = Annotated[int | None, Parameter(converter=_whole_number)]
Ceiling = Annotated[Decimal | Literal["none"] | None, Parameter(converter=_ceiling)]
Pace = Annotated[
    float | None,
    Parameter(help="The key's rate limit, if you know it; otherwise it is measured."),
]
