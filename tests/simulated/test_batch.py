"""Repeated runs of a batch, with a service, a ledger on disk and a folder, on virtual time."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

import orjson
import pytest
from attrs import define, evolve, field

from aivideo import (
    BudgetExceededError,
    Client,
    CompletedTask,
    DownloadError,
    Failed,
    JobStatus,
    ResultExpiredError,
    Session,
    Sora2,
    Succeeded,
    _file_locks,
)
from aivideo._api.transport import Transport
from aivideo.delivery import download
from aivideo.desk import Desk
from aivideo.ledger.events import Refused, Released, Retried, Taken
from aivideo.ledger.records import JobRecord, Reason
from aivideo.ledger.sqlite import SqliteLedger
from aivideo.ledger.totals import CreditTotals
from aivideo.manifest import (
    Batch,
    BatchReport,
    BatchSettings,
    Defaults,
    ManifestError,
    Plan,
    Result,
    content_name,
    prepare,
    read_manifest,
)
from aivideo.manifest import results as reports
from aivideo.simulator import Endpoint, Faults, Nth, Scenario, Service, TokenBucket
from aivideo.testing import DirectTransport

pytestmark = pytest.mark.anyio

Row = str | Mapping[str, object]


@define
class BatchSetup:
    """A service, and a folder with a ledger; each run of a batch is a new session."""

    folder: Path
    scenario: Scenario
    service: Service = field(init=False)
    transport: DirectTransport = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.service = Service(self.scenario)
        self.transport = DirectTransport(self.service)

    @property
    def creates(self) -> int:
        """How many creates the service has received."""
        return self.service.truth.creates_seen

    def ledger(self) -> SqliteLedger:
        return SqliteLedger(self.folder / "aivideo.db")

    def session(self, ledger: SqliteLedger, **settings: Any) -> Session:
        return Session("sk-test", transport=self.transport, ledger=ledger, **settings)

    async def run(
        self,
        *rows: Row,
        output: str = "out",
        stop_when: Callable[[Batch], bool] | None = None,
        results: list[Result] | None = None,
        session: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> BatchReport:
        """Run a batch over prompts or rows; ``stop_when`` stops it, as Ctrl-C does."""
        manifest = self.folder / "manifest.jsonl"
        manifest.write_bytes(b"\n".join(orjson.dumps(as_row(row)) for row in rows))
        return await self.run_file(
            manifest,
            output=output,
            stop_when=stop_when,
            results=results,
            session=session,
            **settings,
        )

    async def run_file(
        self,
        manifest: Path,
        *,
        output: str = "out",
        stop_when: Callable[[Batch], bool] | None = None,
        results: list[Result] | None = None,
        session: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> BatchReport:
        lines = read_manifest(manifest, Defaults(4, "16:9"))
        output_folder = self.folder / output
        output_folder.mkdir(exist_ok=True)
        ledger = self.ledger()
        try:
            async with self.session(ledger, **(session or {})) as working:
                batch_settings = BatchSettings(name=output, **settings)
                plan = await prepare(ledger, lines, output_folder, batch_settings)
                run = Batch(
                    working,
                    plan,
                    output_folder,
                    batch_settings,
                    on_result=None if results is None else results.append,
                )
                running = asyncio.create_task(run.run())
                while stop_when is not None and not running.done():
                    await asyncio.sleep(0.05)
                    if stop_when(run):
                        run.stop()
                        break
                return await running
        finally:
            await ledger.aclose()

    async def jobs(self) -> dict[str, JobRecord]:
        """Return the ledger's jobs by prompt (of equal prompts, the last)."""
        ledger = self.ledger()
        try:
            return {str(job.request.input["prompt"]): job async for job in ledger.jobs()}
        finally:
            await ledger.aclose()

    async def record(self, prompt: str, event: Any) -> None:
        """Record an event of a prompt's job, as `jobs settle` does."""
        job = (await self.jobs())[prompt]
        ledger = self.ledger()
        try:
            await ledger.record(job.id, event)
        finally:
            await ledger.aclose()

    def taken(self) -> dict[str, int]:
        """Return how often each prompt was taken."""
        return dict(self.service.truth.prompts_taken())

    def task_of(self, prompt: str) -> str:
        """Return the service's task of a prompt."""
        tasks = self.service.truth.tasks.values()
        return next(task.id for task in tasks if task.prompt == prompt)


def name_of(prompt: str) -> str:
    """Return the name of a line that has this prompt and no id."""
    return content_name(boat(prompt), 1)


def as_row(row: Row) -> Mapping[str, object]:
    return {"prompt": row} if isinstance(row, str) else row


@pytest.fixture
def setup(tmp_path: Path) -> BatchSetup:
    return make_setup(tmp_path)


def make_setup(folder: Path, **settings: Any) -> BatchSetup:
    defaults: dict[str, Any] = {"task_seconds": 60.0, "media": "stub", "latency": 0.1, "seed": 5}
    return BatchSetup(folder, Scenario(**{**defaults, **settings}))


