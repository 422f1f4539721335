"""Coverage of each module by its mirrored test file, e.g. ``_session/gate.py`` by ``test_gate.py``.

    python -m tests.mirrored_coverage [FOLDER ...]

A module that is covered only by tests of the whole system is hard to change, because a failing test
does not show where the defect is. So each test file is run alone, and only its coverage of the
module that it mirrors is counted. Modules without a mirrored test file are listed with a dash.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def mirrored_test(module: Path) -> Path:
    """Path of the test file that mirrors a module."""
    folders = [part.lstrip("_") for part in module.relative_to(ROOT / "aivideo").parts[:-1]]
    name = module.stem if module.stem != "__init__" else folders[-1] if folders else "exports"
    return ROOT.joinpath("tests", *folders, f"test_{name.lstrip('_')}.py")


def covered(module: Path, tests: Path) -> tuple[float, int]:
    """Percentage of a module's statements covered by a test file, and their number."""
    with tempfile.TemporaryDirectory() as folder:
        data, report = Path(folder, "data"), Path(folder, "report.json")
        run = [
            sys.executable,
            "-m",
            "coverage",
            "run",
            f"--data-file={data}",
            f"--include={module}",
        ]
        subprocess.run(
            [*run, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)],
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        write = ["-m", "coverage", "json", f"--data-file={data}", "-o", str(report), "--quiet"]
        done = subprocess.run([sys.executable, *write], cwd=ROOT, capture_output=True, check=False)
        if done.returncode:
            return 0.0, 0
        totals = json.loads(report.read_text("utf-8"))["totals"]
    return float(totals["percent_covered"]), int(totals["num_statements"])


def main() -> int:
    """Print one line per module, and the total of the modules with a mirrored test file."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mirrored_coverage", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("folders", nargs="*", help="folders below aivideo/; default: all")
    chosen = parser.parse_args().folders or ["."]
    lines = hit = 0
    for folder in chosen:
        for module in sorted((ROOT / "aivideo" / folder).rglob("*.py")):
            tests = mirrored_test(module)
            name = module.relative_to(ROOT)
            if not tests.exists():
                if module.stat().st_size > 500:
                    print(f"    –  {name}", flush=True)
                continue
            percent, count = covered(module, tests)
            lines, hit = lines + count, hit + round(percent * count / 100)
            print(f"{percent:4.0f} %  {name}  by {tests.relative_to(ROOT)}", flush=True)
    print(f"{100 * hit / max(lines, 1):4.0f} %  of {lines} statements with a mirrored test file")
    return 0


if __name__ == "__main__":
    sys.exit(main())
