"""Matching lines with jobs when a manifest is edited between two runs."""

from __future__ import annotations

import orjson
import pytest
from attrs import evolve

from aivideo import models
from aivideo.ledger.events import (
    Claimed,
    Completed,
    Doubted,
    Event,
    Failed,
    Faulted,
    Refused,
    Retried,
    Saved,
    Taken,
)
from aivideo.ledger.records import JobRecord, JobStatus, Reason
from aivideo.ledger.transitions import apply
from aivideo.manifest import Defaults, Line, ManifestError, Match, Plan, match, read_manifest
from aivideo.models import Generation, Request, Sora2

WHY = Reason(message="why")


def boat(prompt: str) -> Sora2:
    return Sora2(prompt, duration=4, aspect_ratio="16:9")


def line(number: int, prompt: str, id: str | None = None) -> Line:  # noqa: A002  as in a manifest
    return Line(
        number=number,
        id=id or f"{number:04d}-{prompt}",
        request=boat(prompt),
        named=id is not None,
    )


def record(key: str, request: Request, *events: Event) -> JobRecord:
    job = JobRecord(
        id=f"job-of-{key}",
        request=request,
        fingerprint=models.fingerprint(request),
        credits=100,
        batch="b",
        key=key,
    )
    for event in events:
        job = apply(job, event)
    return job


def planned(key: str, prompt: str) -> JobRecord:
    return record(key, boat(prompt))


def running(key: str, prompt: str) -> JobRecord:
    return record(key, boat(prompt), Claimed(), Taken(f"task-of-{key}"))


def saved(key: str, prompt: str) -> JobRecord:
    return apply(apply(running(key, prompt), Completed()), Saved(f"{key}.mp4", 1))


def unknown(key: str, prompt: str) -> JobRecord:
    return record(key, boat(prompt), Claimed(), Doubted(WHY))


def as_pairs(plan: Plan) -> list[tuple[str, str | None]]:
    """Return the id of each line and the key of its job."""
    return [
        (each.line.id, None if each.record is None else each.record.key) for each in plan.matches
    ]


def test_the_same_manifest_matches_the_same_jobs() -> None:
    records = [saved("0001-a", "a"), running("0002-b", "b"), planned("0003-c", "c")]
    plan = match([line(1, "a"), line(2, "b"), line(3, "c")], records)
    assert as_pairs(plan) == [(key, key) for key in ("0001-a", "0002-b", "0003-c")]
    assert plan.orphans == ()


def test_equal_prompts_match_jobs_in_their_order() -> None:
    lines = [line(1, "a"), line(2, "a")]
    assert as_pairs(match(lines, [])) == [("0001-a", None), ("0002-a", None)]
    records = [saved("0001-a", "a"), planned("0002-a", "a")]
    assert as_pairs(match(lines, records)) == [("0001-a", "0001-a"), ("0002-a", "0002-a")]


def test_one_more_equal_line_is_one_new_job() -> None:
    plan = match([line(1, "a"), line(2, "a"), line(3, "a")], [saved("0001-a", "a")])
    assert as_pairs(plan) == [("0001-a", "0001-a"), ("0002-a", None), ("0003-a", None)]


def test_lines_that_moved_are_matched_by_content() -> None:
    records = [saved("0001-a", "a"), running("0002-b", "b")]
    lines = [line(1, "new"), line(2, "b"), line(3, "a")]
    assert as_pairs(match(lines, records)) == [
        ("0001-new", None),
        ("0002-b", "0002-b"),
        ("0001-a", "0001-a"),
    ]


def test_a_new_line_never_gets_the_key_of_another_job() -> None:
    # Line 2 was "b"; now it is a second "a", whose key would be that of line 1.
    records = [saved("0001-b", "b"), saved("0002-a", "a")]
    plan = match([line(1, "a"), line(2, "a")], records)
    assert as_pairs(plan) == [("0002-a", "0002-a"), ("0002-a+", None)]
    # Nor the key of a job whose line is gone: its file exists.
    plan = match([line(1, "x", id="Boat")], [saved("boat", "y")])
    assert as_pairs(plan) == [("Boat+", None)]


def test_adding_or_removing_an_id_changes_nothing() -> None:
    assert as_pairs(match([line(1, "a", id="boat")], [saved("0001-a", "a")])) == [
        ("0001-a", "0001-a")
    ]
    assert as_pairs(match([line(1, "a")], [saved("boat", "a")])) == [("boat", "boat")]


def test_an_id_is_matched_before_content() -> None:
    # Two lines with one prompt: each keeps its job when the lines are moved.
    records = [saved("first", "a"), running("second", "a")]
    plan = match([line(1, "a", id="second"), line(2, "a", id="first")], records)
    assert as_pairs(plan) == [("second", "second"), ("first", "first")]


@pytest.mark.parametrize(
    "job",
    [
        running("boat", "a"),
        saved("boat", "a"),
        unknown("boat", "a"),
        record("boat", boat("a"), Claimed()),
        record("boat", boat("a"), Claimed(), Faulted(WHY)),
        record("boat", boat("a"), Claimed(), Taken("t"), Failed(WHY)),
        record("boat", boat("a"), Claimed(), Doubted(WHY), Retried(pay_again=True)),
    ],
    ids=lambda job: str(job.status),
)
def test_an_id_that_was_bought_for_another_request_is_refused(job: JobRecord) -> None:
    with pytest.raises(ManifestError, match=r"line 7: id 'boat' .* new id") as caught:
        match([line(7, "another", id="boat")], [job])
    assert job.id in str(caught.value)