def statuses(report: BatchReport) -> list[str]:
    return [result.status for result in report.results]


async def stop_after_some_creates(setup: BatchSetup, *rows: Row, count: int = 2) -> BatchReport:
    """Run until ``count`` jobs are taken, and stop; their tasks continue at the service."""
    return await setup.run(
        *rows,
        stop_when=lambda _: setup.service.truth.creates_taken >= count,
        session={"max_requests_in_flight": 1},
    )


# --- the same command again -------------------------------------------------------------------


async def test_lines_that_are_done_cost_no_request_and_no_credits(setup: BatchSetup) -> None:
    first = await setup.run("a", "b", "c")
    assert statuses(first) == ["saved"] * 3
    before = dict(setup.service.truth.requests)
    report_file = (setup.folder / "out" / "report.jsonl").read_bytes()
    again = await setup.run("a", "b", "c")
    assert statuses(again) == ["saved"] * 3
    assert again.earlier == 3
    assert again.credits.charged == 300
    assert again.this_run.held == 0
    requests = {
        endpoint: count - before.get(endpoint, 0)
        for endpoint, count in setup.service.truth.requests.items()
        if count != before.get(endpoint, 0)
    }
    assert requests == {Endpoint.CREDITS: 2}, "the account's counter, before and after"
    assert (setup.folder / "out" / "report.jsonl").read_bytes() == report_file


@pytest.mark.parametrize("damage", ["gone", "truncated", "grown"])
async def test_an_incomplete_file_is_downloaded_again_and_not_paid_again(
    setup: BatchSetup, damage: str
) -> None:
    first = await setup.run("a", "b")
    path = first.results[0].path
    assert path is not None
    complete = path.read_bytes()
    match damage:
        case "gone":
            path.unlink()
        case "truncated":
            path.write_bytes(complete[:-1])
        case _:
            path.write_bytes(complete + b"x")
    downloads = setup.service.truth.downloads
    again = await setup.run("a", "b")
    assert path.read_bytes() == complete
    assert statuses(again) == ["saved", "saved"]
    assert [result.earlier for result in again.results] == [False, True]
    assert setup.service.truth.downloads - downloads == 1
    assert setup.creates == 2


async def test_a_missing_file_with_an_expired_url_fails_and_is_not_paid_again(
    tmp_path: Path,
) -> None:
    setup = make_setup(tmp_path, epoch=time.time() - 100_000)
    first = await setup.run("a")
    path = first.results[0].path
    assert path is not None
    path.unlink()
    await asyncio.sleep(90_000)
    again = await setup.run("a")
    (result,) = again.results
    assert result.status == "failed"
    assert isinstance(result.error, ResultExpiredError)
    assert "24 hours" in str(result.error)
    assert setup.creates == 1
    assert again.unfinished is None, "there is nothing left to do for it"


async def test_running_jobs_are_polled_again_and_unsent_ones_are_sent(setup: BatchSetup) -> None:
    stopped = await stop_after_some_creates(setup, "a", "b", "c", "d")
    assert stopped.stopped
    assert sorted(statuses(stopped)) == ["running", "running", "unsent", "unsent"]
    again = await setup.run("a", "b", "c", "d")
    assert statuses(again) == ["saved"] * 4
    assert setup.taken() == dict.fromkeys("abcd", 1)
    assert again.credits.charged == 400
    assert again.this_run.charged == 200
    assert not (setup.folder / "out" / "unfinished.jsonl").exists()


@pytest.mark.parametrize("fault", ["cut_after", "cut_before", "internal_error_taken", "html_502"])
async def test_a_job_that_may_have_been_taken_is_reported_and_never_sent(
    tmp_path: Path, fault: str
) -> None:
    faults: dict[str, Any] = {f"create_{fault}": Nth(1)}
    setup = make_setup(tmp_path, faults=Faults(**faults))
    first = await setup.run("a", "b", session={"max_requests_in_flight": 1})
    assert statuses(first) == ["unknown", "saved"]
    for again in (await setup.run("a", "b"), await setup.run("a", "b", retry_failed=True)):
        assert statuses(again) == ["unknown", "saved"]
        assert again.results[0].earlier
        assert not again.can_continue, "another run would do nothing for it"
        assert again.credits.unknown == 100
    assert setup.creates == 2
    row = orjson.loads((setup.folder / "out" / "unfinished.jsonl").read_bytes())
    assert (row["id"], row["unknown"]) == (name_of("a"), True)


@pytest.mark.parametrize("fault", ["cut_after", "internal_error_taken"])
async def test_a_line_in_doubt_is_bought_again_where_paying_again_is_allowed(
    tmp_path: Path, fault: str
) -> None:
    faults: dict[str, Any] = {f"create_{fault}": Nth(1)}
    setup = make_setup(tmp_path, faults=Faults(**faults))
    await setup.run("a", "b", session={"max_requests_in_flight": 1})
    alone = await setup.run("a", "b", pay_again=True)
    assert statuses(alone) == ["unknown", "saved"], "it is not asked for again"
    again = await setup.run("a", "b", retry_failed=True, pay_again=True)
    assert statuses(again) == ["saved", "saved"]
    assert setup.taken() == {"a": 2, "b": 1}
    assert again.credits.unknown == 100, "the first create stays in doubt"
    last = await setup.run("a", "b", retry_failed=True, pay_again=True)
    assert (statuses(last), setup.creates) == (["saved", "saved"], 3)


