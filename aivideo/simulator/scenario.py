"""What kind of service to be: everything a test or a demonstration may choose."""

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
    """How long something takes: any object that draws seconds."""

    def draw(self, source: random.Random, now: float, /) -> float:
        """One length of time in seconds, for a task created at `now`."""
        ...


@attrs.frozen
class Lognormal:
    """Half take less than `median` seconds; `sigma` is the spread of the logarithm."""

    median: float = attrs.field(validator=attrs.validators.gt(0))
    sigma: float = 0.5

    def draw(self, source: random.Random, _now: float, /) -> float:
        """See `Distribution`."""
        return source.lognormvariate(math.log(self.median), self.sigma)


@attrs.frozen
class Pareto:
    """None takes less than `shortest` seconds; the smaller `alpha`, the more take very long."""

    shortest: float = attrs.field(validator=attrs.validators.gt(0))
    alpha: float = 1.5

    def draw(self, source: random.Random, _now: float, /) -> float:
        """See `Distribution`."""
        return self.shortest * source.paretovariate(self.alpha)


@attrs.frozen
class Mixture:
    """A share of `weight` is drawn from `first`, the others from `second`: two humps."""

    first: Distribution
    second: Distribution
    weight: float = 0.5

    def draw(self, source: random.Random, now: float) -> float:
        """See `Distribution`."""
        chosen = self.first if source.random() < self.weight else self.second
        return chosen.draw(source, now)


Seconds = float | tuple[float, float] | Distribution
"""A length of time: always the same, evenly between two bounds, or drawn from a distribution."""


def draw_seconds(seconds: Seconds, source: random.Random, now: float) -> float:
    """One length of time in seconds."""
    if isinstance(seconds, (int, float)):
        return seconds
    if isinstance(seconds, tuple):
        return source.uniform(*seconds)
    return seconds.draw(source, now)


def parse_seconds(text: str) -> Seconds:
    """Read a length of time as it is written on a command line.

    Forms: `90`, `60-120` (evenly between), `lognormal:MEDIAN[:SIGMA]`, `pareto:SHORTEST[:ALPHA]`.

    Raises:
        ValueError: if the text has none of these forms; the message lists them.
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
        pass  # not a number where one must stand: told below
    raise ValueError(
        f"not a length of time: {text!r}; write seconds (90), a range (60-120), "
        "lognormal:MEDIAN:SIGMA (lognormal:100:0.5) or pareto:SHORTEST:ALPHA (pareto:20:1.5)"
    )


def _not_negative(_instance: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and not value >= 0:  # so written, not a number is refused too
        raise ValueError(f"{attribute.name} must not be negative: {value!r}")


def _positive(_instance: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and not value > 0:
        raise ValueError(f"{attribute.name} must be more than 0: {value!r}")


def _length_of_time(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
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
    """A service to stand in for the real one. Everything has a default; same seed, same service.

    Times of *tasks* (`queue_seconds`, `task_seconds`, callback tries) are divided by `speed`.
    Everything else is in real seconds: rate limits, `latency`, `result_ttl`, `spend_window`,
    `not_found_for`, `idle_close`. (At speed 600 a result that lives 24 hours would otherwise be
    gone in 144 seconds, before a batch has fetched it.)
    """

    keys: Mapping[str, int] | None = None
    """Each key with its balance in credits; others get a 401. None: any `sk-…` key is good."""
    default_balance: int = attrs.field(default=1_000_000, validator=_not_negative)
    """What a key has in credits when `keys` is None."""
    disabled_keys: frozenset[str] = attrs.field(default=frozenset(), converter=_key_set)
    """401: disabled or deleted."""
    blocked_keys: frozenset[str] = attrs.field(default=frozenset(), converter=_key_set)
    """401: the account is blocked."""
    refused_ip_keys: frozenset[str] = attrs.field(default=frozenset(), converter=_key_set)
    """403: the caller's address is not on the key's list."""

    rate_limit: RateLimit | None = None
    """Per key, shared by creates, polls and credit queries (a `JobsCap`: creates alone)."""
    create_rate_limit: RequestRate | None = None
    """A limit for creates alone, per key, on top of `rate_limit`."""
    jobs_in_flight: int | None = attrs.field(default=None, validator=_positive)
    """At most so many tasks pending or processing per key: the next create gets a 429."""
    retry_after: Literal["none", "seconds", "date"] = attrs.field(
        default="none", validator=attrs.validators.in_(("none", "seconds", "date"))
    )
    """How a 429 by time says when to come again: whole seconds (rounded up, at least 1) or an
    HTTP date. A 429 by a jobs cap never says: nobody knows when a job will end."""
    spend_limit: int | None = attrs.field(default=None, validator=_not_negative)
    """The most credits a key may spend; beyond it, 429 `spend_limit_exceeded`."""
    spend_window: float | None = attrs.field(default=None, validator=_positive)
    """Seconds after which `spend_limit` begins anew (3600: hourly). None: it is a total."""
    refund_lowers_consumed: bool = True
    """Whether a refund lowers `total_consumed` (nobody documents it). `balance` always grows."""

    task_seconds: Seconds = attrs.field(
        factory=lambda: Lognormal(100.0, 0.5), validator=_length_of_time
    )
    """How long a task is processed."""
    queue_seconds: Seconds = attrs.field(default=2.0, validator=_length_of_time)
    """How long a task is pending before it is processed."""
    progress: Literal["null", "percent"] = attrs.field(
        default="null", validator=attrs.validators.in_(("null", "percent"))
    )
    """What `progress` shows while a task runs: null, or a whole number from 0 to 99."""
    not_found_for: float = attrs.field(default=0.0, validator=_not_negative)
    """Seconds for which a new task is still answered with 404."""
    failure_rate: float = attrs.field(default=0.0, validator=_share)
    """The share of tasks that fail (and are refunded)."""
    failure_code: str = "upstream_error"
    failure_message: str = "Video generation failed"
    callback_tries: tuple[float, ...] = (0.0, 180.0, 600.0)
    """When a callback is tried: seconds after the task's end."""

    speed: float = attrs.field(default=1.0, validator=_positive)
    """Times of tasks are divided by this."""
    seed: int = 0
    epoch: float | None = None
    """The Unix time at which the service's clock reads 0. None: a server reads the host's clock
    once, when it starts; a bare `Service` takes a fixed one."""
    clock_skew: float = 0.0
    """Seconds by which `created_at` and `completed_at` are ahead of the callers' clock."""

    models: Mapping[str, Model] = attrs.field(factory=lambda: MODELS)
    """What is sold; a name not in it is a 404 `model_not_found`."""
    result_ttl: float = attrs.field(default=24 * 3600.0, validator=_positive)
    """Seconds for which a result's URL is good, from the task's completion."""
    media: Literal["mp4", "stub"] = attrs.field(
        default="mp4", validator=attrs.validators.in_(("mp4", "stub"))
    )
    """What results hold: real videos, or a few bytes that do not play and cost nothing."""

    latency: float | tuple[float, float] = attrs.field(default=0.0, validator=_length_of_time)
    """Seconds until any answer of the API: a number, or evenly between two."""
    idle_close: float | None = attrs.field(default=None, validator=_positive)
    """Seconds after which the server closes an idle connection. None: 75."""
    max_requests_per_connection: int | None = attrs.field(default=None, validator=_positive)
    """After so many answers a connection is closed, with `Connection: close`."""

    faults: Faults = attrs.field(factory=Faults)
