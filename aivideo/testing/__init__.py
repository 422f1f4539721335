"""Test utilities for programs that use aivideo.

`VirtualTimeLoop` runs hours of rate limiting and polling in milliseconds, with exact times. The
pytest plugin loads automatically where aivideo is installed and provides the fixtures `simulator`
and `live_simulator`: see `aivideo.testing.pytest_plugin`. `DirectTransport` connects a session to
the simulator without sockets, for tests with very many jobs. `check_ledger` tests whether your own
ledger class does everything a session requires. Install with `pip install "aivideo-sdk[testing]"`.
"""

from __future__ import annotations

from aivideo.testing.direct import DirectTransport
from aivideo.testing.ledgers import OpenLedger, check_ledger
from aivideo.testing.virtual_time import DeadlockError, VirtualTimeLoop

__all__ = ["DeadlockError", "DirectTransport", "OpenLedger", "VirtualTimeLoop", "check_ledger"]
