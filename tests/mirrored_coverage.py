"""Coverage of each module by its own test file: `session/test_gate.py` for `_session/gate.py`.

    python -m tests.mirrored_coverage [FOLDER ...] [--jobs 2]

A module that only tests of the whole system cover is hard to change: their failures do not say
where the mistake is. So each test file runs alone, and only the modules that it mirrors are
measured (lines and branches). A module without a test file counts as 0 % in the total. Exit code
1: a test failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

from attrs import frozen

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "aivideo"


@frozen
class Counts:
    """Lines and branches of a module: those covered, and all."""

    covered: int
    total: int

    def __str__(self) -> str:
        return f"{100 * self.covered // self.total if self.total else 100:3} %"


Report: TypeAlias = dict[Path, Counts]


def mirrored_test(module: Path) -> Path | None:
    """Find a module's test file: in the mirrored folder, the one above, or the package's own."""
    *folders, name = (part.lstrip("_") for part in module.relative_to(PACKAGE).parts)
    name = name.removesuffix(".py")
    # For aivideo/ledger/sqlite/file.py: ledger/sqlite/test_file.py, ledger/test_file.py,
    # ledger/sqlite/test_sqlite.py, ledger/test_sqlite.py. For aivideo/__init__.py:
    # test_exports.py, which tests its names.
    places = []
    if name != "init__":
        places += [Path(*folders[:depth], f"test_{name}.py") for depth in (len(folders), -1)]
    if folders:
        places += [Path(*folders, f"test_{folders[-1]}.py")]
        places += [Path(*folders[:-1], f"test_{folders[-1]}.py")]
    elif name == "init__":
        places += [Path("test_exports.py")]
    found = (ROOT / "tests" / place for place in places)
    return next((path for path in found if path.exists()), None)


def measure(*program: str) -> tuple[Report, str]:
    """Run a Python program; return what it covered, and its output if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        data, report = f"--data-file={folder}/data", f"{folder}/report.json"
        ran = _coverage("run", data, "--branch", f"--source={PACKAGE}", *program)
        _coverage("json", data, "-o", report, "--quiet").check_returncode()
        files = json.loads(Path(report).read_text("utf-8"))["files"]
    counts = {}
    for name, found in files.items():
        summary = found["summary"]
        counts[ROOT / name] = Counts(
            summary["covered_lines"] + summary["covered_branches"],
            summary["num_statements"] + summary["num_branches"],
        )
    return counts, ran.stdout if ran.returncode else ""


def _coverage(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "coverage", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def reports(files: list[Path], jobs: int) -> Iterator[tuple[Path, Report, str]]:
    """Run test files, a few at a time, each alone. Their slow tests run too."""

    def run(tests: Path) -> tuple[Path, Report, str]:
        return tests, *measure("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", str(tests))

    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(run, files)


def main() -> int:
    """Print a line for each module, and the total."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mirrored_coverage", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("folders", nargs="*", help="folders below aivideo/; by default all")
    parser.add_argument("--jobs", type=int, default=2, help="test files that run at once")
    given = parser.parse_args()
    nothing, _ = measure("-m", "this")  # any program: it lists all modules with their lines
    chosen = [PACKAGE / folder for folder in given.folders or ["."]]
    modules = [
        module
        for module, counts in sorted(nothing.items())
        if counts.total and any(module.is_relative_to(folder.resolve()) for folder in chosen)
    ]
    mirrored: dict[Path, list[Path]] = {}
    results = []
    for module in modules:
        if (tests := mirrored_test(module)) is not None:
            mirrored.setdefault(tests, []).append(module)
        else:
            results.append(Counts(0, nothing[module].total))
            print(f"  0 %  {module.relative_to(ROOT)}  has no test file", flush=True)
    failures = 0
    for tests, report, failure in reports([*mirrored], given.jobs):
        for module in mirrored[tests]:
            results.append(report[module])
            by = tests.relative_to(ROOT)
            print(f"{report[module]}  {module.relative_to(ROOT)}  by {by}", flush=True)
        failures += bool(failure)
        print(failure, end="", flush=True)
    total = Counts(sum(each.covered for each in results), sum(each.total for each in results))
    print(f"{total}  of {total.total} lines and branches in {len(results)} modules")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
