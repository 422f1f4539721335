"""Read manifests: one request a line.

A manifest is JSONL or CSV (by its file name ending), or plain text with one prompt a line. The
whole file is read and checked before anything is sent, and an error names the file and line. A line
may carry the ``task_id`` that it became (it is polled, not bought again) or ``unknown`` (it is
never sent automatically): ``unfinished.jsonl``, which a stopped batch writes, uses both.
"""

from __future__ import annotations

import csv
import io
import os
import re
import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NewType, cast

import orjson
from attrs import field, fields, frozen

from aivideo._amounts import exact, plain
from aivideo.errors import AIVideoError, InvalidRequestError
from aivideo.manifest.names import content_name, file_stem, same_file
from aivideo.models import Generation, Request, Sora2, TaskId, fingerprint

if TYPE_CHECKING:
    from cattrs import Converter

_SHOWN_PROBLEMS = 10


class ManifestError(AIVideoError, ValueError):
    """A manifest that cannot be sent as it is; nothing was sent.

    Attributes:
        problems: one text per problem: file, line number, what is wrong.
    """

    def __init__(self, problems: list[str]) -> None:
        shown = problems[:_SHOWN_PROBLEMS]
        if len(problems) > len(shown):
            shown.append(f"… and {len(problems) - len(shown)} more")
        super().__init__("; ".join(shown) + " (nothing was sent)")
        self.problems = problems


@frozen(kw_only=True)
class Line:
    """One line of a manifest.

    Attributes:
        number: the line number in the file, from 1.
        id: a name, unique in the manifest; the result is saved as ``<id>.mp4``.
        request: what to make.
        named: whether the line states the ``id``; otherwise it is built from the content, see
            :func:`~aivideo.manifest.names.content_name`.
        task_id: the task that the line says it became, or None.
        unknown: whether the line says that it may have become a task: it is not sent.
    """

    number: int
    id: str
    request: Request
    named: bool = False
    task_id: TaskId | None = None
    unknown: bool = False

    @property
    def file_name(self) -> str:
        """The name of the result's file."""
        return f"{file_stem(self.id)}.mp4"  # keys of other programs' jobs may hold any character


@frozen
class Defaults:
    """Values for lines that do not state their own."""

    duration: int | None = None
    aspect_ratio: str | None = None


@frozen
class Estimate:
    """What a manifest would cost.

    Attributes:
        rows: per model and length: how many, and their credits (None: price unknown).
        credits: the sum of all known prices.
        unpriced: how many have no known price.
    """

    rows: tuple[tuple[str, int, Decimal | None], ...]
    credits: Decimal
    unpriced: int


# --- rows as written ----------------------------------------------------------------------------

RowId = NewType("RowId", str)
RowTaskId = NewType("RowTaskId", str)
RowCredits = NewType("RowCredits", object)


@frozen(kw_only=True)
class Row:
    """One row of a manifest as written; None: not stated.

    Fields of type Any are checked by the request that is made of them, whose errors name the
    field, its value, the rule and the cure.
    """

    id: RowId | None = None
    prompt: Any = None
    duration: Any = None
    aspect_ratio: Any = None
    image: Any = None
    image_urls: Any = None
    model: Any = Sora2.model
    input: Any = None
    credits: RowCredits | None = None
    task_id: RowTaskId | None = None
    unknown: bool = field(default=False)


_FIELDS = frozenset(each.name for each in fields(Row))


def configure_manifest(converter: Converter) -> None:
    """Teach a converter to structure a :class:`Row` from a JSON object or a CSV row."""
    from cattrs.gen import make_dict_structure_fn

    converter.register_structure_hook_func(lambda kind: kind is RowId, _structure_id)
    converter.register_structure_hook_func(lambda kind: kind is RowTaskId, _structure_task_id)
    converter.register_structure_hook_func(lambda kind: kind is RowCredits, _structure_credits)
    converter.register_structure_hook(bool, _structure_bool)
    converter.register_structure_hook(
        Row, make_dict_structure_fn(Row, converter, _cattrs_forbid_extra_keys=True)
    )


