"""`aivideo generate` and `aivideo task`: checks before anything is spent, and how to continue."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aivideo import Session
from aivideo._session import session
from aivideo.cli.app import run
from aivideo.simulator import Endpoint, Fault, Occasion, Scenario, Simulator, serve


@contextmanager
def serving(**settings: object) -> Iterator[Simulator]:
    """Serve from another thread's event loop: the command runs one in this thread."""
    settings = {"media": "stub", "task_seconds": 0.1, "queue_seconds": 0.0, **settings}
    ready: Future[tuple[Simulator, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def main() -> None:
        async with serve(Scenario(**settings)) as sim:  # type: ignore[arg-type]
            over = asyncio.Event()
            ready.set_result((sim, asyncio.get_running_loop(), over))
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    sim, loop, over = ready.result(10)
    try:
        yield sim
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIVIDEO_API_KEY", "sk-test")
    monkeypatch.setenv("AIVIDEO_BASE_URL", "http://127.0.0.1:9")


def interrupt_at_creates(sim: Simulator, fault: Fault) -> None:
    def hook(occasion: Occasion) -> Fault:
        if occasion.endpoint is not Endpoint.CREATE:
            return Fault.NONE
        os.kill(os.getpid(), signal.SIGINT)
        return fault

    sim.hook = hook


def test_a_task_that_is_taken_during_ctrl_c_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(latency=0.3) as sim:
        interrupt_at_creates(sim, Fault.NONE)
        code = run(["generate", "A boat", "--output", "my boat.mp4", "--base-url", sim.url])
        (task_id,) = sim.truth.tasks
    assert code == 130
    said = capsys.readouterr().err
    assert "the create was sent; waiting for its answer" in said
    line = f"continue with: aivideo task {task_id} --save 'my boat.mp4' --base-url {sim.url}"
    assert line in said
    assert "Traceback" not in said


def test_a_create_with_an_unknown_outcome_is_printed_after_ctrl_c(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(latency=0.3) as sim:
        interrupt_at_creates(sim, Fault.MALFORMED)
        assert run(["generate", "A boat", "--base-url", sim.url]) == 130
    assert "may or may not have been taken" in capsys.readouterr().err


@contextmanager
def generating(sim: Simulator, *prefix: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run `aivideo generate` in a process of its own."""
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", "aivideo", "generate", "A boat", "--base-url", sim.url],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        text=True,
        **{"stderr": subprocess.PIPE, **options},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def once_at_creates(sim: Simulator, happens: Callable[[], object], fault: Fault) -> None:
    """Have something happen while the first create is under way."""
    rest = iter([happens])

    def hook(occasion: Occasion) -> Fault:
        if occasion.endpoint is not Endpoint.CREATE:
            return Fault.NONE
        next(rest, lambda: None)()
        return fault

    sim.hook = hook


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_waits_for_the_create_and_names_its_task(number: signal.Signals) -> None:
    with serving(latency=0.5) as sim, generating(sim) as process:
        once_at_creates(sim, lambda: process.send_signal(number), Fault.NONE)
        _, said = process.communicate(timeout=30)
        (task_id,) = sim.truth.tasks
    assert process.returncode == 130
    assert "the create was sent; waiting for its answer" in said
    assert re.search(rf"job [0-9a-f]{{16}} is task {task_id}; continue with: aivideo task", said)
    assert "Traceback" not in said


def test_a_second_termination_signal_does_not_lose_the_answer() -> None:
    with serving(latency=1.0) as sim, generating(sim) as process:

        def twice() -> None:
            process.send_signal(signal.SIGHUP)
            threading.Timer(0.3, process.send_signal, [signal.SIGTERM]).start()

        once_at_creates(sim, twice, Fault.NONE)
        _, said = process.communicate(timeout=30)
        (task_id,) = sim.truth.tasks
    assert process.returncode == 130
    assert f"is task {task_id}" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_says_that_the_outcome_of_the_create_is_unknown(number: signal.Signals) -> None:
    with serving(latency=0.3) as sim, generating(sim) as process:
        once_at_creates(sim, lambda: process.send_signal(number), Fault.MALFORMED)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "may or may not have been taken" in said


def test_a_hang_up_that_is_ignored_stays_ignored() -> None:
    nohup = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    with serving(latency=0.3, task_seconds=3600.0) as sim, generating(sim, *nohup) as process:
        sent = threading.Event()

        def hang_up() -> None:
            process.send_signal(signal.SIGHUP)
            sent.set()

        once_at_creates(sim, hang_up, Fault.NONE)
        assert sent.wait(30)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1.0)
        assert sim.truth.creates_taken == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 130


def test_a_terminal_that_is_closed_does_not_lose_the_answer(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with (
        serving(latency=0.5) as sim,
        generating(
            sim,
            *(sys.executable, "-c", IN_A_TERMINAL, os.ttyname(theirs)),
            stderr=None,
            start_new_session=True,
        ) as process,
    ):
        os.close(theirs)
        once_at_creates(sim, lambda: os.close(ours), Fault.NONE)
        code = process.wait(timeout=30)
        assert sim.truth.creates_taken == 1
    assert code == 130


IN_A_TERMINAL = """
import os, sys
for number in (os.open(sys.argv[1], os.O_RDWR), 0, 1, 2):  # the first one becomes its terminal
    if number > 2: terminal = number
    else: os.dup2(terminal, number)
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault.INTERNAL_ERROR, "HTTP 500 internal_error"),
        (Fault.UPSTREAM_ERROR_TAKEN, "HTTP 503 upstream_error"),
        (Fault.CUT_AFTER, "may or may not have been taken"),
        (Fault.HTML_502, "HTTP 502"),
    ],
)
def test_a_create_that_may_be_charged_exits_with_the_code_of_an_unknown_outcome(
    fault: Fault, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as sim:
        once_at_creates(sim, lambda: None, fault)
        assert run(["generate", "A boat", "--output", "b.mp4", "--base-url", sim.url]) == 4
        assert sim.truth.creates_seen == 1
    said = capsys.readouterr().err
    assert why in said
    assert "(200 credits ($1.00))" in said
    assert f"aivideo task TASK --save b.mp4 --base-url {sim.url}" in said
    assert "jobs settle" not in said, "there is no ledger to settle it in"


def test_a_server_error_that_is_no_create_exits_with_the_code_of_a_failure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving() as sim:
        sim.hook = lambda _: Fault.INTERNAL_ERROR
        assert run(["credits", "--base-url", sim.url]) == 1


def test_a_failed_task_prints_no_command_to_continue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "Session", partial(Session, poll_interval=0.05))
    with serving(failure_rate=1.0) as sim:
        assert run(["generate", "A boat", "--base-url", sim.url]) == 1
    said = capsys.readouterr().err
    assert "failed: upstream_error" in said
    assert "continue with" not in said


@pytest.mark.parametrize(
    ("target", "expected"), [("", "it is a folder"), ("n" * 300 + ".mp4", "File name too long")]
)
def test_an_unwritable_file_is_found_before_anything_is_spent(
    target: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as sim:
        for command in (["generate", "A boat", "--output"], ["task", "some-id", "--save"]):
            assert run([*command, str(tmp_path / target), "--base-url", sim.url]) == 2
            assert expected in capsys.readouterr().err
    assert sim.truth.creates_seen == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "x", "--output", "new/boat.mp4"],
        ["task", "some-id", "--save", "new/boat.mp4"],
        ["batch", "m.txt", "--duration", "4", "--aspect-ratio", "16:9", "--output", "new"],
    ],
)
def test_without_a_key_no_folder_is_created(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("m.txt").write_text("A boat\n", "utf-8")
    monkeypatch.delenv("AIVIDEO_API_KEY")
    assert run(arguments) == 2
    assert "no API key" in capsys.readouterr().err
    assert not Path("new").exists()
