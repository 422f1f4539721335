"""Names of lines: the same content has the same name in every version of a manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from aivideo.manifest import Defaults, Line, content_name, read_manifest
from aivideo.manifest.names import file_stem
from aivideo.models import Generation, Request, Sora2

KITE = Sora2("A red kite!", duration=4, aspect_ratio="16:9")


def read(path: Path, text: str) -> list[Line]:
    path.write_text(text, "utf-8")
    return read_manifest(path, Defaults(4, "16:9"))


def test_a_name_is_words_of_the_prompt_a_hash_of_the_content_and_an_occurrence() -> None:
    assert content_name(KITE, 1) == "a-red-kite-d519dab2"
    assert content_name(KITE, 2) == "a-red-kite-d519dab2-2"
    longer = Sora2("A red kite!", duration=8, aspect_ratio="16:9")
    assert content_name(longer, 1) != content_name(KITE, 1)
    assert content_name(longer, 1).startswith("a-red-kite-")


@pytest.mark.parametrize(
    "request_",
    [
        KITE,
        Sora2("雨" * 300, duration=4, aspect_ratio="16:9"),
        Sora2("𝒳" * 300, duration=4, aspect_ratio="16:9"),
        Sora2("…?!", duration=4, aspect_ratio="16:9"),
        Generation("con", {"prompt": "x"}),
    ],
)
def test_a_name_is_a_file_name_as_it_is(request_: Request) -> None:
    name = content_name(request_, 1000)
    assert file_stem(name) == name


def test_lines_above_and_ids_elsewhere_do_not_change_a_name(tmp_path: Path) -> None:
    (line,) = read(tmp_path / "m.txt", "A red kite!\n")
    edited = read(tmp_path / "m.csv", "id,prompt\n,new\nx,another\n,A red kite!\n,A red kite!\n")
    assert [each.id for each in edited][2:] == [line.id, f"{line.id}-2"]
    assert (line.number, edited[2].number) == (1, 4)
    assert [each.named for each in edited] == [False, True, False, False]


def test_equal_lines_are_numbered_whether_or_not_they_have_ids(tmp_path: Path) -> None:
    lines = read(tmp_path / "m.csv", "id,prompt\n,a\nx,a\n,a\n")
    first = lines[0].id
    assert [line.id for line in lines] == [first, "x", f"{first}-3"]


def test_a_line_without_an_id_never_has_the_id_of_another_line(tmp_path: Path) -> None:
    (line,) = read(tmp_path / "m.txt", "a\n")
    lines = read(tmp_path / "m.csv", f"id,prompt\n,a\n{line.id},a\n{line.id.upper()}-2,b\n,a\n")
    assert len({each.id.casefold() for each in lines}) == 4
    assert lines[0].id == f"{line.id}-3"
