"""Lines that would be sent although a file, or another batch, shows that they were bought."""

from __future__ import annotations

from aivideo import models
from aivideo.ledger.events import Claimed, Completed, Doubted, Event, Failed, Refused, Saved, Taken
from aivideo.ledger.records import JobRecord, Reason
from aivideo.ledger.transitions import apply
from aivideo.manifest import Line, Match, content_name
from aivideo.manifest.repeats import existing_files, other_batch
from aivideo.models import Sora2

WHY = Reason(message="why")
SAVED = (Claimed(), Taken("t"), Completed(), Saved("x.mp4", 1))


def boat(prompt: str) -> Sora2:
    return Sora2(prompt, duration=4, aspect_ratio="16:9")


def new(number: int, prompt: str, id: str | None = None) -> Match:  # noqa: A002  as in a manifest
    name = content_name(boat(prompt), 1) if id is None else id
    return Match(Line(number=number, id=name, request=boat(prompt), named=id is not None))


def record(key: str | None, prompt: str, *events: Event, batch: str | None = "b") -> JobRecord:
    request = boat(prompt)
    job = JobRecord(
        id=f"{batch}-{key}",
        request=request,
        fingerprint=models.fingerprint(request),
        batch=batch,
        key=key,
    )
    for event in events:
        job = apply(job, event)
    return job


def found(matches: list[Match], files: list[str], *records: JobRecord) -> list[tuple[int, str]]:
    return [(each.line.number, each.name) for each in existing_files(matches, files, records)]


def test_a_file_under_the_name_of_a_line_is_found_in_any_case() -> None:
    own = f"{content_name(boat('a'), 1)}.mp4"
    lines = [new(1, "a"), new(2, "b", id="Boat")]
    assert found(lines, [own, "boat.mp4", "other.mp4"]) == [(1, own), (2, "boat.mp4")]
    assert all(each.is_replaced for each in existing_files(lines, [own, "boat.mp4"], ()))
    assert found(lines, ["other.mp4", f"{own}.part", "report.jsonl"]) == []


def test_a_file_that_an_earlier_version_named_by_number_is_found_under_any_number() -> None:
    (existing,) = existing_files([new(7, "a b")], ["0003-a-b.mp4"], ())
    assert (existing.name, existing.is_replaced) == ("0003-a-b.mp4", False)
    assert found([new(7, "a b")], ["12345-a-b.mp4"]) == [(7, "12345-a-b.mp4")]
    for other in ("003-a-b.mp4", "0003-a.mp4", "0003-a-b.mov", "x-0003-a-b.mp4"):
        assert found([new(7, "a b")], [other]) == []


def test_a_numbered_file_counts_for_one_line_without_an_id_and_not_for_another_job() -> None:
    assert found([new(1, "a"), new(2, "a")], ["0001-a.mp4"]) == [(1, "0001-a.mp4")]
    assert found([new(1, "a", id="x")], ["0001-a.mp4"]) == []
    assert found([new(1, "a")], ["0001-a.mp4"], record("0001-a", "a", *SAVED)) == []


def test_a_job_that_was_not_sent_is_checked_under_its_own_name_only() -> None:
    job = record("0001-a", "a")
    line = Line(number=5, id="0001-a", request=boat("a"))
    assert found([Match(line, job)], ["0001-a.mp4"], job) == [(5, "0001-a.mp4")]
    assert found([Match(line, job)], ["0002-a.mp4"], job) == []


def test_lines_that_may_have_been_bought_in_another_batch_are_counted() -> None:
    records = [
        record("1", "a", *SAVED),
        record("2", "b", Claimed(), Taken("t")),
        record("3", "c", Claimed()),
        record("4", "d", Claimed(), Doubted(WHY)),
    ]
    lines = [new(number, prompt) for number, prompt in enumerate("abcde", 1)]
    other = other_batch(lines, records)
    assert other is not None
    assert (other.name, other.count) == ("b", 4)
    assert [line.number for line in other.lines] == [1, 2, 3, 4]


def test_what_was_not_bought_or_has_no_batch_is_no_other_batch() -> None:
    records = [
        record("1", "a"),
        record("2", "a", Claimed(), Refused(WHY)),
        record("3", "a", Claimed(), Taken("t"), Failed(WHY)),
        record("4", "a", *SAVED, batch=None),
        record("5", "b", *SAVED),
    ]
    assert other_batch([new(1, "a")], records) is None


def test_each_job_counts_for_one_line_and_the_batch_with_the_most_is_named() -> None:
    records = [
        record("1", "a", *SAVED, batch="one"),
        record("2", "b", *SAVED, batch="two"),
        record("3", "c", *SAVED, batch="two"),
    ]
    lines = [new(1, "a"), new(2, "a"), new(3, "b"), new(4, "c")]
    other = other_batch(lines, records)
    assert other is not None
    assert (other.name, other.count) == ("two", 2)
    assert [line.number for line in other.lines] == [1, 3, 4]
