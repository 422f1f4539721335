"""CPU of an import, as a ratio to ``import aiohttp``.

Fresh processes in interleaved rounds; user + system time, minus that of an empty program.

    python benchmarks/imports.py [ROUNDS [CHECKOUT]]

With CHECKOUT, the folder of another version, the rows of aivideo are measured there too, in turns:

    git worktree add /tmp/before 85b51a5
    python benchmarks/imports.py 15 /tmp/before
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from statistics import median

REFUSED = "http://127.0.0.1:9"
"""No server listens there: a first request costs its imports and a refused connection."""

OURS = {
    "import aivideo": "import aivideo",
    "with Session and Sora2": "from aivideo import Session, Sora2",
    "a session created": "import aivideo; aivideo.Session('sk-x')",
    "first request included": (
        "import asyncio, aivideo\n"
        "async def main():\n"
        f"    async with aivideo.Session('sk-x', base_url='{REFUSED}') as session:\n"
        "        try: await session.credits()\n"
        "        except aivideo.APIConnectionError: pass\n"
        "asyncio.run(main())"
    ),
    "first answer read too": (
        "import asyncio, aivideo\n"
        "class Balance:\n"
        "    async def send(self, *_):\n"
        '        data = b\'{"balance":1,"total_purchased":1,"total_consumed":0}\'\n'
        "        return answer(200, b'{\"code\":200,\"data\":' + data + b'}')\n"
        "    async def aclose(self): pass\n"
        "async def main():\n"
        f"    async with aivideo.Session('sk-x', base_url='{REFUSED}') as session:\n"
        "        try: await session.credits()\n"
        "        except aivideo.APIConnectionError: pass\n"
        "    async with aivideo.Client('sk-x', transport=Balance()) as client:\n"
        "        await client.credits()\n"
        "try: from aivideo._api.messages import Answer as answer\n"
        "except ImportError: from aivideo.sansio.wire import Answer as answer\n"
        "asyncio.run(main())"
    ),
}

PEERS = {
    "import aiohttp": "import aiohttp",
    "aiohttp, first request included": (
        "import asyncio, aiohttp\n"
        "async def main():\n"
        "    async with aiohttp.ClientSession() as session:\n"
        f"        try: await session.get('{REFUSED}')\n"
        "        except aiohttp.ClientError: pass\n"
        "asyncio.run(main())"
    ),
    "import attrs, orjson": "import attrs, orjson",
    "import cattrs": "import cattrs",
    "import httpx": "import httpx",
    "import openai": "import openai",
    "import fal_client": "import fal_client",
    "import replicate": "import replicate",
    "import runwayml": "import runwayml",
}

HERE = Path(__file__).resolve().parents[1]


def cpu(code: str, checkout: Path = HERE) -> float | None:
    """Return the CPU seconds of a fresh interpreter that runs ``code``; None if it failed."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    # Without bytecode files, a source folder would be compiled in each process, its peers not.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime if process.returncode == 0 else None


def main(rounds: int, other: Path | None) -> None:
    """Measure and print."""
    programs = [(name, code, HERE) for name, code in PEERS.items()]
    for checkout in (HERE,) if other is None else (other, HERE):
        programs += [(name, code, checkout) for name, code in OURS.items()]
    seen: dict[tuple[str, Path], list[float]] = {}
    for name, code, checkout in programs:  # once, to write the bytecode files
        if cpu(code, checkout) is None:
            print(f"{name}: not installed, or it fails")
        else:
            seen[name, checkout] = []
    for _ in range(rounds):
        empty = cpu("") or 0.0
        for name, code, checkout in programs:
            if (name, checkout) in seen:
                seen[name, checkout].append((cpu(code, checkout) or 0.0) - empty)
    base = median(seen["import aiohttp", HERE])
    names = {HERE: "aivideo"} if other is None else {HERE: "now", other: "before"}
    print(f"\n{'':42s} CPU ms   ÷ import aiohttp   ({rounds} rounds, medians)")
    for (name, checkout), taken in seen.items():
        label = name if name in PEERS else f"{names[checkout]}: {name}"
        print(f"{label:42s} {1000 * median(taken):6.1f}   {median(taken) / base:.2f}")
    theirs = median(seen["aiohttp, first request included", HERE])
    for checkout, label in names.items():
        ratio = median(seen["first request included", checkout]) / theirs
        print(f"first request included, {label} ÷ aiohttp's own first request: {ratio:.2f}")


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 15,
        Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else None,
    )
