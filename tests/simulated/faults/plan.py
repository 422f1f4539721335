"""The random plan of one seed: the service and its faults, the jobs, the process crashes."""

from __future__ import annotations

import random
from typing import Any, Literal, TypeAlias

from attrs import frozen

from aivideo import RateLimit, Request, Sora2
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
"""The API key: it must appear in no log line and in no ledger file."""

MINUTE, HOUR = 60.0, 3600.0

OutageKind: TypeAlias = Literal["all", "500", "502", "hang"]
"""What fails in an outage: "all" requests; or every create, while all else is answered: with the
documented 500, with a gateway's page, or not at all."""

CrashAt: TypeAlias = Literal["write", "event", "post", "verdict", "time"]


@frozen(kw_only=True)
class Crash:
    """When a process crashes, and whether the whole machine loses power.

    Attributes:
        at: the kind of crash point that is counted: "write" (ledger transactions), "event" (every
            crash point: transactions, requests sent, responses received, files written), "post"
            (POSTs about to be sent), "verdict" (verdicts about to be recorded) or "time".
        number: the crash happens at this crash point, counted from 1; for "time", after this many
            seconds.
        power: True: the machine loses power and all its processes end. False: only this process
            is killed.
    """

    at: CrashAt
    number: float
    power: bool


PauseAt: TypeAlias = Literal["claim", "write", "answer", "file", "time"]


@frozen(kw_only=True)
class Pause:
    """When a process stands still for a while, and how.

    Attributes:
        at: the kind of point: "claim" (a claim has returned, its POST comes next), "write" (ledger
            transactions), "answer" (responses about to be received), "file" (files about to be
            written) or "time". There is none between the last look at the clock and the POST's
            first byte: no program can tell that it was stopped there.
        number: the pause begins at this point, counted from 1; for "time", after this many seconds.
        seconds: how long it lasts.
        stops: True: the whole process stops, its ledger thread too (SIGSTOP, a suspended virtual
            machine). False: user code blocks the event loop.
    """

    at: PauseAt
    number: float
    seconds: float
    stops: bool = True


@frozen(kw_only=True)
class ProcessPlan:
    """One run of a process: its work, its settings and how it ends."""

    starts: float = 0.0
    batch: bool = True
    keyed: bool = True
    resumes: bool = False
    leaves_after: int | None = None
    """Number of outcomes after which it stops iterating over ``generate_many``."""
    closes_at: float | None = None
    """Seconds after which it closes its session, even if jobs are still running."""
    cancels: float = 0.0
    """Fraction of callers that are cancelled while they wait."""
    resume_submits_every: float | None = None
    settings: dict[str, Any]
    callbacks: bool
    states_limit: bool
    crash: Crash | None = None
    pauses: tuple[Pause, ...] = ()
    clock_offset: float = 0.0
    """Seconds by which its wall clock differs from that of the machine."""
    clock_jumps: tuple[tuple[float, float], ...] = ()
    """Jumps of its wall clock: seconds after its start, seconds by which it jumps."""
    order: int | None = None
    """Seed by which it shuffles the batch's requests; None: their own order."""
    loose: bool = False
    """Whether it submits the requests without key that nobody has taken on yet."""
    manifest: bool = False
    """Whether it runs the manifest."""
    raising: float = 0.0
    """Fraction of the calls of its own ``on_update`` that raise."""
    raising_on_job: float = 0.0
    """The same of ``on_job`` and ``key``."""
    blocking: float = 0.0
    """Fraction of the outcomes whose consumer blocks the event loop, for up to 20 s."""
    reads_credits_every: float | None = None
    """Seconds between two readings of the account's counters, stored for audits."""
    unkept: tuple[Request, ...] = ()
    """What it asks for instead of all other work, with a ledger in memory: another program that
    spends on the same account."""
    keep_ended: int = 10_000
    """The number of ended jobs that its ledger in memory keeps."""


@frozen(kw_only=True)
class BootPlan:
    """One boot of the machine: one or two processes that share a ledger."""

    processes: tuple[ProcessPlan, ...]
    down_before: float = 0.0
    """Seconds between the end of the previous boot and the start of this one."""
    manual_changes: int = 0
    """Number of manual changes of the ledger (settle, retry) before the boot."""
    autocheckpoint: int | None = None
    """SQLite's ``wal_autocheckpoint`` in pages; None: the default of 1000."""
    outage: tuple[float, float] = (0.0, 0.0)
    """Interval in which requests to the service fail: (start, end), seconds since the boot."""
    disk_full: tuple[float, float] = (0.0, 0.0)
    """Interval in which ledger transactions fail: (start, end), seconds since the boot."""
    outage_kind: OutageKind = "all"
    visits: tuple[float, ...] = ()
    """When a person looks at the ledger: seconds since the boot."""
    settles: bool = False
    """Whether that person also settles jobs while processes run."""
    edits_before: int = 0
    """How many edits of the manifest are made before the boot."""
    edits: tuple[float, ...] = ()
    """When the manifest is edited while processes run: seconds since the boot."""


