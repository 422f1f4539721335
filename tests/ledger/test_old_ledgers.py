"""Ledgers written by earlier versions: they migrate, and nothing bought before is bought again."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from attrs import evolve

from aivideo import Session
from aivideo.desk import Desk
from aivideo.errors import BudgetExceededError, LedgerError
from aivideo.ledger.events import Failed, Released
from aivideo.ledger.records import JobRecord, JobStatus, Reason
from aivideo.ledger.sqlite import SqliteLedger, opening, schema
from aivideo.ledger.sqlite.file import LedgerFile
from aivideo.ledger.totals import CreditTotals, credits_moved, holds_unpriced, unpriced_moved
from aivideo.manifest import Batch, BatchSettings, Defaults, prepare, read_manifest
from aivideo.models import Credits
from aivideo.simulator import Scenario, Service
from aivideo.simulator.truth import TaskRecord
from aivideo.testing import DirectTransport

pytestmark = pytest.mark.anyio

FILES = Path(__file__).parent / "files"
Rows = list[dict[str, Any]]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of a ledger of schema 1."""
    return Path(shutil.copy(FILES / "85b51a5.db", tmp_path / "aivideo.db"))


def rows_of(path: Path, table: str) -> Rows:
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    rows = [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]
    connection.close()
    return rows


async def read(path: Path) -> tuple[SqliteLedger, list[JobRecord]]:
    ledger = SqliteLedger(path)
    return ledger, [job async for job in ledger.jobs()]


def test_the_old_ledger_holds_every_kind_of_job() -> None:
    jobs = rows_of(FILES / "85b51a5.db", "jobs")
    assert {job["status"] for job in jobs} == {
        *("planned", "submitting", "running", "saved"),
        *("failed", "refused", "faulted", "unknown"),
    }
    assert any("\r\n" in orjson.loads(job["input"])["prompt"] for job in jobs)
    assert any("image_urls" in orjson.loads(job["input"]) for job in jobs)
    assert any(job["key"] == "0019-planned-a-lantern" for job in jobs)
    assert Counter(row["job"] for row in rows_of(FILES / "85b51a5.db", "attempts"))[3] == 2
    assert (FILES / "85b51a5.db").stat().st_size < 200_000


async def test_every_row_of_an_old_ledger_is_migrated(old: Path) -> None:
    jobs, attempts = rows_of(old, "jobs"), defaultdict(list)
    for row in rows_of(old, "attempts"):
        attempts[row["job"]].append(row)
    totals, readings = rows_of(old, "totals"), rows_of(old, "readings")
    ledger, found = await read(old)
    assert [job.id for job in found] == [row["id"] for row in jobs]
    for job, row in zip(found, jobs, strict=True):
        assert (job.batch or "", job.key, job.fingerprint) == (
            row["batch"],
            row["key"],
            row["fingerprint"],
        )
        assert (job.request.model, dict(job.request.input)) == (
            row["model"],
            orjson.loads(row["input"]),
        )
        assert (job.callback_url, job.status.value, job.waiting) == (
            row["callback_url"],
            row["status"],
            bool(row["waiting"]),
        )
        assert (job.path, job.size, job.planned_at) == (row["path"], row["size"], row["planned_at"])
        assert job.credits == row["credits"]
        assert job.resumable == (row["batch"] == "" and row["key"] is None)
        assert len(job.attempts) == len(attempts[row["seq"]])
        for attempt, before in zip(job.attempts, attempts[row["seq"]], strict=True):
            assert attempt.credits == row["credits"], "what was reserved was the job's price"
            why = attempt.reason
            assert before == {
                "job": row["seq"],
                "number": attempt.number,
                "status": attempt.status.value,
                "owner": attempt.owner,
                "lease_until": attempt.lease_until,
                "sent_at": attempt.sent_at,
                "task_id": attempt.task_id,
                "reason": why and orjson.dumps([why.message, why.status, why.code]),
                "created_at": attempt.created_at,
                "completed_at": attempt.completed_at,
            }
    for row in totals:
        if row["batch"]:
            kept = await ledger.totals(batch=row["batch"])
            assert kept == CreditTotals(**{name: row[name] for name in row if name != "batch"})
            assert await ledger.ceiling(row["batch"]) is None
    summed = CreditTotals()
    for job in found:
        summed = summed.plus(credits_moved(None, job), unpriced_moved(None, job))
    assert await ledger.totals() == summed, "the totals are the sums of the migrated attempts"
    for reading, row in zip(await ledger.readings(), readings, strict=True):
        account, sums = reading.account, reading.ledger
        assert row == {
            "at": reading.at,
            "balance": account.balance,
            "purchased": account.total_purchased,
            "consumed": account.total_consumed,
            "charged": sums.charged,
            "reserved": sums.reserved,
            "unknown": sums.unknown,
            "refunded": sums.refunded,
        }
    await ledger.aclose()
    again, same = await read(old)
    assert same == found, "migrated once"
    await again.aclose()


