"""The mutants fit the code, and the program that runs them tells caught from missed.

`make mutations` runs all of them over up to 2,000 seeds each.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.simulated.more_mutants import ABSENT, PRESENT, all_mutants, is_there
from tests.simulated.mutants import MUTANTS, replace

PROJECT = Path(__file__).parents[2]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_every_mutant_finds_what_it_replaces() -> None:
    """In another process: a mutant is never undone."""
    done = python(
        "-c",
        "from tests.simulated.more_mutants import all_mutants\n"
        "for each in all_mutants().values(): each.apply(); print(each.name)",
    )
    assert (done.stderr, done.stdout.split()) == ("", list(all_mutants()))


def test_a_mutant_of_a_promise_that_is_not_made_yet_is_named_as_absent() -> None:
    assert not PRESENT.keys() & ABSENT.keys()
    assert not any(is_there(target) for target in ABSENT.values())
    assert is_there("aivideo.ledger.rules:claim")
    assert not is_there("aivideo.ledger.rules:claimed_twice")
    assert not is_there("aivideo.no_such_module:claim")


def test_every_law_of_money_is_broken_by_a_mutant() -> None:
    assert {each.law for each in MUTANTS.values()} >= set("12345678")


def test_a_name_that_does_not_exist_is_an_error() -> None:
    owner = SimpleNamespace(there=1)
    assert replace(owner, "there", 2) == 1
    with pytest.raises(KeyError, match="gone"):
        replace(owner, "gone", 2)
    assert vars(owner) == {"there": 2}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_mutant_breaks_its_law_in_each_process_that_runs_seeds(jobs: int) -> None:
    done = python(
        *("-m", "tests.simulated.faults", "--mutant", "lapse-plans"),
        *("--seeds", "60", "--jobs", str(jobs), "--stop"),
    )
    assert done.returncode == 1, done
    assert re.search(r"^seed \d+: ", done.stdout, re.MULTILINE), done


def test_a_mutant_that_no_seed_catches_fails_the_run() -> None:
    done = python("-m", "tests.simulated.mutations", "never-lapses", "unsynced", "--seeds", "1")
    assert done.returncode == 1, done
    assert "0 of 2 were caught within 1 seeds" in done.stdout
    assert done.stdout.count("NONE") == 2
