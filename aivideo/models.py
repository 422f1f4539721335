"""The values users hold: requests, tasks, outcomes, credits. Frozen, and without behaviour.

A request is checked when it is made, against :mod:`aivideo.catalog`, so a wrong one never gets
near the network. A task is what the service last said of it; the raw JSON stays in ``raw``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import orjson
from attrs import field, frozen

from aivideo import catalog
from aivideo._amounts import exact
from aivideo.errors import AIVideoError, InvalidRequestError, scrub

TaskId: TypeAlias = str
"""The service's name of a task (a UUID, as far as is documented)."""

RESULT_LIFETIME = timedelta(hours=24)
"""How long a result's URL lives ("视频 URL 有效期为 24 小时")."""

_EMPTY: Mapping[str, Any] = {}


@frozen
class Sora2:
    """One clip by Sora 2: text-to-video, or image-to-video when ``image`` is given.

    Attributes:
        prompt: 1 to 5000 characters.
        duration: 4, 8 or 12 (seconds, an int).
        aspect_ratio: "16:9" or "9:16".
        image: URL of the first frame (JPEG, PNG or WebP; at most 10 MB; width:height from 2:5 to
            5:2; short side at least 300 px; the service fetches it), or None.

    Raises:
        InvalidRequestError: a value breaks its rule; it names field, value, rule and cure.
    """

    prompt: str
    duration: int = field(kw_only=True)
    aspect_ratio: str = field(kw_only=True)
    image: str | None = field(kw_only=True, default=None, repr=lambda url: scrub(repr(url)))

    model: ClassVar[str] = "sora-2"

    def __attrs_post_init__(self) -> None:
        if self.image is not None and not isinstance(self.image, str):
            raise InvalidRequestError.because(
                "image",
                self.image,
                f"must be one URL, not {type(self.image).__name__}",
                "give one URL as a str: at most 1 image is allowed",
            )
        catalog.find(self.model).check(self.input, called={"image_urls": "image"})

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
    def credits(self) -> int:
        """What it costs, in credits: 25 a second ("定价")."""
        price = catalog.find(self.model).price
        amount = None if price is None else price.credits(self.input)
        if amount is None:  # only by a catalogue entry that somebody replaced by one without price
            raise InvalidRequestError(f"the catalogue has no price for {self.model}; register one")
        return amount

    @property
    def dollars(self) -> Decimal:
        """What it costs, in US dollars, exactly."""
        return catalog.dollars(self.credits)


def _check_stated_credits(_: object, __: object, value: int | None) -> None:
    if value is not None and (type(value) is not int or value < 0):
        raise InvalidRequestError.because(
            "credits", value, "must be a whole number of credits, 0 or more", "give an int or None"
        )


@frozen
class Generation:
    """A request for any model the service has, sent as it is.

    A model that :mod:`aivideo.catalog` has rules for is checked and priced by them. Any other is
    sent **unchecked, and its price is unknown** unless ``credits`` states it: with ``max_credits``
    a request of unknown price is refused.

    Attributes:
        model: the service's name of the model, such as ``"veo-3"``.
        input: the model's ``input`` object; anything JSON can hold.
        stated_credits: what the caller said it costs (the argument ``credits``), or None.

    Raises:
        InvalidRequestError: no model, an input JSON cannot hold, or a catalogued rule is broken.
    """

    model: str
    input: Mapping[str, Any] = field(hash=False, repr=lambda fields: scrub(repr(fields)))
    stated_credits: int | None = field(
        kw_only=True, default=None, alias="credits", validator=_check_stated_credits
    )

    def __attrs_post_init__(self) -> None:
        if not catalog.is_name(self.model):
            raise InvalidRequestError.because(
                "model", self.model, "must name a model", f"one of {list(catalog.names())}, say"
            )
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
        catalog.find(self.model).check(copied)
        object.__setattr__(self, "input", copied)  # ours alone: the caller's dict may change

    @classmethod
    def kept(
        cls, model: str, model_input: Mapping[str, Any], stated_credits: int | None
    ) -> Generation:
        """Make one of what a ledger kept: it was checked when it was made, by the rules of then."""
        made = cls.__new__(cls)
        for name, value in (
            ("model", model),
            ("input", model_input),
            ("stated_credits", stated_credits),
        ):
            object.__setattr__(made, name, value)
        return made

    @property
    def prompt(self) -> str:
        """The input's ``prompt``, which every model has so far; "" where there is none."""
        prompt = self.input.get("prompt")
        return prompt if isinstance(prompt, str) else ""

    @property
    def credits(self) -> int | None:
        """What it costs, in credits: as stated, else by the catalogue, else None (not known)."""
        if self.stated_credits is not None:
            return self.stated_credits
        price = catalog.find(self.model).price
        return None if price is None else price.credits(self.input)

    @property
    def dollars(self) -> Decimal | None:
        """What it costs, in US dollars, exactly; None where the credits are not known."""
        return None if self.credits is None else catalog.dollars(self.credits)


Request: TypeAlias = Sora2 | Generation
"""What a user wants made."""