async def test_an_old_ledger_can_be_read_without_changing_it(old: Path) -> None:
    old.chmod(0o400)
    before = old.read_bytes()
    reader = SqliteLedger(old, read_only=True)
    jobs = [job async for job in reader.jobs()]
    totals = await reader.totals()
    for write in (reader.plan(evolve(jobs[-1], id="new")), reader.set_ceiling("b", Decimal(1))):
        with pytest.raises(LedgerError, match="read-only"):
            await write
    await reader.aclose()
    assert old.read_bytes() == before
    assert [file.name for file in old.parent.iterdir()] == [old.name]
    old.chmod(0o600)
    ledger, found = await read(old)
    assert (found, await ledger.totals()) == (jobs, totals)
    await ledger.aclose()


async def test_a_migrated_ledger_counts_in_fractions(old: Path) -> None:
    ledger, _ = await read(old)
    before = await ledger.totals(batch="boats")
    planned = await ledger.find_key("boats", "last")
    assert planned is not None
    await ledger.plan(evolve(planned, id="new", credits=Decimal("30.5")))
    await ledger.set_ceiling("boats", before.held + Decimal("30.5"))
    claimed = await ledger.claim(planned.id, lease=1.0)
    assert claimed is not None
    after = await ledger.totals(batch="boats")
    assert after.reserved - before.reserved == Decimal("30.5")
    await ledger.aclose()


async def test_a_claim_of_a_process_that_died_lapses_after_the_migration(old: Path) -> None:
    ledger, found = await read(old)
    (submitting,) = [job for job in found if job.status is JobStatus.SUBMITTING]
    assert [job.id for job in await ledger.lapse()] == [submitting.id]
    assert (await ledger.totals(batch=None)).reserved == 0
    await ledger.aclose()


# --- schema 2: attempts without a known price ---------------------------------------------------


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """A copy of a ledger of schema 2."""
    return Path(shutil.copy(FILES / "b9a0047.db", tmp_path / "second.db"))


async def test_attempts_without_a_price_are_counted_by_the_migration(second: Path) -> None:
    ledger, found = await read(second)
    unpriced = await ledger.totals(batch="unpriced")
    # saved, running, unknown, faulted, submitting, and both of a job that was sent twice
    assert unpriced == CreditTotals(unpriced=7)
    assert unpriced.unpriced == sum(holds_unpriced(job) for job in found if job.batch == "unpriced")
    assert await ledger.totals(batch="mixed") == CreditTotals(charged=100, unpriced=1)
    assert await ledger.totals(batch="priced") == CreditTotals(charged=100, unknown=100)
    assert (await ledger.totals()).unpriced == 8
    assert await ledger.ceiling("priced") == 300
    await ledger.aclose()
    again, same = await read(second)
    assert (same, (await again.totals()).unpriced) == (found, 8), "counted once"
    await again.aclose()


async def test_a_ledger_of_schema_2_goes_on(second: Path) -> None:
    ledger, _ = await read(second)
    planned = {batch: await ledger.find_key(batch, "planned") for batch in ("mixed", "priced")}
    for batch, job in planned.items():
        assert job is not None
        await ledger.set_ceiling(batch, Decimal(300))
        if batch == "priced":
            assert await ledger.claim(job.id, lease=1.0) is not None, "100 of 300 were left"
            continue
        with pytest.raises(BudgetExceededError) as caught:
            await ledger.claim(job.id, lease=1.0)
        assert (caught.value.unpriced, caught.value.unpriced_jobs) == (1, ("mixed-running",))
        await ledger.record("mixed-running", Failed(Reason(message="no")))
        assert await ledger.totals(batch=batch) == CreditTotals(charged=100)
        assert await ledger.claim(job.id, lease=1.0) is not None, "a refund ended the doubt"
    assert [job.id for job in await ledger.lapse()] == ["unpriced-submitting"]
    assert (await ledger.totals(batch="unpriced")).unpriced == 7, "in doubt, no longer on its way"
    await ledger.record("unpriced-submitting", Released())
    assert (await ledger.totals(batch="unpriced")).unpriced == 6
    await ledger.aclose()


