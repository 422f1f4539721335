"""What one seed draws: a service and its weather, what is wanted of it, and how processes die."""

from __future__ import annotations

import random
from typing import Any, Literal, TypeAlias

from attrs import frozen

from aivideo import RateLimit, Sora2
from aivideo.models import Sora2AspectRatio, Sora2Duration
from aivideo.simulator import (
    Faults,
    FixedWindow,
    JobsCap,
    Lognormal,
    Scenario,
    SlidingWindow,
    TokenBucket,
)
from aivideo.simulator import RateLimit as ServiceLimit

KEY = "sk-live-5b1e7c0ffee94d2a"
"""Must be found in no log line and no byte of a ledger."""

MINUTE, HOUR = 60.0, 3600.0

CrashAt: TypeAlias = Literal["write", "event", "post", "verdict", "time"]


@frozen(kw_only=True)
class Crash:
    """When a process dies, and what dies with it.

    Attributes:
        at: what is counted: transactions of its ledger; all it does to the world (a transaction, a
            request that leaves, an answer that comes, a file); POSTs that are about to leave;
            verdicts that are about to be written; or seconds.
        number: which of them, from 1; or after how many seconds.
        power: whether the machine dies with all its processes; else this process is killed.
    """

    at: CrashAt
    number: float
    power: bool


@frozen(kw_only=True)
class ProcessPlan:
    """One life of a process: what it does, how it is set, how it ends."""

    starts: float = 0.0
    batch: bool = True
    keyed: bool = True
    resumes: bool = False
    leaves_after: int | None = None
    """Outcomes after which it leaves ``generate_many``."""
    closes_at: float | None = None
    """Seconds after which it closes its session, whatever still runs."""
    cancels: float = 0.0
    """Share of callers that are cancelled while they wait."""
    resume_submits_every: float | None = None
    settings: dict[str, Any]
    callbacks: bool
    states_limit: bool
    crash: Crash | None = None


@frozen(kw_only=True)
class BootPlan:
    """One uptime of the machine: one or two processes on one ledger."""

    processes: tuple[ProcessPlan, ...]
    down_before: float = 0.0
    """Seconds for which the machine, or whoever starts the command again, was away before."""
    persons: int = 0
    """Acts of a person on the ledger before it starts."""
    autocheckpoint: int | None = None
    """Pages of the log after which it is copied into the file; None: SQLite's own 1000."""
    outage: tuple[float, float] = (0.0, 0.0)
    """When nothing of the service answers as it should: from, to, in seconds of this boot."""
    disk_full: tuple[float, float] = (0.0, 0.0)
    """When no transaction succeeds, likewise."""


@frozen(kw_only=True)
class Plan:
    """All that a seed draws beforehand."""

    seed: int
    scenario: Scenario
    stated: RateLimit | None
    refused: float
    """Share of requests that find no connection."""
    way_there: tuple[float, float]
    ledger_delay: float
    """Seconds that a transaction takes at most."""
    batch: tuple[Sora2, ...]
    batch_ceiling: int | None
    saves: bool
    keyed: tuple[Sora2, ...]
    first_file: Literal["none", "empty", "wal"]
    """What an opening that was killed left of the ledger's file before the first boot."""
    boots: tuple[BootPlan, ...]