def fingerprint(request: Request) -> str:
    """Return a hash of a request's content, as 32 hex digits.

    It is equal for requests that send the same bytes: two lines of a manifest, or two uses of a
    key, are the same request if their fingerprints are equal.
    """
    content = orjson.dumps([request.model, request.input], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()[:32]


def kept_request(
    model: str, model_input: Mapping[str, Any], *, stated_credits: int | None = None
) -> Request:
    """Rebuild a request from a ledger's row, without checking it against today's rules."""
    if model == Sora2.model and stated_credits is None and model_input.keys() >= _SORA_2_NEEDS:
        try:
            return Sora2(
                model_input["prompt"],
                duration=model_input["duration"],
                aspect_ratio=model_input["aspect_ratio"],
                image=next(iter(model_input.get("image_urls", ())), None),
            )
        except InvalidRequestError:
            pass  # the catalogue has other rules by now
    return Generation.kept(model, model_input, stated_credits)


_SORA_2_NEEDS = {"prompt", "duration", "aspect_ratio"}


class TaskStatus(StrEnum):
    """The states the service documents: ``pending -> processing -> completed | failed``."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


def _urls_without_queries(urls: tuple[str, ...]) -> str:
    return repr(tuple(scrub(url) for url in urls))


@frozen(kw_only=True)
class _AnyTask:
    """What every answer about a task holds.

    Attributes:
        id: the task's id.
        model: the model that makes it.
        created_at: when the service made it (aware, UTC, by the service's clock).
        raw: the answer as it came, with fields this package does not know.
    """

    id: TaskId
    model: str
    created_at: datetime
    raw: Mapping[str, Any] = field(default=_EMPTY, repr=False, eq=False)


@frozen(kw_only=True)
class PendingTask(_AnyTask):
    """Taken, and waiting for its turn. ``progress`` is a number if the service gave one."""

    status: ClassVar[TaskStatus] = TaskStatus.PENDING
    progress: float | None = None


@frozen(kw_only=True)
class ProcessingTask(_AnyTask):
    """Being made. ``progress`` is a number if the service gave one (its unit is not documented)."""

    status: ClassVar[TaskStatus] = TaskStatus.PROCESSING
    progress: float | None = None


@frozen(kw_only=True)
class CompletedTask(_AnyTask):
    """Made.

    Attributes:
        completed_at: when (aware, UTC, by the service's clock).
        urls: where the results lie. Pre-signed: whoever has one can fetch it, so do not log them.
        metadata: what the service says of the result (for Sora 2 ``duration`` and ``prompt``).
    """

    status: ClassVar[TaskStatus] = TaskStatus.COMPLETED
    completed_at: datetime
    urls: tuple[str, ...] = field(repr=_urls_without_queries)
    metadata: Mapping[str, Any] = field(default=_EMPTY, eq=False)

    @property
    def expires_at(self) -> datetime:
        """When the URLs expire: 24 hours after completion."""
        return self.completed_at + RESULT_LIFETIME


@frozen
class TaskFailure:
    """Why a task failed, in the service's words: ``code`` and ``message``."""

    code: str
    message: str


@frozen(kw_only=True)
class FailedTask(_AnyTask):
    """Ended without a result; the service refunds its credits by itself."""

    status: ClassVar[TaskStatus] = TaskStatus.FAILED
    error: TaskFailure


@frozen(kw_only=True)
class UnrecognizedTask(_AnyTask):
    """In a state that nobody has documented (``status`` says which). It goes on being watched."""

    status: str
    progress: float | None = None


Task: TypeAlias = PendingTask | ProcessingTask | CompletedTask | FailedTask | UnrecognizedTask
"""What the service last said of a task."""


@frozen(kw_only=True)
class Credits:
    """The account's credits; 1 credit = $0.005.

    Attributes:
        balance: credits left.
        total_purchased: credits ever bought.
        total_consumed: credits ever spent. Whether a refund lowers it is not documented.
    """

    balance: Decimal = field(converter=exact)
    total_purchased: Decimal = field(converter=exact)
    total_consumed: Decimal = field(converter=exact)

    @property
    def dollars(self) -> Decimal:
        """The balance in US dollars, exactly."""
        return catalog.dollars(self.balance)


@frozen
class Succeeded:
    """A job that ended with a result.

    Attributes:
        request: what was asked for.
        task: the completed task, with its URLs.
        path: where the file lies, when it was asked to be saved.
        index: the request's place in what ``generate_many`` was given, from 0.
    """

    request: Request
    task: CompletedTask
    path: Path | None = None
    index: int = field(kw_only=True, default=0)


@frozen
class Failed:
    """A job that ended without one.

    Attributes:
        request: what was asked for.
        error: why; its class says what became of the money.
        task_id: the task, where one was made: a file that could not be written, say.
        index: the request's place in what ``generate_many`` was given, from 0.
    """

    request: Request
    error: AIVideoError
    task_id: TaskId | None = field(kw_only=True, default=None)
    index: int = field(kw_only=True, default=0)


Outcome: TypeAlias = Succeeded | Failed
"""How a job ended, as a value."""
