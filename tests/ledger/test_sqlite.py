"""The SQLite ledger: permissions, refusals, damage, schema versions, groups of calls, memory."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
import stat
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from attrs import evolve

from aivideo.errors import ConfigurationError, LedgerError
from aivideo.ledger import events
from aivideo.ledger.records import JobStatus, Reason
from aivideo.ledger.sqlite import SqliteLedger, file, opening, schema
from aivideo.ledger.totals import CreditTotals
from aivideo.models import Generation
from tests.ledger.jobs import job

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def opened(path: Path, *, read_only: bool = False) -> AsyncIterator[SqliteLedger]:
    ledger = SqliteLedger(path, read_only=read_only)
    try:
        yield ledger
    finally:
        await ledger.aclose()


async def filled(path: Path, count: int = 200) -> list[str]:
    """Make a ledger of many jobs, of which a third has failed; return their ids in order."""
    async with opened(path) as ledger:
        jobs = [job(f"boat {n} " + "x" * 200, batch="b", key=f"k{n}") for n in range(count)]
        await asyncio.gather(*(ledger.plan(each) for each in jobs))
        for number, each in enumerate(jobs[::3]):
            await ledger.claim(each.id, lease=100.0)
            await ledger.record(each.id, events.Taken(f"task-{number}"))
            await ledger.record(each.id, events.Failed(Reason(message="no")))
        return [each.id for each in jobs]


@contextmanager
def as_nobody() -> Iterator[Path]:
    """Act as a user who is bound by permissions (root is not), with a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="aivideo-"))
    root = os.geteuid() == 0
    try:
        if root:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o700)
        shutil.rmtree(folder)


def refusal(path: Path, *, read_only: bool = False) -> str:
    """Try to open a file that must be refused; return the message, which must be one line."""
    with pytest.raises(LedgerError) as caught:
        SqliteLedger(path, read_only=read_only)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    return line


# --- permissions ----------------------------------------------------------------------------


async def test_the_file_and_those_beside_it_are_readable_by_their_owner_only(
    tmp_path: Path,
) -> None:
    before = os.umask(0)
    try:
        async with opened(tmp_path / "jobs.db") as ledger:
            planned = await ledger.plan(job())
            await ledger.claim(planned.id, lease=10.0)
            files = sorted(tmp_path.iterdir())
            assert len(files) == 4, "the file, its log, its index and the owner's lock"
            assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    finally:
        os.umask(before)


async def test_closing_leaves_one_file(tmp_path: Path) -> None:
    await filled(tmp_path / "jobs.db", 5)
    assert [file.name for file in tmp_path.iterdir()] == ["jobs.db"]


async def test_a_rolled_back_lapse_keeps_the_proof_that_an_owner_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path) as ended:
        planned = await ended.plan(job())
        await ended.claim(planned.id, lease=3600.0)

    def breaks(_: object) -> None:
        raise sqlite3.OperationalError("the disk is gone")

    async with opened(path) as ledger:
        ends = await asyncio.gather(ledger.lapse(), ledger._step(breaks), return_exceptions=True)
        assert all(isinstance(end, LedgerError) for end in ends)
        assert [each.id for each in await ledger.lapse()] == [planned.id]
        assert await ledger.lapse() == []


# --- refusals ----------------------------------------------------------------------------


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert "its folder does not exist: create it" in refusal(tmp_path / "nowhere" / "jobs.db")


def test_a_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refusal(tmp_path / "file" / "jobs.db")


