"""The same command again: over a service, a ledger on disk and a folder, on virtual time."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
)
from aivideo._api.transport import Transport
from aivideo.delivery import download
from aivideo.ledger.events import Refused, Released, Retried, Taken
from aivideo.ledger.records import JobRecord, Reason
from aivideo.ledger.sqlite import SqliteLedger
from aivideo.ledger.totals import CreditTotals
from aivideo.manifest import (
    Batch,
    BatchReport,
    Defaults,
    ManifestError,
    Result,
    Settings,
    check_files,
    prepare,
    read_manifest,
)
from aivideo.manifest import results as reports
from aivideo.simulator import Endpoint, Faults, Nth, Scenario, Service, TokenBucket
from aivideo.testing import DirectTransport

pytestmark = pytest.mark.anyio

Row = str | Mapping[str, object]


@define
class House:
    """A service, and a place with a folder and a ledger; each run of a batch is a new session."""

    place: Path
    scenario: Scenario
    service: Service = field(init=False)
    transport: DirectTransport = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.service = Service(self.scenario)
        self.transport = DirectTransport(self.service)

    @property
    def creates(self) -> int:
        """How many creates the service has seen."""
        return self.service.truth.creates_seen

    def ledger(self) -> SqliteLedger:
        return SqliteLedger(self.place / "aivideo.db")

    def session(self, ledger: SqliteLedger, **settings: Any) -> Session:
        return Session("sk-test", transport=self.transport, ledger=ledger, **settings)

    async def run(
        self,
        *rows: Row,
        output: str = "out",
        stop_when: Callable[[Batch], bool] | None = None,
        heard: list[Result] | None = None,
        overwrite: bool = False,
        session: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> BatchReport:
        """Run a batch over a manifest of prompts, or of rows; ``stop_when`` is Ctrl-C."""
        manifest = self.place / "manifest.jsonl"
        manifest.write_bytes(b"\n".join(orjson.dumps(as_row(row)) for row in rows))
        return await self.run_file(
            manifest,
            output=output,
            stop_when=stop_when,
            heard=heard,
            overwrite=overwrite,
            session=session,
            **settings,
        )

    async def run_file(
        self,
        manifest: Path,
        *,
        output: str = "out",
        stop_when: Callable[[Batch], bool] | None = None,
        heard: list[Result] | None = None,
        overwrite: bool = False,
        session: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> BatchReport:
        lines = read_manifest(manifest, Defaults(4, "16:9"))
        folder = self.place / output
        folder.mkdir(exist_ok=True)
        ledger = self.ledger()
        try:
            async with self.session(ledger, **(session or {})) as working:
                plan = await prepare(ledger, output, lines)
                check_files(folder, plan, overwrite=overwrite)
                run = Batch(
                    working,
                    plan,
                    folder,
                    Settings(name=output, **settings),
                    on_result=None if heard is None else heard.append,
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
        """Give what the ledger knows, by prompt (of two alike, the later)."""
        ledger = self.ledger()
        try:
            return {str(job.request.input["prompt"]): job async for job in ledger.jobs()}
        finally:
            await ledger.aclose()

    async def tell(self, prompt: str, event: Any) -> None:
        """Say what became of the POST of a prompt, as `jobs settle` does."""
        job = (await self.jobs())[prompt]
        ledger = self.ledger()
        try:
            await ledger.record(job.id, event)
        finally:
            await ledger.aclose()

    def taken(self) -> dict[str, int]:
        """Count how often each prompt was taken."""
        return dict(self.service.truth.prompts_taken())

    def task_of(self, prompt: str) -> str:
        """Find the task of a prompt in the truth."""
        tasks = self.service.truth.tasks.values()
        return next(task.id for task in tasks if task.prompt == prompt)


def as_row(row: Row) -> Mapping[str, object]:
    return {"prompt": row} if isinstance(row, str) else row


@pytest.fixture
def house(tmp_path: Path) -> House:
    return make_house(tmp_path)


def make_house(place: Path, **settings: Any) -> House:
    calm: dict[str, Any] = {"task_seconds": 60.0, "media": "stub", "latency": 0.1, "seed": 5}
    return House(place, Scenario(**{**calm, **settings}))


def statuses(report: BatchReport) -> list[str]:
    return [result.status for result in report.results]


async def some_taken_and_no_more(house: House, *rows: Row, most: int = 2) -> BatchReport:
    """Run until ``most`` jobs are taken, and stop: they run on at the service."""
    return await house.run(
        *rows,
        stop_when=lambda _: house.service.truth.creates_taken >= most,
        session={"max_requests_in_flight": 1},
    )


# --- the same command again -------------------------------------------------------------------


async def test_lines_that_are_done_cost_no_request_and_no_credit(house: House) -> None:
    first = await house.run("a", "b", "c")
    assert statuses(first) == ["saved"] * 3
    before = dict(house.service.truth.requests)
    report_file = (house.place / "out" / "report.jsonl").read_bytes()
    again = await house.run("a", "b", "c")
    assert statuses(again) == ["saved"] * 3
    assert again.earlier == 3
    assert again.credits.charged == 300
    assert again.this_run.held == 0
    asked = {
        endpoint: count - before.get(endpoint, 0)
        for endpoint, count in house.service.truth.requests.items()
        if count != before.get(endpoint, 0)
    }
    assert asked == {Endpoint.CREDITS: 2}, "the account's counter, before and after"
    assert (house.place / "out" / "report.jsonl").read_bytes() == report_file


@pytest.mark.parametrize("harm", ["gone", "truncated", "grown"])
async def test_a_file_that_is_not_whole_is_fetched_again_and_not_paid_again(
    house: House, harm: str
) -> None:
    first = await house.run("a", "b")
    path = first.results[0].path
    assert path is not None
    whole = path.read_bytes()
    match harm:
        case "gone":
            path.unlink()
        case "truncated":
            path.write_bytes(whole[:-1])
        case _:
            path.write_bytes(whole + b"x")
    downloads = house.service.truth.downloads
    again = await house.run("a", "b")
    assert path.read_bytes() == whole
    assert statuses(again) == ["saved", "saved"]
    assert [result.earlier for result in again.results] == [False, True]
    assert house.service.truth.downloads - downloads == 1
    assert house.creates == 2


async def test_a_file_whose_url_is_dead_is_a_clear_failure_and_not_paid_again(
    tmp_path: Path,
) -> None:
    house = make_house(tmp_path, epoch=time.time() - 100_000)
    first = await house.run("a")
    path = first.results[0].path
    assert path is not None
    path.unlink()
    await asyncio.sleep(90_000)
    again = await house.run("a")
    (result,) = again.results
    assert result.status == "failed"
    assert isinstance(result.error, ResultExpiredError)
    assert "24 hours" in str(result.error)
    assert house.creates == 1
    assert again.unfinished is None, "there is nothing left to be done for it"


async def test_what_runs_is_watched_again_and_what_was_not_sent_is(house: House) -> None:
    stopped = await some_taken_and_no_more(house, "a", "b", "c", "d")
    assert stopped.stopped
    assert sorted(statuses(stopped)) == ["running", "running", "unsent", "unsent"]
    again = await house.run("a", "b", "c", "d")
    assert statuses(again) == ["saved"] * 4
    assert house.taken() == dict.fromkeys("abcd", 1)
    assert again.credits.charged == 400
    assert again.this_run.charged == 200
    assert not (house.place / "out" / "unfinished.jsonl").exists()


@pytest.mark.parametrize("fault", ["cut_after", "cut_before", "internal_error_taken", "html_502"])
async def test_what_may_have_been_taken_is_told_of_and_never_sent(
    tmp_path: Path, fault: str
) -> None:
    faults: dict[str, Any] = {f"create_{fault}": Nth(1)}
    house = make_house(tmp_path, faults=Faults(**faults))
    first = await house.run("a", "b", session={"max_requests_in_flight": 1})
    assert statuses(first) == ["unknown", "saved"]
    for again in (await house.run("a", "b"), await house.run("a", "b", retry_failed=True)):
        assert statuses(again) == ["unknown", "saved"]
        assert again.results[0].earlier
        assert not again.goes_on, "the same command would do nothing for it"
        assert again.credits.unknown == 100
    assert house.creates == 2
    row = orjson.loads((house.place / "out" / "unfinished.jsonl").read_bytes())
    assert (row["id"], row["unknown"]) == ("0001-a", True)


async def test_what_a_person_settles_goes_on(tmp_path: Path) -> None:
    house = make_house(tmp_path, faults=Faults(create_cut_after=Nth(1), create_cut_before=Nth(2)))
    first = await house.run("a", "b", "c", session={"max_requests_in_flight": 1})
    assert statuses(first) == ["unknown", "unknown", "saved"]
    await house.tell("a", Taken(house.task_of("a")))
    await house.tell("b", Released())
    again = await house.run("a", "b", "c")
    assert statuses(again) == ["saved"] * 3
    assert house.taken() == dict.fromkeys("abc", 1)
    assert again.credits.charged == 300


async def test_the_same_prompt_twice_is_two_files_whichever_run_makes_them(house: House) -> None:
    await some_taken_and_no_more(house, "a", "a", "a", most=1)
    again = await house.run("a", "a", "a")
    assert house.taken() == {"a": 3}
    assert len({result.path for result in again.results}) == 3
    third = await house.run("a", "a", "a", "a")
    assert house.taken() == {"a": 4}
    assert third.earlier == 3


# --- a manifest that is edited ------------------------------------------------------------------


async def test_lines_on_top_and_in_another_order_are_the_same_jobs(house: House) -> None:
    await some_taken_and_no_more(house, "a", "b", "c")
    again = await house.run("new", "c", "b", "a")
    assert statuses(again) == ["saved"] * 4
    assert house.taken() == dict.fromkeys(["a", "b", "c", "new"], 1)


async def test_a_line_that_is_gone_is_seen_to_its_end_if_it_runs_and_else_not_sent(
    house: House,
) -> None:
    await some_taken_and_no_more(house, "a", "b", "c", "d")
    again = await house.run("b", "d")
    assert [(result.line.number, result.status) for result in again.results] == [
        (1, "saved"),
        (2, "saved"),
        (0, "saved"),
    ]
    assert house.taken() == dict.fromkeys("abd", 1), "nobody asks for c any more"
    jobs = await house.jobs()
    assert jobs["a"].status is JobStatus.SAVED
    assert Path(str(jobs["a"].path)).is_file()
    assert jobs["c"].status is JobStatus.PLANNED
    back = await house.run("a", "b", "c", "d")
    assert statuses(back) == ["saved"] * 4
    assert house.taken() == dict.fromkeys("abcd", 1)


async def test_ids_that_are_added_or_removed_change_nothing(house: House) -> None:
    await some_taken_and_no_more(house, "a", {"prompt": "b", "id": "boat"}, "c", most=2)
    again = await house.run({"prompt": "a", "id": "first"}, "b", "c")
    assert house.taken() == dict.fromkeys("abc", 1)
    assert [result.line.file_name for result in again.results] == [
        "0001-a.mp4",
        "boat.mp4",
        "0003-c.mp4",
    ]


async def test_a_prompt_that_changes_under_its_id_before_it_is_taken_is_just_that(
    house: House,
) -> None:
    named = {"id": "x", "prompt": "before"}
    await some_taken_and_no_more(house, "a", named, most=1)
    assert (await house.jobs())["before"].status is JobStatus.PLANNED
    heard: list[Result] = []
    await house.run("a", {"id": "x", "prompt": "after"}, heard=heard)
    assert house.taken() == {"a": 1, "after": 1}
    assert {result.line.file_name for result in heard} == {"0001-a.mp4", "x.mp4"}


async def test_a_prompt_that_changes_under_its_id_after_it_was_refused_is_new_and_reported(
    tmp_path: Path,
) -> None:
    house = make_house(tmp_path)
    await house.run("a", session={"max_requests_in_flight": 1})
    await some_taken_and_no_more(house, "a", {"id": "x", "prompt": "before"}, most=0)
    ledger = house.ledger()
    job = (await house.jobs())["before"]
    await ledger.claim(job.id, lease=1)
    await ledger.record(job.id, Refused(Reason(message="no", status=400, code="invalid_request")))
    await ledger.aclose()
    again = await house.run("a", {"id": "x", "prompt": "after"})
    assert statuses(again) == ["saved", "saved"]
    assert not again.results[1].earlier
    assert b'"id":"x"' in (house.place / "out" / "report.jsonl").read_bytes()


async def test_a_prompt_that_changes_under_its_id_after_it_was_taken_is_refused(
    house: House,
) -> None:
    await some_taken_and_no_more(house, {"id": "x", "prompt": "before"}, "b", most=1)
    with pytest.raises(ManifestError, match="line 1: id 'x' was made of another request"):
        await house.run({"id": "x", "prompt": "after"}, "b")
    assert house.taken() == {"before": 1}


# --- failures, and going on after them ------------------------------------------------------------


async def test_what_failed_is_sent_again_only_when_asked(tmp_path: Path) -> None:
    house = make_house(tmp_path, failure_rate=1.0)
    assert statuses(await house.run("a", "b")) == ["failed", "failed"]
    again = await house.run("a", "b")
    assert statuses(again) == ["failed", "failed"]
    assert all(result.earlier for result in again.results)
    assert house.creates == 2
    house.service.scenario = evolve(house.service.scenario, failure_rate=0.0)
    third = await house.run("a", "b", retry_failed=True)
    assert statuses(third) == ["saved", "saved"]
    assert house.taken() == {"a": 2, "b": 2}
    assert third.credits == CreditTotals(charged=200, refunded=200)
    assert (await house.run("a", "b", retry_failed=True)).earlier == 2
    assert house.creates == 4


async def test_what_a_person_has_sent_again_is_sent_by_the_next_run(tmp_path: Path) -> None:
    house = make_house(tmp_path, faults=Faults(create_cut_after=Nth(1)), failure_rate=1.0)
    first = await house.run("a", "b", session={"max_requests_in_flight": 1})
    assert statuses(first) == ["unknown", "failed"]
    house.service.scenario = evolve(house.service.scenario, failure_rate=0.0)
    await house.tell("b", Retried())
    assert statuses(await house.run("a", "b")) == ["unknown", "saved"]
    assert house.taken() == {"a": 1, "b": 2}
    # They insist: it is made, and what it may have cost twice stays in the sums.
    await house.tell("a", Retried(may_pay_twice=True))
    third = await house.run("a", "b")
    assert statuses(third) == ["saved", "saved"]
    assert house.taken() == {"a": 2, "b": 2}
    assert third.credits == CreditTotals(charged=200, unknown=100, refunded=100)


async def test_an_unknown_whose_line_is_gone_is_told_of_all_the_same(tmp_path: Path) -> None:
    house = make_house(tmp_path, faults=Faults(create_cut_after=Nth(1)))
    await house.run("a", "b", session={"max_requests_in_flight": 1})
    report = await house.run("b")
    assert [(result.line.id, result.status) for result in report.results] == [
        ("0002-b", "saved"),
        ("0001-a", "unknown"),
    ]
    assert report.unfinished is not None


async def test_a_ceiling_counts_all_runs(house: House) -> None:
    first = await house.run("a", "b", "c", "d", max_credits=250)
    assert sorted(statuses(first)) == ["failed", "failed", "saved", "saved"]
    assert first.unfinished is not None
    again = await house.run("a", "b", "c", "d", max_credits=250)
    errors = [result.error for result in again.results if result.status == "failed"]
    assert [type(error) for error in errors] == [BudgetExceededError] * 2
    assert house.creates == 2
    assert statuses(await house.run("a", "b", "c", "d", max_credits=400)) == ["saved"] * 4
    assert house.creates == 4


async def test_a_spend_cap_can_be_waited_for(tmp_path: Path) -> None:
    house = make_house(tmp_path, spend_limit=200, spend_window=600.0)
    began = asyncio.get_running_loop().time()
    report = await house.run("a", "b", "c", "d", "e", wait_for_spend_limit=True)
    assert statuses(report) == ["saved"] * 5
    assert house.taken() == dict.fromkeys("abcde", 1)
    assert asyncio.get_running_loop().time() - began > 1200


async def test_a_batch_that_is_stopped_while_it_waits_for_a_spend_cap_sends_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aivideo.manifest.run.SPEND_LIMIT_PAUSE", 0.1)
    house = make_house(tmp_path, spend_limit=200, spend_window=6000.0)
    seen: list[int] = []

    def waits(run: Batch) -> bool:
        if len(run.results) < 2:
            return False
        seen.append(house.creates)
        return True

    report = await house.run("a", "b", "c", stop_when=waits, wait_for_spend_limit=True)
    assert sorted(statuses(report)) == ["saved", "saved", "unsent"]
    assert house.creates == seen[0]


async def test_a_spend_cap_stops_and_the_same_command_goes_on(tmp_path: Path) -> None:
    house = make_house(tmp_path, spend_limit=200, spend_window=600.0)
    first = await house.run("a", "b", "c", session={"max_requests_in_flight": 1})
    assert statuses(first) == ["saved", "saved", "failed"]
    assert first.goes_on
    await asyncio.sleep(600)
    assert statuses(await house.run("a", "b", "c")) == ["saved"] * 3
    assert house.taken() == dict.fromkeys("abc", 1)


async def test_a_full_disk_ends_the_run_before_more_is_bought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make_house(tmp_path, rate_limit=TokenBucket(2, 2), task_seconds=1.0)
    prompts = [f"p{number}" for number in range(40)]

    async def full(task: CompletedTask, *_: object, **__: object) -> Path:
        raise DownloadError("cannot write it", task=task, errno=errno.ENOSPC)

    with monkeypatch.context() as disk:
        disk.setattr(download, "save", full)
        report = await house.run(*prompts, session={"poll_interval": 1.0})
    assert report.trouble == f"{house.place / 'out'}: No space left on device"
    assert house.service.truth.creates_taken < 40, "what cannot be saved is not bought"
    assert report.count("unsent") > 0
    assert report.goes_on
    assert statuses(await house.run(*prompts)) == ["saved"] * 40
    assert house.taken() == dict.fromkeys(prompts, 1)


@pytest.mark.parametrize("number", [errno.EISDIR, errno.ENAMETOOLONG])
async def test_a_file_that_alone_cannot_be_written_ends_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    save = download.save

    async def one_cannot(task: CompletedTask, target: Path, transport: Transport) -> Path:
        if "0001" in target.name:
            raise DownloadError("cannot write it", task=task, errno=number)
        return await save(task, target, transport)

    monkeypatch.setattr(download, "save", one_cannot)
    report = await house.run("a", "b", "c")
    assert statuses(report) == ["failed", "saved", "saved"]
    assert report.trouble is None
    assert report.goes_on, "it is fetched again, and not bought again"


@pytest.mark.parametrize("name", ["append", "write_unfinished"])
async def test_a_report_that_cannot_be_written_loses_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(reports, name, full)
    report = await house.run("a", "b")
    assert report.trouble is not None
    assert "No space left on device" in report.trouble
    monkeypatch.undo()
    assert statuses(await house.run("a", "b")) == ["saved", "saved"]
    assert house.taken() == {"a": 1, "b": 1}


async def test_ctrl_c_in_the_middle_then_the_same_command(house: House) -> None:
    prompts = [f"p{number}" for number in range(24)]
    runs = 0
    while True:
        seen = house.service.truth.creates_seen
        report = await house.run(
            *prompts,
            stop_when=lambda _, seen=seen: house.service.truth.creates_seen >= seen + 5,  # type: ignore[misc]
        )
        runs += 1
        if not report.stopped:
            break
        rows = (house.place / "out" / "unfinished.jsonl").read_bytes().splitlines()
        assert len(rows) == report.count("running") + report.count("unsent")
        assert report.count("unknown") == 0, "what was under way was waited for"
    assert runs > 3
    assert statuses(report) == ["saved"] * 24
    assert house.taken() == dict.fromkeys(prompts, 1)


# --- folders and ledgers -------------------------------------------------------------------------


async def test_two_folders_on_one_ledger_are_two_batches(house: House) -> None:
    await house.run("a", output="one", max_credits=100)
    await house.run("a", output="two", max_credits=100)
    assert house.taken() == {"a": 2}
    assert (await house.run("a", output="one")).earlier == 1
    assert house.taken() == {"a": 2}


async def test_a_folder_that_moves_with_its_ledger_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    house = make_house(tmp_path / "here")
    await some_taken_and_no_more(house, "a", "b", "c")
    await house.run("a", "b", "c", stop_when=lambda run: len(run.results) >= 1)
    (tmp_path / "here").rename(tmp_path / "there")
    house.place = tmp_path / "there"
    downloads = house.service.truth.downloads
    again = await house.run("a", "b", "c")
    assert statuses(again) == ["saved"] * 3
    assert house.taken() == dict.fromkeys("abc", 1)
    assert again.earlier >= 1, "what lies there was found there"
    assert house.service.truth.downloads - downloads == 3 - again.earlier


async def test_unfinished_as_a_manifest_pays_for_nothing_twice(tmp_path: Path) -> None:
    house = make_house(tmp_path, faults=Faults(create_cut_after=Nth(1)))
    await some_taken_and_no_more(house, "a", "b", "c", "d")
    left = house.place / "out" / "unfinished.jsonl"
    rows = [orjson.loads(row) for row in left.read_bytes().splitlines()]
    assert {row["id"] for row in rows} == {"0001-a", "0002-b", "0003-c", "0004-d"}
    assert "task_id" in rows[1]
    copy = house.place / "left.jsonl"
    copy.write_bytes(left.read_bytes())
    again = await house.run_file(copy)
    assert statuses(again) == ["unknown", "saved", "saved", "saved"]
    # And the old manifest after it.
    assert statuses(await house.run("a", "b", "c", "d")) == ["unknown", "saved", "saved", "saved"]
    assert house.taken() == dict.fromkeys("abcd", 1)


async def test_unfinished_without_its_ledger_pays_for_nothing_twice_either(tmp_path: Path) -> None:
    house = make_house(tmp_path, faults=Faults(create_cut_after=Nth(1)))
    await some_taken_and_no_more(house, "a", "b", "c", "d")
    copy = house.place / "left.jsonl"
    copy.write_bytes((house.place / "out" / "unfinished.jsonl").read_bytes())
    for name in ("aivideo.db", "aivideo.db-wal", "aivideo.db-shm"):
        (house.place / name).unlink(missing_ok=True)
    first = await house.run_file(copy, output="new", stop_when=lambda run: len(run.results) > 1)
    assert first.stopped
    again = await house.run_file(copy, output="new")
    assert statuses(again) == ["unknown", "saved", "saved", "saved"]
    assert house.taken() == dict.fromkeys("abcd", 1)


async def test_two_runs_at_once_make_each_once(house: House) -> None:
    prompts = [f"p{number}" for number in range(12)]
    reports = await asyncio.gather(house.run(*prompts), house.run(*prompts))
    for report in reports:
        assert statuses(report) == ["saved"] * 12
    assert house.taken() == dict.fromkeys(prompts, 1)


async def test_a_file_that_nobody_knows_of_is_in_the_way_and_named(house: House) -> None:
    (house.place / "out").mkdir()
    (house.place / "out" / "0002-b.mp4").write_bytes(b"bought")
    with pytest.raises(ManifestError, match=r"0002-b\.mp4 is there already"):
        await house.run("a", "b")
    assert house.creates == 0
    assert statuses(await house.run("a", "b", overwrite=True)) == ["saved", "saved"]
    assert statuses(await house.run("a", "b")) == ["saved", "saved"], "now it is known"
    assert house.creates == 2


# --- generate_many -------------------------------------------------------------------------------


def boat(prompt: str) -> Sora2:
    return Sora2(prompt, duration=4, aspect_ratio="16:9")


async def make(
    house: House, *prompts: str, leave_after: int | None = None, **options: Any
) -> list[Any]:
    """Have ``generate_many`` make prompts in a session of its own; left early if told so."""
    ledger = house.ledger()
    outcomes = []
    async with house.session(ledger, max_requests_in_flight=2) as session:
        generating = session.generate_many(map(boat, prompts), **options)
        async for outcome in generating:
            outcomes.append(outcome)
            if len(outcomes) == leave_after:
                break
        await generating.aclose()
    await ledger.aclose()
    return outcomes


async def test_many_with_a_batch_go_on_where_they_were_left(house: House) -> None:
    prompts = [f"p{number}" for number in range(8)]
    await make(house, *prompts, batch="night", save_to=house.place, leave_after=1)
    ends = await make(house, "new", *reversed(prompts), batch="night", save_to=house.place)
    assert [type(end) for end in ends] == [Succeeded] * 9
    assert house.taken() == dict.fromkeys(["new", *prompts], 1)
    assert len([*house.place.glob("*.mp4")]) == 9


async def test_many_with_a_batch_and_the_same_request_twice_are_two_jobs(house: House) -> None:
    await make(house, "a", "a", "b", batch="night")
    await make(house, "b", "a", "a", batch="night")
    assert house.taken() == {"a": 2, "b": 1}
    await make(house, "a", "a", "a", batch="night")
    assert house.taken() == {"a": 3, "b": 1}
    await make(house, "a", batch="another night")
    assert house.taken() == {"a": 4, "b": 1}


async def test_many_with_keys_are_known_by_them(house: House) -> None:
    def key(index: int, request: object) -> str:
        return f"scene-{index}"

    await make(house, "a", "b", batch="night", key=key)
    ends = await make(house, "b", "a", "c", batch="night", key=key)
    failed = [end for end in ends if isinstance(end, Failed)]
    assert sorted(end.index for end in failed) == [0, 1], "scene 0 was made of something else"
    assert all("another request" in str(end.error) for end in failed)
    assert house.taken() == dict.fromkeys("abc", 1)


async def test_many_without_a_batch_are_new_work_each_time(house: House) -> None:
    await make(house, "a", "b")
    await make(house, "a", "b")
    assert house.taken() == {"a": 2, "b": 2}


async def test_many_that_failed_are_sent_again_only_when_asked(tmp_path: Path) -> None:
    house = make_house(tmp_path, failure_rate=1.0)
    await make(house, "a", batch="night")
    (end,) = await make(house, "a", batch="night")
    assert isinstance(end, Failed)
    assert end.task_id == house.task_of("a")
    assert house.creates == 1
    await make(house, "a", batch="night", retry_failed=True)
    assert house.creates == 2


async def test_a_task_of_somebody_else_is_nobodys_job(house: House) -> None:
    client = Client("sk-test", transport=house.transport)
    task_id = await client.create(boat("elsewhere"))
    report = await house.run({"prompt": "elsewhere", "task_id": task_id}, "a")
    assert statuses(report) == ["saved", "saved"]
    assert house.taken() == {"elsewhere": 1, "a": 1}
    assert report.credits.charged == 100, "what was bought elsewhere is not this batch's"
    again = await house.run({"prompt": "elsewhere", "task_id": task_id}, "a")
    assert statuses(again) == ["saved", "saved"]
    assert again.earlier == 2


async def test_a_task_that_only_the_manifest_knows_is_saved_and_not_bought_again(
    house: House,
) -> None:
    await some_taken_and_no_more(house, "b", most=1)
    client = Client("sk-test", transport=house.transport)
    task_id = await client.create(boat("a"))
    # The ledger has the line, and missed its task: somebody said that it was not taken.
    await house.run("a", "b", max_credits=100)
    assert (await house.jobs())["a"].status is JobStatus.PLANNED
    row = {"id": "0001-a", "prompt": "a", "task_id": task_id}
    report = await house.run(row, "b")
    assert statuses(report)[:2] == ["saved", "saved"]
    assert house.taken() == {"a": 1, "b": 1}
