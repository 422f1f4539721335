"""Options that several commands share."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from aivideo.cli.app import app, run
from aivideo.cli.commands import batch


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collect the settings with which `aivideo batch` would run."""
    monkeypatch.chdir(tmp_path)
    Path("m.txt").write_text("A boat\n", "utf-8")
    collected: list[Any] = []

    async def dry_run(lines: object, ledger: object, settings: object, *_: Any, **__: Any) -> int:
        collected.append(settings)
        return 0

    monkeypatch.setattr(batch, "_dry_run", dry_run)
    return collected


BATCH = ["batch", "m.txt", "--output", "out", "--duration", "4", "--aspect-ratio", "16:9"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], None),
        (["--max-credits", "none"], "none"),
        (["--max-credits", "500"], Decimal(500)),
        (["--max-credits", "30.5"], Decimal("30.5")),
        (["--max-credits", "0"], Decimal(0)),
    ],
)
def test_a_ceiling_is_left_alone_removed_or_set(
    options: list[str], expected: object, settings: list[Any]
) -> None:
    assert run([*BATCH, "--dry-run", *options]) == 0
    (found,) = settings
    assert found.max_credits == expected
    assert type(found.max_credits) is type(expected)


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "many", "0.0000001", "1e99", "None "])
def test_a_ceiling_that_is_no_amount_is_refused_by_its_option(
    value: str, settings: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*BATCH, "--dry-run", f"--max-credits={value}"]) == 2
    err = capsys.readouterr().err
    assert "--max-credits" in err
    assert len(err.strip().splitlines()) == 1
    assert settings == []


@pytest.mark.parametrize(
    "command",
    ["generate", "task", "credits", "batch", "demo", "simulate", "jobs"]
    + [f"jobs {name}" for name in ("list", "show", "settle", "retry", "cancel", "audit")],
)
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == 0
    out = capsys.readouterr().out
    if command != "jobs":
        assert f"Example: aivideo {command}" in " ".join(out.split())


def test_the_commands_are_listed() -> None:
    assert {"generate", "batch", "jobs", "task", "credits", "demo", "simulate"} <= set(app)
