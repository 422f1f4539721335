"""Time from the bytes of an answer to a typed, completed task, as a ratio to peers.

Every reader gets the same documented bodies (each with its own id and signed URL, since a cache of
one URL would flatter whoever parses it), checks the same facts (types, http(s) URLs, times) and
returns a typed value. Interleaved rounds; the median of each round's ratio.

    python benchmarks/structure.py [TASKS [ROUNDS [CHECKOUT]]]

With CHECKOUT, the folder of commit 85b51a5, its reader written by hand takes part:

    git worktree add /tmp/before 85b51a5
    python benchmarks/structure.py 5000 15 /tmp/before
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parents[1]
BODY: dict[str, Any] = {
    "id": "",
    "status": "completed",
    "model": "sora-2",
    "created_at": 1757165031,
    "completed_at": 1757171333,
    "output": {"urls": [], "metadata": {"duration": 8, "prompt": "A paper boat in the rain"}},
}

Reader = Callable[[bytes], object]


def bodies(count: int) -> list[bytes]:
    """Return documented answers with distinct ids and URLs."""
    made = []
    for number in range(count):
        name = f"{number:08x}-6f0a-4b8e-9b53-0d6f3a0f7a11"
        url = (
            f"https://cdn.example.com/videos/{name}.mp4?Expires=1757257733&Signature={number:064x}"
        )
        output = {**BODY["output"], "urls": [url]}
        made.append(json.dumps({**BODY, "id": name, "output": output}).encode())
    return made


def ours() -> Reader:
    """Return the reader of this version: cattrs hooks, then the tolerant reading if they refuse."""
    wire = importlib.import_module("aivideo._api.wire")
    answer = wire.Answer

    def read(body: bytes) -> object:
        return wire.read_task(answer(200, body))

    return read


def by_hand() -> Reader:
    """Return the reader of 85b51a5, written by hand; it is imported from another checkout."""
    wire = importlib.import_module("aivideo.sansio.wire")
    answer = wire.Answer

    def read(body: bytes) -> object:
        return wire.read_task(answer(200, body))

    return read


def tolerant() -> Reader:
    """Return the second reading alone: what an answer of an odd shape costs."""
    module = importlib.import_module("aivideo._api.tolerant")

    def read(body: bytes) -> object:
        return module.task(module.task_object(body))

    return read


def pydantic_models() -> Reader:
    """Return pydantic's reader of a discriminated union, from bytes."""
    from typing import Annotated, Literal

    from pydantic import AnyHttpUrl, BaseModel, Field, TypeAdapter

    class Output(BaseModel):
        urls: list[AnyHttpUrl]
        metadata: dict[str, Any]

    class Task(BaseModel):
        id: str
        model: str
        created_at: datetime

    class Running(Task):
        status: Literal["pending", "processing"]
        progress: float | None = None

    class Completed(Task):
        status: Literal["completed"]
        completed_at: datetime
        output: Output

    namespace = {"Output": Output, "Literal": Literal, "AnyHttpUrl": AnyHttpUrl, "Any": Any}
    for model in (Output, Running, Completed):
        model.model_rebuild(_types_namespace={**namespace, "datetime": datetime})
    union: Any = Annotated[Running | Completed, Field(discriminator="status")]
    return TypeAdapter[object](union).validate_json


def msgspec_structs() -> Reader:
    """Return msgspec's reader of a tagged union, from bytes. It does not check URLs."""
    msgspec: Any = importlib.import_module("msgspec")
    output = msgspec.defstruct("Output", [("urls", list[str]), ("metadata", dict[str, Any])])
    common = [("id", str), ("model", str), ("created_at", int)]
    tagged = {"tag_field": "status"}
    completed = msgspec.defstruct(
        "Completed", [*common, ("completed_at", int), ("output", output)], tag="completed", **tagged
    )
    running = msgspec.defstruct(
        "Running", [*common, ("progress", float | None, None)], tag="processing", **tagged
    )
    reader: Reader = msgspec.json.Decoder(completed | running).decode
    return reader


def untyped() -> Reader:
    """Return orjson alone: the floor for every reader that keeps the raw object."""
    return importlib.import_module("orjson").loads  # type: ignore[no-any-return]


READERS: dict[str, tuple[str, Callable[[], Reader]]] = {
    "aivideo (cattrs)": ("aivideo", ours),
    "aivideo, tolerant reading": ("aivideo", tolerant),
    "85b51a5 (by hand)": ("", by_hand),
    "pydantic": ("pydantic", pydantic_models),
    "msgspec": ("msgspec", msgspec_structs),
    "orjson, untyped": ("orjson", untyped),
}


def measure(read: Reader, answers: list[bytes]) -> float:
    """Return the CPU seconds per answer."""
    before = time.process_time()
    for body in answers:
        read(body)
    return (time.process_time() - before) / len(answers)


def serve(name: str, count: int) -> None:
    """Measure one reader whenever a line arrives on standard input; print seconds per answer."""
    answers = bodies(count)
    read = READERS[name][1]()
    for _ in range(3):
        measure(read, answers)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(measure(read, answers), flush=True)


def start(name: str, count: int, checkout: Path) -> subprocess.Popen[str] | None:
    """Start a process for one reader: two versions of a package do not fit into one."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", name, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={"PYTHONPATH": str(checkout)},
    )
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        process.wait()
        return None
    return process


def ask(process: subprocess.Popen[str]) -> float:
    """Have a process measure once."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main(count: int, rounds: int, other: Path | None) -> None:
    """Measure in interleaved rounds, and print."""
    running: dict[str, subprocess.Popen[str]] = {}
    for name, (package, _) in READERS.items():
        if not package and other is None:
            print(f"{name}: left out, no checkout was given")
            continue
        process = start(name, count, HERE if package or other is None else other)
        if process is None:
            print(f"{name}: {package or other} is not installed, or its reader fails")
        else:
            running[name] = process
    taken: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(rounds):
        for name, process in running.items():
            taken[name].append(ask(process))
    for process in running.values():
        process.communicate()
    base = taken["aivideo (cattrs)"]
    print(f"\n{count} documented answers, {rounds} interleaved rounds, medians")
    print(f"{'':28s} µs per task   aivideo ÷ it")
    for name, each in taken.items():
        ratio = median(mine / theirs for mine, theirs in zip(base, each, strict=True))
        print(f"{name:28s} {1e6 * median(each):11.2f}   {ratio:.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        numbers = [int(each) for each in sys.argv[1:3]]
        tasks, times = numbers + [5000, 15][len(numbers) :]
        main(tasks, times, Path(sys.argv[3]).resolve() if len(sys.argv) > 3 else None)
