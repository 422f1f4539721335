"""A stranger's program checks under mypy and pyright, and its wrong lines do not."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import aivideo

HERE = Path(__file__).parent
STRANGER = HERE / "stranger.py"

FINDING = re.compile(r"stranger\.py:(\d+):(?:\d+:?)?(?: -)? error: (.*)")


def check(elsewhere: Path, *command: str) -> dict[int, str]:
    """Run a type checker in a project of the stranger's own: line -> the first finding there."""
    (elsewhere / STRANGER.name).write_bytes(STRANGER.read_bytes())
    (elsewhere / "mypy.ini").write_text("[mypy]\nstrict = true\n", "utf-8")
    (elsewhere / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}', "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=elsewhere,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: dict[int, str] = {}
    for match in FINDING.finditer(done.stdout):
        found.setdefault(int(match[1]), match[2])
    return found


def expected() -> set[int]:
    lines = STRANGER.read_text("utf-8").splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith("# E")}


def complaints(found: dict[int, str]) -> list[str]:
    wrong = [f"line {n}: {said}" for n, said in sorted(found.items()) if n not in expected()]
    missed = [f"line {n} must not check, and does" for n in sorted(expected() - set(found))]
    return wrong + missed


def test_mypy_agrees(tmp_path: Path) -> None:
    assert complaints(check(tmp_path, "mypy", STRANGER.name)) == []


def test_pyright_agrees(tmp_path: Path) -> None:
    assert complaints(check(tmp_path, "pyright", "--pythonpath", sys.executable)) == []


def test_complaints_are_of_both_kinds() -> None:
    first, *_ = sorted(expected())
    assert complaints(dict.fromkeys(expected(), "")) == []
    assert complaints(dict.fromkeys(expected() | {1}, "")) != []
    assert complaints(dict.fromkeys(expected() - {first}, "")) != []


def test_the_stranger_names_every_error_and_every_kind_of_task() -> None:
    named = {
        alias.name
        for node in ast.walk(ast.parse(STRANGER.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "aivideo"
        for alias in node.names
    }
    kinds = {name for name in aivideo.__all__ if name.endswith(("Error", "Task"))}
    # Not promised by name to whoever makes videos:
    ours = {"BadRequestError", "ConfigurationError", "ContradictionError", "JobError"}
    ours |= {"SessionClosedError"}
    assert kinds - ours <= named
