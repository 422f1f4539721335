"""The ledger's files after a power failure: all synced data, and any part of the unsynced data.

A disk writes in sectors. After a power failure, each sector written since the last completed
``fsync`` contains either its new or its old bytes; no other sector has changed. SQLite calls
``fsync`` at the points below. A crash is simulated between two snapshots taken at such points:

* restart of the write-ahead log (WAL): its new header is written and synced before any frame
  overwrites an old one;
* ``COMMIT`` with ``synchronous=FULL``: the WAL has been synced when it returns;
* checkpoint: the WAL has been synced before; its pages are copied into the database file, which is
  synced before the WAL may restart.

With a weaker setting ``COMMIT`` syncs nothing, so everything since the last checkpoint may be
lost: the first snapshot is then the one taken when the ledger was opened.
"""

from __future__ import annotations

import random
from pathlib import Path

from attrs import frozen

SECTOR = 512
WAL_HEADER = 32


@frozen
class Snapshot:
    """The content of a ledger's files: the database and its write-ahead log."""

    file: bytes
    wal: bytes

    @classmethod
    def of(cls, path: Path) -> Snapshot:
        """Read the files of a ledger."""
        return cls(_bytes(path), _bytes(wal_of(path)))

    def write_to(self, path: Path) -> None:
        """Write the files of a ledger."""
        path.write_bytes(self.file)
        if self.wal:
            wal_of(path).write_bytes(self.wal)


def state_after_crash(
    before: Snapshot, after: Snapshot, rng: random.Random
) -> tuple[Snapshot, str]:
    """Draw the files left by a crash between two snapshots; also return a description."""
    copied = before.file != after.file  # there was a checkpoint
    committed = before.wal != after.wal and bool(after.wal)
    phases = ["before", "after"]
    phases += ["commit", "commit"] * committed + ["copy", "copy"] * copied
    match rng.choice(phases):
        case "before":
            return before, "nothing"
        case "commit":
            wal, description = _wal_after_crash(before.wal, after.wal, rng)
            return Snapshot(before.file, wal), description
        case "copy":
            # When the last connection closes, the WAL is deleted only after the database file
            # has been synced; until then the WAL is complete.
            wal = after.wal or before.wal
            file, kept, all_ = _mix_sectors(before.file, after.file, rng)
            return Snapshot(file, wal), f"the WAL, and {kept} of {all_} sectors of the checkpoint"
        case _:
            return after, "everything"


def _wal_after_crash(before: bytes, after: bytes, rng: random.Random) -> tuple[bytes, str]:
    if before and before[:WAL_HEADER] != after[:WAL_HEADER]:
        # The WAL restarts: its header is synced before a frame is written.
        if rng.random() < 0.3:
            return before, "nothing: the WAL was about to restart"
        before = after[:WAL_HEADER] + before[WAL_HEADER:]
    wal, kept, all_ = _mix_sectors(before, after, rng)
    return wal, f"{kept} of {all_} sectors of the WAL"


def _mix_sectors(before: bytes, after: bytes, rng: random.Random) -> tuple[bytes, int, int]:
    """For each sector that differs, take the new or the old bytes at random."""
    # Mostly few sectors are lost or few are kept: almost complete writes are hardest to detect.
    share = rng.choice((0.05, 0.5, 0.95, 1.0))
    size = max(len(before), len(after))
    kept = changed = 0
    parts = []
    for at in range(0, size, SECTOR):
        old, new = before[at : at + SECTOR], after[at : at + SECTOR]
        if old == new:
            parts.append(old)
            continue
        changed += 1
        if rng.random() < share:
            kept += 1
            parts.append(new)
        else:  # beyond the old end of the file there are zeros, or nothing
            parts.append(old.ljust(len(new), b"\0") if at + SECTOR < size else old)
    return b"".join(parts), kept, changed


def wal_of(path: Path) -> Path:
    """Path of a ledger's write-ahead log."""
    return path.with_name(f"{path.name}-wal")


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
