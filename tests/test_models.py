from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from attrs import evolve
from attrs.exceptions import FrozenInstanceError

from aivideo import catalog
from aivideo.catalog import Choice, Model, PerSecond, Text, default_catalog
from aivideo.errors import InvalidRequestError
from aivideo.models import (
    CompletedTask,
    Credits,
    Generation,
    Request,
    Sora2,
    UnrecognizedTask,
    fingerprint,
    kept_request,
)

GOOD: dict[str, Any] = {"prompt": "A paper boat", "duration": 8, "aspect_ratio": "16:9"}


def sora(**changed: object) -> Sora2:
    fields: dict[str, Any] = {**GOOD, **changed}
    return Sora2(**fields)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("prompt", "", "empty or blank"),
        ("prompt", " \n\t　", "empty or blank"),
        ("prompt", "x" * 5001, "has 5001 characters, at most 5000"),
        ("prompt", "船" * 5001, "has 5001 characters, at most 5000"),
        ("prompt", "🚣" * 5001, "has 5001 characters, at most 5000"),
        ("prompt", 7, "must be text, not int"),
        ("prompt", b"boat", "must be text, not bytes"),
        ("prompt", "\ud83d", "surrogate"),
        ("duration", 5, "4, 8 or 12"),
        ("duration", "8", "must be int, not str"),
        ("duration", 8.0, "must be int, not float"),
        ("duration", True, "must be int, not bool"),
        ("duration", None, "must be int"),
        ("aspect_ratio", "1:1", "'16:9' or '9:16'"),
        ("aspect_ratio", 16 / 9, "must be str, not float"),
        ("image", "boat.png", "http:// or https:// URL"),
        ("image", "ftp://host/boat.png", "http:// or https:// URL"),
        ("image", "https://", "http:// or https:// URL"),
        ("image", "https://host:99999/x", "http:// or https:// URL"),
        ("image", "https://host/a b.png", "http:// or https:// URL"),
        ("image", "data:image/png;base64,AAAA", "http:// or https:// URL"),
    ],
)
def test_an_invalid_request_raises_an_error_with_field_value_rule_and_remedy(
    field: str, value: object, rule: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        sora(**{field: value})
    error = caught.value
    assert error.field == field
    assert error.rule
    assert error.cure
    assert str(error).startswith(f"{field}=")
    assert rule in str(error)
    assert len(str(error)) < 420


@pytest.mark.parametrize("prompt", ["x", "x" * 5000, "船" * 5000, "🚣" * 5000, " boat "])
def test_characters_are_counted_and_not_bytes(prompt: str) -> None:
    assert sora(prompt=prompt).input["prompt"] == prompt


def test_two_images_are_refused() -> None:
    two = ["https://host/a.png", "https://host/b.png"]
    with pytest.raises(InvalidRequestError, match="image"):
        sora(image=two)
    with pytest.raises(InvalidRequestError, match=r"image_urls.*has 2 images, at most 1"):
        catalog.SORA_2.check({**GOOD, "image_urls": two})


@pytest.mark.parametrize(("duration", "cost"), [(4, 100), (8, 200), (12, 300)])
def test_the_price_is_exact(duration: int, cost: int) -> None:
    request = sora(duration=duration)
    assert isinstance(request.credits, Decimal)
    assert str(request.credits) == str(cost)
    assert request.dollars == Decimal(cost) * Decimal("0.005")
    assert isinstance(request.dollars, Decimal)


def test_the_input_uses_the_field_names_of_the_service() -> None:
    assert sora(image="https://host/a.png").input == {
        **GOOD,
        "image_urls": ["https://host/a.png"],
    }
    assert "image_urls" not in sora().input


def test_a_request_is_frozen_and_copies_its_input() -> None:
    request = sora()
    with pytest.raises(FrozenInstanceError):
        request.duration = 4  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        request.credits = Decimal(1)  # type: ignore[misc]
    free = {"prompt": "a"}
    generation = Generation("veo-3", free)
    free["prompt"] = "b"
    assert generation.input == {"prompt": "a"}


def test_an_unknown_model_is_not_checked_and_has_only_a_stated_price() -> None:
    unknown = Generation("some-model", {"anything": [1, {"x": None}]})
    assert unknown.credits is None
    assert unknown.dollars is None
    assert Generation("some-model", {}, credits=40).dollars == Decimal("0.2")


def test_a_generation_for_sora_2_is_checked_and_priced_too() -> None:
    assert Generation("sora-2", GOOD).credits == 200
    with pytest.raises(InvalidRequestError, match="duration"):
        Generation("sora-2", {**GOOD, "duration": 5})


@pytest.mark.parametrize(
    ("stated", "shown"),
    [
        (200, "200"),
        ("30.50", "30.5"),
        (Decimal("2.4"), "2.4"),
        (Decimal("1E+3"), "1000"),
        ("0", "0"),
        ("0.000001", "0.000001"),
    ],
)
def test_a_stated_price_prints_without_exponent_or_trailing_zeros(stated: Any, shown: str) -> None:
    request = Generation("some-model", {}, credits=stated)
    assert isinstance(request.credits, Decimal)
    assert str(request.credits) == shown


@pytest.mark.parametrize(
    ("stated", "rule"),
    [
        (-1, "must not be negative"),
        ("-0.5", "must not be negative"),
        (1.5, "not float"),
        (40.0, "not float"),
        (True, "an int, a str or a Decimal"),
        ("forty", "must be a decimal number"),
        ("", "must be a decimal number"),
        ("NaN", "finite"),
        (Decimal("Infinity"), "finite"),
        ("0.0000001", "six decimal places"),
    ],
)
def test_a_stated_price_is_an_exact_amount(stated: Any, rule: str) -> None:
    with pytest.raises(InvalidRequestError, match=rule) as caught:
        Generation("some-model", {}, credits=stated)
    assert caught.value.field == "credits"
    assert caught.value.value is stated
    assert caught.value.cure


def test_the_price_does_not_affect_equality_hash_or_fingerprint() -> None:
    one, other = Generation("m", {"a": 1}, credits=1), Generation("m", {"a": 1}, credits=2)
    assert one == other
    assert hash(one) == hash(other)
    assert fingerprint(one) == fingerprint(other)
    earlier = kept_request("sora-2", GOOD, credits=Decimal(100))
    assert earlier == sora()
    assert hash(earlier) == hash(sora())
    assert fingerprint(earlier) == fingerprint(sora())


VEO = Model(
    name="veo-3",
    fields=(Text("prompt"), Choice("seconds", (4, 6))),
    price=PerSecond("30.5", field="seconds"),
)

EARLIER_PRICE = Decimal("123.5")


@pytest.mark.parametrize(
    ("request_", "price"),
    [
        (sora(), "200"),
        (kept_request("sora-2", GOOD, credits=EARLIER_PRICE), "123.5"),
        (Generation("sora-2", GOOD), "200"),
        (Generation("some-model", {"a": [1]}, credits="40"), "40"),
        (Generation("some-model", {"a": [1]}), "None"),
        (default_catalog().with_models(VEO).request("veo-3", prompt="a", seconds=4), "122"),
    ],
    ids=["sora", "stored", "by name", "stated", "unknown", "another catalogue"],
)
def test_the_price_survives_pickle_and_copy(request_: Request, price: str) -> None:
    copies = [
        pickle.loads(pickle.dumps(request_)),
        copy.copy(request_),
        copy.deepcopy(request_),
    ]
    for each in (request_, *copies):
        assert each == request_
        assert str(each.credits) == price


def test_evolve_prices_the_new_request() -> None:
    assert evolve(sora(), duration=12).credits == 300
    assert evolve(sora(), prompt="Another boat").credits == 200
    with pytest.raises(InvalidRequestError, match="duration"):
        evolve(sora(), duration=5)  # type: ignore[arg-type]
    assert evolve(Generation("sora-2", GOOD), input={**GOOD, "duration": 4}).credits == 100
    assert evolve(Generation("m", {}, credits="30.5"), input={"a": 1}).credits == Decimal("30.5")
    assert evolve(Generation("m", {}, credits=1), credits=None).credits is None


@pytest.mark.parametrize(
    "request_",
    [
        sora(),
        sora(image="https://host/a.png"),
        Generation("sora-2", GOOD),
        Generation("veo-3", {"prompt": "a"}),
        Generation("veo-3", {"prompt": "a"}, credits="2.4"),
    ],
)
def test_a_stored_request_keeps_its_original_content_and_price(request_: Request) -> None:
    stored = kept_request(request_.model, request_.input, credits=request_.credits)
    assert stored.input == request_.input
    assert fingerprint(stored) == fingerprint(request_)
    assert stored.credits == request_.credits
    earlier = kept_request(request_.model, request_.input, credits=EARLIER_PRICE)
    assert earlier.credits == EARLIER_PRICE
    assert earlier.dollars == EARLIER_PRICE * Decimal("0.005")


@pytest.mark.parametrize(
    "model_input",
    [
        {**GOOD, "duration": 60},
        {**GOOD, "aspect_ratio": "1:1"},
        {**GOOD, "image_urls": ["https://host/a.png", "https://host/b.png"]},
        {**GOOD, "image_urls": []},
        {**GOOD, "colour": "red"},
        {"prompt": "a"},
        {},
    ],
)
def test_a_stored_request_is_not_checked_by_current_rules(model_input: dict[str, Any]) -> None:
    stored = kept_request("sora-2", model_input, credits=EARLIER_PRICE)
    assert stored.input == model_input
    assert stored.credits == EARLIER_PRICE


def test_a_stored_request_without_a_price_has_none() -> None:
    stored = kept_request("sora-2", GOOD, credits=None)
    assert stored.input == GOOD
    assert stored.credits is None


@pytest.mark.parametrize("model_input", [{"x": {1, 2}}, {"x": b"1"}, {1: "x"}, [], None])
def test_an_input_that_is_not_a_json_object_is_refused(model_input: Any) -> None:
    with pytest.raises(InvalidRequestError, match="input"):
        Generation("some-model", model_input)


def test_a_status_equals_its_text() -> None:
    task = CompletedTask(
        id="t",
        model="sora-2",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        completed_at=datetime(2026, 1, 1, 1, tzinfo=UTC),
        urls=("https://host/a.mp4?Signature=secret",),
    )
    assert task.status == "completed"
    assert task.expires_at - task.completed_at == timedelta(hours=24)
    assert "secret" not in repr(task)
    later = UnrecognizedTask(id="t", model="m", created_at=task.created_at, status="cancelled")
    assert later.status == "cancelled"


def test_the_balance_in_dollars_is_exact() -> None:
    balance = Credits(balance=9_800, total_purchased=10_000, total_consumed=200)
    assert balance.dollars == Decimal(49)
    fraction = Credits(balance="9847.50", total_purchased=10_000, total_consumed=Decimal("152.5"))
    assert str(fraction.balance) == "9847.5"
    assert str(fraction.dollars) == "49.2375"
    assert "balance=9847.5," in repr(fraction)


@pytest.mark.parametrize("balance", [1.5, True, "many", None])
def test_a_balance_is_an_exact_amount(balance: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        Credits(balance=balance, total_purchased=1, total_consumed=1)
