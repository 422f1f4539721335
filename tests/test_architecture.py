"""The structure of the package, held by a walk over every import.

Each rule is a function from sources to complaints, and is shown able to complain on made-up ones.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TypeAlias

import pytest
from attrs import frozen

ROOT = Path(__file__).parents[1]

Sources: TypeAlias = Mapping[str, str]
"""Dotted name of each module (a package's is its folder's) -> its source."""

# ---- the table ----------------------------------------------------------------------------------

ROWS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("edges", ("__main__", "cli", "manifest", "testing")),
    ("simulator", ("simulator",)),
    ("session", ("_session", "desk")),
    ("shells", ("ledger.memory", "ledger.sqlite", "delivery")),
    ("service", ("_pacing", "_polling", "_api")),
    ("settings", ("settings", "_checks")),
    ("events", ("events",)),
    ("values", ("ledger", "models", "catalog")),
    ("errors", ("errors",)),
    ("tasks", ("tasks",)),
    ("words", ("_amounts", "_redaction", "_secrets", "_file_locks", "_version")),
)
"""A module imports from rows below its own. A part is a module, or a package with all in it;
where two parts fit, the longer name counts."""

SIDEWAYS = {
    "__main__": {"cli"},  # `python -m aivideo` is the command
    "cli": {"manifest"},  # `aivideo batch` runs a manifest
    "models": {"catalog"},  # a request is checked when it is made
    "ledger": {"models"},  # a record holds its request
    "settings": {"_checks"},  # each setting is checked
}
"""Within a row, what each part may import besides itself, and why."""

SIMULATOR_IS_FOR = {"cli", "testing"}
"""The parts that may import the simulator; it imports none."""

FOREIGN = {
    "aiohttp": {"_api.transport", "simulator", "testing"},
    "yarl": {"_api.transport", "simulator"},  # aiohttp's own word for a URL, and its dependency
    "anyio": None,
    "attrs": None,
    "cattrs": None,
    "orjson": None,
    "av": {"simulator"},
    "PIL": {"simulator"},
    "cyclopts": {"cli"},
    "rich": {"cli"},
    "pytest": {"testing"},
}
"""Each package from outside, and the modules or folders that may import it; None: any."""

SIMULATOR_KNOWS = {"aiohttp", "yarl", "attrs", "orjson", "av", "PIL"}
"""Besides the standard library. (A parser of JSON is no reading of the provider's pages.)"""

PURE = {
    "aivideo._amounts",
    "aivideo._redaction",
    "aivideo.tasks",
    "aivideo._api.answer_errors",
    "aivideo._api.callback_tokens",
    "aivideo._api.converters",
    "aivideo._api.messages",
    "aivideo._api.tolerant",
    "aivideo._api.verdict",
    "aivideo._api.wire",
    "aivideo._pacing.learned",
    "aivideo._pacing.phases",
    "aivideo._pacing.estimates",
    "aivideo._pacing.evidence",
    "aivideo._pacing.cruise",
    "aivideo._pacing.window",
    "aivideo._pacing.stated",
    "aivideo._pacing.create_limit",
    "aivideo._pacing.turns",
    "aivideo._pacing.protocol",
    "aivideo._polling.agenda",
    "aivideo._polling.ends",
    "aivideo._polling.hazard",
    "aivideo._polling.kind",
    "aivideo._polling.lifecycle",
    "aivideo._polling.watched",
    "aivideo._session.consequences",
    "aivideo._session.outage",
    "aivideo.ledger.records",
    "aivideo.ledger.events",
    "aivideo.ledger.transitions",
    "aivideo.ledger.totals",
    "aivideo.ledger.rules",
    "aivideo.ledger.budget",
    "aivideo.ledger.audit",
    "aivideo.manifest.matching",
    "aivideo.manifest.names",
    "aivideo.manifest.repeats",
}
"""Modules that decide: no await, clock, randomness, file, socket or log."""

PURE_IMPORTS_NOT = {
    # clocks, draws, files, sockets, waiting and logs
    *("aiohttp", "anyio", "asyncio", "logging", "os", "random", "sqlite3", "time"),
    *("io", "pathlib", "secrets", "selectors", "socket", "ssl", "subprocess", "tempfile"),
    *("threading", "concurrent"),
}

PURE_CALLS_NOT = {"now", "utcnow", "today", "open", "print", "input", "uuid1", "uuid4"}

DRAWERS = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "misc",
    "tools",
    "base",
    "core",
    "shared",
}

