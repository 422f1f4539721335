"""`aivideo batch`: what is decided before the run starts."""

from __future__ import annotations

import json
from pathlib import Path

from aivideo.cli.app import run
from aivideo.ledger.events import Taken
from tests.cli.filled_ledger import BROKE, CLAIM, DONE, LOST, FilledLedger, Said, task_id


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