def _structure_id(value: object, _: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("must be a text")  # noqa: TRY004  joined with its name
    return str(value)


def _structure_task_id(value: object, _: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be the id of a task")
    return value


def _structure_bool(value: object, _: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")  # noqa: TRY004  as above
    return value


def _structure_credits(value: object, _: object) -> int | Decimal:
    # The shortest decimal that reads back as this float is the number that the file states.
    amount = exact(repr(value) if isinstance(value, float) else value)
    return int(amount) if amount == amount.to_integral_value() else amount


@cache
def _row_converter() -> Converter:
    from cattrs import Converter

    converter = Converter()
    configure_manifest(converter)
    return converter


def _row(values: Mapping[str, object]) -> Row:
    """Structure a row.

    Raises:
        ValueError: a field is unknown, or its value is of another type; all problems in one line.
    """
    from cattrs.errors import ClassValidationError

    # A null means "not stated", like an empty CSV cell.
    stated = {name: value for name, value in values.items() if value is not None}
    unknown_fields = sorted(values.keys() - _FIELDS)
    if unknown_fields:
        raise ValueError(f"unknown fields {unknown_fields}; known are {sorted(_FIELDS)}")
    try:
        return _row_converter().structure(stated, Row)
    except ClassValidationError as error:
        problems = [
            f"{note.name}={stated[note.name]!r} {problem}"
            for problem, note in error.group_exceptions()[0]
        ]
        raise ValueError("; ".join(problems)) from None


# --- manifests ----------------------------------------------------------------------------------


def read_manifest(path: Path, defaults: Defaults) -> list[Line]:
    """Read a manifest and check every line.

    Raises:
        ManifestError: the file cannot be read, is empty, or has an invalid line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ManifestError([f"{path}: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        number = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ManifestError([f"{path}:{number}: not UTF-8; save the file as UTF-8"]) from None
    problems: list[str] = []
    rows: list[tuple[int, Row, Request]] = []
    stated: dict[str, int] = {}
    for number, values in _rows(path, text, problems):
        try:
            row = _row(values)
            rows.append((number, row, _request(row, defaults)))
        except (InvalidRequestError, ValueError) as error:
            problems.append(f"{path}:{number}: {error}")
            continue
        if row.id is not None:
            name = file_stem(row.id)
            earlier = stated.setdefault(same_file(name), number)
            if earlier != number:
                problems.append(
                    f"{path}:{number}: line {earlier} has the same id {name!r}; "
                    "each line needs its own"
                )
    if problems:
        raise ManifestError(problems)
    if not rows:
        raise ManifestError([f"{path}: the manifest is empty; put one prompt on a line"])
    return _lines(rows, stated)


def _rows(path: Path, text: str, problems: list[str]) -> Iterable[tuple[int, Mapping[str, object]]]:
    """Yield line numbers and rows; append to ``problems`` what cannot be read."""
    match path.suffix.lower():
        case ".jsonl" | ".ndjson" | ".json":
            return _json_rows(path, text, problems)
        case ".csv":
            return _csv_rows(path, text, problems)
        case _:
            return (
                (number, {"prompt": line.strip()})
                # Not splitlines: a prompt may contain U+2028 or a form feed.
                for number, line in enumerate(re.split(r"\r\n?|\n", text), 1)
                if line.strip()
            )


def _json_rows(
    path: Path, text: str, problems: list[str]
) -> Iterable[tuple[int, Mapping[str, object]]]:
    # Not splitlines: JSON strings may contain U+2028 and similar characters.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            problems.append(f"{path}:{number}: not JSON ({error})")
            continue
        if isinstance(row, dict):
            yield number, cast("dict[str, object]", row)
        else:
            problems.append(f'{path}:{number}: not an object; write {{"prompt": "…"}}')


def _csv_rows(
    path: Path, text: str, problems: list[str]
) -> Iterable[tuple[int, Mapping[str, object]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    if reader.fieldnames is None:
        return
    columns = reader.fieldnames = [name.strip() for name in reader.fieldnames]
    problem = _header_problem(columns)
    if problem is not None:
        problems.append(
            f"{path}:1: {problem}; the first line names columns such as id,prompt,duration"
        )
        return
    try:
        for row in reader:
            number = reader.line_num
            if None in row or None in row.values():
                problems.append(f"{path}:{number}: its cells do not match the columns of line 1")
                continue
            cells = {name: _csv_cell(name, cell) for name, cell in row.items() if cell}
            yield number, {name: cell for name, cell in cells.items() if cell != ""}
    except csv.Error as error:
        problems.append(f"{path}:{reader.line_num}: not CSV ({error})")


def _header_problem(columns: list[str]) -> str | None:
    unknown_columns = sorted(set(columns) - _FIELDS)
    if unknown_columns:
        return f"unknown columns {unknown_columns}"
    repeated = sorted(name for name, count in Counter(columns).items() if count > 1)
    if repeated:
        return f"columns named twice: {repeated}"
    return None if "prompt" in columns else "no column 'prompt'"


def _csv_cell(name: str, cell: str) -> object:
    """Return a cell as the JSON value that it stands for."""
    if name == "prompt":
        return cell
    cell = cell.strip()
    if name == "duration" and re.fullmatch("[0-9]+", cell):
        return int(cell)
    if name == "unknown" and cell.lower() in ("true", "false"):
        return cell.lower() == "true"
    return cell


def _lines(rows: Iterable[tuple[int, Row, Request]], stated: Collection[str]) -> list[Line]:
    """Make the lines; ``stated`` are the ids of the file, as :func:`same_file` gives them."""
    occurrences: Counter[str] = Counter()
    lines = []
    for number, row, request in rows:
        content = fingerprint(request)
        occurrences[content] += 1
        if row.id is not None:
            name = file_stem(row.id)
        else:
            name = content_name(request, occurrences[content])
            while same_file(name) in stated:
                occurrences[content] += 1
                name = content_name(request, occurrences[content])
        lines.append(
            Line(
                number=number,
                id=name,
                request=request,
                named=row.id is not None,
                task_id=row.task_id,
                unknown=row.unknown,
            )
        )
    return lines


def _request(row: Row, defaults: Defaults) -> Request:
    if row.model != Sora2.model or row.input is not None:
        if row.prompt is not None or not isinstance(row.input, dict):
            raise ValueError(f"model {row.model!r} needs its fields in an object `input`")
        return Generation(
            row.model, cast("dict[str, Any]", row.input), credits=cast("int | None", row.credits)
        )
    duration: Any = defaults.duration if row.duration is None else row.duration
    aspect_ratio: Any = defaults.aspect_ratio if row.aspect_ratio is None else row.aspect_ratio
    for name, value, cure in (
        ("prompt", row.prompt, "write a prompt"),
        ("duration", duration, "write it on the line, or pass --duration 4, 8 or 12"),
        ("aspect_ratio", aspect_ratio, "write it on the line, or pass --aspect-ratio 16:9 or 9:16"),
    ):
        if value is None:
            raise InvalidRequestError.because(name, None, "is missing", cure)
    image: Any = row.image
    if image is None and isinstance(row.image_urls, list) and len(row.image_urls) == 1:
        image = row.image_urls[0]
    elif row.image_urls is not None:
        image = row.image_urls  # refused, with the reason
    return Sora2(row.prompt, duration=duration, aspect_ratio=aspect_ratio, image=image)


def estimate(lines: Iterable[Line]) -> Estimate:
    """Return what the lines would cost if all were sent, per model and length."""
    counts: Counter[tuple[str, Decimal | None]] = Counter()
    for line in lines:
        request = line.request
        name = (
            f"{request.model}, {request.duration} s"
            if isinstance(request, Sora2)
            else request.model
        )
        counts[name, None if request.credits is None else exact(request.credits)] += 1
    rows = tuple(
        (name, count, None if each is None else plain(each * count))
        for (name, each), count in sorted(
            counts.items(), key=lambda row: (row[0][0], row[0][1] or 0)
        )
    )
    return Estimate(
        rows,
        plain(sum((total for _, _, total in rows if total is not None), Decimal(0))),
        sum(count for _, count, total in rows if total is None),
    )


def check_folder(folder: Path) -> None:
    """Check that files can be written into ``folder``; create it if it does not exist.

    A file is written and removed: permission bits say nothing about root or a read-only disk.

    Raises:
        ManifestError: they cannot be written.
    """
    probe = folder / f".aivideo-{secrets.token_hex(4)}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with probe.open("xb", buffering=0) as file:
                file.write(b"\0" * 4096)
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise ManifestError(
            [f"cannot write to the folder {folder}: {error.strerror}; choose another --output"]
        ) from None
