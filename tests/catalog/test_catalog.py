"""The catalogue: data that checks and prices requests, and that nobody can change."""

from __future__ import annotations

import pickle
import pkgutil
from collections.abc import Mapping
from decimal import Decimal
from importlib import import_module
from typing import Any

import pytest
from attrs.exceptions import FrozenInstanceError

from aivideo import catalog
from aivideo._api import wire
from aivideo.catalog import (
    IMAGES,
    SORA_2,
    Catalog,
    Choice,
    Flat,
    Model,
    PerSecond,
    Text,
    default_catalog,
)
from aivideo.catalog.built_in import MODELS
from aivideo.errors import ConfigurationError, InvalidRequestError
from aivideo.models import Generation, Sora2, kept_request

VEO = Model(
    name="veo-3",
    fields=(Text("prompt"), Choice("seconds", (4, 6))),
    price=PerSecond("30.5", field="seconds"),
)
MINE = default_catalog().with_models(VEO)
BOAT = Sora2("A paper boat", duration=4, aspect_ratio="16:9")


def test_every_module_of_entries_is_listed() -> None:
    entries = [
        value
        for module in pkgutil.iter_modules(catalog.__path__, "aivideo.catalog.")
        for value in vars(import_module(module.name)).values()
        if isinstance(value, Model)
    ]
    assert entries
    assert [entry.name for entry in entries if entry not in MODELS] == []
    assert default_catalog().models == MODELS


def test_another_model_is_an_entry_and_no_code() -> None:
    assert str(MINE.request("veo-3", prompt="a", seconds=6).credits) == "183"
    with pytest.raises(InvalidRequestError, match=r"seconds=5.*4 or 6"):
        MINE.request("veo-3", prompt="a", seconds=5)
    with pytest.raises(InvalidRequestError, match=r"colour.*is no input field of veo-3"):
        MINE.request("veo-3", prompt="a", seconds=6, colour="red")
    with pytest.raises(InvalidRequestError, match=r"prompt.*is required"):
        MINE.request("veo-3", seconds=6)


def test_a_field_may_be_called_model_or_self() -> None:
    request = default_catalog().request("some-model", model="a", self="b")
    assert (request.model, request.input) == ("some-model", {"model": "a", "self": "b"})


def test_a_request_by_a_catalogue_is_a_copy_of_its_fields() -> None:
    images = ["https://host/a.png"]
    request = default_catalog().request("veo-3", image_urls=images)
    images.append("https://host/b.png")
    assert request.input == {"image_urls": ["https://host/a.png"]}
    with pytest.raises(InvalidRequestError, match="is not JSON"):
        default_catalog().request("veo-3", prompt=b"a")
    with pytest.raises(InvalidRequestError, match="model"):
        default_catalog().request(" ", prompt="a")


def test_a_catalogue_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        MINE.models = ()  # type: ignore[misc]
    assert not hasattr(catalog, "register")
    assert default_catalog().find("veo-3").price is None
    assert Generation("veo-3", {"prompt": "a"}).credits is None
    with pytest.raises(TypeError):
        MINE._by_name["veo-3"] = SORA_2  # type: ignore[index]


def test_with_models_replaces_entries_and_keeps_the_rest() -> None:
    assert sorted(MINE.names()) == sorted(default_catalog().names())
    assert MINE.find("veo-3") is VEO
    assert MINE.find("sora-2") is SORA_2
    assert MINE.find("unheard-of") == Model(name="unheard-of")
    assert pickle.loads(pickle.dumps(MINE)).find("veo-3") == VEO


@pytest.mark.parametrize("models", [[SORA_2, SORA_2], ["sora-2"], [Model(name=" ")]])
def test_an_entry_is_a_model_with_a_name_of_its_own(models: Any) -> None:
    with pytest.raises(ConfigurationError, match="models="):
        Catalog(models)


@pytest.mark.parametrize("rate", [1.5, True, "-1", "much", None])
@pytest.mark.parametrize("price", [PerSecond, Flat])
def test_a_price_is_an_exact_amount(price: Any, rate: Any) -> None:
    with pytest.raises(ConfigurationError, match="price="):
        price(rate)


