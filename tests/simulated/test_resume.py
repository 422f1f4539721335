"""A session with a ledger file dies at any moment; another resumes, and nothing is sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest

from aivideo import (
    BudgetExceededError,
    Failed,
    Generation,
    InvalidRequestError,
    Job,
    JobStatus,
    LedgerError,
    Outcome,
    Request,
    Session,
    Sora2,
    SubmitUnknownError,
    Succeeded,
    TaskFailedError,
)
from aivideo.ledger import events
from aivideo.ledger.records import JobRecord
from aivideo.ledger.sqlite import SqliteLedger
from aivideo.ledger.totals import CreditTotals
from aivideo.simulator import Faults, Nth, Scenario, Simulator, serve

pytestmark = pytest.mark.anyio


def boats(count: int) -> list[Sora2]:
    return [Sora2(f"Boat {n}", duration=4, aspect_ratio="16:9") for n in range(count)]


BOAT = boats(1)[0]


def scenario(**settings: object) -> Scenario:
    return Scenario(**{"task_seconds": 60.0, "media": "stub", "seed": 5, **settings})  # type: ignore[arg-type]


class Dying(Session):
    """A session whose process can die: what it has not written is lost."""

    def begin(self) -> Self:
        self._older = asyncio.all_tasks()
        return self

    async def die(self) -> None:
        ledger = self.ledger
        assert isinstance(ledger, SqliteLedger)
        file, ledger._file = ledger._file, None  # from here on nothing is written
        assert file is not None
        file.connection.close()
        file.owner.leave()  # the kernel releases the locks of a dead process
        mine = [
            task
            for task in asyncio.all_tasks() - self._older
            if task is not asyncio.current_task()
            and "aivideo/simulator" not in repr(task)
            and "aiohttp/web" not in repr(task)
        ]
        for task in mine:
            task.cancel()
        await asyncio.gather(*mine, return_exceptions=True)
        await self._client.aclose()


def session_of(sim: Simulator, path: Path, **settings: object) -> Dying:
    session = Dying("sk-test", base_url=sim.url, ledger=path, **settings)  # type: ignore[arg-type]
    return session.begin()


def kinds(outcomes: list[Outcome]) -> list[str]:
    return [type(o.error if isinstance(o, Failed) else o).__name__ for o in outcomes]


async def test_a_crash_at_any_moment_loses_no_task_and_sends_none_twice(tmp_path: Path) -> None:
    """Ten jobs, created two a second, each of whose POSTs takes three seconds."""
    for moment in (0, 1, 2, 3, 4, 5, 8):
        path = tmp_path / f"{moment}.db"
        async with serve(scenario(latency=3.0)) as sim:
            first = session_of(sim, path, max_requests_per_minute=120)
            for boat in boats(10):
                await first.enqueue(boat)
            await asyncio.sleep(moment + 0.3)
            under_way = sum(live.is_posting for live in first._parts.live)
            await first.die()
            async with session_of(sim, path) as second:
                jobs = await second.resume()
                unknown = [job for job in jobs if job.status is JobStatus.UNKNOWN]
                assert len(unknown) <= under_way, "at most those whose POST was under way"
                for job in jobs:
                    if job in unknown:
                        with pytest.raises(SubmitUnknownError):
                            await job
                    else:
                        await job
                await asyncio.sleep(1)
                prompts = [task.prompt for task in sim.truth.tasks.values()]
                assert len(prompts) == len(set(prompts)), f"paid twice, after {moment} s"
                assert sim.truth.creates_seen == 10
                counts = await second.ledger.counts()
                assert counts.get(JobStatus.COMPLETED, 0) + len(unknown) == 10
                totals = await second.ledger.totals()
                assert totals.charged + totals.unknown == 1000
                assert await second.resume() == unknown, "and they stay listed"


async def test_the_same_key_is_the_same_job_in_the_next_process(tmp_path: Path) -> None:
    async with serve(scenario()) as sim:
        first = session_of(sim, tmp_path / "jobs.db")
        job = await first.submit(BOAT, key="boat")
        await first.die()
        async with session_of(sim, tmp_path / "jobs.db") as second:
            again = await second.submit(BOAT, key="boat")
            assert (again.id, again.task_id) == (job.id, job.task_id)
            with pytest.raises(InvalidRequestError, match="key"):
                await second.submit(boats(2)[1], key="boat")
            assert (await again).id == job.task_id
        async with session_of(sim, tmp_path / "jobs.db") as third:
            done = await third.submit(BOAT, key="boat")
            assert done.status is JobStatus.COMPLETED
            assert (await done).urls, "the URL is fetched again: it is not stored"
        assert sim.truth.creates_seen == 1


async def test_two_sessions_with_one_key_send_once(tmp_path: Path) -> None:
    async with (
        serve(scenario(latency=2.0)) as sim,
        session_of(sim, tmp_path / "jobs.db") as one,
        session_of(sim, tmp_path / "jobs.db") as two,
    ):
        jobs = await asyncio.gather(one.submit(BOAT, key="boat"), two.submit(BOAT, key="boat"))
        assert jobs[0].task_id == jobs[1].task_id
        ends = await asyncio.gather(*jobs)
        assert ends[0].id == ends[1].id
        assert sim.truth.creates_seen == 1


async def test_a_waiter_for_the_post_of_a_dead_process_gets_unknown(tmp_path: Path) -> None:
    async with serve(scenario(latency=60.0)) as sim:
        first = session_of(sim, tmp_path / "jobs.db")
        await first.enqueue(BOAT, key="boat")
        async with session_of(sim, tmp_path / "jobs.db") as second:
            await asyncio.sleep(5)
            waiting = asyncio.create_task(second.submit(BOAT, key="boat"))
            await asyncio.sleep(5)
            assert not waiting.done()
            waiting.cancel()
            await asyncio.wait([waiting])
        await first.die()
        async with session_of(sim, tmp_path / "jobs.db") as third:
            with pytest.raises(SubmitUnknownError, match="died"):
                await third.submit(BOAT, key="boat")
        assert sim.truth.creates_seen == 1


async def collect(
    session: Session, requests: Sequence[Request], **settings: object
) -> list[Outcome]:
    outcomes = session.generate_many(requests, batch="boats", **settings)  # type: ignore[arg-type]
    return [outcome async for outcome in outcomes]


async def test_a_batch_goes_on_in_the_next_process(tmp_path: Path) -> None:
    path, clips = tmp_path / "jobs.db", tmp_path / "clips"
    async with serve(scenario(latency=0.5)) as sim:
        first = session_of(sim, path, max_requests_per_minute=120)
        running = asyncio.create_task(collect(first, boats(40), save_to=clips))
        await asyncio.sleep(80)
        await first.die()
        await asyncio.wait([running])
        saved = {file.name for file in clips.iterdir() if not file.name.endswith(".part")}
        assert 0 < len(saved) < 40
        async with session_of(sim, path) as second:
            outcomes = await collect(second, boats(40), save_to=clips)
            unknown = kinds(outcomes).count("SubmitUnknownError")
            assert kinds(outcomes).count("Succeeded") == 40 - unknown
            assert {outcome.index for outcome in outcomes} == {*range(40)}
            assert all(o.path and o.path.is_file() for o in outcomes if isinstance(o, Succeeded))
        seen, downloads = sim.truth.creates_seen, sim.truth.downloads
        async with session_of(sim, path) as third:
            again = await collect(third, boats(40), save_to=clips)
        assert kinds(again).count("Succeeded") == 40 - unknown
        assert sim.truth.downloads == downloads, "saved files are not downloaded again"
        assert seen == sim.truth.creates_seen == 40
        prompts = [task.prompt for task in sim.truth.tasks.values()]
        assert len(set(prompts)) == len(prompts)


async def test_the_same_request_twice_in_a_batch_is_two_jobs_in_every_run(tmp_path: Path) -> None:
    async with serve(scenario()) as sim:
        for _ in range(2):
            async with session_of(sim, tmp_path / "jobs.db") as session:
                outcomes = await collect(session, [BOAT, BOAT, boats(2)[1]])
                assert kinds(outcomes) == ["Succeeded"] * 3
        assert sim.truth.creates_seen == 3


async def test_an_invalid_request_fails_alone_in_a_batch(tmp_path: Path) -> None:
    async with serve(scenario()) as sim, session_of(sim, tmp_path / "jobs.db") as session:
        mixed: list[Request] = ["a prompt", BOAT]  # type: ignore[list-item]
        assert sorted(kinds(await collect(session, mixed))) == ["InvalidRequestError", "Succeeded"]


async def test_a_key_that_names_two_requests_of_one_call_is_refused(tmp_path: Path) -> None:
    async with serve(scenario()) as sim:
        async with session_of(sim, tmp_path / "jobs.db") as session:
            outcomes = await collect(session, boats(2), key=lambda *_: "boat")
        assert sorted(kinds(outcomes)) == ["InvalidRequestError", "Succeeded"]
        assert sim.truth.creates_taken == 1
        (made,) = (each for each in outcomes if isinstance(each, Succeeded))
        assert made.task.metadata["prompt"] == made.request.input["prompt"] == "Boat 0"


async def test_a_request_that_another_process_replaces_meanwhile_is_not_sent_for_the_first(
    tmp_path: Path,
) -> None:
    def name(*_: object) -> str:
        return "boat"

    dearer = Sora2("Another", duration=12, aspect_ratio="16:9")
    path = tmp_path / "jobs.db"
    async with serve(scenario(latency=5.0)) as sim:
        async with (
            session_of(sim, path, max_running_jobs=1, max_credits=200) as one,
            session_of(sim, path) as two,
        ):
            await one.submit(BOAT)  # the next of its jobs waits
            first = asyncio.create_task(collect(one, [BOAT], key=name))
            await asyncio.sleep(1)
            two.stop_submits()
            assert kinds(await collect(two, [dearer], key=name)) == ["SessionClosedError"]
            assert kinds(await first) == ["InvalidRequestError"]
            assert one.statistics().credits == CreditTotals(charged=100)
            two.resume_submits()
            assert kinds(await collect(two, [dearer], key=name)) == ["Succeeded"]
        assert [task.prompt for task in sim.truth.tasks.values()] == ["Boat 0", "Another"]


async def test_without_a_batch_each_call_is_new_work(tmp_path: Path) -> None:
    async with serve(scenario()) as sim:
        for _ in range(2):
            async with session_of(sim, tmp_path / "jobs.db") as session:
                outcomes = [outcome async for outcome in session.generate_many([BOAT])]
                assert kinds(outcomes) == ["Succeeded"]
        assert sim.truth.creates_seen == 2


async def test_a_failed_job_is_sent_again_only_on_request_and_reports_its_new_task(
    tmp_path: Path,
) -> None:
    path = tmp_path / "jobs.db"
    async with serve(scenario(failure_rate=1.0)) as sim:
        async with session_of(sim, path) as session:
            (first,) = await collect(session, [BOAT])
            assert isinstance(first, Failed)
        async with session_of(sim, path) as session:
            (same,) = await collect(session, [BOAT])
            assert isinstance(same, Failed)
            assert same.task_id == first.task_id
            assert sim.truth.creates_seen == 1
            (again,) = await collect(session, [BOAT], retry_failed=True)
            assert isinstance(again, Failed)
            assert isinstance(again.error, TaskFailedError)
            assert again.task_id not in (None, first.task_id)
            assert sim.truth.creates_seen == 2
            assert await session.ledger.totals(batch="boats") == CreditTotals(refunded=200)


async def test_two_sessions_that_retry_a_failed_job_at_once_send_it_once(tmp_path: Path) -> None:
    class Late(SqliteLedger):
        """Records a retry late, after another process has done so."""

        async def record(
            self, job_id: str, event: events.Event, *, attempt: int | None = None
        ) -> JobRecord:
            if isinstance(event, events.Retried):
                await asyncio.sleep(5)
            return await super().record(job_id, event, attempt=attempt)

    path = tmp_path / "jobs.db"
    async with serve(scenario(failure_rate=1.0)) as sim:
        async with session_of(sim, path) as session:
            assert kinds(await collect(session, [BOAT])) == ["TaskFailedError"]
        late = Late(path)
        async with (
            session_of(sim, path) as one,
            Session("sk-test", base_url=sim.url, ledger=late) as other,
        ):
            outcomes = await asyncio.gather(
                *(collect(each, [BOAT], retry_failed=True) for each in (one, other))
            )
        await late.aclose()
        assert [kinds(each) for each in outcomes] == [["TaskFailedError"]] * 2
        assert sim.truth.creates_taken == 2, "the first create and one retry"


async def test_a_batchs_ceiling_counts_all_its_runs(tmp_path: Path) -> None:
    async with serve(scenario()) as sim:
        for run, taken in ((1, 3), (2, 3)):
            async with session_of(sim, tmp_path / "jobs.db") as session:
                outcomes = await collect(session, boats(5), max_credits=300)
                assert kinds(outcomes).count("BudgetExceededError") == 2, f"run {run}"
                assert sim.truth.creates_taken == taken
        async with session_of(sim, tmp_path / "jobs.db", max_credits=100) as session:
            # The session's own ceiling counts from its opening.
            await session.submit(BOAT)
            with pytest.raises(BudgetExceededError):
                await session.submit(BOAT)


async def test_a_batchs_ceiling_binds_jobs_that_were_taken_up_before_it_was_set(
    tmp_path: Path,
) -> None:
    async with serve(scenario()) as sim:
        async with session_of(sim, tmp_path / "jobs.db") as session:
            session.stop_submits()
            await collect(session, boats(8))  # planned, none sent
        async with session_of(sim, tmp_path / "jobs.db") as session:
            async for record in session.ledger.jobs():
                session.take_up(record)
            outcomes = await collect(session, boats(8), max_credits=300)
        assert kinds(outcomes).count("BudgetExceededError") == 5
        assert sim.truth.creates_taken == 3


async def test_a_price_stated_later_lets_the_same_job_be_sent(tmp_path: Path) -> None:
    async with serve(scenario()) as sim, session_of(sim, tmp_path / "jobs.db") as session:
        unpriced = Generation("veo-3", {"prompt": "boat"})
        assert kinds(await collect(session, [unpriced], max_credits=500)) == ["BudgetExceededError"]
        priced = Generation("veo-3", {"prompt": "boat"}, credits=400)
        assert kinds(await collect(session, [priced], max_credits=500)) == ["Succeeded"]
        assert (await session.ledger.totals(batch="boats")).charged == 400
        other = Generation("veo-3", {"prompt": "kite"}, credits=400)
        assert kinds(await collect(session, [other], max_credits=500)) == ["BudgetExceededError"]


async def test_a_job_settled_as_not_taken_is_sent_again(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with serve(scenario(faults=Faults(create_cut_before=Nth(1)))) as sim:
        async with session_of(sim, path) as session:
            (first,) = await collect(session, [BOAT])
            assert kinds([first]) == ["SubmitUnknownError"]
        async with session_of(sim, path) as session:
            assert kinds(await collect(session, [BOAT])) == ["SubmitUnknownError"]
            assert sim.truth.creates_seen == 1
            (job,) = await session.resume()
            await session.ledger.record(job.id, events.Released())
        async with session_of(sim, path) as session:
            assert kinds(await collect(session, [BOAT])) == ["Succeeded"]
        assert sim.truth.creates_seen == 2
        assert sim.truth.creates_taken == 1


async def test_a_session_on_a_file_that_cannot_be_used_is_refused_before_anything_is_sent(
    tmp_path: Path,
) -> None:
    with pytest.raises(LedgerError, match="is a folder"):
        Session("sk-test", ledger=tmp_path)
    (tmp_path / "notes.txt").write_text("not a ledger\n" * 100)
    with pytest.raises(LedgerError, match="not a ledger"):
        Session("sk-test", ledger=tmp_path / "notes.txt")


async def test_an_end_seen_by_task_id_is_recorded_when_its_job_is_taken_up(
    tmp_path: Path,
) -> None:
    async with serve(scenario()) as sim:
        async with session_of(sim, tmp_path / "jobs.db") as session:
            job = await session.submit(BOAT)
        assert job.task_id is not None
        async with session_of(sim, tmp_path / "jobs.db") as session:
            await session.job(job.task_id)
            await session.resume()
            await asyncio.sleep(1)
            assert session.jobs() == []
            assert session.statistics().limiter.running_jobs == 0
            found = await session.ledger.find(job.id)
            assert found is not None
            assert found.status is JobStatus.COMPLETED


async def test_a_session_closes_the_ledger_it_opened_and_no_other(tmp_path: Path) -> None:
    async with serve(scenario()) as sim:
        async with session_of(sim, tmp_path / "jobs.db") as session:
            ledger = session.ledger
        with pytest.raises(LedgerError, match="closed"):
            await ledger.totals()
        own = SqliteLedger(tmp_path / "jobs.db")
        async with Session("sk-test", base_url=sim.url, ledger=own):
            pass
        assert await own.totals() == CreditTotals()
        await own.aclose()


async def test_resume_returns_the_same_handles(tmp_path: Path) -> None:
    async with (
        serve(scenario(faults=Faults(create_cut_after=Nth(2)))) as sim,
        session_of(sim, tmp_path / "jobs.db") as session,
    ):
        running = await session.submit(BOAT, key="a")
        with pytest.raises(SubmitUnknownError) as caught:
            await session.submit(BOAT, key="b")
        jobs: list[Job] = await session.resume()
        assert {id(job) for job in jobs} == {id(running), id(caught.value.job)}


async def test_resume_leaves_unsent_jobs_of_a_batch_to_the_batch(
    tmp_path: Path,
) -> None:
    path = tmp_path / "jobs.db"
    boats = [Sora2(f"Boat {n}", duration=4, aspect_ratio="16:9") for n in range(5)]
    async with serve(Scenario(media="stub", task_seconds=60.0)) as sim:
        async with Session("sk-x", base_url=sim.url, ledger=path) as session:
            outcomes = session.generate_many(boats, batch="boats", max_credits=200)
            assert [type(each).__name__ async for each in outcomes].count("Failed") == 3
        async with Session("sk-x", base_url=sim.url, ledger=path) as session:
            assert await session.resume() == []
            await asyncio.sleep(600)
        assert sim.truth.creates_taken == 2
