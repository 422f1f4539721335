"""The catalogue: immutable, and given to whoever uses it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from attrs import field, frozen

from aivideo.catalog.built_in import MODELS
from aivideo.catalog.model import Model
from aivideo.catalog.requests import Generation, Request, request_by
from aivideo.catalog.rules import is_name
from aivideo.errors import ConfigurationError, InvalidRequestError


def _models(given: Iterable[Model]) -> tuple[Model, ...]:
    models = tuple(given)
    names = set[str]()
    for model in models:
        if type(model) is not Model or not is_name(model.name):
            raise ConfigurationError.because(
                "models", model, "is not an entry of a catalogue", "give catalog.Model(name=…, …)"
            )
        if model.name in names:
            raise ConfigurationError.because(
                "models", model.name, "is listed twice", "to replace an entry, use with_models()"
            )
        names.add(model.name)
    return models


@frozen
class Catalog:
    """What the service sells: an entry per model. Immutable.

    ::

        from aivideo.catalog import Choice, Model, PerSecond, Text, default_catalog

        mine = default_catalog().with_models(
            Model(
                name="veo-3",
                fields=(Text("prompt"), Choice("seconds", (4, 6, 8))),
                price=PerSecond("30.5", field="seconds"),
            )
        )
        request = mine.request("veo-3", prompt="A paper boat", seconds=6)  # 183 credits

    Args:
        models: the entries, one per name.

    Raises:
        ConfigurationError: an entry is no :class:`Model`, or a name is listed twice.
    """

    models: tuple[Model, ...] = field(converter=_models)
    _by_name: Mapping[str, Model] = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        by_name = MappingProxyType({model.name: model for model in self.models})
        object.__setattr__(self, "_by_name", by_name)

    def __reduce__(self) -> tuple[type[Catalog], tuple[tuple[Model, ...]]]:
        return Catalog, (self.models,)

    def find(self, name: str) -> Model:
        """Return the entry of ``name``; for an unknown name one without rules or price."""
        return self._by_name.get(name) or Model(name=name)

    def names(self) -> tuple[str, ...]:
        """Return the names in the catalogue."""
        return tuple(self._by_name)

    def with_models(self, *models: Model) -> Catalog:
        """Return a catalogue with these entries added; each replaces an entry of its name.

        Raises:
            ConfigurationError: as the constructor.
        """
        new = {model.name: model for model in _models(models)}
        return Catalog((*(each for each in self.models if each.name not in new), *models))

    def request(self, model: str, /, **fields: Any) -> Generation:
        """Make a request that is checked and priced by this catalogue.

        Args:
            model: the service's name of the model.
            fields: the fields of the model's ``input``.

        Raises:
            InvalidRequestError: a field breaks a rule of the model, or ``model`` is not a name.
        """
        if not is_name(model):
            raise InvalidRequestError.because(
                "model", model, "must be the name of a model", f"one of {list(self.names())}"
            )
        return request_by(self.find(model), fields)

    def check_price(self, request: Request) -> None:
        """Check that a request costs what this catalogue says.

        A request with stated credits passes if this catalogue has no price for it, or a lower one:
        ceilings then count more than is spent. One that states less would be charged more than its
        ceilings count.

        Raises:
            InvalidRequestError: the prices differ, or the stated one is lower.
        """
        price = self.find(request.model).credits(request.input)
        if request.credits == price:
            return
        stated = request.stated_credits if isinstance(request, Generation) else None
        if stated is not None:
            if price is None or stated > price:
                return
            raise InvalidRequestError.because(
                "credits",
                str(stated),
                f"is less than the price of this {request.model} request in the session's "
                f"catalogue ({price}), so ceilings would count less than is charged",
                f"leave credits out, state {price} or more, or correct the session's catalogue",
            )
        raise InvalidRequestError.because(
            "credits",
            None if request.credits is None else str(request.credits),
            f"differs from the price of this {request.model} request in the session's catalogue "
            f"({'not known' if price is None else price})",
            "make the request with session_catalog.request(…), or give the session the catalogue "
            "that the request was made with",
        )


@cache
def default_catalog() -> Catalog:
    """Return the built-in catalogue."""
    return Catalog(MODELS)
