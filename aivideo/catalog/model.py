"""One entry of the catalogue: a model's endpoint, rules and price."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache

from attrs import frozen

from aivideo._amounts import exact
from aivideo.catalog.prices import Price
from aivideo.catalog.rules import Rule
from aivideo.errors import ConfigurationError, InvalidRequestError

VIDEOS = "/v1/videos/generations"
IMAGES = "/v1/images/generations"


@frozen(kw_only=True)
class Model:
    """One entry of the catalogue.

    Attributes:
        name: the service's name of the model.
        endpoint: the path of its create requests.
        fields: the rules of ``input``; None: not known, so any input is sent unchecked.
        price: what a request costs; None: not known.
        kind: the input fields that determine how long a task takes. Jobs with equal values there
            share what was learned about when to poll.
    """

    name: str
    endpoint: str = VIDEOS
    fields: tuple[Rule, ...] | None = None
    price: Price | None = None
    kind: tuple[str, ...] = ()

    def check(
        self, model_input: Mapping[str, object], shown_as: Mapping[str, str] | None = None
    ) -> None:
        """Check an input against ``fields``.

        Args:
            model_input: the ``input`` object of the request.
            shown_as: the caller's name of a field, where it differs (``{"image_urls": "image"}``).

        Raises:
            InvalidRequestError: a field is missing, unknown, or breaks its rule.
        """
        if self.fields is None:
            return
        names = shown_as or {}
        for rule in self.fields:
            shown = names.get(rule.name, rule.name)
            if rule.name not in model_input:
                if rule.required:
                    raise InvalidRequestError.because(
                        shown, None, f"is required by {self.name}", f"add {shown}"
                    )
                continue
            problem = rule.problem(model_input[rule.name])
            if problem is not None:
                raise InvalidRequestError.because(shown, model_input[rule.name], *problem)
        known = {rule.name for rule in self.fields}
        for name, value in model_input.items():
            if name not in known:
                raise InvalidRequestError.because(
                    name, value, f"is no input field of {self.name}", f"use {sorted(known)}"
                )

    def credits(self, model_input: Mapping[str, object]) -> Decimal | None:
        """Return the price of a request with a valid ``model_input``, or None if it is not known.

        Raises:
            ConfigurationError: ``price`` computed a float or a negative amount.
        """
        amount: object = None if self.price is None else self.price.credits(model_input)
        if amount is None:
            return None
        try:
            priced = exact(amount)
        except ValueError as error:
            raise ConfigurationError.because(
                f"price of {self.name}", amount, str(error), "compute it with Decimal"
            ) from None
        if priced < 0:
            raise ConfigurationError.because(
                f"price of {self.name}", amount, "must not be negative", "correct the catalogue"
            )
        return _shared(priced)


@lru_cache(maxsize=1024)
def _shared(amount: Decimal) -> Decimal:
    """Return one object for equal amounts: thousands of waiting requests have the same price."""
    return amount