@pytest.mark.parametrize("events", [(), (Claimed(), Refused(WHY))])
def test_an_id_that_was_never_taken_may_be_used_for_another_request(
    events: tuple[Event, ...],
) -> None:
    plan = match([line(1, "another", id="boat")], [record("boat", boat("a"), *events)])
    assert as_pairs(plan) == [("boat", "boat")]
    assert plan.matches[0].would_be_sent(), (
        "it is another request now: the old refusal does not apply"
    )


def test_swapped_ids_are_refused_once_one_was_taken() -> None:
    lines = [line(1, "b", id="one"), line(2, "a", id="two")]
    assert len(match(lines, [planned("one", "a"), planned("two", "b")]).matches) == 2
    with pytest.raises(ManifestError, match="id 'two'"):
        match(lines, [planned("one", "a"), running("two", "b")])


@pytest.mark.parametrize(
    ("job", "is_orphan"),
    [
        (running("x", "gone"), True),
        (apply(running("x", "gone"), Completed()), True),
        (unknown("x", "gone"), True),
        (record("x", boat("gone"), Claimed()), True),
        (record("x", boat("gone"), Claimed(), Faulted(WHY)), True),
        (planned("x", "gone"), False),
        (saved("x", "gone"), False),
        (apply(running("x", "gone"), Failed(WHY)), False),
        (record("x", boat("gone"), Claimed(), Refused(WHY)), False),
    ],
    ids=lambda each: str(getattr(each, "status", "")),
)
def test_a_bought_job_without_a_line_is_an_orphan(job: JobRecord, is_orphan: bool) -> None:
    plan = match([line(1, "a")], [job])
    assert [each.record for each in plan.orphans] == ([job] if is_orphan else [])


def test_a_saved_job_is_no_orphan_even_if_an_earlier_create_is_unknown() -> None:
    job = unknown("x", "gone")
    for event in (Retried(pay_again=True), Claimed(), Taken("t"), Completed(), Saved("x", 1)):
        job = apply(job, event)
    assert job.status is JobStatus.SAVED
    assert job.doubts == 1
    assert match([line(1, "a")], [job]).orphans == ()


def test_only_lines_that_were_never_taken_would_be_sent() -> None:
    failed = apply(running("x", "a"), Failed(WHY))
    refused = record("x", boat("a"), Claimed(), Refused(WHY))
    for job, sent, retried in (
        (None, True, True),
        (planned("x", "a"), True, True),
        (record("x", boat("a"), Claimed()), False, False),
        (running("x", "a"), False, False),
        (saved("x", "a"), False, False),
        (unknown("x", "a"), False, False),
        (failed, False, True),
        (refused, False, True),
    ):
        each = Match(line(1, "a"), job)
        assert (each.would_be_sent(), each.would_be_sent(retry_failed=True)) == (sent, retried), job
    for known in ({"task_id": "t"}, {"unknown": True}):
        assert not Match(evolve(line(1, "a"), **known)).would_be_sent()


def test_other_models_are_matched_by_their_input() -> None:
    def request(prompt: str) -> Generation:
        return Generation("veo-3", {"prompt": prompt}, credits=10)

    lines = [Line(number=1, id="0001-veo-3", request=request("a"))]
    assert match(lines, [record("0004-veo-3", request("a"))]).matches[0].record is not None
    assert match(lines, [record("0004-veo-3", request("b"))]).matches[0].record is None


def test_a_key_is_read_back_unchanged(tmp_path: object) -> None:
    from pathlib import Path

    # unfinished.jsonl uses the keys of the jobs as ids, with their "+".
    path = Path(str(tmp_path)) / "unfinished.jsonl"
    row = {"id": "0002-a+", "prompt": "a", "duration": 4, "aspect_ratio": "16:9"}
    path.write_bytes(orjson.dumps(row))
    (again,) = read_manifest(path, Defaults())
    assert again.id == "0002-a+"
    records = [saved("0002-a", "a"), planned("0002-a+", "a")]
    assert as_pairs(match([again], records)) == [("0002-a+", "0002-a+")]


def test_a_key_of_another_program_stays_inside_the_folder() -> None:
    # generate_many(batch=…, key=…) accepts any key.
    plan = match([line(1, "a")], [planned("../../a", "a")])
    assert "/" not in plan.matches[0].line.file_name


def test_a_line_that_states_its_task_is_not_sent_whatever_the_ledger_contains() -> None:
    # A ledger whose disk was full knows the POST and not its task; unfinished.jsonl knows both.
    stated = evolve(line(1, "a"), task_id="t")
    for job in (planned("x", "a"), unknown("x", "a")):
        each = Match(stated, job)
        assert each.stated_task == "t"
        assert not each.would_be_sent(retry_failed=True)
    # The ledger is right where it knows more: that task failed, and is to be sent again.
    failed = apply(running("x", "a"), Failed(WHY))
    again = Match(evolve(stated, task_id="task-of-x"), apply(failed, Retried()))
    assert again.stated_task is None
    assert again.would_be_sent()
