"""Invalid input: one clear line, a non-zero exit code, no traceback, and nothing sent."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from aivideo.cli.app import run

GOOD = {"prompt": "A boat", "duration": 4, "aspect_ratio": "16:9"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIVIDEO_API_KEY", "sk-test")
    # Nothing listens there: a command that reaches the network fails with another error.
    monkeypatch.setenv("AIVIDEO_BASE_URL", "http://127.0.0.1:9")


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.strip().splitlines()
    assert len(lines) == 1, said.err
    assert "Traceback" not in said.err
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["generate", ""], "prompt"),
        (["generate", "  \n "], "blank"),
        (["generate", "好" * 5001], "(5001 characters): has 5001 characters"),
        (["generate", "🎬" * 5001], "5001 characters"),
        (["generate", "x", "--duration", "5"], "4, 8 or 12"),
        (["generate", "x", "--duration", "eight"], "duration"),
        (["generate", "x", "--aspect-ratio", "1:1"], "--aspect-ratio '1:1'"),
        (["generate", "x", "--image", "photo.jpg"], "image"),
        (["generate", "x", "--image", "ftp://example.com/photo.jpg"], "http"),
        (["generate", "x", "--base-url", "api.example.com"], "scheme"),
        (["generate", "x", "--base-url", "http://api.example.com"], "https"),
        (["generate", "x", "--nonsense"], "nonsense"),
        (["credits", "--base-url", "://"], "--base-url '://'"),
        (["batch", "missing.txt", "--output", "out"], "missing.txt"),
        (["generate", "x", "--duration", "7.6"], "7.6"),
        (["generate", "x", "--wait-timeout", "nan"], "--wait-timeout"),
        (["generate", "x", "--wait-timeout", "-1"], "--wait-timeout"),
        (["task", ""], "task_id"),
        (["simulate", "--rate-limit", "fifty"], "token:50/s:10"),
        (["simulate", "--port", "99999"], "99999"),
        (["simulate", "--port", "0", "--results-port", "-1"], "-1"),
        (["simulate", "--speed", "nan"], "speed"),
        (["simulate", "--latency", "-1"], "latency"),
        (["simulate", "--spend-limit", "-1"], "--spend-limit"),
        (["simulate", "--task-seconds", "nan"], "nan"),
    ],
)
def test_an_invalid_argument_prints_one_line_that_names_it(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert expected in one_line(capsys)


@pytest.mark.parametrize(
    ("key", "expected"), [("", "no API key"), ("abc", "'sk-'"), ("sk-a b", "space")]
)
def test_an_invalid_key_prints_one_line_without_the_key(
    key: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIVIDEO_API_KEY", key)
    assert run(["credits"]) == 2
    line = one_line(capsys)
    assert expected in line
    assert "sk-a b" not in line


@pytest.mark.parametrize(
    ("name", "text", "number", "expected"),
    [
        ("m.jsonl", json.dumps(GOOD) + "\n{broken\n", 2, "not JSON"),
        ("m.jsonl", "[1]\n", 1, "not an object"),
        ("m.jsonl", json.dumps(GOOD | {"duration": 5}), 1, "4, 8 or 12"),
        ("m.jsonl", json.dumps(GOOD | {"duration": "8"}), 1, "int"),
        ("m.jsonl", json.dumps(GOOD | {"image_urls": ["http://a/1", "http://a/2"]}), 1, "image"),
        ("m.jsonl", json.dumps(GOOD | {"seed": 5}), 1, "seed"),
        ("m.jsonl", '{"prompt":"x","id":"a"}\n{"prompt":"x","id":"A"}', 2, "id"),
        ("m.jsonl", '{"duration": 4, "aspect_ratio": "16:9"}', 1, "prompt"),
        ("m.csv", "prompt,duration,aspect_ratio\nA boat,5,16:9\n", 2, "4, 8 or 12"),
        ("m.csv", "prompt,duration,aspect_ratio\nA boat,4\n", 2, "cells"),
        ("m.csv", "prompt,colour\nA boat,red\n", 1, "colour"),
        ("m.txt", "A boat\n" + "x" * 5001 + "\n", 2, "5001 characters"),
    ],
)
def test_an_invalid_line_is_reported_with_file_and_line_number(
    name: str, text: str, number: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_text(text, "utf-8")
    options = ["--duration", "4", "--aspect-ratio", "16:9"]
    assert run(["batch", name, "--output", "out", *options]) == 2
    line = one_line(capsys)
    assert f"{name}:{number}:" in line
    assert expected in line
    assert not Path("out").exists()


def test_a_manifest_that_is_not_utf8_is_reported_with_its_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("m.txt").write_bytes(b"A boat\nCaf\xe9\n")
    assert run(["batch", "m.txt", "--output", "out"]) == 2
    assert "m.txt:2: not UTF-8" in one_line(capsys)


@pytest.mark.parametrize("name", ["m.txt", "m.csv", "m.jsonl"])
def test_an_empty_manifest_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(name).write_text("\n", "utf-8")
    assert run(["batch", name, "--output", "out"]) == 2
    assert name in one_line(capsys)


def test_prompts_without_a_duration_name_the_option(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("m.txt").write_text("A boat\n", "utf-8")
    assert run(["batch", "m.txt", "--output", "out"]) == 2
    assert "--duration" in one_line(capsys)


@pytest.mark.parametrize("where", ["a-file", "a-file/below", "/proc/aivideo-out"])
def test_an_unwritable_folder_is_found_before_anything_is_sent_even_as_root(
    where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a-file").write_text("not a folder", "utf-8")
    Path("m.txt").write_text("A boat\n", "utf-8")
    options = ["--duration", "4", "--aspect-ratio", "16:9"]
    assert run(["batch", "m.txt", "--output", where, *options]) != 0
    assert "cannot write" in one_line(capsys)


def test_existing_files_without_a_job_are_not_paid_for_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("out").mkdir()
    Path("out/0001-a-boat.mp4").write_bytes(b"bought")
    Path("m.txt").write_text("A boat\n", "utf-8")
    options = ["--duration", "4", "--aspect-ratio", "16:9"]
    assert run(["batch", "m.txt", "--output", "out", *options]) == 2
    assert "pay again" in one_line(capsys)
    assert Path("out/0001-a-boat.mp4").read_bytes() == b"bought"


def test_a_port_in_use_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(["simulate", "--port", str(port)]) != 0
    assert str(port) in one_line(capsys)


def test_an_unreachable_service_prints_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["credits"]) == 1
    assert "127.0.0.1:9" in one_line(capsys)


def test_without_its_extra_the_command_prints_how_to_install_it() -> None:
    block = "import sys; sys.modules['cyclopts'] = None; from aivideo.cli import main; main()"
    command = [sys.executable, "-c", block]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'pip install "aivideo-sdk[cli]"' in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("missing", ["av", "PIL"])
@pytest.mark.parametrize("command", ["demo", "simulate"])
def test_without_the_simulator_extra_it_is_refused_before_it_starts(
    command: str,
    missing: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert run([command]) == 2
    assert 'pip install "aivideo-sdk[cli,simulator]"' in one_line(capsys)
    assert [*Path().iterdir()] == []


def test_an_existing_clip_is_replaced_only_with_overwrite(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("boat.mp4").write_bytes(b"bought")
    assert run(["generate", "A boat", "--output", "boat.mp4"]) == 2
    assert "--overwrite" in one_line(capsys)
    assert Path("boat.mp4").read_bytes() == b"bought"
