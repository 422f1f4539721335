"""Manifests: what is to be made, a line each.

A manifest is JSONL, CSV (by its ending) or plain text with one prompt a line. It is read whole and
checked whole before anything is sent; a broken line is named by file and number. A line may carry
the ``task_id`` it became (it is watched again, not bought again) or ``unknown`` (it is never sent
by itself): so does the manifest of what is left, which a batch that is stopped writes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import orjson
from attrs import frozen

from aivideo._amounts import whole
from aivideo.errors import (
    AIVideoError,
    InvalidRequestError,
)
from aivideo.models import Generation, Request, Sora2, TaskId

_FIELDS = frozenset(
    {
        "id",
        "prompt",
        "duration",
        "aspect_ratio",
        "image",
        "image_urls",
        "model",
        "input",
        "credits",
        "task_id",
        "unknown",
    }
)
_SHOWN_PROBLEMS = 10


class ManifestError(AIVideoError, ValueError):
    """A manifest that cannot be sent as it is; nothing of it was.

    Attributes:
        problems: one line each: file, line number, what is wrong.
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
        number: its place in the file, from 1.
        id: the name it goes by, unique in the manifest; its file is ``<id>.mp4``.
        request: what is to be made.
        named: whether its ``id`` was written on the line; else it is made of number and prompt.
        task_id: the task it has become already, by the manifest's own word, or None.
        unknown: whether nobody knows if it has become one: it is not sent.
    """

    number: int
    id: str
    request: Request
    named: bool = False
    task_id: TaskId | None = None
    unknown: bool = False

    @property
    def file_name(self) -> str:
        """The name of its file."""
        return f"{_safe(self.id)}.mp4"  # another program's jobs may be called anything


@frozen
class Defaults:
    """What a line gets where it says nothing itself."""

    duration: int | None = None
    aspect_ratio: str | None = None


@frozen
class Estimate:
    """What a manifest would cost.

    Attributes:
        rows: per model and length: how many, and their credits (None: price not known).
        credits: of all whose price is known.
        unpriced: how many have none.
    """

    rows: tuple[tuple[str, int, int | None], ...]
    credits: int
    unpriced: int


# --- manifests ----------------------------------------------------------------------------------


def read_manifest(path: Path, defaults: Defaults) -> list[Line]:
    """Read a manifest, and check every line of it.

    Raises:
        ManifestError: it cannot be read, is empty, or has a broken line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ManifestError([f"{path}: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        number = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ManifestError([f"{path}:{number}: not UTF-8; save the file as UTF-8"]) from None
    problems: list[str] = []
    lines: list[Line] = []
    seen: dict[str, int] = {}
    for number, fields in _rows(path, text, problems):
        try:
            line = _line(number, fields, defaults)
        except (InvalidRequestError, ValueError) as error:
            problems.append(f"{path}:{number}: {error}")
            continue
        earlier = seen.setdefault(same_file(line.id), number)
        if earlier != number:
            problems.append(
                f"{path}:{number}: id {line.id!r} is that of line {earlier}; give each its own"
            )
        lines.append(line)
    if problems:
        raise ManifestError(problems)
    if not lines:
        raise ManifestError([f"{path}: the manifest is empty; put one prompt on a line"])
    return lines


def _rows(path: Path, text: str, problems: list[str]) -> Iterable[tuple[int, Mapping[str, object]]]:
    match path.suffix.lower():
        case ".jsonl" | ".ndjson" | ".json":
            return _json_rows(path, text, problems)
        case ".csv":
            return _csv_rows(path, text, problems)
        case _:
            return (
                (number, {"prompt": line.strip()})
                # Not splitlines: a prompt may hold U+2028 or a form feed, and is one prompt still.
                for number, line in enumerate(re.split(r"\r\n?|\n", text), 1)
                if line.strip()
            )


def _json_rows(
    path: Path, text: str, problems: list[str]
) -> Iterable[tuple[int, Mapping[str, object]]]:
    # Not splitlines: JSON text may hold U+2028 and its kin.
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
    strange = sorted(set(columns) - _FIELDS)
    twice = sorted(name for name, count in Counter(columns).items() if count > 1)
    if strange or twice or "prompt" not in columns:
        what = (
            f"unknown columns {strange}"
            if strange
            else f"columns named twice: {twice}"
            if twice
            else "no column 'prompt'"
        )
        problems.append(
            f"{path}:1: {what}; the first line names columns such as id,prompt,duration"
        )
        return
    try:
        for row in reader:
            number = reader.line_num
            if None in row or None in row.values():
                problems.append(f"{path}:{number}: not as many cells as the first line has columns")
                continue
            cells = {name: _csv_cell(name, cell) for name, cell in row.items() if cell}
            yield number, {name: cell for name, cell in cells.items() if cell != ""}
    except csv.Error as error:
        problems.append(f"{path}:{reader.line_num}: not CSV ({error})")


def _csv_cell(name: str, cell: str) -> object:
    if name == "prompt":
        return cell
    cell = cell.strip()
    return int(cell) if name in ("duration", "credits") and re.fullmatch("[0-9]+", cell) else cell


def _line(number: int, fields: Mapping[str, object], defaults: Defaults) -> Line:
    strange = sorted(set(fields) - _FIELDS)
    if strange:
        raise ValueError(f"unknown fields {strange}; known are {sorted(_FIELDS)}")
    given = fields.get("id")
    if given is not None and not isinstance(given, str | int):
        raise ValueError(f"id={given!r} must be a text")
    task_id = fields.get("task_id")
    if task_id is not None and (not isinstance(task_id, str) or not task_id.strip()):
        raise ValueError(f"task_id={task_id!r} must be the id of a task")
    unknown = fields.get("unknown")
    if unknown is not None and not isinstance(unknown, bool):
        raise ValueError(f"unknown={unknown!r} must be true or false")
    # A null is a field that is not said, as an empty cell is.
    request = _request({name: v for name, v in fields.items() if v is not None}, defaults)
    name = str(given) if given is not None else f"{number:04d}-{slug(text_of(request))}"
    return Line(
        number=number,
        id=_safe(name),
        request=request,
        named=given is not None,
        task_id=task_id,
        unknown=bool(unknown),
    )


def _request(fields: Mapping[str, object], defaults: Defaults) -> Request:
    model = fields.get("model", Sora2.model)
    if model != Sora2.model or "input" in fields:
        if "prompt" in fields or not isinstance(fields.get("input"), dict):
            raise ValueError(f"model {model!r} needs its fields in an object `input`")
        return Generation(
            cast("str", model),
            cast("dict[str, Any]", fields["input"]),
            credits=cast("int | None", fields.get("credits")),
        )
    for name, cure in (
        ("prompt", "write a prompt"),
        ("duration", "write it on the line, or give --duration 4, 8 or 12"),
        ("aspect_ratio", "write it on the line, or give --aspect-ratio 16:9 or 9:16"),
    ):
        if fields.get(name, getattr(defaults, name, None)) is None:
            raise InvalidRequestError.because(name, None, "is missing", cure)
    image = fields.get("image")
    urls = fields.get("image_urls")
    if image is None and isinstance(urls, list) and len(cast("list[object]", urls)) == 1:
        image = cast("list[object]", urls)[0]
    elif urls is not None:
        image = urls
    return Sora2(
        cast("str", fields["prompt"]),
        duration=cast("Any", fields.get("duration", defaults.duration)),
        aspect_ratio=cast("Any", fields.get("aspect_ratio", defaults.aspect_ratio)),
        image=cast("str | None", image),
    )


def text_of(request: Request) -> str:
    """Say what a request is about: its prompt, or its model where we do not know."""
    return request.prompt if isinstance(request, Sora2) else request.model


def slug(text: str) -> str:
    """Make a short piece of a file name of a prompt."""
    words = re.findall(r"[^\W_]+", text.lower())
    return "-".join(words)[:40].strip("-") or "clip"


def _safe(name: str) -> str:
    """Make ``name`` a file name on every system; what had to change gets a mark of its own."""
    safe = re.sub(r"[^\w.+\- ]", "_", name).strip(" .")[:100]
    while len(safe.encode()) > 180:
        safe = safe[:-1]
    if safe == name and safe.upper().partition(".")[0] not in _RESERVED:
        return safe
    mark = orjson.dumps(name)
    return f"{safe or 'clip'}-{hashlib.sha256(mark).hexdigest()[:6]}"


_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{p}{n}" for p in ("COM", "LPT") for n in range(10))}


def same_file(name: str) -> str:
    """Fold names that some file system takes for one."""
    return name.casefold()  # some file systems do not tell Boat from boat


def estimate(lines: Iterable[Line]) -> Estimate:
    """Say what the lines would cost if each were sent, per model and length."""
    counts: Counter[tuple[str, int | None]] = Counter()
    for line in lines:
        request = line.request
        name = (
            f"{request.model}, {request.duration} s"
            if isinstance(request, Sora2)
            else (request.model)
        )
        counts[name, whole(request.credits)] += 1
    rows = tuple(
        (name, count, None if each is None else each * count)
        for (name, each), count in sorted(
            counts.items(), key=lambda row: (row[0][0], row[0][1] or 0)
        )
    )
    return Estimate(
        rows,
        sum(total for _, _, total in rows if total is not None),
        sum(count for _, count, total in rows if total is None),
    )


def check_folder(folder: Path) -> None:
    """Find out whether files can be written into ``folder``; it is made where it is not there.

    Tried, not asked: permission bits say nothing to root, and nothing of a read-only disk.

    Raises:
        ManifestError: they cannot.
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
