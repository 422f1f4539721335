"""What a crash leaves of a ledger's files: whatever was synced, and any part of what was not.

A disk writes in sectors. When the machine dies, each sector that was written since the last
completed ``fsync`` holds its new bytes or still its old ones; no other sector has changed. SQLite
syncs at the points below, and the pictures of a transaction are torn between two of them:

* a log that begins anew: its header is written and synced before any frame overwrites an old one;
* ``COMMIT`` under ``synchronous=FULL``: the log is synced when it returns;
* a checkpoint: the log is synced already, then pages are copied into the file, which is synced
  before the log may begin anew.

Under a weaker setting ``COMMIT`` syncs nothing, so everything since the last checkpoint is torn:
the pictures then come from further back.
"""

from __future__ import annotations

import random
from pathlib import Path

from attrs import frozen

SECTOR = 512
WAL_HEADER = 32


@frozen
class Picture:
    """The bytes of a ledger: its file, and its log."""

    file: bytes
    wal: bytes

    @classmethod
    def of(cls, path: Path) -> Picture:
        """Take one."""
        return cls(_bytes(path), _bytes(wal_of(path)))

    def put(self, path: Path) -> None:
        """Lay it down elsewhere."""
        path.write_bytes(self.file)
        if self.wal:
            wal_of(path).write_bytes(self.wal)


def torn(before: Picture, after: Picture, draw: random.Random) -> tuple[Picture, str]:
    """Say what is left when the machine dies while ``before`` becomes ``after``, and in words."""
    copied = before.file != after.file  # a checkpoint was part of it
    committed = before.wal != after.wal and bool(after.wal)
    phases = ["before", "after"]
    phases += ["commit", "commit"] * committed + ["copy", "copy"] * copied
    match draw.choice(phases):
        case "before":
            return before, "nothing of it"
        case "commit":
            wal, said = _torn_wal(before.wal, after.wal, draw)
            return Picture(before.file, wal), said
        case "copy":
            # The log is dropped (when the last connection closes) once the copy is synced: until
            # then it is whole.
            wal = after.wal or before.wal
            file, kept, all_ = _torn(before.file, after.file, draw)
            return Picture(file, wal), f"the log, and {kept} of {all_} sectors of its copy"
        case _:
            return after, "all of it"


def _torn_wal(before: bytes, after: bytes, draw: random.Random) -> tuple[bytes, str]:
    if before and before[:WAL_HEADER] != after[:WAL_HEADER]:
        # It begins anew: the header is synced before a frame is written.
        if draw.random() < 0.3:
            return before, "nothing of a log that begins anew"
        before = after[:WAL_HEADER] + before[WAL_HEADER:]
    wal, kept, all_ = _torn(before, after, draw)
    return wal, f"{kept} of {all_} sectors of the log"


def _torn(before: bytes, after: bytes, draw: random.Random) -> tuple[bytes, int, int]:
    """Keep each sector that differs, or its old bytes."""
    # Often few are lost, or few are kept: where all but one were written, checks are hardest.
    share = draw.choice((0.05, 0.5, 0.95, 1.0))
    size = max(len(before), len(after))
    kept = changed = 0
    parts = []
    for at in range(0, size, SECTOR):
        old, new = before[at : at + SECTOR], after[at : at + SECTOR]
        if old == new:
            parts.append(old)
            continue
        changed += 1
        if draw.random() < share:
            kept += 1
            parts.append(new)
        else:  # beyond the old end lie zeros, if anything
            parts.append(old.ljust(len(new), b"\0") if at + SECTOR < size else old)
    return b"".join(parts), kept, changed


def wal_of(path: Path) -> Path:
    """Where a ledger's log lies."""
    return path.with_name(f"{path.name}-wal")


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