def plan_of(seed: int) -> Plan:
    """Draw everything."""
    draw = random.Random(f"plan {seed}")
    stated, limit = _limits(draw)
    batch_size = draw.choice((0, 3, 6, 10, 16)) if draw.random() < 0.9 else 0
    keyed_size = draw.choice((0, 0, 2, 4, 8)) if batch_size else draw.randint(1, 10)
    choices: tuple[tuple[Sora2Duration, ...], ...] = ((4,), (4, 8, 12), (12,))
    prices = draw.choice(choices)
    batch = tuple(_request(draw, f"batch {n}", prices) for n in range(batch_size))
    keyed = tuple(_request(draw, f"keyed {n}", prices) for n in range(keyed_size))
    worth = sum(int(request.credits) for request in (*batch, *keyed))
    faults = _weather(draw)
    spend_limit = draw.randint(1, max(1, worth // 100)) * 100 if draw.random() < 0.2 else None
    poor = draw.random() < 0.15
    scenario = Scenario(
        keys={KEY: draw.randint(0, max(1, worth // 100)) * 100 if poor else 10 * worth + 1000},
        rate_limit=limit,
        jobs_in_flight=draw.randint(2, 6) if draw.random() < 0.1 else None,
        retry_after=draw.choice(("none", "seconds", "date")),
        spend_limit=spend_limit,
        spend_window=draw.choice((None, 10 * MINUTE, HOUR)),
        refund_lowers_consumed=draw.random() < 0.5,
        task_seconds=draw.choice((5.0, 60.0, Lognormal(200.0, 0.8), (30.0, 900.0))),
        queue_seconds=draw.choice((0.0, 2.0)),
        not_found_for=draw.choice((0.0, 0.0, 3.0)),
        failure_rate=draw.choice((0.0, 0.1, 0.4)),
        callback_tries=(0.0, 180.0, 600.0),
        result_ttl=draw.choice((24 * HOUR, 24 * HOUR, 2 * HOUR)),
        clock_skew=draw.choice((0.0, 0.0, -20.0, 20.0)),
        latency=draw.choice((0.0, 0.05, (0.05, 0.4), (0.2, 3.0))),
        media="stub",
        seed=seed,
        faults=faults,
    )
    ceiling = draw.randint(0, max(1, worth // 100)) * 100 if draw.random() < 0.25 else None
    count = draw.choice((1, 2, 2, 3, 3, 4))
    boots = [_boot(draw, n, stated, ceiling) for n in range(count)]
    return Plan(
        seed=seed,
        scenario=scenario,
        stated=stated,
        refused=draw.choice((0.0, 0.0, 0.02, 0.2)),
        way_there=draw.choice(((0.0, 0.0), (0.01, 0.01), (0.01, 0.5))),
        ledger_delay=draw.choice((0.0, 0.002, 0.05)),
        batch=batch,
        batch_ceiling=ceiling,
        saves=draw.random() < 0.8,
        keyed=keyed,
        first_file=draw.choice(("none", "none", "none", "empty", "wal")),
        boots=tuple(boots),
    )


def quiet_process() -> ProcessPlan:
    """A last life in which nothing goes wrong."""
    return ProcessPlan(resumes=True, settings={}, callbacks=True, states_limit=True)


def _request(draw: random.Random, name: str, durations: tuple[Sora2Duration, ...]) -> Sora2:
    ratios: tuple[Sora2AspectRatio, ...] = ("16:9", "9:16")
    ratio = draw.choice(ratios)
    return Sora2(f"A boat, {name}", duration=draw.choice(durations), aspect_ratio=ratio)


def _limits(draw: random.Random) -> tuple[RateLimit | None, ServiceLimit | None]:
    """Draw a limit of the service, and how a user who knows it states it."""
    rate = draw.choice((0.5, 2.0, 10.0))
    count, seconds = draw.choice(((5, 10.0), (20, 10.0), (10, 60.0)))
    match draw.randrange(5):
        case 0:
            burst = draw.choice((1, 3, 10))
            return RateLimit.bucket(rate, burst=burst), TokenBucket(rate, burst)
        case 1:
            window = RateLimit.window(count, seconds=seconds)
            return window, SlidingWindow(count, seconds)
        case 2:
            return RateLimit.window(count, seconds=seconds), FixedWindow(count, seconds)
        case 3:
            return None, JobsCap(draw.randint(1, 5))
        case _:
            return None, None


_KINDS: dict[str, tuple[float, str]] = {
    "create": (
        0.5,
        """cut_before cut_after reset hang slow truncated malformed html_502 html_502_taken
        wrong_envelope missing_task_id redirect internal_error internal_error_taken upstream_error
        upstream_error_taken""",
    ),
    "poll": (
        0.5,
        "cut_before reset hang slow truncated malformed html_502 internal_error upstream_error",
    ),
    "download": (0.5, "cut reset ignore_range html_502"),
    "callback": (0.9, "lost doubled late disordered forged"),
}
"""Faults of each kind of request, and the largest share of requests that may have one."""


def _weather(draw: random.Random) -> Faults:
    """Draw which faults there are, and how often; none at all, now and then."""
    if draw.random() < 0.15:
        return Faults()
    said: dict[str, float] = {}
    for endpoint, (most, kinds) in _KINDS.items():
        names = [f"{endpoint}_{kind}" for kind in kinds.split() if draw.random() < 0.4]
        total = draw.random() * most
        shares = [draw.random() for _ in names]
        for name, share in zip(names, shares, strict=True):
            said[name] = total * share / sum(shares)
    return Faults(slow_seconds=draw.choice((5.0, 15.0)), late_seconds=900.0, **said)


def _span(draw: random.Random, chance: float, until: float, longest: float) -> tuple[float, float]:
    if draw.random() >= chance:
        return (0.0, 0.0)
    begins = draw.random() ** 3 * until
    return (begins, begins + draw.random() * longest)


def _boot(
    draw: random.Random, number: int, stated: RateLimit | None, ceiling: int | None
) -> BootPlan:
    twins = draw.random() < 0.25
    processes = [_process(draw, number, stated, ceiling)]
    if twins:
        processes.append(_process(draw, number, stated, ceiling, starts=draw.random() ** 2 * 60.0))
    return BootPlan(
        processes=tuple(processes),
        down_before=draw.choice((0.0, 1.0, 60.0, 20 * MINUTE, 5 * HOUR, 30 * HOUR)) * bool(number),
        persons=draw.choice((0, 0, 0, 0, 1, 3)),
        autocheckpoint=draw.choice((None, None, 1, 4, 16)),
        outage=_span(draw, 0.2, 10 * MINUTE, 10 * MINUTE),
        disk_full=_span(draw, 0.1, 5 * MINUTE, 2 * MINUTE),
    )


def _process(
    draw: random.Random,
    number: int,
    stated: RateLimit | None,
    ceiling: int | None,
    *,
    starts: float = 0.0,
) -> ProcessPlan:
    # Whoever resumes a batch by `session.resume()` states no ceiling of it.
    resumes = draw.random() < (0.5 if number else 0.1) and ceiling is None
    settings: dict[str, Any] = {
        "max_requests_in_flight": draw.choice((1, 2, 4, 8, 64)),
        "max_running_jobs": draw.choice((None, None, None, 3)),
        "max_credits": draw.randint(1, 20) * 100 if draw.random() < 0.2 else None,
        "resubmit_server_errors": draw.random() < 0.15,
        "request_timeout": draw.choice((20.0, 60.0)),
    }
    return ProcessPlan(
        starts=starts,
        batch=draw.random() < 0.9,
        keyed=draw.random() < 0.9,
        resumes=resumes,
        leaves_after=draw.randint(0, 5) if draw.random() < 0.1 else None,
        closes_at=draw.random() ** 2 * 900.0 if draw.random() < 0.15 else None,
        cancels=draw.choice((0.0, 0.0, 0.3)),
        resume_submits_every=draw.choice((None, None, 15 * MINUTE)),
        settings=settings,
        callbacks=draw.random() < 0.5,
        states_limit=stated is not None and draw.random() < 0.6,
        crash=_crash(draw) if draw.random() < 0.8 else None,
    )


def _crash(draw: random.Random) -> Crash:
    at: CrashAt = draw.choice(("write", "write", "event", "post", "verdict", "time"))
    power = draw.random() < 0.7
    match at:
        case "post" | "verdict":
            number: float = draw.randint(1, 8)
        case "time":
            number = draw.random() ** 3 * HOUR
        case _:
            number = 1 + int(draw.random() ** 2 * 80)
    return Crash(at=at, number=number, power=power)
