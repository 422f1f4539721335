"""What the service sells, as data: per model its input rules, its price, its endpoint.

A changed rule, or another model, is another entry and no code::

    from aivideo import catalog

    catalog.register(
        catalog.Model(
            name="veo-3",
            fields=(catalog.Text("prompt"), catalog.Choice("seconds", (4, 6, 8))),
            price=catalog.PerSecond(30, field="seconds"),
            kind=("seconds",),
        )
    )

From then on ``Generation("veo-3", {...})`` is checked and priced like :class:`~aivideo.Sora2`.
Rules and prices of ``sora-2`` are those of the provider's page ("Input 对象", "定价"); of the other
models only the names are public, so they are sent unchecked and their price is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Protocol
from urllib.parse import urlsplit

from attrs import field, frozen

from aivideo.errors import InvalidRequestError

DOLLARS_PER_CREDIT = Decimal("0.005")
"""1 credit = $0.005: the provider's page prices 25 credits/s as $0.125/s."""

VIDEOS = "/v1/videos/generations"
IMAGES = "/v1/images/generations"


class Rule(Protocol):
    """What one field of a model's ``input`` must be."""

    @property
    def name(self) -> str:
        """The field's name in ``input``."""
        ...

    @property
    def required(self) -> bool:
        """Whether a request without it is refused."""
        ...

    def problem(self, value: object) -> tuple[str, str] | None:
        """Say which rule ``value`` breaks and what would cure it, or None where it is fine."""
        ...


@frozen
class Text:
    """Text of 1 to ``max_characters`` characters (code points, not bytes), not all blank."""

    name: str
    max_characters: int = 5000
    required: bool = True

    def problem(self, value: object) -> tuple[str, str] | None:
        """Check type, blankness, length, and that it can be sent as UTF-8."""
        if not isinstance(value, str):
            return f"must be text, not {type(value).__name__}", "give a str"
        if not value.strip():
            return "must not be empty or blank", f"give 1 to {self.max_characters} characters"
        if len(value) > self.max_characters:
            return (
                f"has {len(value)} characters, at most {self.max_characters} are allowed",
                f"shorten it by {len(value) - self.max_characters}",
            )
        try:
            value.encode()
        except UnicodeEncodeError:
            return "holds half a surrogate pair, which is no text", "decode it as UTF-8"
        return None


@frozen
class Choice:
    """One of a few values, of exactly their type: ``"8"``, ``8.0`` and ``True`` are not ``8``."""

    name: str
    values: tuple[int | str, ...]
    unit: str = ""
    required: bool = True

    def problem(self, value: object) -> tuple[str, str] | None:
        """Check that ``value`` is one of ``values`` and of its type."""
        listed = [repr(allowed) for allowed in self.values]
        one_of = " or ".join(filter(None, [", ".join(listed[:-1]), listed[-1]]))
        if self.unit:
            one_of = f"{one_of} ({self.unit})"
        if any(type(value) is type(allowed) and value == allowed for allowed in self.values):
            return None
        kinds = sorted({type(allowed).__name__ for allowed in self.values})
        if type(value).__name__ not in kinds:
            return f"must be {' or '.join(kinds)}, not {type(value).__name__}", f"give {one_of}"
        return f"must be {one_of}", f"give {one_of}"


@frozen
class URLs:
    """A list of at most ``max_items`` http(s) URLs."""

    name: str
    max_items: int = 1
    required: bool = False

    def problem(self, value: object) -> tuple[str, str] | None:
        """Check the count, then that each is an http(s) URL with a host."""
        if not isinstance(value, list | tuple):
            return f"must be a list of URLs, not {type(value).__name__}", "give a list"
        if len(value) > self.max_items:
            return (
                f"has {len(value)} images, at most {self.max_items} is allowed",
                f"keep {self.max_items}",
            )
        for url in value:
            if not is_web_url(url):
                return (
                    "must be an http:// or https:// URL",
                    "upload the image somewhere and give its URL; the service takes no files",
                )
        return None


def is_name(value: object) -> bool:
    """Whether ``value`` is text, and not blank."""
    return isinstance(value, str) and bool(value.strip())


def is_web_url(value: object) -> bool:
    """Whether ``value`` is an absolute http(s) URL with a host and nothing unprintable in it."""
    if not isinstance(value, str) or " " in value or not value.isprintable():
        return False
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:  # a broken port or IPv6 literal
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0


class Price(Protocol):
    """How many credits one request costs."""

    def credits(self, model_input: Mapping[str, object]) -> int | None:
        """Credits of a request with a valid ``model_input``, or None where they are not known."""
        ...


@frozen
class PerSecond:
    """So many credits for each second of video, the seconds being in ``field`` of the input."""

    rate: int
    field: str = "duration"

    def credits(self, model_input: Mapping[str, object]) -> int | None:
        """``rate`` × the seconds asked for."""
        seconds = model_input.get(self.field)
        return self.rate * seconds if isinstance(seconds, int) else None


@frozen
class Flat:
    """The same credits for every request."""

    each: int

    def credits(self, model_input: Mapping[str, object]) -> int | None:  # noqa: ARG002  a Price
        """``each``, whatever is asked for."""
        return self.each


@frozen(kw_only=True)
class Model:
    """One entry of the catalogue.

    Attributes:
        name: the service's name for it.
        endpoint: the path its creates are POSTed to.
        fields: the rules of ``input``; None: not known here, any input is sent unchecked.
        price: what a request costs; None: not known here.
        kind: the input fields that drive how long a task takes: jobs that agree on them are
            watched as one kind.
    """

    name: str
    endpoint: str = VIDEOS
    fields: tuple[Rule, ...] | None = None
    price: Price | None = None
    kind: tuple[str, ...] = field(default=())

    def check(
        self, model_input: Mapping[str, object], called: Mapping[str, str] | None = None
    ) -> None:
        """Check an input against ``fields``.

        Args:
            model_input: the ``input`` object of the request.
            called: what the user calls a field, where it differs (``{"image_urls": "image"}``).

        Raises:
            InvalidRequestError: a field is missing, unknown, or breaks its rule.
        """
        if self.fields is None:
            return
        names = called or {}
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


SORA_2 = Model(
    name="sora-2",
    fields=(
        Text("prompt", max_characters=5000),
        Choice("duration", (4, 8, 12), unit="seconds"),
        Choice("aspect_ratio", ("16:9", "9:16")),
        URLs("image_urls", max_items=1),
    ),
    price=PerSecond(25),
    kind=("duration",),
)

_models: dict[str, Model] = {
    model.name: model
    for model in (
        SORA_2,
        Model(name="veo-3"),
        Model(name="kling-3.0"),
        Model(name="doubao-seedance-2.0"),
        Model(name="doubao-seedance-2.0-fast"),
        Model(name="nano-banana-2", endpoint=IMAGES),
    )
}


def register(model: Model) -> None:
    """Add ``model`` to the catalogue, or replace the entry of that name, for this process."""
    _models[model.name] = model


def find(name: str) -> Model:
    """Find the entry of ``name``; a name nobody has registered gets one without rules or price."""
    return _models.get(name) or Model(name=name)


def names() -> tuple[str, ...]:
    """The names in the catalogue."""
    return tuple(_models)


def dollars(amount: int | Decimal) -> Decimal:
    """Credits as US dollars, exactly.

    >>> dollars(100)
    Decimal('0.500')
    """
    return DOLLARS_PER_CREDIT * amount
