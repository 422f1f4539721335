"""What is drawn besides faults and crashes: pauses, clocks, other spenders, users' own code.

Each hardship has its own random numbers, so a change of one changes no other draw.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from attrs import evolve

from aivideo import Generation, RateLimit, Request, Sora2
from aivideo.simulator import TokenBucket
from tests.simulated.faults.plan import (
    MINUTE,
    BootPlan,
    OutageKind,
    Pause,
    PauseAt,
    Plan,
    ProcessPlan,
    Row,
    plan_of,
)

IMAGES = ("https://images.invalid/a.png", "https://images.invalid/b.png")
LONGEST_PAUSE = 300.0
"""Seconds for which a process stands still, at most: far longer than a lease."""

Hardship = Callable[[random.Random, Plan], Plan]
HARDSHIPS: dict[str, Hardship] = {}


def hardship(draw: Hardship) -> Hardship:
    """Register a hardship; its name is the function's."""
    HARDSHIPS[draw.__name__] = draw
    return draw


def plan_with_hardships(seed: int) -> Plan:
    """Draw the whole plan of a seed."""
    plan = plan_of(seed)
    for name, draw in HARDSHIPS.items():
        plan = draw(random.Random(f"{name} {seed}"), plan)
    return plan


def _each_process(plan: Plan, change: Callable[[ProcessPlan, int], ProcessPlan]) -> Plan:
    """Change every process of a plan; ``change`` is also given the number of its boot."""
    boots = tuple(
        evolve(boot, processes=tuple(change(process, number) for process in boot.processes))
        for number, boot in enumerate(plan.boots)
    )
    return evolve(plan, boots=boots)


def _each_boot(plan: Plan, change: Callable[[BootPlan], BootPlan]) -> Plan:
    return evolve(plan, boots=tuple(change(boot) for boot in plan.boots))


# --- what is asked for ----------------------------------------------------------------------------


@hardship
def equal_requests(rng: random.Random, plan: Plan) -> Plan:
    """Ask for the same more than once in a batch, or for the same with another image."""
    batch = list(plan.batch)
    if not batch or rng.random() < 0.6:
        return plan
    images = rng.random() < 0.6
    for number, request in enumerate(batch):
        assert isinstance(request, Sora2)
        if images and rng.random() < 0.5:
            batch[number] = evolve(request, image=rng.choice(IMAGES))
    for _ in range(rng.randint(1, 3)):
        source = rng.choice(batch)
        assert isinstance(source, Sora2)
        image = rng.choice((source.image, *IMAGES)) if images else source.image
        batch[rng.randrange(len(batch))] = evolve(source, image=image)
    plan = evolve(plan, batch=tuple(batch))
    return _each_process(
        plan,
        lambda process, _: evolve(
            process, order=rng.randrange(1000) if rng.random() < 0.5 else None
        ),
    )


@hardship
def unpriced_requests(rng: random.Random, plan: Plan) -> Plan:
    """Ask for models without a known price."""
    if rng.random() < 0.85:
        return plan

    def some(requests: tuple[Request, ...]) -> tuple[Request, ...]:
        return tuple(
            Generation("kling-3.0", {"prompt": f"{request.prompt} unpriced"})
            if rng.random() < 0.4
            else request
            for request in requests
        )

    plan = evolve(plan, batch=some(plan.batch), keyed=some(plan.keyed))
    if rng.random() < 0.4:
        return plan
    # The ceiling is set when some of the batch has been bought. `resume()` would not know it.
    ceiling = plan.batch_ceiling or rng.choice((300, 1000, 2000))
    plan = evolve(plan, batch_ceiling=ceiling, ceiling_from=1)
    return _each_process(plan, lambda process, _: evolve(process, resumes=False))


@hardship
def loose_requests(rng: random.Random, plan: Plan) -> Plan:
    """Submit without a key, and again what was said to be unsent."""
    if rng.random() < 0.7:
        return plan
    loose = tuple(
        Sora2(f"A boat, loose {n}", duration=4, aspect_ratio="16:9")
        for n in range(rng.choice((1, 3, 6)))
    )
    plan = evolve(plan, loose=loose)
    return _each_process(plan, lambda process, _: evolve(process, loose=rng.random() < 0.8))


