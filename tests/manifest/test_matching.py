"""Matching lines with jobs when a manifest is edited between two runs."""

from __future__ import annotations

from collections import Counter

import orjson
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

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
    Withdrawn,
)
from aivideo.ledger.records import JobRecord, JobStatus, Reason
from aivideo.ledger.transitions import apply
from aivideo.manifest import (
    Defaults,
    Line,
    ManifestError,
    Match,
    Plan,
    content_name,
    match,
    read_manifest,
)
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
    # The first "a" has a job that was made with an id; the second occurrence is a new job.
    second = content_name(boat("a"), 2)
    lines = [line(1, "a"), evolve(line(2, "a"), id=second)]
    third = content_name(boat("a"), 3)
    for earlier, new in (("0002-a", second), (second, third)):
        plan = match(lines, [saved("0001-b", "b"), saved(earlier, "a")])
        assert as_pairs(plan) == [(earlier, earlier), (new, None)]
    # Nor the key of a job whose line is gone: its file exists.
    plan = match([line(1, "x", id="Boat")], [saved("boat", "y")])
    assert as_pairs(plan) == [("Boat+", None)]


def test_a_new_line_never_gets_the_name_that_another_line_states() -> None:
    first = content_name(boat("a"), 1)
    lines = [evolve(line(1, "a"), id=first), line(2, "b", id=content_name(boat("a"), 2))]
    plan = match(lines, [saved(first, "gone")])
    assert as_pairs(plan) == [
        (content_name(boat("a"), 3), None),
        (content_name(boat("a"), 2), None),
    ]


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


def test_a_changed_line_takes_a_job_that_has_its_new_content_already() -> None:
    # Another run may be about to send "x" for its version of the manifest: a second job of that
    # content would buy it twice.
    for job in (planned("x", "a"), running("x", "a"), saved("x", "a"), unknown("x", "a")):
        plan = match([line(1, "a", id="y")], [job, planned("y", "b")])
        assert as_pairs(plan) == [("x", "x")], job.status


def test_a_job_that_a_changed_line_leaves_is_found_by_its_content() -> None:
    records = [planned("x", "a"), planned("y", "b"), planned("z", "c")]
    lines = [line(1, "b", id="new"), line(2, "c", id="y"), line(3, "d", id="other")]
    assert as_pairs(match(lines, records)) == [("y", "y"), ("z", "z"), ("other", None)]


def test_ids_that_are_shifted_before_anything_was_sent_are_changed_in_place() -> None:
    records = [planned("1", "a"), planned("2", "b")]
    lines = [line(1, "new", id="1"), line(2, "a", id="2"), line(3, "b", id="3")]
    plan = match(lines, records)
    assert as_pairs(plan) == [("1", "1"), ("2", "2"), ("3", None)]
    assert all(each.is_to_be_planned for each in plan.matches)


def test_only_what_the_ledger_does_not_hold_as_asked_is_planned() -> None:
    withdrawn = record("x", boat("a"), Withdrawn())
    refused = record("x", boat("a"), Claimed(), Refused(WHY))
    for job, is_planned in (
        (None, True),
        (withdrawn, True),
        (planned("x", "a"), False),
        (saved("x", "a"), False),
        (unknown("x", "a"), False),
        (refused, False),
        (planned("x", "another"), True),
        (evolve(planned("x", "a"), credits=99), True),
        (evolve(refused, credits=99), True),
        (evolve(saved("x", "a"), credits=99), False),
    ):
        assert Match(line(1, "a"), job).is_to_be_planned == is_planned, job
    for known in ({"task_id": "t"}, {"unknown": True}):
        assert not Match(evolve(line(1, "a"), **known)).is_to_be_planned
    assert not Match(evolve(line(1, "a"), task_id="t"), withdrawn).is_to_be_planned


versions = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from([None, "x", "y", "z"])),
    max_size=5,
    unique_by=lambda row: row[1] or object(),
)


@given(st.lists(st.tuples(versions, st.lists(st.integers(0, 9), max_size=3)), max_size=5))
def test_no_content_gets_more_jobs_than_a_version_of_the_manifest_asks_for(
    runs: list[tuple[list[tuple[str, str | None]], list[int]]],
) -> None:
    """Versions are edited at random, and jobs are sent between the runs that record them."""
    jobs: dict[str, JobRecord] = {}
    most: Counter[str] = Counter()
    for version, sent in runs:
        occurrences: Counter[str] = Counter()
        lines = []
        for number, (prompt, name) in enumerate(version, 1):
            occurrences[prompt] += 1
            new = line(number, prompt, id=name)
            if name is None:
                new = evolve(new, id=content_name(boat(prompt), occurrences[prompt]))
            lines.append(new)
        try:
            plan = match(lines, jobs.values())
        except ManifestError:
            continue  # an id was bought for another request
        assert len({each.line.id for each in plan.matches}) == len(lines)
        most |= occurrences
        for each in plan.matches:
            if each.is_to_be_planned:
                jobs[each.line.id] = record(each.line.id, each.line.request)
        for index in sent:
            if index < len(jobs):
                key = list(jobs)[index]
                if jobs[key].status is JobStatus.PLANNED:
                    jobs[key] = apply(apply(jobs[key], Claimed()), Taken(f"task-of-{key}"))
        assert Counter(str(job.request.input["prompt"]) for job in jobs.values()) <= most


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


def test_a_line_in_doubt_would_be_sent_only_where_paying_again_is_allowed() -> None:
    for job in (unknown("x", "a"), record("x", boat("a"), Claimed(), Faulted(WHY))):
        each = Match(line(1, "a"), job)
        assert each.is_in_doubt
        assert not each.would_be_sent(retry_failed=True)
        assert not each.would_be_sent(pay_again=True)
        assert each.would_be_sent(retry_failed=True, pay_again=True)


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