async def test_a_settled_job_continues(tmp_path: Path) -> None:
    setup = make_setup(tmp_path, faults=Faults(create_cut_after=Nth(1), create_cut_before=Nth(2)))
    first = await setup.run("a", "b", "c", session={"max_requests_in_flight": 1})
    assert statuses(first) == ["unknown", "unknown", "saved"]
    await setup.record("a", Taken(setup.task_of("a")))
    await setup.record("b", Released())
    again = await setup.run("a", "b", "c")
    assert statuses(again) == ["saved"] * 3
    assert setup.taken() == dict.fromkeys("abc", 1)
    assert again.credits.charged == 300


async def test_equal_prompts_are_separate_files_whichever_run_makes_them(setup: BatchSetup) -> None:
    await stop_after_some_creates(setup, "a", "a", "a", count=1)
    again = await setup.run("a", "a", "a")
    assert setup.taken() == {"a": 3}
    assert len({result.path for result in again.results}) == 3
    third = await setup.run("a", "a", "a", "a")
    assert setup.taken() == {"a": 4}
    assert third.earlier == 3


# --- a manifest that is edited ------------------------------------------------------------------


async def test_added_and_reordered_lines_are_the_same_jobs(setup: BatchSetup) -> None:
    await stop_after_some_creates(setup, "a", "b", "c")
    again = await setup.run("new", "c", "b", "a")
    assert statuses(again) == ["saved"] * 4
    assert setup.taken() == dict.fromkeys(["a", "b", "c", "new"], 1)


async def test_the_job_of_a_removed_line_is_saved_if_it_runs_and_otherwise_not_sent(
    setup: BatchSetup,
) -> None:
    await stop_after_some_creates(setup, "a", "b", "c", "d")
    again = await setup.run("b", "d")
    assert [(result.line.number, result.status) for result in again.results] == [
        (1, "saved"),
        (2, "saved"),
        (0, "saved"),
    ]
    assert setup.taken() == dict.fromkeys("abd", 1), "no line asks for c any more"
    jobs = await setup.jobs()
    assert jobs["a"].status is JobStatus.SAVED
    assert Path(str(jobs["a"].path)).is_file()
    assert jobs["c"].status is JobStatus.PLANNED
    back = await setup.run("a", "b", "c", "d")
    assert statuses(back) == ["saved"] * 4
    assert setup.taken() == dict.fromkeys("abcd", 1)


async def test_adding_or_removing_ids_changes_nothing(setup: BatchSetup) -> None:
    await stop_after_some_creates(setup, "a", {"prompt": "b", "id": "boat"}, "c", count=2)
    again = await setup.run({"prompt": "a", "id": "first"}, "b", "c")
    assert setup.taken() == dict.fromkeys("abc", 1)
    assert [result.line.file_name for result in again.results] == [
        f"{name_of('a')}.mp4",
        "boat.mp4",
        f"{name_of('c')}.mp4",
    ]


async def test_a_prompt_changed_under_its_id_before_it_was_taken_is_sent(
    setup: BatchSetup,
) -> None:
    named = {"id": "x", "prompt": "before"}
    await stop_after_some_creates(setup, "a", named, count=1)
    assert (await setup.jobs())["before"].status is JobStatus.PLANNED
    results: list[Result] = []
    await setup.run("a", {"id": "x", "prompt": "after"}, results=results)
    assert setup.taken() == {"a": 1, "after": 1}
    assert {result.line.file_name for result in results} == {f"{name_of('a')}.mp4", "x.mp4"}


async def test_a_prompt_changed_under_its_id_after_it_was_refused_is_new_and_reported(
    tmp_path: Path,
) -> None:
    setup = make_setup(tmp_path)
    await setup.run("a", session={"max_requests_in_flight": 1})
    await stop_after_some_creates(setup, "a", {"id": "x", "prompt": "before"}, count=0)
    ledger = setup.ledger()
    job = (await setup.jobs())["before"]
    await ledger.claim(job.id, lease=1)
    await ledger.record(job.id, Refused(Reason(message="no", status=400, code="invalid_request")))
    await ledger.aclose()
    again = await setup.run("a", {"id": "x", "prompt": "after"})
    assert statuses(again) == ["saved", "saved"]
    assert not again.results[1].earlier
    assert b'"id":"x"' in (setup.folder / "out" / "report.jsonl").read_bytes()


