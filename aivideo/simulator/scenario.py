"""The configuration of a simulated service."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol

import attrs

from aivideo.simulator.faults import Faults
from aivideo.simulator.limits import RateLimit, RequestRate
from aivideo.simulator.rules import MODELS, Model


class Distribution(Protocol):
    """A distribution of durations: any object that draws seconds."""

    def draw(self, source: random.Random, now: float, /) -> float:
        """Draw a duration in seconds, for a task created at `now`."""
        ...


@attrs.frozen
class Lognormal:
    """A lognormal distribution: median in seconds, standard deviation of the logarithm."""

    median: float = attrs.field(validator=attrs.validators.gt(0))
    sigma: float = 0.5

    def draw(self, source: random.Random, _now: float, /) -> float:
        """See `Distribution`."""
        return source.lognormvariate(math.log(self.median), self.sigma)


@attrs.frozen
class Pareto:
    """A Pareto distribution: at least `shortest` seconds; a smaller `alpha` has a longer tail."""

    shortest: float = attrs.field(validator=attrs.validators.gt(0))
    alpha: float = 1.5

    def draw(self, source: random.Random, _now: float, /) -> float:
        """See `Distribution`."""
        return self.shortest * source.paretovariate(self.alpha)


@attrs.frozen
class Mixture:
    """Draws from `first` with probability `weight`, else from `second`."""

    first: Distribution
    second: Distribution
    weight: float = 0.5

    def draw(self, source: random.Random, now: float) -> float:
        """See `Distribution`."""
        chosen = self.first if source.random() < self.weight else self.second
        return chosen.draw(source, now)


Seconds = float | tuple[float, float] | Distribution
"""A duration: constant, uniform between two bounds, or drawn from a distribution."""


def draw_seconds(seconds: Seconds, source: random.Random, now: float) -> float:
    """Draw a duration in seconds."""
    if isinstance(seconds, (int, float)):
        return seconds
    if isinstance(seconds, tuple):
        return source.uniform(*seconds)
    return seconds.draw(source, now)


def parse_seconds(text: str) -> Seconds:
    """Parse a duration in the format of the command line.

    Formats: `90`, `60-120` (uniform), `lognormal:MEDIAN[:SIGMA]`, `pareto:SHORTEST[:ALPHA]`.

    Raises:
        ValueError: if the text has none of these formats; the message lists them.
    """
    name, _, rest = text.partition(":")
    try:
        if name in ("lognormal", "pareto"):
            first, *others = (float(part) for part in rest.split(":"))
            if len(others) <= 1 and all(number > 0 for number in (first, *others)):
                return Lognormal(first, *others) if name == "lognormal" else Pareto(first, *others)
        elif not rest:
            bounds = [float(part) for part in text.split("-")]
            if len(bounds) == 1 and bounds[0] >= 0:
                return bounds[0]
            if len(bounds) == 2 and 0 <= bounds[0] <= bounds[1]:
                return (bounds[0], bounds[1])
    except ValueError:
        pass  # a part is not a number: reported below
    raise ValueError(
        f"not a length of time: {text!r}; write seconds (90), a range (60-120), "
        "lognormal:MEDIAN:SIGMA (lognormal:100:0.5) or pareto:SHORTEST:ALPHA (pareto:20:1.5)"
    )


def _not_negative(_instance: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and not value >= 0:  # written this way, NaN is refused too
        raise ValueError(f"{attribute.name} must not be negative: {value!r}")


def _positive(_instance: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError(f"{attribute.name} must be more than 0: {value!r}")


def _duration(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    bounds = value if isinstance(value, tuple) else (value,)
    numbers = [bound for bound in bounds if isinstance(bound, (int, float))]
    if not all(number >= 0 for number in numbers) or numbers != sorted(numbers):
        raise ValueError(f"{attribute.name} must be seconds, 0 or more: {value!r}")


def _share(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{attribute.name} is a share from 0 to 1: {value!r}")


def _key_set(keys: Iterable[str]) -> frozenset[str]:
    return frozenset(keys)


@attrs.frozen(kw_only=True)
class Scenario:
    """How a simulated service behaves. Every field has a default. The same seed gives the same run.

    Times of *tasks* (`queue_seconds`, `task_seconds`, `callback_tries`) are divided by `speed`. All
    other times are not: rate limits, `latency`, `result_ttl`, `spend_window`, `not_found_for`,
    `idle_close`. (Otherwise, at speed 600, a result that is available for 24 hours would expire
    after 144 seconds, before a batch has downloaded it.)
    """

    keys: Mapping[str, int] | None = None
    """Balance in credits of each valid key; others get a 401. None: any `sk-…` key is valid."""
    default_balance: int = attrs.field(default=1_000_000, validator=_not_negative)
    """Balance of every key in credits, if `keys` is None."""
    disabled_keys: frozenset[str] = attrs.field(default=frozenset(), converter=_key_set)
    """Keys that get a 401: disabled or deleted."""
    blocked_keys: frozenset[str] = attrs.field(default=frozenset(), converter=_key_set)
    """Keys that get a 401: the account is blocked."""
    refused_ip_keys: frozenset[str] = attrs.field(default=frozenset(), converter=_key_set)
    """Keys that get a 403: the caller's IP address is not on the key's allow-list."""

    rate_limit: RateLimit | None = None
    """Limit per key, shared by creates, polls and credit queries (a `JobsCap`: creates only)."""
    create_rate_limit: RequestRate | None = None
    """Limit per key for creates only, in addition to `rate_limit`."""
    jobs_in_flight: int | None = attrs.field(default=None, validator=_positive)
    """Max. tasks pending or processing per key. The next create gets a 429."""
    retry_after: Literal["none", "seconds", "date"] = attrs.field(
        default="none", validator=attrs.validators.in_(("none", "seconds", "date"))
    )
    """Form of `Retry-After` in a 429: none, whole seconds (rounded up, at least 1) or an HTTP date.
    A 429 due to too many running tasks never has it: the end of a task is not known in advance."""
    spend_limit: int | None = attrs.field(default=None, validator=_not_negative)
    """Max. credits a key may spend. A create above it gets 429 `spend_limit_exceeded`."""
    spend_window: float | None = attrs.field(default=None, validator=_positive)
    """Seconds after which the count for `spend_limit` restarts (3600: hourly). None: never."""
    refund_lowers_consumed: bool = True
    """Whether a refund lowers `total_consumed` (undocumented). It always raises `balance`."""

    task_seconds: Seconds = attrs.field(factory=lambda: Lognormal(100.0, 0.5), validator=_duration)
    """How long a task is processed."""
    queue_seconds: Seconds = attrs.field(default=2.0, validator=_duration)
    """How long a task is pending before it is processed."""
    progress: Literal["null", "percent"] = attrs.field(
        default="null", validator=attrs.validators.in_(("null", "percent"))
    )
    """Value of `progress` while a task runs: null, or an integer from 0 to 99."""
    not_found_for: float = attrs.field(default=0.0, validator=_not_negative)
    """Seconds after its creation during which polls of a task get a 404."""
    failure_rate: float = attrs.field(default=0.0, validator=_share)
    """Share of tasks that fail (and are refunded), from 0 to 1."""
    failure_code: str = "upstream_error"
    failure_message: str = "Video generation failed"
    callback_tries: tuple[float, ...] = (0.0, 180.0, 600.0)
    """Times of the attempts to send a callback: seconds after the end of the task."""

    speed: float = attrs.field(default=1.0, validator=_positive)
    """Times of tasks are divided by this factor."""
    seed: int = 0
    epoch: float | None = None
    """Unix time at which the service's clock is 0. None: a server uses the system time when it
    starts; a `Service` without a server uses a fixed time."""
    clock_skew: float = 0.0
    """Seconds by which `created_at` and `completed_at` are ahead of the clients' clock."""

    models: Mapping[str, Model] = attrs.field(factory=lambda: MODELS)
    """Available models by name. Any other name gets a 404 `model_not_found`."""
    result_ttl: float = attrs.field(default=24 * 3600.0, validator=_positive)
    """Seconds for which the URL of a result is valid, from the completion of the task."""
    media: Literal["mp4", "stub"] = attrs.field(
        default="mp4", validator=attrs.validators.in_(("mp4", "stub"))
    )
    """Contents of results: playable videos, or a few bytes that cost no CPU time."""

    latency: float | tuple[float, float] = attrs.field(default=0.0, validator=_duration)
    """Delay of every API answer in seconds: a constant, or uniform between two bounds."""
    idle_close: float | None = attrs.field(default=None, validator=_positive)
    """Seconds after which the server closes an idle connection. None: 75."""
    max_requests_per_connection: int | None = attrs.field(default=None, validator=_positive)
    """Max. answers on one connection. The last one has `Connection: close`."""

    faults: Faults = attrs.field(factory=Faults)