class OfFloats:
    """A user's own price, computed with a float."""

    def credits(self, model_input: Mapping[str, object]) -> Any:
        return 0.1 * 3


def test_a_price_that_computes_a_float_is_refused() -> None:
    mine = Catalog([Model(name="mine", price=OfFloats())])
    with pytest.raises(ConfigurationError, match=r"price of mine=.*not float"):
        mine.request("mine", prompt="a")


def test_decimal_prices_stay_exact() -> None:
    assert str(Flat("2.40").credits({})) == "2.4"
    assert str(PerSecond("0.1").credits({"duration": 3})) == "0.3"
    assert PerSecond(25).credits({"duration": True}) is None
    assert PerSecond(25).credits({"duration": "4"}) is None


# ---- check_price --------------------------------------------------------------------------------

DEARER = default_catalog().with_models(
    Model(name="sora-2", fields=SORA_2.fields, price=PerSecond(30))
)
WITHOUT = default_catalog().with_models(Model(name="sora-2"))


@pytest.mark.parametrize(
    ("mine", "request_"),
    [
        (default_catalog(), BOAT),
        (default_catalog(), Generation("veo-3", {"prompt": "a"})),
        (default_catalog(), Generation("veo-3", {"prompt": "a"}, credits="2.4")),
        (default_catalog(), Generation("sora-2", BOAT.input, credits=100)),
        (MINE, MINE.request("veo-3", prompt="a", seconds=6)),
        (MINE, Generation("veo-3", {"prompt": "a", "seconds": 6}, credits=183)),
        (MINE, Generation("veo-3", {"prompt": "a", "seconds": 6}, credits="183.5")),
        (default_catalog(), Generation("sora-2", BOAT.input, credits=300)),
        (DEARER, DEARER.request("sora-2", **BOAT.input)),
        (WITHOUT, Generation("sora-2", BOAT.input, credits=50)),
    ],
)
def test_a_request_of_the_catalogue_s_price_or_stated_above_it_passes(
    mine: Catalog, request_: Any
) -> None:
    mine.check_price(request_)


@pytest.mark.parametrize(
    ("mine", "request_", "known"),
    [
        (DEARER, BOAT, "120"),
        (WITHOUT, BOAT, "not known"),
        (MINE, Generation("veo-3", {"prompt": "a", "seconds": 6}), "183"),
        (MINE, Generation("veo-3", {"prompt": "a", "seconds": 6}, credits=1), "183"),
        (MINE, Generation("veo-3", {"prompt": "a", "seconds": 6}, credits="182.999999"), "183"),
        (default_catalog(), Generation("sora-2", BOAT.input, credits=0), "100"),
        (default_catalog(), MINE.request("veo-3", prompt="a", seconds=6), "not known"),
        (default_catalog(), Generation("sora-2", BOAT.input, credits=1), "100"),
        (default_catalog(), kept_request("sora-2", BOAT.input, credits=Decimal(80)), "100"),
    ],
)
def test_another_price_than_the_catalogue_s_is_refused(
    mine: Catalog, request_: Any, known: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        mine.check_price(request_)
    error = caught.value
    assert error.field == "credits"
    assert error.value == (None if request_.credits is None else str(request_.credits))
    assert f"catalogue ({known})" in str(error.rule)
    assert "catalogue" in str(error.cure)


def test_a_stated_price_below_the_catalogue_s_is_refused_with_the_reason_and_the_cure() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        default_catalog().check_price(Generation("sora-2", BOAT.input, credits=1))
    assert str(caught.value) == (
        "credits='1': is less than the price of this sora-2 request in the session's catalogue "
        "(100), so ceilings would count less than is charged; leave credits out, state 100 or "
        "more, or correct the session's catalogue"
    )


def test_a_create_goes_to_the_endpoint_that_the_catalogue_names() -> None:
    drawing = Generation("nano-banana-2", {"prompt": "a"})
    assert wire.create(drawing).path == IMAGES
    assert wire.create(drawing, endpoint="/v2/drawings").path == "/v2/drawings"
