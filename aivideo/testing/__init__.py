"""What we test ourselves with, for tests of your own.

`VirtualTimeLoop` runs hours of pacing and polling in no time, exactly. The pytest plugin beside it
loads by itself where aivideo is installed and brings the fixtures `simulator` and `live_simulator`:
see `aivideo.testing.pytest_plugin`. `DirectTransport` puts a session on the simulator's core
without a socket, for tests of very many jobs. `check_ledger` says whether a ledger of your own
keeps every promise that a session relies on. Install with `pip install "aivideo-sdk[testing]"`.
"""

from __future__ import annotations

from aivideo.testing.direct import DirectTransport
from aivideo.testing.ledgers import OpenLedger, check_ledger
from aivideo.testing.virtual_time import DeadlockError, VirtualTimeLoop

__all__ = ["DeadlockError", "DirectTransport", "OpenLedger", "VirtualTimeLoop", "check_ledger"]
