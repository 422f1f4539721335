"""``aivideo demo``: twelve clips from a stand-in service, without a key."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from aivideo import manifest as batches
from aivideo.cli import exits
from aivideo.cli.batch_run import run_batch
from aivideo.errors import ConfigurationError
from aivideo.models import Sora2

CLIPS = (
    ("A paper boat drifts down a rain-soaked street, neon signs in the puddles", 8, "16:9"),
    ("Aerial view of mountains at sunset, long shadows, cinematic light", 8, "16:9"),
    ("A lighthouse keeper climbs a spiral staircase, lantern in hand", 12, "9:16"),
    ("Macro shot of a hummingbird drinking from a red flower", 4, "16:9"),
    ("A tram crosses a snowy square at dusk, people hurry home", 8, "16:9"),
    ("An old clockmaker sets the last gear of a brass whale", 12, "16:9"),
    ("Two foxes play in fresh snow under northern lights", 4, "9:16"),
    ("无人机航拍日落时分的山脉,电影级光影效果", 8, "16:9"),
    ("A dancer crosses an empty theatre, dust in a beam of light", 8, "9:16"),
    ("Waves break against black basalt cliffs in slow motion", 4, "16:9"),
    ("A street cook in Osaka tosses noodles through flames", 4, "9:16"),
    ("A paper crane unfolds into a real bird and flies off", 12, "9:16"),
)


def demo(*, output: Path = Path("aivideo-demo")) -> int:
    """Make twelve clips with a stand-in for the service on this machine. No key, no cost.

    Example: aivideo demo

    Parameters
    ----------
    output
        The folder for the files; files of an earlier demo are replaced.
    """
    return asyncio.run(_run_demo(output))


def import_simulator() -> Any:
    """Import the simulator.

    Raises:
        ConfigurationError: its extra is not installed.
    """
    # Checked here: the simulator imports them when it makes its first video, which is too late.
    if any(find_spec(name) is None for name in ("av", "PIL")):
        raise ConfigurationError(
            'the stand-in service needs its extra: pip install "aivideo-sdk[cli,simulator]"'
        )
    import aivideo.simulator as simulator

    return simulator


async def _run_demo(output: Path) -> int:
    from aivideo._session.session import Session

    simulator = import_simulator()
    lines = [
        batches.Line(
            number=number,
            id=f"{number:02}-{batches.slug(prompt)}",
            request=Sora2(
                prompt,
                duration=cast("Any", duration),
                aspect_ratio=cast("Any", aspect_ratio),
            ),
        )
        for number, (prompt, duration, aspect_ratio) in enumerate(CLIPS, 1)
    ]
    batches.check_folder(output)
    console = Console()
    console.print(
        "A stand-in for the AI Video API runs on this machine: no key, no cost, 10 × the speed.\n"
        f"Twelve prompts become twelve MP4s in {output}/.",
        highlight=False,
    )
    scenario = simulator.Scenario(
        speed=10, task_seconds=(30, 110), rate_limit=simulator.TokenBucket(6, 3), seed=11
    )
    async with simulator.serve(scenario) as sim:
        session = Session("sk-demo", base_url=sim.url)
        settings = batches.BatchSettings(name="demo")
        for line in lines:
            (output / line.file_name).unlink(missing_ok=True)
        code = await run_batch(session, lines, output, settings, table=True)
    if code == exits.OK:
        console.print(
            f"Look at {output}/. Next: aivideo simulate, and in another terminal\n"
            '  AIVIDEO_API_KEY=sk-demo aivideo generate "A red kite" '
            "--base-url http://127.0.0.1:8811",
            highlight=False,
            soft_wrap=True,  # commands to be copied stay on one line
        )
    return code
