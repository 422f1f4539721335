"""The README runs: its programs against the simulator, its commands through the parser.

Files, make targets and imports that the other documents and the examples name are checked too.

Every block of Python is a program of its own. It may await at its top, as in `python -m asyncio`.
"""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from pathlib import Path
from types import CodeType
from typing import Any

import httpx
import pytest
from attrs import frozen

from aivideo.cli.app import app as command
from aivideo.simulator import Simulator

README = Path(__file__).parents[1] / "README.md"
MAKEFILE = README.with_name("Makefile")


@frozen
class Block:
    """One fenced block, with the line of the file where it begins."""

    language: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}"


def blocks_of(text: str, language: str) -> list[Block]:
    found = re.finditer(r"^```(\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    blocks = [Block(m[1], text.count("\n", 0, m.start()) + 2, m[2]) for m in found]
    return [block for block in blocks if block.language == language]


def commands_of(text: str, program: str) -> list[str]:
    """Return the commands: after `$` in console blocks, and between backticks in the prose."""
    typed = [
        line.removeprefix("$ ")
        for block in blocks_of(text, "console")
        for line in block.text.replace("\\\n", " ").splitlines()
        if line.startswith("$ ")
    ]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    typed += re.findall(r"`([^`\n]+)`", prose)
    return [line for line in typed if line.split()[0] == program and len(line.split()) > 1]


def compiled(block: Block) -> CodeType:
    """Compile a block so that tracebacks show the README's own lines."""
    source = "\n" * (block.line - 1) + block.text
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code: CodeType = compile(source, str(README), "exec", flags=flags)
    return code


async def run_block(block: Block) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "__main__"}
    running = eval(compiled(block), names)
    if inspect.iscoroutine(running):
        await running
    return names


def parse(line: str) -> None:
    """Parse a command as the `aivideo` command would, and run nothing.

    Raises:
        CycloptsError: if there is no such command or option, or a value is not good for it.
    """
    _program, *arguments = shlex.split(line, comments=True)
    command.parse_args(arguments, exit_on_error=False, print_error=False)


TEXT = README.read_text("utf-8")
PROGRAMS = blocks_of(TEXT, "python")
COMMANDS = commands_of(TEXT, "aivideo")
TARGETS = commands_of(TEXT, "make")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder: the programs write videos."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_has_programs_and_commands() -> None:
    assert PROGRAMS
    assert COMMANDS
    assert {"make demo", "make test"} <= {line.split("#")[0].strip() for line in TARGETS}


@pytest.mark.anyio
@pytest.mark.parametrize("block", PROGRAMS, ids=str)
async def test_every_program_runs(block: Block, simulator: Simulator, elsewhere: Path) -> None:
    await run_block(block)
    if re.search(r"^async with Session\((?!.*base_url)", block.text, re.MULTILINE):
        assert simulator.truth.creates_taken > 0, "it created no task"
    assert simulator.truth.keys_at_results == 0


@pytest.mark.anyio
async def test_the_handler_answers(simulator: Simulator) -> None:
    (block,) = (block for block in PROGRAMS if "FastAPI(" in block.text)
    app = (await run_block(block))["app"]
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://app")
    async with app.router.lifespan_context(app), http:
        answer = await http.post("/clips", params={"prompt": "A paper boat"})
    assert answer.status_code == 202
    assert answer.json()["task_id"] in simulator.truth.tasks


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_parses(line: str, elsewhere: Path) -> None:
    (elsewhere / "prompts.txt").write_text("A paper boat\n", "utf-8")
    parse(line)


@pytest.mark.parametrize("line", TARGETS)
def test_every_make_target_exists(line: str) -> None:
    target = line.split()[1]
    assert re.search(rf"^{re.escape(target)}:", MAKEFILE.read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("path", re.findall(r"\]\((?!https?:)([^)#]+)", TEXT))
def test_every_link_has_a_target(path: str) -> None:
    assert (README.parent / path).exists()


def names_of_files(text: str) -> list[str]:
    """Return what is between backticks and looks like a file or a folder of the project."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return sorted(set(re.findall(r"`([\w./]+(?:\.py|\.md|/))`", prose)))


@pytest.mark.parametrize(
    ("document", "name"),
    [
        (document, name)
        for document in ("docs/architecture.md", "CONTRIBUTING.md", "benchmarks/README.md")
        for name in names_of_files((README.parent / document).read_text("utf-8"))
    ],
)
def test_every_file_that_a_document_names_exists(document: str, name: str) -> None:
    root = README.parent
    places = [root, root / "aivideo", root / "aivideo/_session", root / "aivideo/catalog"]
    places += [root / "benchmarks"]
    assert any((place / name).exists() for place in places)


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_every_make_target_that_a_document_names_exists(document: str) -> None:
    lines = commands_of((README.parent / document).read_text("utf-8"), "make")
    assert lines
    for line in lines:
        target = line.split()[1]
        assert re.search(rf"^{re.escape(target)}:", MAKEFILE.read_text("utf-8"), re.MULTILINE)


def private_imports(source: str) -> list[str]:
    """Return the names with an underscore that a program imports from aivideo."""
    found = [
        name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        for name in [f"{getattr(node, 'module', None) or ''}.{alias.name}".lstrip(".")]
    ]
    return [name for name in found if name.startswith("aivideo") and "._" in name]


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_programs_use_public_names_only(block: Block) -> None:
    assert private_imports(block.text) == []


@pytest.mark.parametrize("path", sorted((README.parent / "examples").glob("*.py")), ids=str)
def test_examples_use_public_names_only(path: Path) -> None:
    assert private_imports(path.read_text("utf-8")) == []


# ---- the checks above can fail ------------------------------------------------------------------


def test_a_private_import_is_found() -> None:
    assert private_imports("from aivideo._api import wire") == ["aivideo._api.wire"]
    assert private_imports("import aivideo._session.session") == ["aivideo._session.session"]
    assert private_imports("from aivideo import Session") == []


def test_names_of_files_are_found() -> None:
    assert names_of_files("see `a/b.py`, `c.md`, `d/` and `e`") == ["a/b.py", "c.md", "d/"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```python\nfrom aivideo import Nobody\n```", ImportError),
        ("```python\nassert False\n```", AssertionError),
        ("```python\nimport asyncio\nawait asyncio.sleep(1, no=1)\n```", TypeError),
    ],
)
async def test_a_wrong_program_fails(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await run_block(blocks_of(text, "python")[0])


@pytest.mark.parametrize(
    "line",
    [
        "aivideo frobnicate",
        "aivideo batch prompts.txt --frobnicate",
        "aivideo generate",
        "aivideo batch prompts.txt --output out --duration soon",
    ],
)
def test_a_wrong_command_does_not_parse(line: str) -> None:
    from cyclopts import CycloptsError

    with pytest.raises(CycloptsError):
        parse(line)


def test_blocks_and_commands_are_found() -> None:
    text = "x\n\n```console\n$ aivideo demo  # so\nout\n$ make x\n```\nUse `aivideo task ID` now.\n"
    assert commands_of(text, "aivideo") == ["aivideo demo  # so", "aivideo task ID"]
    assert commands_of(text, "make") == ["make x"]
    assert blocks_of("a\n```python\nb = 1\n```\n", "python") == [Block("python", 3, "b = 1\n")]