@frozen(kw_only=True)
class Row:
    """A line of the manifest."""

    prompt: str
    id: str | None = None


@frozen(kw_only=True)
class Plan:
    """Everything that is drawn from a seed before the simulation starts."""

    seed: int
    scenario: Scenario
    stated: RateLimit | None
    connection_failures: float
    """Fraction of requests that cannot connect."""
    network_delay: tuple[float, float]
    ledger_delay: float
    """Maximum duration of a ledger transaction, in seconds."""
    batch: tuple[Request, ...]
    batch_ceiling: int | None
    ceiling_from: int
    """The first boot in which that ceiling is set."""
    saves: bool
    keyed: tuple[Request, ...]
    first_file: Literal["none", "empty", "wal"]
    """Ledger file before the first boot, as left by a process killed while opening it."""
    boots: tuple[BootPlan, ...]
    loose: tuple[Request, ...] = ()
    """Requests without a key; who is told that one is unsent submits it again."""
    manifest: tuple[Row, ...] = ()
    """The manifest before it is edited."""
    ids: bool = True
    """Whether all lines of the manifest have ids."""
    rewords: bool = False
    """Whether most edits of the manifest change the prompt of a line."""
    repeated_ids: float = 0.0
    """Fraction of the creates that are answered with the id of an earlier task."""
    odd_answers: float = 0.0
    """Fraction of the creates that are answered by a 4xx that the API does not list."""
    late_creates: float = 0.0
    """Fraction of the creates that reach the service late, when nobody waits for the response."""