async def test_a_prompt_changed_under_its_id_after_it_was_taken_is_refused(
    setup: BatchSetup,
) -> None:
    await stop_after_some_creates(setup, {"id": "x", "prompt": "before"}, "b", count=1)
    with pytest.raises(ManifestError, match="line 1: id 'x' was used for another request"):
        await setup.run({"id": "x", "prompt": "after"}, "b")
    assert setup.taken() == {"before": 1}


# --- failures, and continuing after them ----------------------------------------------------------


async def test_failed_jobs_are_sent_again_only_on_request(tmp_path: Path) -> None:
    setup = make_setup(tmp_path, failure_rate=1.0)
    assert statuses(await setup.run("a", "b")) == ["failed", "failed"]
    again = await setup.run("a", "b")
    assert statuses(again) == ["failed", "failed"]
    assert all(result.earlier for result in again.results)
    assert setup.creates == 2
    setup.service.scenario = evolve(setup.service.scenario, failure_rate=0.0)
    third = await setup.run("a", "b", retry_failed=True)
    assert statuses(third) == ["saved", "saved"]
    assert setup.taken() == {"a": 2, "b": 2}
    assert third.credits == CreditTotals(charged=200, refunded=200)
    assert (await setup.run("a", "b", retry_failed=True)).earlier == 2
    assert setup.creates == 4


async def test_retried_jobs_are_sent_by_the_next_run(tmp_path: Path) -> None:
    setup = make_setup(tmp_path, faults=Faults(create_cut_after=Nth(1)), failure_rate=1.0)
    first = await setup.run("a", "b", session={"max_requests_in_flight": 1})
    assert statuses(first) == ["unknown", "failed"]
    setup.service.scenario = evolve(setup.service.scenario, failure_rate=0.0)
    await setup.record("b", Retried())
    assert statuses(await setup.run("a", "b")) == ["unknown", "saved"]
    assert setup.taken() == {"a": 1, "b": 2}
    # With pay_again it is sent, and the possible second charge stays in the totals.
    await setup.record("a", Retried(True))
    third = await setup.run("a", "b")
    assert statuses(third) == ["saved", "saved"]
    assert setup.taken() == {"a": 2, "b": 2}
    assert third.credits == CreditTotals(charged=200, unknown=100, refunded=100)


async def test_an_unknown_job_of_a_removed_line_is_still_reported(tmp_path: Path) -> None:
    setup = make_setup(tmp_path, faults=Faults(create_cut_after=Nth(1)))
    await setup.run("a", "b", session={"max_requests_in_flight": 1})
    report = await setup.run("b")
    assert [(result.line.id, result.status) for result in report.results] == [
        (name_of("b"), "saved"),
        (name_of("a"), "unknown"),
    ]
    assert report.unfinished is not None


async def test_a_ceiling_counts_all_runs(setup: BatchSetup) -> None:
    first = await setup.run("a", "b", "c", "d", max_credits=250)
    assert sorted(statuses(first)) == ["failed", "failed", "saved", "saved"]
    assert first.unfinished is not None
    again = await setup.run("a", "b", "c", "d", max_credits=250)
    errors = [result.error for result in again.results if result.status == "failed"]
    assert [type(error) for error in errors] == [BudgetExceededError] * 2
    assert setup.creates == 2
    assert statuses(await setup.run("a", "b", "c", "d", max_credits=400)) == ["saved"] * 4
    assert setup.creates == 4


async def test_a_ceiling_that_is_left_out_stays_as_stored_and_none_lifts_it(
    setup: BatchSetup,
) -> None:
    first = await setup.run("a", "b", "c", max_credits=Decimal("250.5"))
    assert first.count("saved") == 2
    again = await setup.run("a", "b", "c")
    assert isinstance(again.results[2].error, BudgetExceededError)
    assert again.results[2].error.ceiling == Decimal("250.5")
    assert setup.creates == 2
    assert statuses(await setup.run("a", "b", "c", max_credits="none")) == ["saved"] * 3
    assert statuses(await setup.run("a", "b", "c", "d")) == ["saved"] * 4


async def test_withdrawn_jobs_are_sent_again_only_by_their_lines(setup: BatchSetup) -> None:
    await stop_after_some_creates(setup, "a", "b", "c", count=1)
    ledger = setup.ledger()
    cancelled = await Desk(ledger).cancel(batch="out")
    await ledger.aclose()
    assert len(cancelled.withdrawn) == 2
    await setup.run("a")
    assert setup.taken() == {"a": 1}
    assert statuses(await setup.run("a", "b")) == ["saved", "saved"]
    assert setup.taken() == {"a": 1, "b": 1}


async def test_jobs_that_are_withdrawn_while_their_batch_runs_are_not_sent(
    setup: BatchSetup,
) -> None:
    prompts = [f"p{number}" for number in range(100)]
    running = asyncio.create_task(setup.run(*prompts, session={"max_requests_per_minute": 300}))
    await asyncio.sleep(2)
    ledger = setup.ledger()
    cancelled = await Desk(ledger).cancel(batch="out")
    await ledger.aclose()
    assert len(cancelled.withdrawn) > 70, "all lines are recorded before the first one is sent"
    report = await running
    assert report.count("saved") == 100 - len(cancelled.withdrawn)
    withdrawn = {job.request.input["prompt"] for job in cancelled.withdrawn}
    assert setup.taken() == {prompt: 1 for prompt in prompts if prompt not in withdrawn}


