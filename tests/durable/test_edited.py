"""A manifest that is edited while a batch runs, or is suspended (Ctrl-Z), and is run again."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.durable.processes import (
    TIMEOUT,
    command,
    environment,
    run,
    simulator_process,
    tasks_per_prompt,
)
from tests.durable.proxy import WireEvent, proxy_for

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

COUNT = 90
"""Lines; more than a session has in its hands at once."""

EDIT_AT_POST = 5


@pytest.mark.parametrize("suspended", [False, True])
async def test_a_second_run_with_a_line_on_top_buys_only_that_line(
    tmp_path: Path, suspended: bool
) -> None:
    manifest, output = tmp_path / "prompts.txt", tmp_path / "out"
    prompts = [f"Prompt {number}" for number in range(COUNT)]
    manifest.write_text("\n".join(prompts), "utf-8")
    batch = (
        *("batch", manifest, "--output", output, "--duration", "4", "--aspect-ratio", "16:9"),
        *("--poll-interval", "0.2"),
    )
    options = ("--speed", "600", "--latency", "0.1", "--rate-limit", "token:25/s:4")
    async with simulator_process(*options) as simulator, proxy_for(simulator) as proxy:
        first = await asyncio.create_subprocess_exec(
            *command(*batch),
            env=environment(proxy.url),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        started = asyncio.Event()

        def on_event(event: WireEvent) -> bool:
            # After an answer, so that a suspended process does not hold a POST for long.
            # Several POSTs may have been sent before the first answer.
            begins = len(proxy.posts) >= EDIT_AT_POST and not started.is_set()
            if event is WireEvent.POST_DELIVERED and begins:
                if suspended:
                    first.send_signal(signal.SIGSTOP)
                started.set()
            return False

        proxy.on_event = on_event
        async with asyncio.timeout(TIMEOUT):
            await started.wait()
        manifest.write_text("\n".join(["A line on top", *prompts]), "utf-8")
        # The second run waits for POSTs that the suspended one has under way.
        second = asyncio.create_task(run(proxy.url, *batch))
        await asyncio.wait((second,), timeout=10 if suspended else TIMEOUT)
        if suspended:
            first.send_signal(signal.SIGCONT)
        result = await second
        async with asyncio.timeout(TIMEOUT):
            _, err = await first.communicate()
        assert result.code == 0, result
        assert first.returncode == 0, err
        truth = simulator.truth()
    assert tasks_per_prompt(truth) == dict.fromkeys(["A line on top", *prompts], 1)
