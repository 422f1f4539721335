"""Models, prices and validation rules, from the provider's page and API.md.

A request that breaks a rule raises `RefusedError`, which holds a documented error code and a
message that names the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeGuard

import attrs
import orjson

JsonObject = dict[str, object]

# API.md, "Errors": each code with its HTTP status and its type.
ERRORS: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "invalid_request": (400, "invalid_request_error"),
        "invalid_api_key": (401, "authentication_error"),
        "insufficient_credits": (402, "billing_error"),
        "ip_not_allowed": (403, "permission_error"),
        "model_not_found": (404, "invalid_request_error"),
        "task_not_found": (404, "invalid_request_error"),
        "rate_limit_exceeded": (429, "rate_limit_error"),
        "spend_limit_exceeded": (429, "billing_error"),
        "internal_error": (500, "api_error"),
        "upstream_error": (503, "upstream_error"),
    }
)


class RefusedError(Exception):
    """The request is answered with an error from `ERRORS`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@attrs.frozen(kw_only=True)
class Model:
    """A model and its price.

    A task costs `credits_per_second` times the `duration` of its input if both are given, else
    `credits`. If `sora_rules` is true, the input must follow the rules of the Sora 2 page.
    """

    kind: Literal["video", "image"] = "video"
    credits_per_second: int | None = None
    credits: int = 100
    sora_rules: bool = False

    def price(self, duration: object) -> int:
        """Return the price of a task in credits."""
        if self.credits_per_second is None or not _is_integer(duration):
            return self.credits
        return self.credits_per_second * max(1, duration)


# Only the price and rules of Sora 2 are documented (25 credits per second). The prices of the other
# models are invented, and their input may be any object.
MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "sora-2": Model(credits_per_second=25, sora_rules=True),
        "veo-3": Model(credits_per_second=50, credits=400),
        "kling-3.0": Model(credits_per_second=20),
        "doubao-seedance-2.0": Model(credits_per_second=20),
        "doubao-seedance-2.0-fast": Model(credits_per_second=10),
        "nano-banana-2": Model(kind="image", credits=10),
    }
)

MAX_PROMPT_CHARACTERS = 5000
DURATIONS = (4, 8, 12)
ASPECT_RATIOS = ("16:9", "9:16")
MAX_IMAGES = 1


@attrs.frozen
class Order:
    """The content of a create that passed validation."""

    model: str
    input: JsonObject
    callback_url: str | None
    credits: int


def read_order(body: bytes, kind: str, models: Mapping[str, Model]) -> Order:
    """Validate the body of a create. Unknown fields are accepted.

    Args:
        body: the JSON as received.
        kind: `video` or `image`: the endpoint that received it.
        models: the available models by name.

    Raises:
        RefusedError: `invalid_request` if a rule is broken, `model_not_found` if the model is not
            available at this endpoint.
    """
    try:
        order = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise RefusedError("invalid_request", "The request body is not valid JSON.") from None
    if not isinstance(order, dict):
        raise RefusedError("invalid_request", "The request body must be a JSON object.")
    name = _required_text(order, "model", "model")
    model = models.get(name)
    if model is None or model.kind != kind:
        raise RefusedError(
            "model_not_found", f"The model {name!r} does not exist or was withdrawn."
        )
    if "input" not in order:
        raise RefusedError("invalid_request", "'input' is required.")
    given = order["input"]
    if not isinstance(given, dict):
        raise RefusedError("invalid_request", "'input' must be an object.")
    callback_url = order.get("callback_url")
    if "callback_url" in order and not _is_url(callback_url):
        raise RefusedError("invalid_request", "'callback_url' must be an http or https URL.")
    if model.sora_rules:
        _check_sora(given)
    return Order(name, given, callback_url, model.price(given.get("duration")))


def _check_sora(given: JsonObject) -> None:
    prompt = _required_text(given, "prompt", "input.prompt")
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise RefusedError(
            "invalid_request",
            f"'input.prompt' has {len(prompt)} characters; at most {MAX_PROMPT_CHARACTERS}.",
        )
    if "duration" not in given:
        raise RefusedError("invalid_request", "'input.duration' is required.")
    duration = given["duration"]
    if not _is_integer(duration) or duration not in DURATIONS:
        raise RefusedError("invalid_request", "'input.duration' must be 4, 8 or 12.")
    ratio = _required_text(given, "aspect_ratio", "input.aspect_ratio")
    if ratio not in ASPECT_RATIOS:
        raise RefusedError("invalid_request", "'input.aspect_ratio' must be '16:9' or '9:16'.")
    if "image_urls" in given:
        urls = given["image_urls"]
        if not isinstance(urls, list) or not all(_is_url(url) for url in urls):
            raise RefusedError(
                "invalid_request", "'input.image_urls' must be an array of http or https URLs."
            )
        if len(urls) > MAX_IMAGES:
            raise RefusedError("invalid_request", "'input.image_urls' may hold at most 1 URL.")


def _required_text(values: JsonObject, field: str, path: str) -> str:
    if field not in values:
        raise RefusedError("invalid_request", f"'{path}' is required.")
    value = values[field]
    if not isinstance(value, str) or not value:
        raise RefusedError("invalid_request", f"'{path}' must be a non-empty string.")
    return value


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_url(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value.startswith(("http://", "https://"))
