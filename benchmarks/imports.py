"""CPU that an import costs, as a ratio to ``import aiohttp``.

Fresh processes in interleaved rounds; user + system time, less that of a bare interpreter.

    python benchmarks/imports.py [ROUNDS]
"""

from __future__ import annotations

import os
import subprocess
import sys
from statistics import median

NO_CACHE = "PYTHONDONTWRITEBYTECODE"
"""Would make an editable install compile its modules anew in each process, and its peers not."""

WHAT = {
    "(nothing)": "",
    "aiohttp": "import aiohttp",
    "aivideo": "import aivideo",
    "aivideo, Session and Sora2": "from aivideo import Session, Sora2",
    "aivideo, a session opened": (
        "import asyncio, aivideo\n"
        "async def main():\n"
        "    async with aivideo.Session('sk-x', base_url='http://127.0.0.1:9') as session:\n"
        "        try: await session.credits()\n"
        "        except aivideo.APIConnectionError: pass\n"
        "asyncio.run(main())"
    ),
    "aiohttp, a session opened": (
        "import asyncio, aiohttp\n"
        "async def main():\n"
        "    async with aiohttp.ClientSession() as session:\n"
        "        try: await session.get('http://127.0.0.1:9')\n"
        "        except aiohttp.ClientError: pass\n"
        "asyncio.run(main())"
    ),
    "attrs + orjson": "import attrs, orjson",
    "httpx": "import httpx",
    "openai": "import openai",
    "fal_client": "import fal_client",
    "replicate": "import replicate",
    "runwayml": "import runwayml",
}


def cpu(code: str) -> float | None:
    """CPU seconds of a fresh interpreter that runs ``code``, or None where it failed."""
    environment = {name: it for name, it in os.environ.items() if name != NO_CACHE}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime if process.returncode == 0 else None


def main(rounds: int) -> None:
    """Measure and print."""
    seen: dict[str, list[float]] = {name: [] for name in WHAT}
    for name, code in WHAT.items():  # once for the bytecode caches
        if cpu(code) is None:
            del seen[name]
            print(f"{name}: not installed")
    for _ in range(rounds):
        bare = cpu("") or 0.0
        for name, taken in seen.items():
            taken.append((cpu(WHAT[name]) or 0.0) - bare)
    base = median(seen["aiohttp"])
    print(f"\n{'':28s} CPU ms   ÷ import aiohttp   ({rounds} rounds, medians)")
    for name, taken in seen.items():
        if name != "(nothing)":
            print(f"{name:28s} {1000 * median(taken):6.1f}   {median(taken) / base:.2f}")
    first = median(seen["aivideo, a session opened"]) / median(seen["aiohttp, a session opened"])
    print(f"\nfirst request included, aivideo ÷ aiohttp: {first:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
