"""The public names: what is promised is there, and what is there is promised."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import aivideo

PROMISED = {
    # what people do
    *("Session", "Client", "Job", "AiohttpTransport", "Transport", "RateLimit"),
    # what they hold
    *("Sora2", "Generation", "Request", "Credits"),
    *("Task", "PendingTask", "ProcessingTask", "CompletedTask", "FailedTask", "UnrecognizedTask"),
    *("Outcome", "Succeeded", "Failed"),
    *("Ledger", "MemoryLedger"),
    # what may happen to them
    *("AIVideoError", "InvalidRequestError", "ConfigurationError", "APIStatusError"),
    *("AuthenticationError", "InsufficientCreditsError", "PermissionDeniedError"),
    *("NotFoundError", "ModelNotFoundError", "TaskNotFoundError"),
    *("RateLimitError", "SpendLimitError", "InternalServerError", "UpstreamError"),
    *("APIConnectionError", "APITimeoutError", "SubmitUnknownError", "TaskFailedError"),
    *("WaitTimeoutError", "BudgetExceededError", "QueueFullError", "DownloadError"),
    *("ResultExpiredError", "ResponseError", "LedgerError"),
    "__version__",
}
"""Once promised, a name is taken back only by a new major version."""


def test_every_promised_name_is_there() -> None:
    assert set(aivideo.__all__) >= PROMISED


def test_what_type_checkers_read_is_what_is_imported_when_asked_for() -> None:
    """Three lists would drift apart: the names' homes, the imports for checkers, ``__all__``."""
    tree = ast.parse(Path(aivideo.__file__).read_text("utf-8"))
    told = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {*told, "__version__"} == {*aivideo.__all__}
    for name, module in told.items():
        assert module is not None
        assert getattr(aivideo, name) is getattr(importlib.import_module(module), name)


def test_importing_it_imports_nothing_heavy_and_a_name_brings_no_aiohttp() -> None:
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


def test_the_list_is_sorted_and_says_each_name_once() -> None:
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


def test_a_star_import_brings_the_list_and_nothing_else() -> None:
    program = "from aivideo import *; print(*(set(dir()) - {'annotations'}))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    brought = {name for name in done.stdout.split() if not name.startswith("__")}
    assert brought == {name for name in aivideo.__all__ if not name.startswith("__")}


def test_every_error_is_one_of_ours() -> None:
    errors = [getattr(aivideo, name) for name in aivideo.__all__ if name.endswith("Error")]
    assert len(errors) > 20
    assert [error for error in errors if not issubclass(error, aivideo.AIVideoError)] == []


def test_every_public_name_says_its_contract() -> None:
    silent = [
        name
        for name in aivideo.__all__
        if isinstance(getattr(aivideo, name), type) and not getattr(aivideo, name).__doc__
    ]
    assert silent == []
