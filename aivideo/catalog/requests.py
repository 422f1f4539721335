"""Requests as frozen values, checked and priced once: when they are made.

The price is stored in the request. It does not follow later changes of a catalogue, and it is no
part of equality, hash or fingerprint: two requests are equal if they send the same content.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal, TypeAlias, TypeVar

import orjson
from attrs import field, frozen

from aivideo import _amounts
from aivideo._redaction import scrub
from aivideo.catalog import built_in
from aivideo.catalog.model import Model
from aivideo.catalog.rules import is_name
from aivideo.errors import InvalidRequestError

Sora2Duration: TypeAlias = Literal[4, 8, 12]
"""Seconds of a Sora 2 clip."""

Sora2AspectRatio: TypeAlias = Literal["16:9", "9:16"]
"""Width:height of a Sora 2 clip."""


def _scrubbed(value: object) -> str:
    return scrub(repr(value))


@frozen
class Sora2:
    """One Sora 2 clip: text-to-video, or image-to-video if ``image`` is given.

    ``attrs.evolve(request, duration=12)`` makes a new request with the price of 12 seconds.

    Attributes:
        prompt: 1 to 5000 characters.
        duration: 4, 8 or 12 (seconds, an int).
        aspect_ratio: "16:9" or "9:16".
        image: URL of the first frame (JPEG, PNG or WebP; at most 10 MB; width:height from 2:5 to
            5:2; short side at least 300 px; the service downloads it), or None.
        credits: the price in credits, fixed when the request is made: 25 per second ("定价").

    Raises:
        InvalidRequestError: a value breaks its rule; the error has field, value, rule and cure.
    """

    prompt: str
    duration: Sora2Duration = field(kw_only=True)
    aspect_ratio: Sora2AspectRatio = field(kw_only=True)
    image: str | None = field(kw_only=True, default=None, repr=_scrubbed)
    credits: Decimal = field(init=False, eq=False, repr=False)

    model = "sora-2"  # without ClassVar: pyright's protocols, such as RequestLike, refuse those

    def __attrs_post_init__(self) -> None:
        if self.image is not None and not isinstance(self.image, str):
            raise InvalidRequestError.because(
                "image",
                self.image,
                f"must be one URL, not {type(self.image).__name__}",
                "give one URL as a str: at most 1 image is allowed",
            )
        entry, model_input = built_in.find(self.model), self.input
        entry.check(model_input, shown_as={"image_urls": "image"})
        price = entry.credits(model_input)
        assert price is not None, "the built-in entry has a price"
        _set(self, credits=price)

    @property
    def input(self) -> dict[str, Any]:
        """The service's ``input`` object of this request."""
        fields: dict[str, Any] = {
            "prompt": self.prompt,
            "duration": self.duration,
            "aspect_ratio": self.aspect_ratio,
        }
        if self.image is not None:
            fields["image_urls"] = [self.image]
        return fields

    @property
    def dollars(self) -> Decimal:
        """The price in US dollars, exactly."""
        return _amounts.dollars(self.credits)


def _stated(value: int | str | Decimal | None) -> Decimal | None:
    """Convert the argument ``credits``."""
    if value is None:
        return None
    try:
        amount = _amounts.exact(value)
    except ValueError as error:
        raise InvalidRequestError.because(
            "credits", value, str(error), 'give 40, "30.5" or None'
        ) from None
    if amount < 0:
        raise InvalidRequestError.because(
            "credits", value, "must not be negative", "give 0 or more, or None"
        )
    return amount


def _stated_repr(amount: Decimal | None) -> str:
    return "None" if amount is None else f"Decimal('{amount}')"


