"""The machine of a simulation: its clocks, random numbers and logs, all of them the seed's."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import logging
import os
import random
import secrets
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any

from aivideo.delivery import download
from tests.simulated.faults.loops import PROCESS
from tests.simulated.faults.plan import KEY
from tests.simulated.faults.process import DownloadPart, FileLock, recording_fsync

if TYPE_CHECKING:
    from tests.simulated.faults.world import World


@contextmanager
def ignore_unraisable() -> Generator[None]:
    """Suppress errors of discarded coroutines of dead processes."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook


# --- clocks, random numbers and logs ------------------------------------------------------------


class _Now(datetime):
    world: World

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.fromtimestamp(_wall_clock(cls.world), tz or UTC)


def _wall_clock(world: World) -> float:
    """Return Unix time by the clock of the running process."""
    process = PROCESS.get(None)
    return world.unix() if process is None else process.unix()


def _boot_clock(world: World, plain: Any) -> Any:
    """Return a clock that counts pauses too, and that nobody can set."""

    def clock_gettime(clock: int) -> float:
        if clock in (getattr(time, "CLOCK_BOOTTIME", None), time.CLOCK_MONOTONIC):
            return world.now()
        value: float = plain(clock)
        return value

    return clock_gettime


@contextmanager
def deterministic(world: World) -> Generator[None]:
    """Replace random numbers and clocks by those of the seed during a simulation."""
    names = random.Random(f"names {world.seed}")
    _Now.world = world
    state = random.getstate()
    random.seed(f"jitter {world.seed}")
    replacements = [
        (secrets, "token_hex", lambda size=16: names.randbytes(size).hex()),
        (time, "time", lambda: _wall_clock(world)),
        (time, "clock_gettime", _boot_clock(world, time.clock_gettime)),
        (os, "fsync", recording_fsync(world.synced, os.fsync)),
        (download, "datetime", _Now),
        (download, "_Part", DownloadPart),
        *_locks_of_processes(),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in replacements]
    gc.disable()
    gc.freeze()  # makes collections fast: older objects are not garbage
    try:
        for module, name, value in replacements:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
        random.setstate(state)
        gc.unfreeze()
        gc.enable()


def _locks_of_processes() -> list[tuple[Any, str, Any]]:
    """Note the file locks that processes hold: a dead one holds none."""
    if importlib.util.find_spec("aivideo.manifest.preparing") is None:
        return []  # this package plans the lines of a manifest without a lock
    preparing = importlib.import_module("aivideo.manifest.preparing")
    plain = preparing._try_to_lock

    def try_to_lock(path: Any) -> int | None:
        handle: int | None = plain(path)
        if handle is not None:
            PROCESS.get().locks.append(FileLock.of(handle))
        return handle

    return [(preparing, "_try_to_lock", try_to_lock)]


class _LogChecker(logging.Handler):
    def __init__(self, world: World) -> None:
        super().__init__(logging.DEBUG)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if KEY[3:] in text or "X-Signature" in text:
            self._world.laws.fail("secrets", f"in a log line: {text}")
        if record.levelno >= logging.INFO:
            self._world.log("log", f"{record.levelname} {text}"[:300])


@contextmanager
def checked_logs(world: World) -> Generator[None]:
    """Check every log record, at any level, for secrets."""
    checker = _LogChecker(world)
    loggers = [logging.getLogger("aivideo"), logging.getLogger("asyncio")]
    before = [(logger, logger.level, logger.propagate) for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.DEBUG)
            logger.propagate = False
            logger.addHandler(checker)
        yield
    finally:
        for logger, level, propagate in before:
            logger.removeHandler(checker)
            logger.setLevel(level)
            logger.propagate = propagate


def describe(context: dict[str, Any]) -> str:
    return f"{context.get('message')}: {context.get('exception')!r}"