async def test_a_spend_cap_can_be_waited_for(tmp_path: Path) -> None:
    setup = make_setup(tmp_path, spend_limit=200, spend_window=600.0)
    start = asyncio.get_running_loop().time()
    report = await setup.run("a", "b", "c", "d", "e", wait_for_spend_limit=True)
    assert statuses(report) == ["saved"] * 5
    assert setup.taken() == dict.fromkeys("abcde", 1)
    assert asyncio.get_running_loop().time() - start > 1200


async def test_a_batch_stopped_while_it_waits_for_a_spend_cap_sends_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aivideo.manifest.run.SPEND_LIMIT_PAUSE", 0.1)
    setup = make_setup(tmp_path, spend_limit=200, spend_window=6000.0)
    seen: list[int] = []

    def waits(run: Batch) -> bool:
        if len(run.results) < 2:
            return False
        seen.append(setup.creates)
        return True

    report = await setup.run("a", "b", "c", stop_when=waits, wait_for_spend_limit=True)
    assert sorted(statuses(report)) == ["saved", "saved", "unsent"]
    assert setup.creates == seen[0]


async def test_a_spend_cap_stops_and_the_same_command_can_continue(tmp_path: Path) -> None:
    setup = make_setup(tmp_path, spend_limit=200, spend_window=600.0)
    first = await setup.run("a", "b", "c", session={"max_requests_in_flight": 1})
    assert statuses(first) == ["saved", "saved", "failed"]
    assert first.can_continue
    await asyncio.sleep(600)
    assert statuses(await setup.run("a", "b", "c")) == ["saved"] * 3
    assert setup.taken() == dict.fromkeys("abc", 1)


async def test_a_full_disk_ends_the_run_before_more_is_bought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = make_setup(tmp_path, rate_limit=TokenBucket(2, 2), task_seconds=1.0)
    prompts = [f"p{number}" for number in range(40)]

    async def full(task: CompletedTask, *_: object, **__: object) -> Path:
        raise DownloadError("cannot write it", task=task, errno=errno.ENOSPC)

    with monkeypatch.context() as context:
        context.setattr(download, "save", full)
        report = await setup.run(*prompts, session={"poll_interval": 1.0})
    assert report.trouble == f"{setup.folder / 'out'}: No space left on device"
    assert setup.service.truth.creates_taken < 40, "nothing more is bought"
    assert report.count("unsent") > 0
    assert report.can_continue
    assert statuses(await setup.run(*prompts)) == ["saved"] * 40
    assert setup.taken() == dict.fromkeys(prompts, 1)


