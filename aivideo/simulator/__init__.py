"""A simulator of the AI Video API, for trying and testing without an API key.

There are three ways to use it: `aivideo simulate` (a server), `async with serve(Scenario(...)) as
sim:` (in a test), and `Service(scenario)` (the core without a server; the caller passes the time).

It is written from the provider's documentation and shares no code with the client. If both shared
code, a misunderstanding of the documentation would affect both, and no test would find it.
"""

from __future__ import annotations

from aivideo.simulator.callbacks import Callback
from aivideo.simulator.exchange import SimAnswer, SimRequest
from aivideo.simulator.faults import Endpoint, Fault, Faults, Hook, Nth, Occasion
from aivideo.simulator.limits import (
    FixedWindow,
    JobsCap,
    RateLimit,
    SlidingWindow,
    TokenBucket,
    parse_rate_limit,
)
from aivideo.simulator.rules import MODELS, Model
from aivideo.simulator.scenario import (
    Distribution,
    Lognormal,
    Mixture,
    Pareto,
    Scenario,
    Seconds,
    parse_seconds,
)
from aivideo.simulator.server import PortInUseError, Simulator, serve, serve_forever
from aivideo.simulator.service import Service
from aivideo.simulator.truth import Account, CallbackRecord, TaskRecord, Truth

__all__ = [
    "MODELS",
    "Account",
    "Callback",
    "CallbackRecord",
    "Distribution",
    "Endpoint",
    "Fault",
    "Faults",
    "FixedWindow",
    "Hook",
    "JobsCap",
    "Lognormal",
    "Mixture",
    "Model",
    "Nth",
    "Occasion",
    "Pareto",
    "PortInUseError",
    "RateLimit",
    "Scenario",
    "Seconds",
    "Service",
    "SimAnswer",
    "SimRequest",
    "Simulator",
    "SlidingWindow",
    "TaskRecord",
    "TokenBucket",
    "Truth",
    "parse_rate_limit",
    "parse_seconds",
    "serve",
    "serve_forever",
]
