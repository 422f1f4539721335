from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from attrs.exceptions import FrozenInstanceError

from aivideo import catalog
from aivideo.errors import InvalidRequestError
from aivideo.models import CompletedTask, Credits, Generation, Sora2, UnrecognizedTask

GOOD: dict[str, Any] = {"prompt": "A paper boat", "duration": 8, "aspect_ratio": "16:9"}


def sora(**changed: object) -> Sora2:
    return Sora2(**{**GOOD, **changed})


@pytest.mark.parametrize(
    ("field", "value", "says"),
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
def test_a_wrong_request_says_field_value_rule_and_cure(
    field: str, value: object, says: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        sora(**{field: value})
    error = caught.value
    assert error.field == field
    assert error.rule
    assert error.cure
    assert str(error).startswith(f"{field}=")
    assert says in str(error)
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
def test_what_it_costs_is_exact(duration: int, cost: int) -> None:
    request = sora(duration=duration)
    assert request.credits == cost
    assert request.dollars == Decimal(cost) * Decimal("0.005")
    assert isinstance(request.dollars, Decimal)


def test_what_is_sent_is_the_service_s_own_names() -> None:
    assert sora(image="https://host/a.png").input == {
        **GOOD,
        "image_urls": ["https://host/a.png"],
    }
    assert "image_urls" not in sora().input


def test_a_request_stays_what_it_was_when_it_was_checked() -> None:
    request = sora()
    with pytest.raises(FrozenInstanceError):
        request.duration = 5  # type: ignore[misc]
    free = {"prompt": "a"}
    generation = Generation("veo-3", free)
    free["prompt"] = "b"
    assert generation.input == {"prompt": "a"}


def test_an_unknown_model_is_sent_unchecked_and_has_no_price_unless_stated() -> None:
    unknown = Generation("some-model", {"anything": [1, {"x": None}]})
    assert unknown.credits is None
    assert unknown.dollars is None
    assert Generation("some-model", {}, credits=40).dollars == Decimal("0.2")


def test_sora_by_its_name_is_checked_and_priced_too() -> None:
    assert Generation("sora-2", GOOD).credits == 200
    with pytest.raises(InvalidRequestError, match="duration"):
        Generation("sora-2", {**GOOD, "duration": 5})


@pytest.mark.parametrize("price", [-1, 1.5, True, "40"])
def test_a_stated_price_is_a_whole_number(price: Any) -> None:
    with pytest.raises(InvalidRequestError, match="credits"):
        Generation("some-model", {}, credits=price)


@pytest.mark.parametrize("model_input", [{"x": {1, 2}}, {"x": b"1"}, {1: "x"}, [], None])
def test_an_input_that_is_no_json_object_is_refused_before_the_network(model_input: Any) -> None:
    with pytest.raises(InvalidRequestError, match="input"):
        Generation("some-model", model_input)


def test_another_model_is_an_entry_and_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_models", dict(catalog._models))
    catalog.register(
        catalog.Model(
            name="veo-3",
            fields=(catalog.Text("prompt"), catalog.Choice("seconds", (4, 6))),
            price=catalog.PerSecond(30, field="seconds"),
        )
    )
    assert Generation("veo-3", {"prompt": "a", "seconds": 6}).credits == 180
    with pytest.raises(InvalidRequestError, match=r"seconds=5.*4 or 6"):
        Generation("veo-3", {"prompt": "a", "seconds": 5})
    with pytest.raises(InvalidRequestError, match=r"colour.*is no input field of veo-3"):
        Generation("veo-3", {"prompt": "a", "seconds": 6, "colour": "red"})
    with pytest.raises(InvalidRequestError, match=r"prompt.*is required"):
        Generation("veo-3", {"seconds": 6})


def test_a_status_compares_as_text_too() -> None:
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