@hardship
def manifests(rng: random.Random, plan: Plan) -> Plan:
    """Run a manifest that is edited between runs and while they run."""
    if rng.random() < 0.75:
        return plan
    ids = rng.random() < 0.5
    rows = tuple(
        Row(prompt=f"A boat, manifest {n}", id=f"line {n}" if ids else None)
        for n in range(rng.choice((2, 4, 8)))
    )
    plan = evolve(plan, manifest=rows, ids=ids)
    plan = _each_process(plan, lambda process, _: evolve(process, manifest=rng.random() < 0.8))

    def edits(boot: BootPlan) -> BootPlan:
        times = tuple(rng.random() ** 2 * 120.0 for _ in range(rng.choice((0, 1, 3))))
        return evolve(boot, edits_before=rng.choice((0, 0, 1, 3)), edits=times)

    plan = _each_boot(plan, edits)
    return _rivals(rng, plan) if ids and rng.random() < 0.4 else plan


def _rivals(rng: random.Random, plan: Plan) -> Plan:
    """Let two processes run the manifest at a slow pace, and reword its lines meanwhile."""
    number = rng.randrange(len(plan.boots))
    boot = plan.boots[number]
    first = evolve(boot.processes[0], states_limit=True, manifest=True, closes_at=None, crash=None)
    starts = rng.uniform(2.0, 15.0)
    edits = tuple(rng.uniform(0.5, starts) for _ in range(4))
    boots = list(plan.boots)
    boots[number] = evolve(
        boot,
        processes=(first, evolve(first, starts=starts, resumes=False, cancels=0.0)),
        edits=edits,
    )
    return evolve(
        plan,
        boots=tuple(boots),
        rewords=True,
        stated=RateLimit.bucket(0.5, burst=1),
        scenario=evolve(plan.scenario, rate_limit=TokenBucket(0.5, 1), jobs_in_flight=None),
    )


# --- the account and the service ------------------------------------------------------------------


@hardship
def other_spender(rng: random.Random, plan: Plan) -> Plan:
    """Let another program, with a ledger in memory, buy and get refunds on the same account."""
    if rng.random() < 0.75:
        return plan
    boots = []
    for number, boot in enumerate(plan.boots):
        if rng.random() < 0.5:
            unkept = tuple(
                Sora2(f"A boat, unkept {number}.{n}", duration=4, aspect_ratio="16:9")
                for n in range(rng.choice((2, 5, 9)))
            )
            settings: dict[str, Any] = {
                "max_requests_in_flight": rng.choice((1, 4, 16)),
                "resubmit_server_errors": rng.random() < 0.6,
                "request_timeout": 20.0,
            }
            other = ProcessPlan(
                starts=rng.random() * 30.0,
                unkept=unkept,
                keep_ended=rng.choice((0, 1, 3)),
                settings=settings,
                callbacks=False,
                states_limit=False,
            )
            boots.append(evolve(boot, processes=(*boot.processes, other)))
        else:
            boots.append(boot)
    faults = evolve(
        plan.scenario.faults,
        create_internal_error=rng.choice((0.0, 0.2)),
        create_upstream_error_taken=rng.choice((0.0, 0.1)),
    )
    return evolve(plan, boots=tuple(boots), scenario=evolve(plan.scenario, faults=faults))


@hardship
def repeated_task_ids(rng: random.Random, plan: Plan) -> Plan:
    """Answer creates with the id of an earlier task."""
    if rng.random() < 0.9:
        return plan
    return evolve(plan, repeated_ids=rng.choice((0.05, 0.2)))


@hardship
def odd_answers(rng: random.Random, plan: Plan) -> Plan:
    """Answer creates, taken or not, by a 4xx that the API does not list."""
    if rng.random() < 0.9:
        return plan
    return evolve(plan, odd_answers=rng.choice((0.1, 0.3)))


