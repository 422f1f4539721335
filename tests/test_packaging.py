"""pyproject.toml declares what the code imports, no more and no less, under the right name."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]

MODULE_OF = {"pillow": "PIL"}
"""Distributions whose module has a different name."""

COMES_WITH = {"yarl": "aiohttp"}
"""Modules that a declared dependency requires itself, and shows in its own interface."""


def imported_by(source: str) -> set[str]:
    """Top-level names that a module imports when it runs, not for annotations alone."""
    names: set[str] = set()
    for node in _running(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def _running(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                for other in child.orelse:
                    yield from _running(other)
            case _:
                yield from _running(child)


def imported() -> set[str]:
    """Top-level names that any module of the package imports when it runs."""
    modules = (ROOT / "aivideo").rglob("*.py")
    return set().union(*(imported_by(path.read_text("utf-8")) for path in modules))


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
    for extra, requirements in EXTRAS.items():
        if extra != "dev":
            unused = {
                n for n, module in modules_of(requirements).items() if module not in imported()
            }
            assert unused == set(), extra


def test_every_imported_package_is_declared() -> None:
    requirements = [*PROJECT["dependencies"]]
    for extra, more in EXTRAS.items():
        requirements += more if extra != "dev" else []
    declared = {*modules_of(requirements).values()}
    declared |= {module for module, distribution in COMES_WITH.items() if distribution in declared}
    assert imported() - sys.stdlib_module_names - declared == {"aivideo"}


def test_imports_for_annotations_do_not_count() -> None:
    source = "import av\nif TYPE_CHECKING:\n    import rich\ndef f():\n    from PIL.Image import x"
    assert imported_by(source) == {"av", "PIL"}


def test_every_extra_that_is_named_exists() -> None:
    named = re.compile(r"aivideo-sdk\[([^\]\n]+)\]")
    places = [ROOT / "pyproject.toml", *_texts()]
    found = {path: named.findall(path.read_text("utf-8")) for path in places}
    wrong = {
        str(path.relative_to(ROOT)): extra
        for path, lists in found.items()
        for extras in lists
        for extra in extras.split(",")
        if extra.strip() not in EXTRAS
    }
    assert wrong == {}


def test_every_exception_to_a_lint_rule_is_for_files_that_exist() -> None:
    for pattern in PYPROJECT["tool"]["ruff"]["lint"]["per-file-ignores"]:
        braces = re.search(r"\{(.*)\}", pattern)
        choices = braces[1].split(",") if braces else [""]
        for choice in choices:
            one = pattern.replace(braces[0], choice) if braces else pattern
            assert next(ROOT.glob(one), None), one


def test_python_versions_agree() -> None:
    versions = [
        each.rpartition(" ")[2]
        for each in PROJECT["classifiers"]
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", each)
    ]
    oldest, tool = versions[0], PYPROJECT["tool"]
    assert PROJECT["requires-python"] == f">={oldest}"
    assert tool["mypy"]["python_version"] == tool["pyright"]["pythonVersion"] == oldest
    assert tool["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"


def _texts() -> Iterator[Path]:
    yield from ROOT.glob("*.md")
    yield from (ROOT / "docs").rglob("*.md")
    for folder in ("aivideo", "examples", "benchmarks"):
        yield from (ROOT / folder).rglob("*.py")
        yield from (ROOT / folder).rglob("*.md")


def test_the_distribution_is_called_aivideo_sdk_in_all_install_hints() -> None:
    assert PROJECT["name"] == "aivideo-sdk"
    wrong = re.compile(r"""pip install ["']?aivideo(?!-sdk)|["' ]aivideo\[""")
    found = [str(p.relative_to(ROOT)) for p in _texts() if wrong.search(p.read_text("utf-8"))]
    assert found == []