@pytest.mark.parametrize("number", [errno.EISDIR, errno.ENAMETOOLONG])
async def test_one_unwritable_file_does_not_stop_the_batch(
    setup: BatchSetup, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    save = download.save

    async def one_cannot(task: CompletedTask, target: Path, transport: Transport) -> Path:
        if name_of("a") in target.name:
            raise DownloadError("cannot write it", task=task, errno=number)
        return await save(task, target, transport)

    monkeypatch.setattr(download, "save", one_cannot)
    report = await setup.run("a", "b", "c")
    assert statuses(report) == ["failed", "saved", "saved"]
    assert report.trouble is None
    assert report.can_continue, "it is downloaded again, and not bought again"


@pytest.mark.parametrize("name", ["append", "write_unfinished"])
async def test_an_unwritable_report_loses_no_job(
    setup: BatchSetup, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(reports, name, full)
    report = await setup.run("a", "b")
    assert report.trouble is not None
    assert "No space left on device" in report.trouble
    monkeypatch.undo()
    assert statuses(await setup.run("a", "b")) == ["saved", "saved"]
    assert setup.taken() == {"a": 1, "b": 1}


async def test_repeated_ctrl_c_and_the_same_command(setup: BatchSetup) -> None:
    prompts = [f"p{number}" for number in range(24)]
    runs = 0
    while True:
        seen = setup.service.truth.creates_seen
        report = await setup.run(
            *prompts,
            stop_when=lambda _, seen=seen: setup.service.truth.creates_seen >= seen + 5,  # type: ignore[misc]
        )
        runs += 1
        if not report.stopped:
            break
        rows = (setup.folder / "out" / "unfinished.jsonl").read_bytes().splitlines()
        assert len(rows) == report.count("running") + report.count("unsent")
        assert report.count("unknown") == 0, "requests in flight were waited for"
    assert runs > 3
    assert statuses(report) == ["saved"] * 24
    assert setup.taken() == dict.fromkeys(prompts, 1)


# --- folders and ledgers -------------------------------------------------------------------------


async def test_two_folders_on_one_ledger_are_two_batches(setup: BatchSetup) -> None:
    await setup.run("a", output="one", max_credits=100)
    await setup.run("a", output="two", max_credits=100, pay_again=True)
    assert setup.taken() == {"a": 2}
    assert (await setup.run("a", output="one")).earlier == 1
    assert (await setup.run("a", output="two")).earlier == 1
    assert setup.taken() == {"a": 2}


async def test_lines_that_another_batch_of_the_ledger_has_bought_are_refused(
    setup: BatchSetup,
) -> None:
    # The name is the folder relative to the ledger: moved, the ledger does not know it.
    await stop_after_some_creates(setup, "a", "b", "c", count=2)
    with pytest.raises(ManifestError) as refused:
        await setup.run("a", "b", "c", "d", output="moved")
    for part in ("no batch 'moved'", "2 of 4 lines", "'out'", "--batch out", "--pay-again"):
        assert part in str(refused.value)
    assert setup.creates == 2
    assert {job.batch for job in (await setup.jobs()).values()} == {"out"}
    await setup.run("a", "b", "c", "d", output="moved", pay_again=True)
    assert setup.taken() == {"a": 2, "b": 2, "c": 1, "d": 1}
    assert (await setup.run("a", "b", "c", "d", output="moved")).earlier == 4


async def test_a_folder_that_moves_with_its_ledger_can_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    setup = make_setup(tmp_path / "here")
    await stop_after_some_creates(setup, "a", "b", "c")
    await setup.run("a", "b", "c", stop_when=lambda run: len(run.results) >= 1)
    (tmp_path / "here").rename(tmp_path / "there")
    setup.folder = tmp_path / "there"
    downloads = setup.service.truth.downloads
    again = await setup.run("a", "b", "c")
    assert statuses(again) == ["saved"] * 3
    assert setup.taken() == dict.fromkeys("abc", 1)
    assert again.earlier >= 1, "existing files were found"
    assert setup.service.truth.downloads - downloads == 3 - again.earlier


async def test_unfinished_jsonl_as_a_manifest_pays_for_nothing_twice(tmp_path: Path) -> None:
    setup = make_setup(tmp_path, faults=Faults(create_cut_after=Nth(1)))
    await stop_after_some_creates(setup, "a", "b", "c", "d")
    unfinished = setup.folder / "out" / "unfinished.jsonl"
    rows = [orjson.loads(row) for row in unfinished.read_bytes().splitlines()]
    assert {row["id"] for row in rows} == {name_of(prompt) for prompt in "abcd"}
    assert "task_id" in rows[1]
    copy = setup.folder / "left.jsonl"
    copy.write_bytes(unfinished.read_bytes())
    again = await setup.run_file(copy)
    assert statuses(again) == ["unknown", "saved", "saved", "saved"]
    # And the old manifest after it.
    assert statuses(await setup.run("a", "b", "c", "d")) == ["unknown", "saved", "saved", "saved"]
    assert setup.taken() == dict.fromkeys("abcd", 1)


async def test_unfinished_jsonl_without_its_ledger_pays_for_nothing_twice(tmp_path: Path) -> None:
    setup = make_setup(tmp_path, faults=Faults(create_cut_after=Nth(1)))
    await stop_after_some_creates(setup, "a", "b", "c", "d")
    copy = setup.folder / "left.jsonl"
    copy.write_bytes((setup.folder / "out" / "unfinished.jsonl").read_bytes())
    for name in ("aivideo.db", "aivideo.db-wal", "aivideo.db-shm"):
        (setup.folder / name).unlink(missing_ok=True)
    first = await setup.run_file(copy, output="new", stop_when=lambda run: len(run.results) > 1)
    assert first.stopped
    again = await setup.run_file(copy, output="new")
    assert statuses(again) == ["unknown", "saved", "saved", "saved"]
    assert setup.taken() == dict.fromkeys("abcd", 1)


async def test_two_simultaneous_runs_make_each_clip_once(setup: BatchSetup) -> None:
    prompts = [f"p{number}" for number in range(12)]
    reports = await asyncio.gather(setup.run(*prompts), setup.run(*prompts))
    for report in reports:
        assert statuses(report) == ["saved"] * 12
    assert setup.taken() == dict.fromkeys(prompts, 1)


Edit: TypeAlias = Callable[[list[Row]], list[Row]]

EDITS: dict[str, Edit] = {
    "a line on top": lambda rows: ["new", *rows],
    "ids added": lambda rows: [{"prompt": row, "id": f"id-{row}"} for row in rows],
    "another order": lambda rows: rows[::-1],
    "lines removed": lambda rows: rows[1::2],
    "nothing": lambda rows: rows,
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
async def test_a_manifest_edited_while_a_run_goes_on_is_bought_once(
    setup: BatchSetup, edit: Edit
) -> None:
    rows: list[Row] = [f"p{number}" for number in range(100)]
    first = asyncio.create_task(setup.run(*rows, session={"max_requests_per_minute": 300}))
    await asyncio.sleep(2)
    assert 2 < setup.creates < 50
    edited = edit(rows)
    report = await setup.run(*edited, session={"max_requests_per_minute": 300})
    assert statuses(report)[: len(edited)] == ["saved"] * len(edited)
    assert statuses(await first) == ["saved"] * 100
    wanted = [*rows, "new"] if "new" in edited else rows
    assert setup.taken() == dict.fromkeys(map(str, wanted), 1)


async def test_runs_that_start_at_once_with_other_ids_buy_each_line_once(
    setup: BatchSetup,
) -> None:
    def named(run: int) -> list[Row]:
        return [{"prompt": f"p{number}", "id": f"{run}-{number}"} for number in range(30)]

    reports = await asyncio.gather(*(setup.run(*named(run)) for run in range(3)))
    for report in reports:
        assert statuses(report) == ["saved"] * 30
    assert setup.taken() == {f"p{number}": 1 for number in range(30)}
    assert not [*setup.folder.glob("*-planning")], "the lock file is removed"


async def test_a_line_that_a_later_run_has_changed_is_not_changed_back(setup: BatchSetup) -> None:
    (setup.folder / "out").mkdir()

    async def prepared(ledger: SqliteLedger, *rows: Row) -> Plan:
        manifest = setup.folder / "manifest.jsonl"
        manifest.write_bytes(b"\n".join(orjson.dumps(as_row(row)) for row in rows))
        lines = read_manifest(manifest, Defaults(4, "16:9"))
        return await prepare(ledger, lines, setup.folder / "out", settings)

    settings = BatchSettings(name="out")
    one, two = setup.ledger(), setup.ledger()
    async with setup.session(one) as first, setup.session(two) as second:
        earlier = await prepared(one, {"id": "x", "prompt": "a"}, {"id": "y", "prompt": "b"})
        # Ids that are given to other lines, before anything is sent.
        later = await prepared(two, {"id": "x", "prompt": "new"}, {"id": "y", "prompt": "a"})
        runs = [
            Batch(first, earlier, setup.folder / "out", settings),
            Batch(second, later, setup.folder / "out", settings),
        ]
        reports = await asyncio.gather(*(run.run() for run in runs))
    await one.aclose()
    await two.aclose()
    assert setup.taken() == {"new": 1, "a": 1}
    assert statuses(reports[1]) == ["saved", "saved"]
    assert statuses(reports[0]) == ["failed", "failed"]
    assert "was used for another request" in str(reports[0].results[0].error)


async def test_a_run_waits_for_another_one_to_record_its_lines(
    setup: BatchSetup, caplog: pytest.LogCaptureFixture
) -> None:
    # Such as one that was suspended (Ctrl-Z) while it had the lock.
    lock = setup.folder / "aivideo.db-planning"
    with lock.open("wb") as file:
        _file_locks.take(file.fileno())
        running = asyncio.create_task(setup.run("a"))
        await asyncio.sleep(20)
        assert not running.done()
    assert statuses(await running) == ["saved"]
    assert caplog.text.count("waiting for another run to record its lines") == 1


# --- files that exist, and other batches ---------------------------------------------------------


@pytest.mark.parametrize("name", ["{}.mp4", "0002-b.mp4", "0017-b.mp4"])
async def test_an_existing_file_of_a_line_that_was_not_sent_is_refused(
    setup: BatchSetup, name: str
) -> None:
    file = setup.folder / "out" / name.format(name_of("b"))
    file.parent.mkdir()
    file.write_bytes(b"bought")
    for overwrite in (False, True):
        with pytest.raises(ManifestError, match=rf"{file.name} already exists.*--pay-again"):
            await setup.run("a", "b", overwrite=overwrite)
    if file.stem == name_of("b"):
        with pytest.raises(ManifestError, match="pass --overwrite as well"):
            await setup.run("a", "b", pay_again=True)
    assert setup.creates == 0
    assert file.read_bytes() == b"bought"
    first = await setup.run("a", "b", overwrite=True, pay_again=True)
    assert statuses(first) == ["saved", "saved"]
    assert statuses(await setup.run("a", "b")) == ["saved", "saved"], "the ledger has the job now"
    assert setup.creates == 2


@pytest.mark.parametrize("kept", [0, 1, 2])
async def test_a_ledger_restored_from_an_early_copy_buys_nothing_again(
    setup: BatchSetup, kept: int
) -> None:
    prompts = ["a", "b", "c", "d"]
    if kept:
        await stop_after_some_creates(setup, *prompts, count=kept)
        ledger = setup.ledger()
        await ledger.aclose()  # everything is in one file now
    database = setup.folder / "aivideo.db"
    copy = database.read_bytes() if kept else b""
    assert statuses(await setup.run(*prompts)) == ["saved"] * 4
    files = {path: path.read_bytes() for path in (setup.folder / "out").glob("*.mp4")}
    for path in setup.folder.glob("aivideo.db*"):
        path.unlink()
    if kept:
        database.write_bytes(copy)
    with pytest.raises(ManifestError, match=r"already exists.*to pay again"):
        await setup.run(*prompts)
    assert setup.taken() == dict.fromkeys(prompts, 1)
    assert {path: path.read_bytes() for path in files} == files


async def test_a_numbered_file_of_a_job_is_no_file_of_another_line(setup: BatchSetup) -> None:
    # Earlier versions named lines by number: "0001-a" is a job of the ledger, with its file.
    await setup.run({"prompt": "a", "id": "0001-a"})
    assert statuses(await setup.run("a", "a", "a")) == ["saved"] * 3
    assert setup.taken() == {"a": 3}


# --- generate_many -------------------------------------------------------------------------------


def boat(prompt: str) -> Sora2:
    return Sora2(prompt, duration=4, aspect_ratio="16:9")


async def make(
    setup: BatchSetup, *prompts: str, leave_after: int | None = None, **options: Any
) -> list[Any]:
    """Run ``generate_many`` over prompts in a new session; optionally stop early."""
    ledger = setup.ledger()
    outcomes = []
    async with setup.session(ledger, max_requests_in_flight=2) as session:
        generating = session.generate_many(map(boat, prompts), **options)
        async for outcome in generating:
            outcomes.append(outcome)
            if len(outcomes) == leave_after:
                break
        await generating.aclose()
    await ledger.aclose()
    return outcomes


async def test_generate_many_with_a_batch_continues_where_it_stopped(setup: BatchSetup) -> None:
    prompts = [f"p{number}" for number in range(8)]
    await make(setup, *prompts, batch="night", save_to=setup.folder, leave_after=1)
    outcomes = await make(setup, "new", *reversed(prompts), batch="night", save_to=setup.folder)
    assert [type(outcome) for outcome in outcomes] == [Succeeded] * 9
    assert setup.taken() == dict.fromkeys(["new", *prompts], 1)
    assert len([*setup.folder.glob("*.mp4")]) == 9


async def test_generate_many_with_a_batch_makes_equal_requests_separate_jobs(
    setup: BatchSetup,
) -> None:
    await make(setup, "a", "a", "b", batch="night")
    await make(setup, "b", "a", "a", batch="night")
    assert setup.taken() == {"a": 2, "b": 1}
    await make(setup, "a", "a", "a", batch="night")
    assert setup.taken() == {"a": 3, "b": 1}
    await make(setup, "a", batch="another night")
    assert setup.taken() == {"a": 4, "b": 1}


async def test_generate_many_matches_jobs_by_key(setup: BatchSetup) -> None:
    def key(index: int, request: object) -> str:
        return f"scene-{index}"

    await make(setup, "a", "b", batch="night", key=key)
    outcomes = await make(setup, "b", "a", "c", batch="night", key=key)
    failed = [each for each in outcomes if isinstance(each, Failed)]
    assert sorted(each.index for each in failed) == [0, 1], "key 0 was used for another request"
    assert all("another request" in str(each.error) for each in failed)
    assert setup.taken() == dict.fromkeys("abc", 1)


async def test_generate_many_without_a_batch_creates_new_jobs_each_time(setup: BatchSetup) -> None:
    await make(setup, "a", "b")
    await make(setup, "a", "b")
    assert setup.taken() == {"a": 2, "b": 2}


async def test_generate_many_sends_failed_jobs_again_only_on_request(tmp_path: Path) -> None:
    setup = make_setup(tmp_path, failure_rate=1.0)
    await make(setup, "a", batch="night")
    (outcome,) = await make(setup, "a", batch="night")
    assert isinstance(outcome, Failed)
    assert outcome.task_id == setup.task_of("a")
    assert setup.creates == 1
    await make(setup, "a", batch="night", retry_failed=True)
    assert setup.creates == 2


async def test_a_stated_task_of_another_program_is_saved_and_not_recorded(
    setup: BatchSetup,
) -> None:
    client = Client("sk-test", transport=setup.transport)
    task_id = await client.create(boat("elsewhere"))
    report = await setup.run({"prompt": "elsewhere", "task_id": task_id}, "a")
    assert statuses(report) == ["saved", "saved"]
    assert setup.taken() == {"elsewhere": 1, "a": 1}
    assert report.credits.charged == 100, "tasks bought by another program do not count"
    again = await setup.run({"prompt": "elsewhere", "task_id": task_id}, "a")
    assert statuses(again) == ["saved", "saved"]
    assert again.earlier == 2


async def test_a_task_stated_only_by_the_manifest_is_saved_and_not_bought_again(
    setup: BatchSetup,
) -> None:
    await stop_after_some_creates(setup, "b", count=1)
    client = Client("sk-test", transport=setup.transport)
    task_id = await client.create(boat("a"))
    # The ledger has the line without its task, as if it had been settled as not taken.
    await setup.run("a", "b", max_credits=100)
    assert (await setup.jobs())["a"].status is JobStatus.PLANNED
    row = {"id": name_of("a"), "prompt": "a", "task_id": task_id}
    report = await setup.run(row, "b")
    assert statuses(report)[:2] == ["saved", "saved"]
    assert setup.taken() == {"a": 1, "b": 1}