async def test_an_audit_concludes_nothing_from_readings_of_schema_2_if_prices_were_unknown(
    second: Path,
) -> None:
    """How many attempts without a price counted at a reading is not known: at most these."""
    ledger, _ = await read(second)
    assert [each.ledger.unpriced for each in await ledger.readings()] == [0, 8]
    await ledger.note_credits(Credits(balance=0, total_purchased=0, total_consumed=1000))
    assert (await Desk(ledger).audit()).finding.conclusion == "unpriced"
    await ledger.aclose()


async def test_a_ledger_of_schema_2_can_be_read_without_changing_it(second: Path) -> None:
    before = second.read_bytes()
    reader = SqliteLedger(second, read_only=True)
    assert (await reader.totals()).unpriced == 8
    await reader.aclose()
    assert second.read_bytes() == before


SECOND_STATEMENTS = {
    "read a job": "SELECT number, credits_millionths FROM attempts WHERE job = 1",
    "add an attempt": "INSERT INTO attempts (number, status, owner, lease_until, sent_at, task_id, "
    "reason, created_at, completed_at, credits_millionths, job) "
    "VALUES (9, 'submitting', 'o', 0, 0, NULL, NULL, NULL, NULL, NULL, 1)",
    "change an attempt": "UPDATE attempts SET status = 'running', credits_millionths = NULL "
    "WHERE job = 1 AND number = 1",
    "store a reading": "INSERT INTO account_readings VALUES (1.0, 1, 1, 1, 1, 1, 1, 1)",
}


@pytest.mark.parametrize("statement", SECOND_STATEMENTS.values(), ids=SECOND_STATEMENTS)
def test_a_process_with_the_code_of_schema_2_cannot_go_on_after_a_migration(
    second: Path, statement: str
) -> None:
    """It would make attempts that are not counted: each statement about attempts must fail."""
    connection = sqlite3.connect(second, isolation_level=None)
    connection.execute(statement)
    LedgerFile(second).close()
    with pytest.raises(sqlite3.OperationalError, match=r"no such column|has no column|has 9 col"):
        connection.execute(statement)
    connection.close()


# --- its batches go on --------------------------------------------------------------------------


def service_of(jobs: list[JobRecord]) -> Service:
    """A service that knows the tasks which run by the ledger's account, and no others."""
    scenario = Scenario(task_seconds=60.0, media="stub", seed=6, keys={"sk-test": 1_000_000})
    service = Service(scenario)
    account = service.truth.accounts["sk-test"]
    for job in jobs:
        if job.status is JobStatus.RUNNING:
            assert job.task_id is not None
            service.truth.tasks[job.task_id] = TaskRecord(
                id=job.task_id,
                model=job.request.model,
                kind="video",
                prompt=job.request.prompt,
                duration=4,
                aspect_ratio="16:9",
                credits=100,
                account=account,
                created=0.0,
                starts=1.0,
                ends=60.0,
                outcome="completed",
                callback_url=None,
            )
    return service


@pytest.mark.parametrize(
    ("made_by", "manifest", "bought", "statuses"),
    [
        (
            "85b51a5",
            "boats.csv",
            {"Planned: a lantern": 1, "Planned: a lighthouse\r\nat night": 1},
            {"saved": 11, "failed": 1, "unknown": 2},
        ),
        (
            "85b51a5",
            "kites.jsonl",
            {"Planned: a blue kite": 1},
            # The model without a price is not sold, and is refused.
            {"saved": 2, "failed": 2},
        ),
        # Lines without an id have their numbers in their names: 0001-a-paper-ship.
        (
            "b9a0047-lines",
            "ships.txt",
            {"Planned: a tug": 2, "# Planned: a ferry": 1},
            {"saved": 7, "unknown": 1},
        ),
        (
            "b9a0047-lines",
            "masts.csv",
            {"Planned: a mast with a frame": 1},
            {"saved": 5},
        ),
    ],
)
async def test_nothing_bought_before_is_bought_again(
    tmp_path: Path,
    made_by: str,
    manifest: str,
    bought: dict[str, int],
    statuses: dict[str, int],
) -> None:
    old = Path(shutil.copy(FILES / f"{made_by}.db", tmp_path / "aivideo.db"))
    ledger, jobs = await read(old)
    name = Path(manifest).stem
    folder = old.parent / name
    folder.mkdir()
    for job in jobs:
        if job.batch == name and job.path is not None:
            (folder / Path(job.path).name).write_bytes(b"x" * (job.size or 0))
    service = service_of(jobs)
    running = Counter(service.truth.prompts_taken())
    lines = read_manifest(FILES / manifest, Defaults(4, "16:9"))
    async with Session("sk-test", transport=DirectTransport(service), ledger=ledger) as session:
        before = len(jobs)
        plan = await prepare(ledger, lines, folder, BatchSettings(name=name))
        assert not plan.orphans, "each job is found by its line"
        assert len([job async for job in ledger.jobs()]) == before, "no line is a new job"
        report = await Batch(session, plan, folder, BatchSettings(name=name)).run()
    await ledger.aclose()
    assert Counter(service.truth.prompts_taken()) - running == Counter(bought)
    assert Counter(result.status for result in report.results) == statuses


