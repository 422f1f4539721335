"""What all tests share: the clock they run on, and an environment without anybody's key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aivideo.testing import VirtualTimeLoop

# Tests in these folders have to do with other processes, whose time does not jump.
REAL_CLOCK = ("durable", "cli")


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run async tests on asyncio: on the virtual clock, but for the folders in `REAL_CLOCK`."""
    folder = request.path.relative_to(Path(__file__).parent).parts[0]
    if folder in REAL_CLOCK:
        return "asyncio", {}
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@pytest.fixture(autouse=True)
def _no_key_of_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have a real key in the environment: it buys real videos."""
    monkeypatch.delenv("AIVIDEO_API_KEY", raising=False)
    monkeypatch.delenv("AIVIDEO_BASE_URL", raising=False)
