"""The declared dependencies are imported, and the distribution name is correct everywhere."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

MODULE_OF = {"pillow": "PIL"}
"""Distributions whose module has a different name."""


def imported() -> set[str]:
    """Top-level modules imported by any module of the package."""
    names: set[str] = set()
    for path in (ROOT / "aivideo").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names


def modules_of(requirements: list[str]) -> dict[str, str]:
    """The module of each required distribution, without the package's own extras."""
    found = {}
    for requirement in requirements:
        match = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert match is not None
        name = match[0].lower()
        if name != PROJECT["name"]:
            found[name] = MODULE_OF.get(name, name.replace("-", "_"))
    return found


def test_every_dependency_is_imported() -> None:
    declared = modules_of(PROJECT["dependencies"])
    assert {name for name, module in declared.items() if module not in imported()} == set()


def test_every_extra_contains_only_imported_distributions() -> None:
    for extra, requirements in PROJECT["optional-dependencies"].items():
        if extra != "dev":
            unused = {
                n for n, module in modules_of(requirements).items() if module not in imported()
            }
            assert unused == set(), extra


def test_the_distribution_is_called_aivideo_sdk_in_all_install_hints() -> None:
    assert PROJECT["name"] == "aivideo-sdk"
    wrong = re.compile(r"""pip install ["']?aivideo(?!-sdk)|["' ]aivideo\[""")
    places = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for folder in ("aivideo", "examples", "benchmarks"):
        places += (ROOT / folder).rglob("*.py")
    found = [str(p.relative_to(ROOT)) for p in places if wrong.search(p.read_text("utf-8"))]
    assert found == []