@pytest.mark.parametrize(
    "content",
    [
        b"Dear diary,\n" * 1000,
        b"\0" * 8192,
        b"xy",
        b"SQLite format 3\0" + b"\xff" * 4096,
        os.urandom(20_000),
    ],
)
def test_a_file_that_is_not_a_ledger_is_refused_and_not_changed(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "diary.txt"
    path.write_bytes(content)
    refusal(path)
    refusal(path, read_only=True)
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_refused_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "wallet.db"
    theirs = sqlite3.connect(path)
    theirs.execute("CREATE TABLE coins (id)")
    theirs.commit()
    theirs.close()
    before = path.read_bytes()
    assert "something else" in refusal(path)
    for pragma in ("application_id = 77", "user_version = 3"):
        theirs = sqlite3.connect(path)
        theirs.execute(f"PRAGMA {pragma}")
        theirs.close()
        assert "something else" in refusal(path)
    assert len(path.read_bytes()) == len(before)


async def test_a_newer_schema_is_refused_with_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    await filled(path, 1)
    newer = sqlite3.connect(path)
    newer.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    newer.close()
    assert "newer aivideo" in refusal(path)
    assert "upgrade" in refusal(path, read_only=True)


def test_a_ledger_to_be_read_must_exist(tmp_path: Path) -> None:
    assert "there is no ledger" in refusal(tmp_path / "jobs.db", read_only=True)
    assert [*tmp_path.iterdir()] == [], "and is not created by reading"


def test_where_wal_does_not_work_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    # A VFS of SQLite without shared memory, like some file systems.
    without = sqlite3.connect(f"{path.as_uri()}?vfs=unix-dotfile", uri=True)
    with pytest.raises(LedgerError, match="WAL does not work"):
        opening.prepare(without, path, read_only=False)
    without.close()


async def test_a_file_with_two_names_is_refused_for_writing(tmp_path: Path) -> None:
    """SQLite's log lies beside the name that a process uses: two names would be two logs."""
    path, second = tmp_path / "jobs.db", tmp_path / "more" / "jobs.db"
    ids = await filled(path, 1)
    second.parent.mkdir()
    os.link(path, second)
    assert "2 names (hard links)" in refusal(path)
    assert "keep one name" in refusal(second)
    async with opened(path, read_only=True) as ledger:
        assert [each.id async for each in ledger.jobs()] == ids
    second.unlink()
    async with opened(path) as ledger:
        assert [each.id async for each in ledger.jobs()] == ids


def test_a_file_that_is_mounted_by_itself_is_refused(tmp_path: Path) -> None:
    path, mounts = tmp_path / "jobs.db", tmp_path / "mountinfo"
    path.touch()
    mounts.write_text(f"40 1 8:1 /data/jobs.db {path} rw,relatime - ext4 /dev/a rw\n")
    with pytest.raises(LedgerError, match="mounted as a single file, apart"):
        opening.refuse_second_name(path, mounts)
    mounts.write_text(f"40 1 8:1 /data {tmp_path} rw,relatime - ext4 /dev/a rw\nnonsense\n")
    opening.refuse_second_name(path, mounts)
    opening.refuse_second_name(path, tmp_path / "no such file")


async def test_a_symbolic_link_names_the_same_ledger(tmp_path: Path) -> None:
    path, link = tmp_path / "jobs.db", tmp_path / "link.db"
    link.symlink_to(path)
    async with opened(link) as one, opened(path) as two:  # made through the link
        planned = await one.plan(job())
        assert await two.find(planned.id) == planned
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert one.path == link


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p"])
def test_a_network_file_system_is_refused(tmp_path: Path, kind: str) -> None:
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    line = f"40 1 {os.major(device)}:{os.minor(device)} / /far rw,relatime shared:1 - {kind} h:/ rw"
    mounts.write_text(f"22 1 0:99 / /else rw - ext4 /dev/a rw\n{line}\n")
    for path in (tmp_path / "jobs.db", mounts):  # to be made, and there already
        with pytest.raises(LedgerError, match=rf"network file system \({kind}\)"):
            opening.refuse_shared_disk(path, mounts)


@pytest.mark.parametrize(
    "mounts",
    [
        "40 1 0:12345 / /far rw - nfs4 h:/ rw\n",  # of another device
        "40 1 {here} / / rw - ext4 /dev/vda rw\n",
        "nonsense\n\n - \n",
        "",
    ],
)
def test_a_local_disk_is_accepted(tmp_path: Path, mounts: str) -> None:
    device = tmp_path.stat().st_dev
    here = f"{os.major(device)}:{os.minor(device)}"
    (tmp_path / "mountinfo").write_text(mounts.replace("{here}", here))
    opening.refuse_shared_disk(tmp_path / "jobs.db", tmp_path / "mountinfo")


async def test_a_closed_ledger_refuses_calls(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        pass
    with pytest.raises(LedgerError, match="is closed"):
        await ledger.plan(job())


# --- read-only ----------------------------------------------------------------------------------


async def test_a_folder_without_write_permission_is_refused() -> None:
    with as_nobody() as folder:
        folder.chmod(0o555)
        assert "permissions" in refusal(folder / "jobs.db")


async def test_a_file_without_write_permission_is_refused_but_can_be_read() -> None:
    with as_nobody() as folder:
        path = folder / "jobs.db"
        ids = await filled(path, 3)
        path.chmod(0o400)
        folder.chmod(0o555)
        assert "read-only: make it writable" in refusal(path)
        async with opened(path, read_only=True) as ledger:
            assert [each.id async for each in ledger.jobs()] == ids
            assert (await ledger.totals()).refunded == 100
            writes: list[Callable[[], Awaitable[object]]] = [
                lambda: ledger.plan(job()),
                lambda: ledger.claim(ids[1], lease=1.0),
                lambda: ledger.record(ids[0], events.Retried()),
            ]
            for write in writes:
                with pytest.raises(LedgerError, match=r"read.only"):
                    await write()


async def test_a_ledger_in_use_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path) as writer, opened(path, read_only=True) as reader:
        planned = await writer.plan(job())
        assert await reader.find(planned.id) == planned
        await writer.claim(planned.id, lease=10.0)
        found = await reader.find(planned.id)
        assert found is not None
        assert found.status is JobStatus.SUBMITTING


# --- damage -------------------------------------------------------------------------------------


async def read_everything(path: Path) -> list[str]:
    """Read everything that a batch, a resume and `jobs list` read; return the ids."""
    async with opened(path) as ledger:
        ids = [each.id async for each in ledger.jobs()]
        for status in JobStatus:
            _ = [each.id async for each in ledger.jobs(batch="b", statuses=[status])]
        for number in range(0, 200, 10):
            await ledger.find_key("b", f"k{number}")
            await ledger.find_task(f"task-{number}")
        await ledger.counts()
        await ledger.totals()
        await ledger.readings()
        await ledger.lapse()
        return ids


async def test_a_truncated_file_is_reported_in_one_line(tmp_path: Path) -> None:
    path, cut = tmp_path / "jobs.db", tmp_path / "cut.db"
    await filled(path)
    whole = path.read_bytes()
    for length in (len(whole) - 4096, len(whole) // 2, 4096 * 2, 4096, 100, 17):
        cut.write_bytes(whole[:length])
        with pytest.raises(LedgerError) as caught:
            await read_everything(cut)
        assert "\n" not in str(caught.value)
        assert any(word in str(caught.value) for word in ("damaged", "not a ledger"))


async def test_a_page_of_garbage_is_reported_in_one_line_or_harmless(tmp_path: Path) -> None:
    path, bad = tmp_path / "jobs.db", tmp_path / "bad.db"
    ids = await filled(path)
    whole = path.read_bytes()
    pages = range(len(whole) // 4096)
    assert len(pages) > 20
    told = 0
    for page in pages:
        at = page * 4096
        bad.write_bytes(whole[:at] + b"\xa5" * 4096 + whole[at + 4096 :])
        try:
            found = await read_everything(bad)
        except LedgerError as error:
            told += 1
            found = ids if "\n" not in str(error) else []
        assert found == ids
    assert told > len(pages) // 2


async def test_a_value_that_no_ledger_writes_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    (job_id,) = await filled(path, 1)
    for sql in (
        "UPDATE jobs SET status = 'plonned'",
        "UPDATE jobs SET status = 'failed', input = '{'",
        "UPDATE jobs SET input = '{}'; UPDATE attempts SET reason = '[1]'",
    ):
        connection = sqlite3.connect(path)
        connection.executescript(sql)
        connection.close()
        async with opened(path) as ledger:
            with pytest.raises(LedgerError, match="it is damaged"):
                await ledger.find(job_id)
            assert (await ledger.totals()).refunded == 100, "intact tables can still be read"


# --- schema -------------------------------------------------------------------------------------

NEXT = "ALTER TABLE jobs ADD COLUMN note TEXT; UPDATE jobs SET note = 'from ' || id"
BROKEN = "ALTER TABLE jobs ADD COLUMN wrong TEXT; UPDATE nowhere SET x = 1"


async def test_an_older_ledger_is_migrated_with_its_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "jobs.db"
    ids = await filled(path, 3)
    older = len(schema.MIGRATIONS)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, NEXT, "CREATE TABLE more (x)"))
    assert await read_everything(path) == ids
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (older + 2,)
    assert connection.execute("SELECT note FROM jobs").fetchall() == [(f"from {i}",) for i in ids]
    connection.close()


async def test_a_failed_migration_leaves_the_older_ledger_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "jobs.db"
    ids = await filled(path, 3)
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, BROKEN))
        assert "no such table" in refusal(path)
    assert await read_everything(path) == ids
    mended = BROKEN.partition(";")[0]
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, mended))
    assert await read_everything(path) == ids, "no part of the failed migration is left"