AT_FIRST_REQUEST = ("aiohttp", "cattrs", "anyio")
"""Packages that neither an import nor a constructor loads."""

CHEAP_IMPORT_LACKS = (
    *AT_FIRST_REQUEST,
    *("sqlite3", "rich", "cyclopts", "av", "PIL", "pytest", "fastapi"),
)


# ---- reading ------------------------------------------------------------------------------------


@frozen
class Import:
    """One import: `target` is a module where one of that name is known, else what is named."""

    module: str
    line: int
    target: str

    @property
    def importer(self) -> str:
        return part_of(self.module)

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


@cache
def parsed(source: str) -> ast.Module:
    return ast.parse(source)


PARTS = {part for _row, parts in ROWS for part in parts}


def part_of(module: str) -> str:
    """`aivideo._api.wire` is of the part `_api`; `aivideo` itself of the part `aivideo`."""
    names = module.split(".")[1:]
    for length in range(len(names), 0, -1):
        if (part := ".".join(names[:length])) in PARTS:
            return part
    return names[0] if names else module


def read_sources(root: Path = ROOT, package: str = "aivideo") -> dict[str, str]:
    sources = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        sources[name] = path.read_text("utf-8")
    return sources


def imports_of(module: str, sources: Sources) -> Iterator[Import]:
    """Every import that runs: at the top and in functions, but not for annotations alone."""
    yield from _imports_among(_import_nodes(sources[module]), module, sources)


def imports_for_types_too(module: str, sources: Sources) -> Iterator[Import]:
    """Every import, including those under ``if TYPE_CHECKING:``."""
    yield from _imports_among(_import_nodes(sources[module], for_types=True), module, sources)


