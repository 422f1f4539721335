"""Every program in examples/ runs as documented, against the simulator."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import httpx
import pytest

from aivideo.simulator import Simulator

EXAMPLES = Path(__file__).parents[1] / "examples"
TESTED = {"app.py", "bulk.py", "handler.py"}


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an example as a command, with the environment set by the fixtures."""
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONUTF8": "1"},
        check=False,
    )


def load(name: str) -> ModuleType:
    spec = spec_from_file_location(f"example_{Path(name).stem}", EXAMPLES / name)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[module.__name__] = module  # FastAPI resolves annotations in this module
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.suffix == ".py"} == TESTED


def test_bulk_saves_a_clip_for_each_line(live_simulator: Simulator, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("A red kite over dunes\n\nA tram in the snow\n雨中的纸船\n", "utf-8")
    done = run("bulk.py", str(prompts), str(tmp_path / "clips"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("3 clips for 300 credits ($1.5")
    clips = list((tmp_path / "clips").iterdir())
    assert len(clips) == 3
    assert all(clip.read_bytes()[4:8] == b"ftyp" for clip in clips)
    assert all(str(clip) in done.stdout for clip in clips)
    assert live_simulator.truth.creates_taken == 3


def test_bulk_reports_jobs_refused_by_its_ceiling(
    live_simulator: Simulator, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("A red kite over dunes\nA tram in the snow\n", "utf-8")
    done = run("bulk.py", str(prompts), str(tmp_path / "clips"), "--max-credits", "100")
    assert (done.returncode, done.stderr) == (1, "")
    assert "failed: " in done.stdout
    assert live_simulator.truth.charged == 100


def test_app_serves_each_caller(live_simulator: Simulator) -> None:
    done = run("app.py", "A paper boat", "A lighthouse")
    assert (done.returncode, done.stderr) == (0, "")
    for prompt in ("A paper boat", "A lighthouse"):
        assert f"{prompt!r} costs 200 credits" in done.stdout
        assert f"{prompt!r} is ready until" in done.stdout
    assert live_simulator.truth.creates_taken == 2


@pytest.mark.simulator(failure_rate=1.0)
def test_app_reports_a_failure_to_its_caller(live_simulator: Simulator) -> None:
    done = run("app.py", "A paper boat")
    assert (done.returncode, done.stderr) == (0, "")
    assert "'A paper boat': " in done.stdout
    assert "is ready" not in done.stdout
    assert live_simulator.truth.refunded == 200


@pytest.mark.anyio
@pytest.mark.simulator(speed=1)
async def test_handler_responds_immediately_and_reports_the_status(simulator: Simulator) -> None:
    app: Any = load("handler.py").app
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://app")
    async with app.router.lifespan_context(app), http:
        refused = await http.post("/clips", json={"prompt": "A paper boat", "duration": 5})
        assert (refused.status_code, simulator.truth.creates_seen) == (422, 0)
        assert "duration" in refused.text

        made = await http.post("/clips", json={"prompt": "A paper boat"})
        assert made.status_code == 202
        assert made.json()["credits"] == 100
        clip = f"/clips/{made.json()['task_id']}"
        assert simulator.truth.creates_taken == 1
        assert (await http.get(clip)).status_code in (200, 404)

        with anyio.fail_after(24 * 3600):
            while True:
                response = await http.get(clip)
                if response.json().get("status") == "completed":
                    break
                await anyio.sleep(10)
        assert response.json()["url"].startswith(simulator.results_url)
        polls = simulator.truth.polls
        await http.get(clip)
        assert simulator.truth.polls == polls, "a request to the handler must not poll the service"
