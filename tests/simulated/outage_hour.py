"""An hour of outage, in four kinds: how many jobs it puts in doubt, and whether the rest goes on.

    python -m tests.simulated.outage_hour [JOBS]

10,000 jobs wait at default settings, then with one request in flight at a time. Creates fail for an
hour of virtual time; polls and the balance are answered, except where connections are refused.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Mapping

from attrs import frozen

from aivideo import APIConnectionError, Failed, Session, Sora2, Succeeded
from aivideo._api.messages import Answer
from aivideo.simulator import Scenario, Service
from aivideo.testing import DirectTransport, VirtualTimeLoop

KINDS = ("500", "502 page", "hanging", "refused")
HOUR = 3600.0
PROBES = 12
"""Creates that an hour of outage may put in doubt, besides those in flight when it was noticed."""


class Failing(DirectTransport):
    """Creates fail for an hour, in one way; everything else works, except without connections."""

    def __init__(self, service: Service, kind: str, *, begins: float = 30.0) -> None:
        super().__init__(service)
        self.kind = kind
        self.began = asyncio.get_running_loop().time() + begins
        self.failed = 0
        self.in_flight = 0
        self.in_flight_at_the_fifth = 0
        self.most_in_flight_later = 0

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Answer:
        since = asyncio.get_running_loop().time() - self.began
        if not 0 <= since < HOUR or (method == "GET" and self.kind != "refused"):
            return await super().send(method, url, headers, body, timeout)
        if self.kind == "refused":
            raise APIConnectionError("connection refused", written=False)
        self.in_flight += 1
        if self.failed >= 4 + self.in_flight_at_the_fifth >= 5:
            self.most_in_flight_later = max(self.most_in_flight_later, self.in_flight)
        try:
            if self.kind == "hanging":
                await asyncio.sleep(timeout)
                raise APIConnectionError("timed out", written=True)
            await asyncio.sleep(0.2)
            if self.kind == "500":
                error = b'{"code":"internal_error","message":"oops","type":"api_error"}'
                return Answer(500, b'{"error":' + error + b"}", {})
            return Answer(502, b"<html>Bad Gateway</html>", {})
        finally:
            self.failed += 1
            if self.failed == 5:
                self.in_flight_at_the_fifth = self.in_flight
            self.in_flight -= 1


@frozen(kw_only=True)
class Hour:
    """What an hour of outage has cost.

    Attributes:
        in_doubt: jobs that failed: unknown, or answered by 500.
        in_flight: creates in flight when the fifth failure was heard, that one included.
        most_in_flight_later: failing creates in flight at once after those, at most.
        succeeded: jobs that were made.
        bound: the most that may be in doubt.
    """

    in_doubt: int
    in_flight: int
    most_in_flight_later: int
    succeeded: int
    bound: int


async def hour_of_outage(kind: str, *, jobs: int, in_flight: int, begins: float) -> Hour:
    """Run ``jobs`` jobs through an hour of outage that begins after ``begins`` seconds."""
    service = Service(Scenario(task_seconds=60.0, media="stub", latency=0.2))
    transport = Failing(service, kind, begins=begins)
    requests = (Sora2(f"Boat {n}", duration=4, aspect_ratio="16:9") for n in range(jobs))
    failed = succeeded = 0
    async with Session("sk-test", transport=transport, max_requests_in_flight=in_flight) as session:
        async for outcome in session.generate_many(requests):
            failed += isinstance(outcome, Failed)
            succeeded += isinstance(outcome, Succeeded)
    assert succeeded == service.truth.creates_taken
    heard = transport.in_flight_at_the_fifth
    bound = 15 if in_flight == 1 else heard + PROBES
    return Hour(
        in_doubt=failed,
        in_flight=heard,
        most_in_flight_later=transport.most_in_flight_later,
        succeeded=succeeded,
        bound=0 if kind == "refused" else bound,
    )


def main(jobs: int) -> int:
    """Print a table; return 1 if a bound was passed."""
    logging.getLogger("aivideo").setLevel(logging.ERROR)
    wrong, lines = 0, []
    for in_flight in (64, 1):
        lines.append(f"{jobs:,} jobs wait, {in_flight} requests in flight at most")
        for kind in KINDS:
            began = time.monotonic()
            loop = VirtualTimeLoop()
            hour = loop.run_until_complete(
                hour_of_outage(kind, jobs=jobs, in_flight=in_flight, begins=5.0)
            )
            loop.close()
            wrong += hour.in_doubt > hour.bound or hour.succeeded + hour.in_doubt != jobs
            lines.append(
                f"  {kind:9} {hour.in_doubt:3} in doubt (at most {hour.bound}); in flight at the "
                f"fifth failure {hour.in_flight:2}, later at once {hour.most_in_flight_later}; "
                f"{hour.succeeded:,} made ({time.monotonic() - began:.0f} s)"
            )
    print("\n".join(lines))  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
