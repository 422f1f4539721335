"""Paces against limits nobody states, on virtual time: short batches, ten minutes, several clients.

Pure machines against pure servers (the simulator's limits), with jittered round trips: an event
queue drives them, so an hour takes a second. Seeds are such as nothing was tuned on.

    python benchmarks/pace_long.py [SEEDS [PART,…]]     parts: batch long shared change stated
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean, median

sys.path.insert(0, str(Path(__file__).parent.parent))

from aivideo._pacing.stated import StatedPace
from aivideo.settings import RateLimit
from aivideo.simulator import FixedWindow, SlidingWindow, TokenBucket
from tests.pacing.servers import Both, Drive, Limit, drive, ideal, phase, rate_of

FIRST_SEED = 1001

BATCHES: list[tuple[str, Limit, int, float]] = [
    ("bucket 50/s burst 10", TokenBucket(50, 10), 500, 0.15),
    ("fixed 20 per 10 s", FixedWindow(20, 10), 100, 0.15),
    ("sliding 100 per 60 s", SlidingWindow(100, 60), 300, 0.15),
    ("fixed 7 per 3 s", FixedWindow(7, 3), 70, 0.15),
    ("fixed 600 per 60 s", FixedWindow(600, 60), 1800, 0.15),
    ("fixed 10 per 60 s", FixedWindow(10, 60), 40, 0.15),
    ("sliding 10 per 60 s", SlidingWindow(10, 60), 40, 0.15),
    ("fixed 13 per 17 s", FixedWindow(13, 17), 65, 0.15),
    ("sliding 40 per 7 s", SlidingWindow(40, 7), 200, 0.15),
    ("sliding 5 per second", SlidingWindow(5, 1), 100, 0.1),
    ("fixed 50 per second", FixedWindow(50, 1), 500, 0.1),
    ("10/s burst 10 and 300 a minute", Both(TokenBucket(10, 10), FixedWindow(300, 60)), 700, 0.1),
    ("5 a second and 100 a minute", Both(FixedWindow(5, 1), FixedWindow(100, 60)), 250, 0.1),
    ("bucket 5/s, no burst", TokenBucket(5, 1), 100, 0.15),
    ("bucket 3/s, no burst, 5 ms", TokenBucket(3, 1), 60, 0.005),
    ("bucket 0.2/s, no burst", TokenBucket(0.2, 1), 20, 0.15),
    ("bucket 0.5/s burst 3", TokenBucket(0.5, 3), 30, 0.15),
    ("bucket 200/s burst 50", TokenBucket(200, 50), 2000, 0.15),
    ("bucket 50/s, trips of 2 ms", TokenBucket(50, 10), 500, 0.002),
    ("bucket 5/s no burst, 2 ms", TokenBucket(5, 1), 100, 0.002),
    ("bucket 50/s, trips of 50 ms", TokenBucket(50, 10), 500, 0.05),
    ("fixed 20/10 s, 50 ms", FixedWindow(20, 10), 100, 0.05),
    ("bucket 50/s, trips of 0.8 s", TokenBucket(50, 10), 500, 0.8),
    ("fixed 20/10 s, 0.8 s", FixedWindow(20, 10), 100, 0.8),
    ("sliding 100/60 s, 0.8 s", SlidingWindow(100, 60), 300, 0.8),
]
LONG: list[tuple[str, Limit]] = [
    ("bucket 50/s burst 10", TokenBucket(50, 10)),
    ("bucket 2/s burst 10", TokenBucket(2, 10)),
    ("fixed 20 per 10 s", FixedWindow(20, 10)),
    ("sliding 100 per 60 s", SlidingWindow(100, 60)),
]
HELD_OUT: list[tuple[str, Limit]] = [
    ("bucket 5/s, no burst", TokenBucket(5, 1)),
    ("bucket 0.5/s burst 3", TokenBucket(0.5, 3)),
    ("bucket 200/s burst 50", TokenBucket(200, 50)),
    ("fixed 7 per 3 s", FixedWindow(7, 3)),
    ("fixed 600 per 60 s", FixedWindow(600, 60)),
    ("fixed 10 per 60 s", FixedWindow(10, 60)),
]


def batch(seeds: range) -> None:
    """Makespan ÷ ideal of batches: mean, median and worst, and 429s per accepted."""
    print("\nbatch: makespan ÷ ideal, mean [median, worst], 429s per accepted")
    print(f"{'':31s} {'':>5s}   {'no header':28s} Retry-After")
    for name, limit, requests, trip in BATCHES:
        shown = []
        for header in (False, True):
            ratios, refusals = [], []
            for seed in seeds:
                start = phase(limit, seed)
                run = drive(
                    limit,
                    requests=requests,
                    seconds=7200,
                    seed=seed,
                    start=start,
                    round_trip=trip,
                    header=header,
                )
                took = run.makespan or 7200.0
                ratios.append(took / ideal(limit, requests, start, trip))
                refusals.append(run.rejections)
            shown.append(
                f"{mean(ratios):.3f} [{median(ratios):.3f}, {max(ratios):.3f}] {mean(refusals):.3f}"
            )
        print(f"{name:31s} {requests:5d}   {shown[0]:28s} {shown[1]}")


def _half(times: list[list[float]], seconds: float) -> list[int]:
    return [sum(at > seconds / 2 for at in each) for each in times]


def _row(runs: list[Drive], rate: float, seconds: float) -> str:
    whole = [sum(map(len, run.accepted)) / seconds / rate for run in runs]
    late = [sum(_half(run.accepted, seconds)) / (seconds / 2) / rate for run in runs]
    refused = [
        sum(_half(run.rejected, seconds)) / max(1, sum(_half(run.accepted, seconds)))
        for run in runs
    ]
    evenness = []
    for run in runs:
        each = _half(run.accepted, seconds)
        evenness.append(sum(each) ** 2 / (len(each) * sum(n * n for n in each)))
    jain = f" Jain {mean(evenness):.3f} [{min(evenness):.3f}]" if len(runs[0].accepted) > 1 else ""
    return (
        f"{mean(whole):.3f} [{min(whole):.3f}]  second half {mean(late):.3f}, "
        f"429s {100 * mean(refused):.2f} %{jain}"
    )


def long(seeds: range, limits: list[tuple[str, Limit]], clients: int, seconds: float) -> None:
    """Share of the limit over the whole run and its second half, 429s, evenness."""
    print(f"\n{seconds:.0f} s, {clients} on the key: share of the limit, mean [worst]")
    for name, limit in limits:
        for header in (False, True):
            runs = [
                drive(
                    limit,
                    seconds=seconds,
                    clients=clients,
                    seed=seed,
                    start=phase(limit, seed),
                    header=header,
                )
                for seed in seeds
            ]
            told = "Retry-After" if header else "no header"
            print(f"{name:24s} {told:12s} {_row(runs, rate_of(limit), seconds)}")


def change(seeds: range) -> None:
    """A limit that falls to a fifth after 300 s, and one that rises."""
    print("\nchange after 300 of 900 s: share of what was allowed, mean [worst], 429s per accepted")
    for before, after in ((50, 10), (10, 50)):
        shares, refusals = [], []
        for seed in seeds:
            run = drive(
                TokenBucket(before, 10),
                seconds=900,
                seed=seed,
                later=(300.0, TokenBucket(after, 10)),
            )
            shares.append(len(run.accepted[0]) / (300 * before + 600 * after))
            refusals.append(run.rejections)
        print(
            f"{before}/s, then {after}/s:   {mean(shares):.3f} [{min(shares):.3f}]  "
            f"{100 * mean(refusals):.2f} %"
        )


def stated(seeds: range) -> None:
    """Limits that the user states: makespan ÷ ideal, and all 429s of all seeds."""
    print("\nstated: makespan ÷ ideal, mean [worst], 429s in all runs together")
    cases: list[tuple[str, Limit, RateLimit | float, int]] = [
        ("bucket(50, burst=10)", TokenBucket(50, 10), RateLimit.bucket(50, burst=10), 500),
        ("bucket(2, burst=10)", TokenBucket(2, 10), RateLimit.bucket(2, burst=10), 100),
        ("bucket(5)", TokenBucket(5, 1), RateLimit.bucket(5), 100),
        ("window(20, 10 s), fixed", FixedWindow(20, 10), RateLimit.window(20, seconds=10), 100),
        ("window(20, 10 s), sliding", SlidingWindow(20, 10), RateLimit.window(20, seconds=10), 100),
        ("600 a minute, bucket", TokenBucket(10, 10), 600.0, 600),
    ]
    for trip in (0.002, 0.05, 0.15, 0.8):
        for name, limit, told, requests in cases:
            ratios, refused = [], 0
            for seed in seeds:
                start = 10_000.0 if isinstance(limit, FixedWindow) else phase(limit, seed)
                run = drive(
                    limit,
                    requests=requests,
                    seconds=7200,
                    make=lambda told=told: (  # type: ignore[misc]
                        StatedPace(told)
                        if isinstance(told, RateLimit)
                        else StatedPace(per_minute=told)
                    ),
                    seed=seed,
                    start=start,
                    round_trip=trip,
                )
                ratios.append((run.makespan or 7200.0) / ideal(limit, requests, start, trip))
                refused += len(run.rejected[0])
            print(
                f"trips of {trip:5.3f} s  {name:28s} {mean(ratios):.3f} [{max(ratios):.3f}]"
                f"   {refused}"
            )


def main(count: int, parts: str) -> None:
    """Run the parts that were asked for."""
    seeds = range(FIRST_SEED, FIRST_SEED + count)
    if "batch" in parts:
        batch(seeds)
    if "long" in parts:
        long(seeds, LONG + HELD_OUT, 1, 600.0)
    if "shared" in parts:
        long(seeds, LONG, 2, 1800.0)
        long(seeds, LONG, 4, 1800.0)
    if "change" in parts:
        change(seeds)
    if "stated" in parts:
        stated(seeds)


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 10,
        sys.argv[2] if len(sys.argv) > 2 else "batch,long,shared,change,stated",
    )
