"""`aivideo generate` and `aivideo task`: checks before anything is spent, and how to continue."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path

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
