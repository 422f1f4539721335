"""An async app: one session for the whole program, and a coroutine per clip.

python examples/app.py "A paper boat in the rain" "A lighthouse at dusk"
"""

from __future__ import annotations

import asyncio
import sys

from aivideo import AIVideoError, Session, Sora2, Task, WaitTimeoutError


def show(task: Task) -> None:
    print(f"{task.id}: {task.status}")


async def serve_one(session: Session, prompt: str) -> None:
    try:
        request = Sora2(prompt, duration=8, aspect_ratio="16:9")
        job = await session.submit(request, on_update=show)
        print(f"{prompt!r} costs {job.credits} credits, and is task {job.task_id}")
        try:
            task = await job.result(wait_timeout=3600)
        except WaitTimeoutError as late:
            # Only the wait has ended: the job goes on, and can be awaited again.
            task = await late.job
        print(f"{prompt!r} is ready until {task.expires_at:%Y-%m-%d %H:%M} UTC")
    except AIVideoError as error:
        print(f"{prompt!r}: {error}")


async def main() -> None:
    async with Session() as session, asyncio.TaskGroup() as callers:
        for prompt in sys.argv[1:] or ["A paper boat in the rain"]:
            callers.create_task(serve_one(session, prompt))


if __name__ == "__main__":
    asyncio.run(main())
