"""A ledger that another process keeps locked: it is waited for, and closing ends all the same."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aivideo import JobStatus, LedgerError, RateLimit, Session, Sora2, SqliteLedger
from aivideo._session import recorder
from aivideo.ledger.sqlite import opening
from aivideo.simulator import Scenario, Service
from aivideo.testing import DirectTransport
from tests.durable.processes import TIMEOUT, environment, simulator_process
from tests.durable.proxy import WireEvent, proxy_for

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
COUNT = 8
PATIENCE = 0.5
"""Seconds, instead of 10."""
SLACK = 1.5 * PATIENCE + 1.0
"""What closing may take besides the answers: 15 s, to scale, and a second for a busy machine."""


class Locker:
    """A process that locks a ledger's file, and is then stopped."""

    def __init__(self, path: Path) -> None:
        program = (sys.executable, "-m", "tests.durable.ledger_process", "lock", str(path))
        self.process = subprocess.Popen(
            program, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._expect("ready")

    def _expect(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{word}\n"

    def lock(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self._expect("locked")

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class Posts:
    """Tells when a number of creates are under way; given to a transport as ``refuse``."""

    def __init__(self, number: int) -> None:
        self.under_way = asyncio.Event()
        self._left = number

    def __call__(self, method: str, path: str) -> bool:
        self._left -= method == "POST"
        if not self._left:
            self.under_way.set()
        return False


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    await SqliteLedger(tmp_path / "jobs.db").aclose()
    return tmp_path / "jobs.db"


@pytest.fixture
def locker(path: Path) -> Iterator[Locker]:
    locker = Locker(path)
    yield locker
    locker.end()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "BUSY", 3 * PATIENCE)
    monkeypatch.setattr(opening, "BUSY_WHILE_CLOSING", PATIENCE)
    monkeypatch.setattr(recorder, "CLOSING_PATIENCE", PATIENCE)


def boat(number: int) -> Sora2:
    return Sora2(f"Boat {number}", duration=4, aspect_ratio="16:9")


async def test_closing_ends_soon_and_names_the_tasks_that_could_not_be_recorded(
    path: Path, locker: Locker, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(Scenario(task_seconds=60.0, media="stub", latency=0.5))
    posts = Posts(COUNT)
    session = Session(
        "sk-test",
        ledger=path,
        transport=DirectTransport(service, refuse=posts),
        request_timeout=1.0,
        rate_limit=RateLimit.bucket(1000, burst=500),
    )
    jobs = [await session.enqueue(boat(number)) for number in range(COUNT)]
    await posts.under_way.wait()
    locker.lock()
    began = time.monotonic()
    await session.aclose()
    took = time.monotonic() - began
    assert took < 1.0 + SLACK, "longer than request_timeout + 15 s, to scale"
    logged = [record.getMessage() for record in caplog.records]
    for job in jobs:
        command = f"aivideo jobs settle {job.id} --task-id {job.task_id} --ledger {path}"
        assert sum(command in line for line in logged) == 1
    locker.end()
    ledger = SqliteLedger(path)
    assert len(await ledger.lapse()) == COUNT, "nothing is lost: they are unknown"
    assert await ledger.counts() == {JobStatus.UNKNOWN: COUNT}
    await ledger.aclose()
    assert service.truth.creates_taken == COUNT


async def test_stopped_submits_do_not_wait_long_and_what_happens_is_recorded_later(
    path: Path, locker: Locker
) -> None:
    """As after Ctrl-C: drain() waits for what is being recorded."""
    service = Service(Scenario(task_seconds=60.0, media="stub", latency=0.5))
    posts = Posts(1)
    transport = DirectTransport(service, refuse=posts)
    async with Session("sk-test", ledger=path, transport=transport) as session:
        job = await session.enqueue(boat(0))
        await posts.under_way.wait()
        locker.lock()
        session.stop_submits()
        began = time.monotonic()
        await session.drain()
        with pytest.raises(LedgerError, match="another process keeps it locked"):
            await session.ledger.totals()
        assert time.monotonic() - began < 0.5 + SLACK
        assert job.task_id in service.truth.tasks
        locker.end()
    async with Session("sk-test", ledger=path, transport=transport) as session:
        found = await session.find(id=job.id)
        assert found is not None
        assert found.task_id == job.task_id, "closing has recorded it"


async def test_closing_a_ledger_ends_soon(path: Path, locker: Locker) -> None:
    ledger = SqliteLedger(path)
    locker.lock()
    calls = [asyncio.create_task(ledger.counts()) for _ in range(1000)]
    await asyncio.sleep(0)
    began = time.monotonic()
    await ledger.aclose()
    assert time.monotonic() - began < SLACK
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(end) for end in ends} == {LedgerError}


async def test_an_open_ledger_waits_for_a_locked_file(path: Path, locker: Locker) -> None:
    ledger = SqliteLedger(path)
    locker.lock()
    calls = asyncio.gather(ledger.counts(), ledger.counts())
    await asyncio.sleep(PATIENCE)
    assert not calls.done()
    locker.end()
    assert [*await calls] == [{}, {}]
    await ledger.aclose()


@pytest.mark.slow
async def test_ctrl_c_ends_a_batch_soon_and_names_its_tasks(
    path: Path, locker: Locker, tmp_path: Path
) -> None:
    program = (
        "from aivideo import cli; from aivideo._session import recorder; "
        "from aivideo.ledger.sqlite import opening; "
        f"opening.BUSY = {3 * PATIENCE}; "
        f"opening.BUSY_WHILE_CLOSING = recorder.CLOSING_PATIENCE = {PATIENCE}; cli.main()"
    )
    manifest, began = tmp_path / "prompts.txt", 0.0
    manifest.write_text("\n".join(f"Prompt {number}" for number in range(COUNT)), "utf-8")
    options = ("--output", str(tmp_path / "out"), "--ledger", str(path))
    length = ("--duration", "4", "--aspect-ratio", "16:9")
    async with (
        simulator_process("--speed", "600", "--latency", "1.0") as simulator,
        proxy_for(simulator) as proxy,
    ):
        batch = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, "batch", str(manifest), *options, *length),
            env=environment(proxy.url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

        def on_event(event: WireEvent) -> bool:
            nonlocal began
            if event is WireEvent.POST_SENT and len(proxy.posts) == COUNT // 2:
                locker.lock()
                began = time.monotonic()
                batch.send_signal(signal.SIGINT)
            return False

        proxy.on_event = on_event
        async with asyncio.timeout(TIMEOUT):
            _, err = (each.decode() for each in await batch.communicate())
        assert time.monotonic() - began < 1.0 + SLACK + 1.0  # it starts and ends an interpreter
        assert batch.returncode != 0
        assert "Traceback" not in err
        assert f"ledger {path}: another process keeps it locked" in err
        tasks = [task["id"] for task in simulator.truth()["tasks"]]
        assert len(tasks) >= COUNT // 2
        for task in tasks:
            assert f"--task-id {task} --ledger {path}" in err
