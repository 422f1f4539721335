"""Reading manifests written by common tools: each prompt is read once, nothing is guessed."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from cattrs import Converter

from aivideo import Generation, Sora2
from aivideo.manifest import (
    Defaults,
    Line,
    ManifestError,
    configure_manifest,
    read_manifest,
)
from aivideo.manifest.reading import Row

DEFAULTS = Defaults(4, "16:9")


def read(folder: Path, name: str, text: str) -> list[Line]:
    path = folder / name
    path.write_bytes(text.encode())
    return read_manifest(path, DEFAULTS)


def prompts(lines: list[Line]) -> list[tuple[int, str]]:
    return [(line.number, line.request.prompt) for line in lines]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_each_line_of_text_is_a_prompt_with_any_line_ending(
    bom: str, ending: str, tmp_path: Path
) -> None:
    text = bom + ending.join(["A boat", "", "  ", " 雨中的纸船 🎬 ", "A kite"])
    expected = [(1, "A boat"), (4, "雨中的纸船 🎬"), (5, "A kite")]
    assert prompts(read(tmp_path, "m.txt", text)) == expected


@pytest.mark.parametrize("sign", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_unusual_line_separators_do_not_split_a_prompt(sign: str, tmp_path: Path) -> None:
    text = f"A boat{sign}in the rain\nA kite\n"
    assert prompts(read(tmp_path, "m.txt", text)) == [
        (1, f"A boat{sign}in the rain"),
        (2, "A kite"),
    ]
    quoted = f'prompt\n"A boat{sign}in the rain"\nA kite\n'
    assert prompts(read(tmp_path, "m.csv", quoted))[0][1] == f"A boat{sign}in the rain"


def test_a_null_or_an_empty_cell_is_a_field_that_is_not_stated(tmp_path: Path) -> None:
    rows = '{"prompt": "x", "duration": null, "aspect_ratio": "9:16", "image": null, "id": null}'
    (line,) = read(tmp_path, "m.jsonl", rows)
    assert line.request == Sora2("x", duration=4, aspect_ratio="9:16")
    (line,) = read(tmp_path, "m.csv", "prompt,duration,aspect_ratio,image\nx, ,9:16,\n")
    assert line.request == Sora2("x", duration=4, aspect_ratio="9:16")


def test_blanks_around_csv_names_and_cells_are_ignored(tmp_path: Path) -> None:
    text = "\ufeffid, prompt, duration, aspect_ratio\r\nb 1, A boat, 8, 9:16\r\n"
    (line,) = read(tmp_path, "m.csv", text)
    assert line.id == "b 1"
    assert line.request == Sora2(" A boat", duration=8, aspect_ratio="9:16")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("m.csv", "prompt,prompt\na,b\n", "named twice: ['prompt']"),
        ("m.jsonl", '{"prompt": "x", "unknown": "no"}', "must be true or false"),
        ("m.csv", "prompt,unknown\nx,no\n", "must be true or false"),
    ],
)
def test_ambiguous_input_is_refused(name: str, text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        read(tmp_path, name, text)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["..", ".hidden", "a/b", "a\\\\b", "CON", "好" * 90, "../../etc/passwd", "x" * 300, "a:b"],
)
def test_an_id_becomes_one_file_name_in_the_folder(name: str, tmp_path: Path) -> None:
    (line,) = read(tmp_path, "m.jsonl", f'{{"prompt": "x", "id": "{name}"}}')
    assert (tmp_path / line.file_name).parent == tmp_path
    assert not line.file_name.startswith(".")
    assert len(line.file_name.encode()) < 200
    (tmp_path / line.file_name).write_bytes(b"")


# --- rows and their types -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "problems"),
    [
        ('{"prompt": "x", "id": 1.5}', ["id=1.5 must be a text"]),
        ('{"prompt": "x", "id": true}', ["id=True must be a text"]),
        ('{"prompt": "x", "task_id": " "}', ["task_id=' ' must be the id of a task"]),
        (
            '{"prompt": "x", "task_id": 5, "unknown": "no"}',
            ["task_id=5 must be the id of a task", "unknown='no' must be true or false"],
        ),
        ('{"prompt": "x", "credits": "many"}', ["credits='many' must be a decimal number"]),
        ('{"prompt": "x", "seed": 1}', ["unknown fields ['seed']; known are ['aspect_ratio'"]),
        ('{"prompt": "x", "duration": 5}', ["duration=5", "4, 8 or 12"]),
        ('{"prompt": 5}', ["prompt=5"]),
        ('{"model": "veo-3", "prompt": "x"}', ["needs its fields in an object `input`"]),
    ],
)
def test_an_error_names_file_line_field_value_and_rule(
    row: str, problems: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ManifestError) as caught:
        read(tmp_path, "m.jsonl", f'{{"prompt": "fine"}}\n{row}\n')
    (message,) = caught.value.problems
    assert message.startswith(f"{tmp_path / 'm.jsonl'}:2: ")
    for problem in problems:
        assert problem in message
    assert "cattrs" not in message


def test_a_number_as_id_is_its_text(tmp_path: Path) -> None:
    (line,) = read(tmp_path, "m.jsonl", '{"prompt": "x", "id": 7}')
    assert (line.id, line.named) == ("7", True)


@pytest.mark.parametrize(("cell", "unknown"), [("true", True), (" FALSE ", False), ("", False)])
def test_a_csv_cell_states_true_or_false(cell: str, unknown: bool, tmp_path: Path) -> None:
    (line,) = read(tmp_path, "m.csv", f"prompt,unknown\nx,{cell}\n")
    assert line.unknown is unknown


def test_stated_credits_are_exact(tmp_path: Path) -> None:
    row = '{"model": "veo-3", "input": {"prompt": "x"}, "credits": 400}'
    (line,) = read(tmp_path, "m.jsonl", row)
    assert line.request == Generation("veo-3", {"prompt": "x"}, credits=400)
    converter = Converter()
    configure_manifest(converter)
    for written in ("30.1", 30.1, "30.10"):
        structured = converter.structure({"prompt": "x", "credits": written}, Row)
        assert structured.credits == Decimal("30.1")