# --- groups -------------------------------------------------------------------------------------


def commits_of(ledger: SqliteLedger) -> list[str]:
    statements: list[str] = []
    assert ledger._file is not None
    ledger._file.connection.set_trace_callback(statements.append)
    return statements


async def test_many_calls_at_once_cost_a_few_commits(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        jobs = [job(f"boat {n}") for n in range(400)]
        statements = commits_of(ledger)
        await asyncio.gather(*(ledger.plan(each) for each in jobs))
        assert statements.count("COMMIT") <= 3
        await asyncio.gather(*(ledger.claim(each.id, lease=9.0) for each in jobs))
        assert statements.count("COMMIT") <= 6
        assert len([each async for each in ledger.jobs(statuses=[JobStatus.SUBMITTING])]) == 400


async def test_each_commit_is_synced_to_disk(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        assert ledger._file is not None
        run = ledger._file.connection.execute
        assert run("PRAGMA journal_mode").fetchone() == ("wal",)
        assert run("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert run("PRAGMA fullfsync").fetchone() == (1,)


async def test_a_refused_call_does_not_affect_the_others(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        calls = [ledger.plan(job()) for _ in range(3)]
        ends = await asyncio.gather(
            *calls, ledger.claim("nobody", lease=1.0), return_exceptions=True
        )
        assert [isinstance(end, LedgerError) for end in ends] == [False, False, False, True]
        assert len([each async for each in ledger.jobs()]) == 3


@pytest.mark.parametrize("key", ["caf\udce9", "\ud800"])  # a Linux file name, half a surrogate pair
async def test_a_value_that_sqlite_cannot_store_does_not_affect_the_others(
    tmp_path: Path, key: str
) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        sent = job("boat")
        await ledger.plan(sent)
        await ledger.claim(sent.id, lease=100.0)
        bad, verdict = await asyncio.gather(
            ledger.plan(job("kite", key=key)),
            ledger.record(sent.id, events.Taken("task-1")),
            return_exceptions=True,
        )
        assert isinstance(bad, LedgerError)
        assert "cannot hold" in str(bad)
        found = await ledger.find_task("task-1")
        assert found == verdict, "an answer is money: it is recorded, whatever else is in its group"


class NoColumn:
    """A value for which SQLite has no type."""


@pytest.mark.parametrize(
    "bad",
    [
        {"key": NoColumn()},
        {"key": "\ud800"},
        {"planned_at": NoColumn()},
        {"size": 2**63},
        {"id": None},
    ],
    ids=lambda bad: next(iter(bad)),
)
async def test_a_value_that_sqlite_refuses_fails_its_call_alone_in_a_full_group(
    tmp_path: Path, bad: dict[str, Any]
) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        jobs = [job(key=f"k{n}") for n in range(60)]
        for number in (7, 30):
            jobs[number] = evolve(jobs[number], **bad)
        ends = await asyncio.gather(*map(ledger.plan, jobs), return_exceptions=True)
        failed = [n for n, end in enumerate(ends) if isinstance(end, BaseException)]
        assert failed == [7, 30]
        assert all("cannot hold" in str(ends[number]) for number in failed)
        assert len([each async for each in ledger.jobs()]) == 58


async def test_a_group_with_a_bad_step_commits_each_other_step_once(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        jobs = [await ledger.plan(job(batch="b", key=f"k{n}")) for n in range(3)]
        bad = evolve(job(), key=NoColumn())  # type: ignore[arg-type]
        claims = [ledger.claim(each.id, lease=100.0) for each in jobs]
        *claimed, refused = await asyncio.gather(*claims, ledger.plan(bad), return_exceptions=True)
        assert isinstance(refused, LedgerError)
        assert [each.latest for each in claimed if not isinstance(each, BaseException | None)] == [
            *(1, 1, 1)
        ]
        assert (await ledger.totals(batch="b")).reserved == 300


async def test_a_disk_that_is_full_is_not_tried_for_each_call(tmp_path: Path) -> None:
    tried: list[int] = []

    def full(_: file.LedgerFile) -> None:
        tried.append(1)
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    async with opened(tmp_path / "jobs.db") as ledger:
        ends = await asyncio.gather(
            ledger._step(full), ledger.plan(job()), ledger._step(full), return_exceptions=True
        )
        assert [type(end) for end in ends] == [LedgerError] * 3
        assert len(tried) == 1
        await ledger.plan(job())


async def test_a_cancelled_call_does_not_cancel_the_others(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        jobs = [job() for _ in range(20)]
        calls = [asyncio.create_task(ledger.plan(each)) for each in jobs]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        found = {each.id async for each in ledger.jobs()}
        assert {each.id for each in jobs[1::2]} <= found
        assert [call.cancelled() for call in calls] == [True, False] * 10


async def test_closing_finishes_the_waiting_calls(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    ledger = SqliteLedger(path)
    calls = [asyncio.create_task(ledger.plan(job())) for _ in range(700)]
    await asyncio.sleep(0)
    await ledger.aclose()
    await asyncio.gather(*calls)
    async with opened(path) as again:
        assert len([each async for each in again.jobs()]) == 700


async def test_a_failed_transaction_raises_in_each_call(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        planned = await ledger.plan(job())
        assert ledger._file is not None
        connection = ledger._file.connection
        connection.execute("PRAGMA query_only = ON")  # every write fails, as on a broken disk
        plans = (ledger.plan(job()) for _ in range(5))
        ends = await asyncio.gather(
            *plans, ledger.claim(planned.id, lease=1.0), return_exceptions=True
        )
        assert all(isinstance(end, LedgerError) for end in ends)
        connection.execute("PRAGMA query_only = OFF")
        assert [each.id async for each in ledger.jobs()] == [planned.id]
        assert await ledger.claim(planned.id, lease=1.0) is not None


async def test_a_full_disk_is_reported_and_loses_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        planned = await ledger.plan(job())
        assert ledger._file is not None
        connection = ledger._file.connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")  # makes SQLite report a full disk
        more = [job("x" * 5000) for _ in range(60)]  # too many for the free pages in the file
        with pytest.raises(LedgerError, match="the disk is full: free space"):
            await asyncio.gather(*(ledger.plan(each) for each in more))
        assert [each.id async for each in ledger.jobs()] == [planned.id]
        connection.execute(f"PRAGMA max_page_count = {pages + 100}")
        await ledger.plan(job("x" * 5000))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_every_kind_of_full_disk_gives_the_same_message(code: int) -> None:
    said = str(opening.trouble(Path("jobs.db"), OSError(code, os.strerror(code))))
    assert said == "ledger jobs.db: the disk is full: free space, and repeat the same command"


# --- records kept in memory ---------------------------------------------------------------------


async def test_a_step_sees_what_another_process_has_written_since(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path) as one, opened(path) as two:
        planned = await one.plan(job())
        await two.record(planned.id, events.Withdrawn())
        assert await one.claim(planned.id, lease=9.0) is None, "one has the planned job in memory"
        other = await one.plan(job())
        assert await one.claim(other.id, lease=9.0) is not None
        await two.record(other.id, events.Taken("task-1"))
        await two.record(other.id, events.Completed())
        saved = await one.record(other.id, events.Saved("a.mp4", 5))
        assert saved == await two.find(other.id)
        outside = sqlite3.connect(path)
        outside.execute("UPDATE jobs SET size = 6")
        outside.commit()
        outside.close()
        again = await one.record(other.id, events.Completed())
        assert again.size == 6


async def test_what_was_rolled_back_is_forgotten(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        planned = await ledger.plan(job())
        assert ledger._file is not None

        def breaks(_: object) -> None:
            raise sqlite3.OperationalError("the disk is gone")

        ends = await asyncio.gather(
            ledger.claim(planned.id, lease=9.0), ledger._step(breaks), return_exceptions=True
        )
        assert all(isinstance(end, LedgerError) for end in ends)
        assert (await ledger.totals()).held == 0
        claimed = await ledger.claim(planned.id, lease=9.0)
        assert claimed is not None
        assert claimed.latest == 1
        assert claimed == await ledger.find(planned.id)
        assert (await ledger.totals()).reserved == 100


async def test_a_request_is_sent_as_it_was_written(tmp_path: Path) -> None:
    """A Generation holds a dict. Whoever changes it after plan() changes nothing any more."""
    async with opened(tmp_path / "jobs.db") as ledger:
        fields = {"prompt": "boat", "deep": {"a": 1}}
        request = Generation("veo-3", fields)
        planned = await ledger.plan(evolve(job(), request=request))
        cast("dict[str, object]", request.input)["prompt"] = "kite"
        claimed = await ledger.claim(planned.id, lease=9.0)
        assert claimed is not None
        assert dict(claimed.request.input) == fields


async def test_few_records_are_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "KNOWN", 10)
    async with opened(tmp_path / "jobs.db") as ledger:
        jobs = [job() for _ in range(50)]
        await asyncio.gather(*(ledger.plan(each) for each in jobs))
        await asyncio.gather(*(ledger.claim(each.id, lease=9.0) for each in jobs))
        assert ledger._file is not None
        assert [*ledger._file._known] == [each.id for each in jobs[-10:]]
        taken = [
            ledger.record(each.id, events.Taken(f"t{number}")) for number, each in enumerate(jobs)
        ]
        assert {each.status for each in await asyncio.gather(*taken)} == {JobStatus.RUNNING}


async def test_totals_are_read_within_the_transaction_that_moves_them(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        jobs = [job(batch="b") for _ in range(5)]
        await asyncio.gather(*(ledger.plan(each) for each in jobs))
        statements = commits_of(ledger)
        calls = [ledger.claim(each.id, lease=9.0) for each in jobs[:3]]
        *_, now, _ = await asyncio.gather(
            *calls, ledger.totals(batch="b"), ledger.claim(jobs[3].id, lease=9.0)
        )
        assert now == CreditTotals(reserved=300)
        assert statements.count("COMMIT") == 1
        assert (await ledger.totals(batch="b")).reserved == 400


# --- waiting for other processes ----------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Return a list whose one item is what ``time.monotonic`` returns."""
    seconds = [100.0]
    with monkeypatch.context() as patch:
        patch.setattr(opening, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
        yield seconds


def test_each_transaction_waits_for_other_processes(clock: list[float]) -> None:
    patience = opening.Patience()
    clock[0] += opening.BUSY
    assert not patience.is_over(100.0)
    clock[0] += 0.1
    assert patience.is_over(100.0)
    assert not patience.is_over(clock[0]), "another transaction waits as long"


def test_while_closing_all_transactions_together_wait_for_a_limited_time(
    clock: list[float],
) -> None:
    patience = opening.Patience()
    clock[0] += 20.0  # of a transaction that waits already
    patience.limit(10.0)
    assert not patience.is_over(100.0)
    clock[0] += 9.0
    patience.limit(10.0)  # the next step of closing
    assert not patience.is_over(100.0)
    assert not patience.is_over(clock[0])
    clock[0] += 1.1
    assert patience.is_over(100.0)
    assert patience.is_over(clock[0]), "the next transaction fails at once"
    patience.succeeded()
    assert not patience.is_over(clock[0]), "the file was not locked for good"
    patience.limit(None)
    clock[0] += 20.0
    assert not patience.is_over(clock[0] - 20.0), "as usual again"


# --- event loops --------------------------------------------------------------------------------


def test_a_ledger_that_is_in_use_in_another_event_loop_is_refused(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    async def main() -> None:
        async with opened(tmp_path / "jobs.db") as ledger:
            await ledger.plan(job())

            def in_thread() -> None:
                calls: list[Callable[[], Coroutine[Any, Any, object]]] = [
                    lambda: ledger.plan(job()),
                    ledger.lapse,
                    ledger.aclose,
                ]
                for call in calls:
                    try:
                        asyncio.run(call())
                    except ConfigurationError as error:
                        errors.append(error)

            await asyncio.to_thread(in_thread)
            assert await ledger.counts() == {JobStatus.PLANNED: 1}, "nothing was queued"

    asyncio.run(main())
    assert len(errors) == 3
    assert all("in use in another event loop" in str(error) for error in errors)


def test_a_ledger_may_be_used_in_one_event_loop_after_another(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "jobs.db")
    planned = asyncio.run(ledger.plan(job()))
    assert asyncio.run(ledger.find(planned.id)) == planned
    asyncio.run(ledger.aclose())
    assert [file.name for file in tmp_path.iterdir()] == ["jobs.db"]


def test_a_ledger_whose_event_loop_left_calls_without_an_answer_can_only_be_closed(
    tmp_path: Path,
) -> None:
    ledger, busy, go = SqliteLedger(tmp_path / "jobs.db"), threading.Event(), threading.Event()

    def block(_: object) -> None:
        busy.set()
        go.wait(60)

    async def leave() -> None:
        blocked = asyncio.create_task(ledger._step(block))
        await asyncio.to_thread(busy.wait, 60)
        waiting = asyncio.create_task(ledger.plan(job()))
        await asyncio.sleep(0)
        del blocked, waiting

    try:
        asyncio.run(leave())
    finally:
        go.set()
    with pytest.raises(ConfigurationError, match="closed before all calls were answered"):
        asyncio.run(ledger.plan(job()))
    asyncio.run(ledger.aclose())

    async def count() -> int:
        async with opened(tmp_path / "jobs.db") as again:
            return len([each async for each in again.jobs()])

    assert asyncio.run(count()) == 0, "nobody was told that it was planned"