@hardship
def late_creates(rng: random.Random, plan: Plan) -> Plan:
    """Deliver creates to the service after their senders have given up."""
    return plan if rng.random() < 0.85 else evolve(plan, late_creates=rng.choice((0.03, 0.15)))


@hardship
def outages_of_creates(rng: random.Random, plan: Plan) -> Plan:
    """Let every create fail for a while, while all else is answered."""
    if rng.random() < 0.9:
        return plan
    kinds: tuple[OutageKind, ...] = ("500", "502", "hang")
    kind = rng.choice(kinds)
    batch = tuple(
        Sora2(f"A boat, batch {n}", duration=4, aspect_ratio="16:9")
        for n in range(rng.choice((10, 40, 80)))
    )
    begins = rng.choice((0.0, 1.0, 5.0))
    boots = list(plan.boots)
    boots[0] = evolve(
        boots[0], outage=(begins, begins + rng.uniform(60.0, 20 * MINUTE)), outage_kind=kind
    )
    return evolve(plan, batch=batch, batch_ceiling=None, boots=tuple(boots))


@hardship
def audits(rng: random.Random, plan: Plan) -> Plan:
    """Read the account's counters now and then."""
    if rng.random() < 0.6:
        return plan
    return _each_process(
        plan,
        lambda process, _: evolve(
            process, reads_credits_every=rng.choice((None, 30.0, 10 * MINUTE))
        ),
    )


# --- processes, clocks and people -----------------------------------------------------------------


def _pause(rng: random.Random, *, stops: bool) -> Pause:
    points: tuple[PauseAt, ...] = ("claim", "claim", "write", "answer", "file", "time")
    at = rng.choice(points)
    number = rng.random() ** 2 * 10 * MINUTE if at == "time" else rng.randint(1, 12)
    seconds = 1.0 + rng.random() ** 2 * (LONGEST_PAUSE - 1.0)
    return Pause(at=at, number=number, seconds=seconds, stops=stops)


@hardship
def pauses(rng: random.Random, plan: Plan) -> Plan:
    """Stop processes for a while between any two steps, or block their loops."""
    if rng.random() < 0.7:
        return plan

    def paused(process: ProcessPlan, _: int) -> ProcessPlan:
        stops = rng.random() < 0.6
        each = tuple(_pause(rng, stops=stops) for _ in range(rng.choice((0, 1, 1, 3))))
        return evolve(process, pauses=each, blocking=0.0 if stops else rng.choice((0.0, 0.2)))

    return _each_process(plan, paused)


@hardship
def clocks(rng: random.Random, plan: Plan) -> Plan:
    """Let the wall clocks of processes differ, and jump."""
    if rng.random() < 0.85:
        return plan

    def shifted(process: ProcessPlan, _: int) -> ProcessPlan:
        jumps = tuple(
            (rng.random() * 5 * MINUTE, rng.choice((-3600.0, -60.0, 30.0, 3600.0)))
            for _ in range(rng.choice((0, 0, 1, 2)))
        )
        offset = rng.choice((0.0, -45.0, 45.0, 600.0))
        return evolve(process, clock_offset=offset, clock_jumps=jumps)

    return _each_process(plan, shifted)


@hardship
def visits(rng: random.Random, plan: Plan) -> Plan:
    """Let a person look at the ledger, and perhaps settle jobs, while processes run."""
    if rng.random() < 0.6:
        return plan

    def visited(boot: BootPlan) -> BootPlan:
        times = tuple(rng.random() ** 2 * 5 * MINUTE for _ in range(rng.choice((0, 2, 6))))
        return evolve(boot, visits=times, settles=rng.random() < 0.5)

    return _each_boot(plan, visited)


@hardship
def users_code(rng: random.Random, plan: Plan) -> Plan:
    """Let the user's own functions raise."""
    if rng.random() < 0.8:
        return plan
    on_job = rng.choice((0.0, 0.2))
    return _each_process(
        plan,
        lambda process, _: evolve(
            process, raising=rng.choice((0.0, 0.5)), raising_on_job=rng.choice((0.0, on_job))
        ),
    )