def _imports_among(nodes: list[ast.AST], module: str, sources: Sources) -> Iterator[Import]:
    is_package = any(other.startswith(f"{module}.") for other in sources)
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = module.split(".")
                anchor = anchor[: len(anchor) - node.level + is_package]
                base = ".".join([*anchor, *filter(None, [base])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield Import(module, node.lineno, inner if inner in sources else base)
        elif isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__"):
            match node.args:
                case [ast.Constant(value=str(name)), *_]:
                    yield Import(module, node.lineno, name)
                case _:
                    if module != "aivideo":  # its public names: held by tests/test_exports.py
                        yield Import(module, node.lineno, "a name made at run time")


@cache
def _import_nodes(source: str, *, for_types: bool = False) -> list[ast.AST]:
    kinds = (ast.Import, ast.ImportFrom, ast.Call)
    nodes = (ast.walk if for_types else _walk)(parsed(source))
    return [node for node in nodes if isinstance(node, kinds)]


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and _name(child.test) == "TYPE_CHECKING":
            for other in child.orelse:
                yield from _walk(other)
        else:
            yield from _walk(child)


def _name(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def is_within(module: str, place: str) -> bool:
    return f"{module}.".startswith(f"aivideo.{place}.")


def all_imports(sources: Sources) -> list[Import]:
    return [found for module in sources for found in imports_of(module, sources)]


def is_ours(name: str) -> bool:
    return name.partition(".")[0] == "aivideo"


# ---- the rules ----------------------------------------------------------------------------------


def parts_without_a_row(sources: Sources) -> list[str]:
    parts = {part_of(module) for module in sources} - {"aivideo"}
    return [f"aivideo.{part} stands in no row of the table" for part in sorted(parts - PARTS)]


def imports_upwards(sources: Sources) -> list[str]:
    row_of = {part: number for number, (_row, parts) in enumerate(ROWS) for part in parts}
    complaints = []
    for found in all_imports(sources):
        if not is_ours(found.target):
            continue
        importer, imported = found.importer, part_of(found.target)
        if importer == "aivideo":  # the public names: from anywhere but what composes
            allowed = ROWS[row_of.get(imported, 0)][0] not in ("edges", "simulator")
        elif importer == imported or imported in SIDEWAYS.get(importer, ()):
            allowed = True
        else:
            allowed = row_of.get(imported, -1) > row_of.get(importer, -1)
        if not allowed:
            complaints.append(str(found))
    return complaints


def imports_in_a_ring(sources: Sources) -> list[str]:
    """Module A imports B imports A: even where the rows allow it, within one package."""
    return _cycles(sources, imports_of)


def type_imports_in_a_cycle(sources: Sources) -> list[str]:
    """The same, counting imports that only type checkers execute.

    The package's own ``__init__`` is left out: it names the public names for type checkers, and
    no module imports a name from it.
    """
    sources = {module: source for module, source in sources.items() if module != "aivideo"}
    return _cycles(sources, imports_for_types_too)


def _cycles(sources: Sources, imports: Callable[[str, Sources], Iterator[Import]]) -> list[str]:
    graph = {module: set[str]() for module in sources}
    for found in (found for module in sources for found in imports(module, sources)):
        if found.target in sources and not found.module.startswith(f"{found.target}."):
            graph[found.module].add(found.target)
    while free := [module for module, targets in graph.items() if not targets]:
        for module in free:
            del graph[module]
        for targets in graph.values():
            targets.difference_update(free)
    return [f"{module} imports in a ring with {sorted(graph[module])}" for module in graph]


def imports_of_the_simulator(sources: Sources) -> list[str]:
    return [
        str(found)
        for found in all_imports(sources)
        if is_ours(found.target)
        and part_of(found.target) == "simulator"
        and found.importer not in {"simulator", *SIMULATOR_IS_FOR}
    ]


def imports_by_the_simulator(sources: Sources) -> list[str]:
    return [
        str(found)
        for found in all_imports(sources)
        if found.importer == "simulator"
        and not (is_ours(found.target) and part_of(found.target) == "simulator")
        and found.target.split(".")[0] not in SIMULATOR_KNOWS | sys.stdlib_module_names
    ]


def foreign_names_out_of_place(sources: Sources) -> list[str]:
    complaints = []
    for found in all_imports(sources):
        package = found.target.split(".")[0]
        if package == "sqlite3":
            if not found.module.startswith("aivideo.ledger.sqlite."):
                complaints.append(str(found))
        elif package != "aivideo" and package not in sys.stdlib_module_names:
            places = FOREIGN.get(package, set())
            if places is not None and not any(is_within(found.module, each) for each in places):
                complaints.append(str(found))
    return complaints


def io_in_pure_modules(sources: Sources) -> list[str]:
    complaints = []
    for module, source in sources.items():
        if module not in PURE:
            continue
        complaints += [
            str(found)
            for found in imports_of(module, sources)
            if found.target.split(".")[0] in PURE_IMPORTS_NOT
        ]
        for node in ast.walk(parsed(source)):
            if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
                complaints.append(f"{module}:{node.lineno} awaits")
            if isinstance(node, ast.Call) and _name(node.func) in PURE_CALLS_NOT:
                complaints.append(f"{module}:{node.lineno} calls {_name(node.func)}()")
    return complaints


def methods_given_to_constructors(sources: Sources) -> list[str]:
    """A constructor that is given a method of the object that builds it: the two know each other.

    Facts are returned or emitted to an object that was built before; see docs/architecture.md.
    """
    complaints = []
    for module, source in sources.items():
        for cls in ast.walk(parsed(source)):
            if not isinstance(cls, ast.ClassDef):
                continue
            functions = [
                node
                for node in cls.body
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
            methods = {
                function.name
                for function in functions
                if not any(_name(each) == "property" for each in function.decorator_list)
            }
            for function in functions:
                if function.name != "__init__":
                    continue
                for call in ast.walk(function):
                    if not (isinstance(call, ast.Call) and _name(call.func)[:1].isupper()):
                        continue
                    given = [*call.args, *(keyword.value for keyword in call.keywords)]
                    if any(_is_of_self(value, methods) for value in given):
                        complaints.append(
                            f"{module}:{call.lineno} {_name(call.func)} is given a method of self"
                        )
    return complaints


def _is_of_self(value: ast.AST, methods: set[str]) -> bool:
    """Whether a value is `self.method`, or a function made here that uses `self`."""
    if isinstance(value, ast.Lambda):
        return any(isinstance(node, ast.Name) and node.id == "self" for node in ast.walk(value))
    return (
        isinstance(value, ast.Attribute)
        and isinstance(value.value, ast.Name)
        and value.value.id == "self"
        and value.attr in methods
    )


def drawers(sources: Sources) -> list[str]:
    return [module for module in sources if DRAWERS & set(module.strip("_").split("."))]


def skips(sources: Sources) -> list[str]:
    words = {"skip", "skipif", "skipIf", "skipUnless", "importorskip", "SkipTest", "xfail"}
    return [
        f"{module}:{node.lineno} {_name(node)}"
        for module, source in sources.items()
        for node in ast.walk(parsed(source))
        if isinstance(node, ast.Attribute | ast.Name) and _name(node) in words
    ]


# ---- the package -------------------------------------------------------------------------------

SOURCES = read_sources()


def test_every_part_has_its_row() -> None:
    assert parts_without_a_row(SOURCES) == []


def test_modules_import_only_from_rows_below_their_own() -> None:
    assert imports_upwards(SOURCES) == []


def test_no_modules_import_in_a_ring() -> None:
    assert imports_in_a_ring(SOURCES) == []


def test_no_modules_import_in_a_cycle_even_for_type_checkers() -> None:
    assert type_imports_in_a_cycle(SOURCES) == []


def test_only_the_command_and_the_fixtures_know_the_simulator() -> None:
    assert imports_of_the_simulator(SOURCES) == []


def test_the_simulator_shares_no_code_with_the_rest() -> None:
    assert imports_by_the_simulator(SOURCES) == []


def test_every_foreign_package_is_named_only_at_its_border() -> None:
    assert foreign_names_out_of_place(SOURCES) == []


def test_pure_modules_do_no_io_and_read_no_clock() -> None:
    assert io_in_pure_modules(SOURCES) == []


def test_no_constructor_is_given_a_method_of_the_object_that_builds_it() -> None:
    assert methods_given_to_constructors(SOURCES) == []


def test_there_are_no_drawers() -> None:
    assert drawers(SOURCES) == []
    assert drawers(read_sources(package="tests")) == []


def test_no_test_is_skipped() -> None:
    assert skips(read_sources(package="tests")) == []


def modules_after(statement: str) -> set[str]:
    """What a fresh interpreter has imported after a statement, its site's own imports aside."""
    program = (
        f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    return set(done.stdout.split())


def test_importing_aivideo_is_cheap() -> None:
    assert modules_after("import aivideo").isdisjoint(CHEAP_IMPORT_LACKS)


def test_a_session_loads_the_packages_of_requests_at_its_first_request() -> None:
    made = modules_after("import aivideo; session = aivideo.Session('sk-x')")
    assert "aivideo._session.session" in made
    assert made.isdisjoint(AT_FIRST_REQUEST)


def test_importing_the_command_needs_no_extra() -> None:
    assert modules_after("import aivideo.cli").isdisjoint(CHEAP_IMPORT_LACKS)


def test_what_a_statement_imports_is_seen() -> None:
    assert "sqlite3" in modules_after("import sqlite3")


# ---- every rule can complain --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (parts_without_a_row, "aivideo.newcomer", ""),
        (imports_upwards, "aivideo.errors", "from aivideo.models import Sora2"),
        (imports_upwards, "aivideo.catalog", "from aivideo import models"),
        (imports_upwards, "aivideo._polling.poller", "import aivideo._api.client"),
        (imports_upwards, "aivideo._polling.poller", "from .._api.client import Client"),
        (imports_upwards, "aivideo._pacing.learned", "from .. import _session"),
        (imports_upwards, "aivideo.ledger.memory", "if x:\n    import aivideo._session.job"),
        (imports_upwards, "aivideo._session.job", "from aivideo.manifest import run"),
        (imports_upwards, "aivideo._session.job", "importlib.import_module('aivideo.cli')"),
        (imports_upwards, "aivideo", "from aivideo.cli import main"),
        (imports_in_a_ring, "aivideo.errors", "from aivideo.models import Sora2"),
        (type_imports_in_a_cycle, "aivideo.errors", "if TYPE_CHECKING:\n    import aivideo.models"),
        (imports_of_the_simulator, "aivideo._session.job", "from aivideo.simulator import serve"),
        (imports_of_the_simulator, "aivideo.manifest", "from aivideo import simulator"),
        (imports_by_the_simulator, "aivideo.simulator.rules", "from aivideo._api import wire"),
        (imports_by_the_simulator, "aivideo.simulator.rules", "from aivideo import Sora2"),
        (imports_by_the_simulator, "aivideo.simulator.rules", "import cattrs"),
        (foreign_names_out_of_place, "aivideo._api.client", "import aiohttp"),
        (foreign_names_out_of_place, "aivideo.models", "def f():\n    from aiohttp import web"),
        (foreign_names_out_of_place, "aivideo.ledger.memory", "import sqlite3"),
        (foreign_names_out_of_place, "aivideo._session.session", "import requests"),
        (foreign_names_out_of_place, "aivideo.manifest", "from rich.progress import Progress"),
        (foreign_names_out_of_place, "aivideo.manifest", "__import__(name)"),
        (io_in_pure_modules, "aivideo._pacing.learned", "import time"),
        (io_in_pure_modules, "aivideo._pacing.learned", "from os.path import join"),
        (io_in_pure_modules, "aivideo._pacing.learned", "async def f(): ..."),
        (io_in_pure_modules, "aivideo._pacing.learned", "datetime.now(UTC)"),
        (io_in_pure_modules, "aivideo._pacing.learned", "if x:\n    import random"),
        (
            methods_given_to_constructors,
            "aivideo._session.a",
            "class A:\n def __init__(self):\n  self.b = B(self.m)\n def m(self): ...",
        ),
        (
            methods_given_to_constructors,
            "aivideo._session.a",
            "class A:\n def __init__(self):\n  self.b = B(on_end=lambda: self.b.m())",
        ),
        (drawers, "aivideo._api.utils", ""),
        (skips, "tests.test_x", "@pytest.mark.skip\ndef test_x(): ..."),
        (skips, "tests.test_x", "pytest.importorskip('av')"),
    ],
)  # fmt: skip
def test_each_rule_complains_of_what_it_forbids(
    rule: Callable[[Sources], list[str]], module: str, source: str
) -> None:
    assert set(rule({**SOURCES, module: source})) - set(rule(SOURCES))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("aivideo.errors", "if TYPE_CHECKING:\n    from aivideo._session.session import Session"),
        ("aivideo.errors", "if typing.TYPE_CHECKING:\n    import aiohttp"),
        ("aivideo._pacing.learned", "from . import stated"),
        ("aivideo._polling.poller", "from aivideo import models"),
    ],
)
def test_what_is_allowed_is_not_complained_of(module: str, source: str) -> None:
    sources = {**SOURCES, module: source}
    for rule in (imports_upwards, foreign_names_out_of_place, io_in_pure_modules):
        assert set(rule(sources)) <= set(rule(SOURCES))