def plan_of(seed: int) -> Plan:
    """Draw the plan of a seed, without the hardships of :mod:`tests.simulated.faults.hardships`."""
    rng = random.Random(f"plan {seed}")
    stated, limit = _limits(rng)
    batch_size = rng.choice((0, 3, 6, 10, 16)) if rng.random() < 0.9 else 0
    keyed_size = rng.choice((0, 0, 2, 4, 8)) if batch_size else rng.randint(1, 10)
    choices: tuple[tuple[Sora2Duration, ...], ...] = ((4,), (4, 8, 12), (12,))
    prices = rng.choice(choices)
    batch = tuple(_request(rng, f"batch {n}", prices) for n in range(batch_size))
    keyed = tuple(_request(rng, f"keyed {n}", prices) for n in range(keyed_size))
    total_credits = sum(int(request.credits) for request in (*batch, *keyed))
    faults = _draw_faults(rng)
    spend_limit = rng.randint(1, max(1, total_credits // 100)) * 100 if rng.random() < 0.2 else None
    low_balance = rng.random() < 0.15
    scenario = Scenario(
        keys={
            KEY: rng.randint(0, max(1, total_credits // 100)) * 100
            if low_balance
            else 10 * total_credits + 1000
        },
        rate_limit=limit,
        jobs_in_flight=rng.randint(2, 6) if rng.random() < 0.1 else None,
        retry_after=rng.choice(("none", "seconds", "date")),
        spend_limit=spend_limit,
        spend_window=rng.choice((None, 10 * MINUTE, HOUR)),
        refund_lowers_consumed=rng.random() < 0.5,
        task_seconds=rng.choice((5.0, 60.0, Lognormal(200.0, 0.8), (30.0, 900.0))),
        queue_seconds=rng.choice((0.0, 2.0)),
        not_found_for=rng.choice((0.0, 0.0, 3.0)),
        failure_rate=rng.choice((0.0, 0.1, 0.4)),
        callback_tries=(0.0, 180.0, 600.0),
        result_ttl=rng.choice((24 * HOUR, 24 * HOUR, 2 * HOUR)),
        clock_skew=rng.choice((0.0, 0.0, -20.0, 20.0)),
        latency=rng.choice((0.0, 0.05, (0.05, 0.4), (0.2, 3.0))),
        media="stub",
        seed=seed,
        faults=faults,
    )
    ceiling = rng.randint(0, max(1, total_credits // 100)) * 100 if rng.random() < 0.25 else None
    count = rng.choice((1, 2, 2, 3, 3, 4))
    boots = [_boot(rng, n, stated, ceiling) for n in range(count)]
    return Plan(
        seed=seed,
        scenario=scenario,
        stated=stated,
        connection_failures=rng.choice((0.0, 0.0, 0.02, 0.2)),
        network_delay=rng.choice(((0.0, 0.0), (0.01, 0.01), (0.01, 0.5))),
        ledger_delay=rng.choice((0.0, 0.002, 0.05)),
        batch=batch,
        batch_ceiling=ceiling,
        ceiling_from=0,
        saves=rng.random() < 0.8,
        keyed=keyed,
        first_file=rng.choice(("none", "none", "none", "empty", "wal")),
        boots=tuple(boots),
    )


def fault_free_process() -> ProcessPlan:
    """Plan of the final process, which runs without faults."""
    return ProcessPlan(
        resumes=True, settings={}, callbacks=True, states_limit=True, loose=True, manifest=True
    )


def _request(rng: random.Random, name: str, durations: tuple[Sora2Duration, ...]) -> Sora2:
    ratios: tuple[Sora2AspectRatio, ...] = ("16:9", "9:16")
    ratio = rng.choice(ratios)
    return Sora2(f"A boat, {name}", duration=rng.choice(durations), aspect_ratio=ratio)


def _limits(rng: random.Random) -> tuple[RateLimit | None, ServiceLimit | None]:
    """Draw the rate limit of the service, and the same limit as a user would configure it."""
    rate = rng.choice((0.5, 2.0, 10.0))
    count, seconds = rng.choice(((5, 10.0), (20, 10.0), (10, 60.0)))
    match rng.randrange(5):
        case 0:
            burst = rng.choice((1, 3, 10))
            return RateLimit.bucket(rate, burst=burst), TokenBucket(rate, burst)
        case 1:
            window = RateLimit.window(count, seconds=seconds)
            return window, SlidingWindow(count, seconds)
        case 2:
            return RateLimit.window(count, seconds=seconds), FixedWindow(count, seconds)
        case 3:
            return None, JobsCap(rng.randint(1, 5))
        case _:
            return None, None


_FAULTS: dict[str, tuple[float, str]] = {
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
"""By endpoint: the maximum fraction of requests with a fault, and the possible faults."""


def _draw_faults(rng: random.Random) -> Faults:
    """Draw the kinds of faults and their probabilities. 15 % of the seeds have no faults."""
    if rng.random() < 0.15:
        return Faults()
    probabilities: dict[str, float] = {}
    for endpoint, (maximum, kinds) in _FAULTS.items():
        names = [f"{endpoint}_{kind}" for kind in kinds.split() if rng.random() < 0.4]
        total = rng.random() * maximum
        shares = [rng.random() for _ in names]
        for name, share in zip(names, shares, strict=True):
            probabilities[name] = total * share / sum(shares)
    return Faults(slow_seconds=rng.choice((5.0, 15.0)), late_seconds=900.0, **probabilities)


def _interval(
    rng: random.Random, probability: float, until: float, longest: float
) -> tuple[float, float]:
    if rng.random() >= probability:
        return (0.0, 0.0)
    begins = rng.random() ** 3 * until
    return (begins, begins + rng.random() * longest)


def _boot(
    rng: random.Random, number: int, stated: RateLimit | None, ceiling: int | None
) -> BootPlan:
    two_processes = rng.random() < 0.25
    processes = [_process(rng, number, stated, ceiling)]
    if two_processes:
        processes.append(_process(rng, number, stated, ceiling, starts=rng.random() ** 2 * 60.0))
    return BootPlan(
        processes=tuple(processes),
        down_before=rng.choice((0.0, 1.0, 60.0, 20 * MINUTE, 5 * HOUR, 30 * HOUR)) * bool(number),
        manual_changes=rng.choice((0, 0, 0, 0, 1, 3)),
        autocheckpoint=rng.choice((None, None, 1, 4, 16)),
        outage=_interval(rng, 0.2, 10 * MINUTE, 10 * MINUTE),
        disk_full=_interval(rng, 0.1, 5 * MINUTE, 2 * MINUTE),
    )


def _process(
    rng: random.Random,
    number: int,
    stated: RateLimit | None,
    ceiling: int | None,
    *,
    starts: float = 0.0,
) -> ProcessPlan:
    # `session.resume()` takes no ceiling, so only batches without a ceiling are resumed this way.
    resumes = rng.random() < (0.5 if number else 0.1) and ceiling is None
    settings: dict[str, Any] = {
        "max_requests_in_flight": rng.choice((1, 2, 4, 8, 64)),
        "max_running_jobs": rng.choice((None, None, None, 3)),
        "max_credits": rng.randint(1, 20) * 100 if rng.random() < 0.2 else None,
        "resubmit_server_errors": rng.random() < 0.15,
        "request_timeout": rng.choice((20.0, 60.0)),
    }
    return ProcessPlan(
        starts=starts,
        batch=rng.random() < 0.9,
        keyed=rng.random() < 0.9,
        resumes=resumes,
        leaves_after=rng.randint(0, 5) if rng.random() < 0.1 else None,
        closes_at=rng.random() ** 2 * 900.0 if rng.random() < 0.15 else None,
        cancels=rng.choice((0.0, 0.0, 0.3)),
        resume_submits_every=rng.choice((None, None, 15 * MINUTE)),
        settings=settings,
        callbacks=rng.random() < 0.5,
        states_limit=stated is not None and rng.random() < 0.6,
        crash=_crash(rng) if rng.random() < 0.8 else None,
    )


def _crash(rng: random.Random) -> Crash:
    at: CrashAt = rng.choice(("write", "write", "event", "post", "verdict", "time"))
    power = rng.random() < 0.7
    match at:
        case "post" | "verdict":
            number: float = rng.randint(1, 8)
        case "time":
            number = rng.random() ** 3 * HOUR
        case _:
            number = 1 + int(rng.random() ** 2 * 80)
    return Crash(at=at, number=number, power=power)
