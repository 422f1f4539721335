"""A bulk script: one clip for each line of a file, saved as it finishes.

    python examples/bulk.py prompts.txt clips/

The price is printed before anything is sent, and --max-credits is a ceiling that is never passed.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import aclosing
from decimal import Decimal
from pathlib import Path

from aivideo import Failed, Session, Sora2, Succeeded


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--max-credits", type=Decimal, default=Decimal(10_000))
    arguments = parser.parse_args()

    requests = [
        Sora2(line, duration=4, aspect_ratio="16:9")
        for line in arguments.prompts.read_text("utf-8").splitlines()
        if line.strip()
    ]
    total = sum(request.credits for request in requests)
    print(f"{len(requests)} clips for {total} credits (${sum(r.dollars for r in requests)})")

    failures = 0
    async with Session(max_credits=arguments.max_credits) as session:
        outcomes = session.generate_many(requests, save_to=arguments.folder)
        async with aclosing(outcomes):
            async for outcome in outcomes:
                match outcome:
                    case Succeeded(request, _task, path):
                        print(f"{path}  {request.prompt[:50]}" if path else request)
                    case Failed(request, error):
                        failures += 1
                        print(f"failed: {error}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