# --- two processes, and broken migrations -------------------------------------------------------

OLD_STATEMENTS = {
    "read a job": "SELECT seq, id, batch, key, model, input, stated_credits, fingerprint, credits, "
    "callback_url, status, waiting, path, size, planned_at FROM jobs WHERE id = 'x'",
    "add a job": "INSERT INTO jobs (id, batch, key, model, input, stated_credits, fingerprint, "
    "credits, callback_url, status, waiting, path, size, planned_at) VALUES ('x', '', NULL, 'm', "
    "'{}', NULL, 'f', 100, NULL, 'planned', 1, NULL, NULL, 0.0) ON CONFLICT (id) DO NOTHING",
    "sum credits": "SELECT coalesce(sum(charged), 0) FROM totals",
    "add credits": "INSERT INTO totals VALUES ('x', 1, 1, 1, 1) ON CONFLICT (batch) DO UPDATE SET "
    "charged = charged + 1",
    "store a reading": "INSERT INTO readings VALUES (1.0, 1, 1, 1, 1, 1, 1, 1)",
}


@pytest.mark.parametrize("statement", OLD_STATEMENTS.values(), ids=OLD_STATEMENTS)
def test_a_process_with_the_old_code_cannot_go_on_after_a_migration(
    old: Path, statement: str
) -> None:
    """It would take millionths for credits: each statement about amounts must fail."""
    connection = sqlite3.connect(old, isolation_level=None)
    connection.execute(statement)
    LedgerFile(old).close()
    with pytest.raises(sqlite3.OperationalError, match=r"no such|has no column"):
        connection.execute(statement)
    connection.close()


def test_processes_that_open_an_old_ledger_at_once_migrate_it_once(tmp_path: Path) -> None:
    for number in range(5):
        path = shutil.copy(FILES / "85b51a5.db", tmp_path / f"{number}.db")
        with ThreadPoolExecutor(4) as pool:
            files = [*pool.map(lambda _, path=path: LedgerFile(path), range(4))]
        totals = {str(file.totals("boats")) for file in files}
        for file in files:
            file.close()
        charged = rows_of(FILES / "85b51a5.db", "totals")[1]["charged"]
        assert totals == {str(CreditTotals(charged=charged, unknown=300, refunded=200))}


def test_a_connection_that_read_the_schema_before_another_migrated_it_goes_on_from_there(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite renames a column by the schema that it has read, even if that has changed since."""
    slow = opening.connect(old, named=old, read_only=False)
    slow.execute("SELECT count(*) FROM attempts").fetchone()
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:2])
        fast = opening.connect(old, named=old, read_only=False)
        opening.prepare(fast, old, read_only=False)
        fast.close()
    opening._migrate(slow, 1)
    assert slow.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS),)
    slow.execute("SELECT reserved_millionths FROM attempts").fetchall()
    slow.close()


def test_a_migration_that_is_interrupted_leaves_the_old_ledger(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: rows_of(old, name) for name in ("jobs", "attempts", "totals", "readings")}
    first, script, *_ = schema.MIGRATIONS
    statements = opening._statements(script)
    assert len(statements) > 12
    for kept in range(1, len(statements) + 1):
        part = ";".join([*statements[:kept], "SELECT 1 FROM nowhere"])
        with monkeypatch.context() as patch:
            patch.setattr(schema, "MIGRATIONS", (first, part))
            with pytest.raises(LedgerError, match="no such table"):
                LedgerFile(old)
        assert {name: rows_of(old, name) for name in before} == before
    LedgerFile(old).close()
    assert rows_of(old, "ceilings") == []