@frozen
class Generation:
    """A request for any model of the service, sent unchanged.

    If the catalogue has rules for the model, the request is checked and priced by them. Otherwise
    it is sent **unchecked, and its price is unknown** unless ``credits`` states it: under
    ``max_credits`` a request of unknown price is refused. A price stated below that of the
    session's catalogue is refused when the request is submitted.

    ``attrs.evolve`` makes a new request by the built-in catalogue: one with stated credits keeps
    them, any other is priced again.

    Attributes:
        model: the service's name of the model, such as ``"veo-3"``.
        input: the model's ``input`` object; anything that JSON can represent.
        stated_credits: the price that the caller stated (the argument ``credits``: an int, a str
            such as ``"30.5"``, or a Decimal), or None.
        credits: the price in credits, fixed when the request is made: as stated, otherwise
            according to the catalogue, otherwise None (not known).

    Raises:
        InvalidRequestError: the model is not a name, the input cannot be JSON, the credits are not
            an exact amount, or a rule of the catalogue is broken.
    """

    model: str
    input: Mapping[str, Any] = field(hash=False, repr=_scrubbed)
    stated_credits: Decimal | None = field(
        kw_only=True, default=None, alias="credits", converter=_stated, eq=False, repr=_stated_repr
    )
    credits: Decimal | None = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if not is_name(self.model):
            names = [model.name for model in built_in.MODELS]
            raise InvalidRequestError.because(
                "model", self.model, "must be the name of a model", f"for example one of {names}"
            )
        self._check_and_price(built_in.find(self.model))

    def _check_and_price(self, entry: Model) -> None:
        if not isinstance(self.input, Mapping):
            raise InvalidRequestError.because(
                "input", self.input, "must be a mapping of the model's fields", "give a dict"
            )
        try:
            copied = orjson.loads(orjson.dumps(dict(self.input)))
        except (TypeError, ValueError) as error:
            raise InvalidRequestError.because(
                "input",
                self.input,
                f"is not JSON ({error})",
                "use str, int, float, bool, list, dict",
            ) from None
        entry.check(copied)
        stated = self.stated_credits
        # A copy: the caller may change their own dict later.
        _set(self, input=copied, credits=entry.credits(copied) if stated is None else stated)

    @property
    def prompt(self) -> str:
        """The input's ``prompt``, or "" if it has none."""
        prompt = self.input.get("prompt")
        return prompt if isinstance(prompt, str) else ""

    @property
    def dollars(self) -> Decimal | None:
        """The price in US dollars, exactly; None if it is not known."""
        return None if self.credits is None else _amounts.dollars(self.credits)


Request: TypeAlias = Sora2 | Generation
"""A request for one generation."""

_R = TypeVar("_R", Sora2, Generation)


def _set(request: Sora2 | Generation, **values: object) -> None:
    """Set attributes of a frozen request while it is made."""
    for name, value in values.items():
        object.__setattr__(request, name, value)


def _made(cls: type[_R], **values: object) -> _R:
    """Make a request without its constructor, so without the rules of the built-in catalogue."""
    request = cls.__new__(cls)
    _set(request, **values)
    return request


def request_by(entry: Model, model_input: Mapping[str, Any]) -> Generation:
    """Make a request that is checked and priced by one entry of a catalogue.

    Raises:
        InvalidRequestError: the input breaks a rule of the entry.
    """
    request = _made(Generation, model=entry.name, input=model_input, stated_credits=None)
    request._check_and_price(entry)
    return request


def kept_request(
    model: str,
    model_input: Mapping[str, Any],
    *,
    credits: Decimal | None,  # noqa: A002  named as Generation's argument
) -> Request:
    """Rebuild a request from a ledger's row, with the price of the time when it was made.

    It is not checked: the rules may have changed since. ``kept_request(r.model, r.input,
    credits=r.credits)`` equals ``r`` in content and price.

    Args:
        model: the service's name of the model.
        model_input: the ``input`` object as it was sent.
        credits: the price then, or None if it was not known.
    """
    if model == Sora2.model and credits is not None and model_input.keys() >= _SORA_2_NEEDS:
        images = model_input.get("image_urls") or [None]
        request = _made(
            Sora2,
            prompt=model_input["prompt"],
            duration=model_input["duration"],
            aspect_ratio=model_input["aspect_ratio"],
            image=images[0],
            credits=credits,
        )
        if request.input == model_input:
            return request
    return _made(
        Generation, model=model, input=model_input, stated_credits=credits, credits=credits
    )


_SORA_2_NEEDS = {"prompt", "duration", "aspect_ratio"}
