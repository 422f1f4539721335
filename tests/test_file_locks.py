"""Locks on files show which processes are alive."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aivideo import _file_locks


def test_a_lock_is_held_until_its_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "alive"
    first, second = (os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2))
    try:
        _file_locks.take(first)
        with pytest.raises(OSError):  # noqa: PT011  which one depends on the system
            _file_locks.take(second)
        os.close(first)
        _file_locks.take(second)
    finally:
        os.close(second)
