"""`aivideo batch`: what is decided before the run starts."""

from __future__ import annotations

import json
from pathlib import Path

from aivideo.cli.app import run
from aivideo.ledger.events import Taken
from aivideo.simulator import Simulator
from tests.cli.filled_ledger import (
    BROKE,
    CLAIM,
    DONE,
    LOST,
    FilledLedger,
    Said,
    one_line,
    task_id,
)

LENGTH = ("--duration", "4", "--aspect-ratio", "16:9", "--poll-interval", "0.1")


def test_a_dry_run_counts_only_lines_that_would_be_sent(filled: FilledLedger, capsys: Said) -> None:
    Path("m.jsonl").write_text(
        "\n".join(
            json.dumps({"prompt": prompt, "id": prompt, "duration": 4, "aspect_ratio": "16:9"})
            for prompt in ("planned", "running", "saved", "lost", "failed", "new")
        ),
        "utf-8",
    )
    filled.job("planned")
    filled.job("running", CLAIM, Taken(task_id(1)))
    filled.job("saved", CLAIM, Taken(task_id(2)), *DONE)
    filled.job("lost", CLAIM, LOST)
    filled.job("failed", CLAIM, Taken(task_id(3)), BROKE)
    before = filled.path.read_bytes()
    for options, clips in (([], 2), (["--retry-failed"], 3)):
        command = ["batch", "m.jsonl", "--output", ".", "--dry-run", *options]
        assert run([*command, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["credits"], told["taken"]) == (100 * clips, 6 - clips)
        assert run(command) == 0
        assert f"{6 - clips} of 6 lines are not counted" in capsys.readouterr().out
    assert filled.path.read_bytes() == before


def bought(service: Simulator, *prompts: str) -> list[int]:
    taken = service.truth.prompts_taken()
    return [taken.get(prompt, 0) for prompt in prompts]


def test_a_ledger_that_was_moved_buys_nothing_again(
    asked: Simulator, filled: FilledLedger, capsys: Said
) -> None:
    Path("m.txt").write_text("moved one\nmoved two\n", "utf-8")
    command = ["batch", "m.txt", "--output", "clips", *LENGTH]
    assert run([*command, "--ledger", "jobs.db"]) == 0
    Path("ledgers").mkdir()
    for path in Path().glob("jobs.db*"):
        path.rename(Path("ledgers", path.name))
    moved = [*command, "--ledger", "ledgers/jobs.db"]
    capsys.readouterr()
    for options in ([], ["--dry-run"], ["--overwrite"]):
        assert run([*moved, *options]) == 2
        line = one_line(capsys)
        for part in ("2 of 2 lines", "no batch '../clips'", "--batch clips ", "--pay-again"):
            assert part in line
    assert bought(asked, "moved one", "moved two") == [1, 1]
    assert run([*moved, "--batch", "clips"]) == 0
    assert bought(asked, "moved one", "moved two") == [1, 1]
    capsys.readouterr()
    assert run([*moved, "--pay-again", "--overwrite"]) == 0
    said = capsys.readouterr()
    assert "buys 2 lines again that may have been paid for: 200 credits ($1.00)" in said.err
    assert bought(asked, "moved one", "moved two") == [2, 2]


def test_a_lost_ledger_buys_nothing_again_and_replaces_no_file(
    asked: Simulator, filled: FilledLedger, capsys: Said
) -> None:
    Path("m.txt").write_text("lost one\nlost two\n", "utf-8")
    command = ["batch", "m.txt", "--output", "clips", *LENGTH]
    assert run(command) == 0
    for path in Path("clips").glob("aivideo.db*"):
        path.unlink()
    before = {path: path.read_bytes() for path in Path("clips").glob("*.mp4")}
    Path("more.txt").write_text("on top\nlost one\nlost two\n", "utf-8")
    command[1] = "more.txt"
    for options, cure in (
        ([], "--pay-again"),
        (["--overwrite"], "--pay-again"),
        (["--dry-run"], "--pay-again"),
        (["--pay-again"], "--overwrite"),
    ):
        capsys.readouterr()
        assert run([*command, *options]) == 2
        line = one_line(capsys)
        assert "already exists, and 1 more do" in line
        assert cure in line
    assert bought(asked, "lost one", "lost two", "on top") == [1, 1, 0]
    assert {path: path.read_bytes() for path in before} == before
    assert run([*command, "--pay-again", "--overwrite", "--dry-run"]) == 0
    assert "buys 2 lines again" in one_line(capsys)
    assert run([*command, "--pay-again", "--overwrite"]) == 0
    assert bought(asked, "lost one", "lost two", "on top") == [2, 2, 1]
    assert len([*Path("clips").glob("*.mp4")]) == 3
