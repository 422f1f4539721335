"""The public names of the package are exactly the documented ones."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import aivideo

STABLE = {
    # main classes
    *("Session", "Client", "Job", "AiohttpTransport", "Transport", "RateLimit"),
    # values
    *("Sora2", "Generation", "Request", "Credits"),
    *("Task", "PendingTask", "ProcessingTask", "CompletedTask", "FailedTask", "UnrecognizedTask"),
    *("Outcome", "Succeeded", "Failed"),
    *("Ledger", "MemoryLedger"),
    # errors
    *("AIVideoError", "InvalidRequestError", "ConfigurationError", "APIStatusError"),
    *("AuthenticationError", "InsufficientCreditsError", "PermissionDeniedError"),
    *("NotFoundError", "ModelNotFoundError", "TaskNotFoundError"),
    *("RateLimitError", "SpendLimitError", "InternalServerError", "UpstreamError"),
    *("APIConnectionError", "APITimeoutError", "SubmitUnknownError", "TaskFailedError"),
    *("WaitTimeoutError", "BudgetExceededError", "QueueFullError", "DownloadError"),
    *("ResultExpiredError", "ResponseError", "LedgerError"),
    "__version__",
}
"""These names may be removed only in a new major version."""


def test_every_stable_name_exists() -> None:
    assert set(aivideo.__all__) >= STABLE


def test_lazy_imports_match_the_imports_for_type_checkers() -> None:
    """The table of lazy names, the imports for type checkers and ``__all__`` must agree."""
    tree = ast.parse(Path(aivideo.__file__).read_text("utf-8"))
    declared = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {*declared, "__version__"} == {*aivideo.__all__}
    for name, module in declared.items():
        assert module is not None
        assert getattr(aivideo, name) is getattr(importlib.import_module(module), name)


def test_importing_the_package_imports_no_heavy_module_and_session_no_aiohttp() -> None:
    program = (
        "import sys, aivideo; early = {*sys.modules}\n"
        "from aivideo import Session, Sora2\n"
        "print(*({'asyncio', 'attrs', 'orjson', 'aiohttp'} & early), '|', 'aiohttp' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["|", "False"]


def test_a_module_is_found_by_its_name_and_an_unknown_name_is_an_attribute_error() -> None:
    program = (
        "import aivideo\n"
        "assert aivideo.catalog.SORA_2.name == 'sora-2'\n"
        "assert not hasattr(aivideo, 'sora')\n"
        "assert {'Session', 'catalog'} <= {*dir(aivideo), 'catalog'}\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_every_listed_name_can_be_imported() -> None:
    missing = [name for name in aivideo.__all__ if not hasattr(aivideo, name)]
    assert missing == []


def test_the_list_is_sorted_and_has_no_duplicates() -> None:
    # As ruff sorts it: constants, then classes, then the rest.
    def order(name: str) -> tuple[int, str]:
        return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)

    assert list(aivideo.__all__) == sorted(set(aivideo.__all__), key=order)


def test_the_list_is_complete() -> None:
    public = {
        name
        for name, value in vars(aivideo).items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and name not in ("annotations", "TYPE_CHECKING")
    }
    assert public - set(aivideo.__all__) == set()


def test_a_star_import_imports_exactly_the_list() -> None:
    program = "from aivideo import *; print(*(set(dir()) - {'annotations'}))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    imported = {name for name in done.stdout.split() if not name.startswith("__")}
    assert imported == {name for name in aivideo.__all__ if not name.startswith("__")}


def test_every_error_is_a_subclass_of_aivideo_error() -> None:
    errors = [getattr(aivideo, name) for name in aivideo.__all__ if name.endswith("Error")]
    assert len(errors) > 20
    assert [error for error in errors if not issubclass(error, aivideo.AIVideoError)] == []


def test_every_public_class_has_a_docstring() -> None:
    undocumented = [
        name
        for name in aivideo.__all__
        if isinstance(getattr(aivideo, name), type) and not getattr(aivideo, name).__doc__
    ]
    assert undocumented == []
