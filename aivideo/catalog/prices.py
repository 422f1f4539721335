"""Prices as data: what a request costs, as exact decimals of credits."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Protocol

import attrs
from attrs import frozen

from aivideo._amounts import exact, times
from aivideo.errors import ConfigurationError


class Price(Protocol):
    """How many credits one request costs."""

    def credits(self, model_input: Mapping[str, object]) -> Decimal | None:
        """Return the credits of a request with a valid ``model_input``, or None if not known."""
        ...


def _rate(value: int | str | Decimal) -> Decimal:
    """Convert an amount of credits that a catalogue states."""
    try:
        amount = exact(value)
    except ValueError as error:
        raise ConfigurationError.because("price", value, str(error), 'write "30.5"') from None
    if amount < 0:
        raise ConfigurationError.because("price", value, "must not be negative", "give 0 or more")
    return amount


@frozen
class PerSecond:
    """A rate for each second of video.

    Attributes:
        rate: credits per second; an int, a str such as ``"30.5"``, or a Decimal.
        field: the input field that holds the seconds.
    """

    rate: Decimal = attrs.field(converter=_rate, repr=str)
    field: str = "duration"

    def credits(self, model_input: Mapping[str, object]) -> Decimal | None:
        """Return ``rate`` × the seconds; None if ``model_input`` has no whole number of them."""
        seconds = model_input.get(self.field)
        return times(self.rate, seconds) if type(seconds) is int else None


@frozen
class Flat:
    """The same price for every request.

    Attributes:
        each: credits per request; an int, a str such as ``"2.4"``, or a Decimal.
    """

    each: Decimal = attrs.field(converter=_rate, repr=str)

    def credits(self, model_input: Mapping[str, object]) -> Decimal | None:  # noqa: ARG002  a Price
        """Return ``each``."""
        return self.each
