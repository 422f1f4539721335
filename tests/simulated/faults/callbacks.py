"""The callbacks of the simulated service: to live processes, to nobody, and to wrong URLs."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from attrs import evolve

from aivideo import AIVideoError, LedgerError
from aivideo.simulator import Callback
from tests.simulated.faults.boots import Boot
from tests.simulated.faults.process import process_context

if TYPE_CHECKING:
    from tests.simulated.faults.world import World


class Callbacks:
    """Sends the callbacks that are due.

    Args:
        world: has the service and the processes.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    def drop_missed(self) -> None:
        """Fail the callback attempts that were due while no process was running."""
        service = self._world.service
        while (at := service.next_callback()) is not None and at < self._world.time:
            for callback in service.due_callbacks(at):
                service.callback_answered(callback, None, at)

    async def send(self, boot: Boot) -> None:
        loop, service = boot.loop, self._world.service
        planned = asyncio.Event()
        service.on_callback_planned = planned.set
        while True:
            at = service.next_callback()
            planned.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(at):
                    await planned.wait()
                continue
            due = service.due_callbacks(max(loop.time(), at or 0.0))
            for callback in [*due, *self._misdirected(due)]:
                deliver = loop.create_task(self._deliver(boot, callback))
                boot.deliveries.add(deliver)
                deliver.add_done_callback(boot.deliveries.discard)

    def _misdirected(self, due: list[Callback]) -> list[Callback]:
        """Forge callbacks: true data of one task, sent to the callback URL of another."""
        tasks = self._world.service.truth.tasks.values()
        urls = [task.callback_url for task in tasks if task.callback_url is not None]
        return [
            evolve(callback, url=self._world.rng.choice(urls), attempt=0)
            for callback in due
            # A failed task has no prompt, so a wrong attribution could not be detected.
            if callback.headers["X-Event"] == "task.completed"
            and not self._world.faults_off
            and self._world.rng.random() < 0.1
        ]

    async def _deliver(self, boot: Boot, callback: Callback) -> None:
        loop, service = boot.loop, self._world.service
        receivers = [
            p
            for p in boot.processes
            if p.alive and not p.closed and p.session is not None and not p.plan.unkept
        ]
        status: int | None = None
        if receivers:
            process = self._world.rng.choice(receivers)
            assert process.session is not None
            token = callback.url.rpartition("/")[2]
            if self._world.tracing:
                process.log(f"callback {callback.headers['X-Event']} of {callback.task_id[:8]}")
            receiving = loop.create_task(
                process.session.receive_callback(token, callback.body),
                context=process_context(process),
            )
            died = loop.create_task(process.died.wait())
            await asyncio.wait([receiving, died], return_when=asyncio.FIRST_COMPLETED)
            if receiving.done() and not receiving.cancelled():
                error = receiving.exception()
                status = 200 if error is None else 503
                task = service.truth.tasks[callback.task_id]
                if not process.alive:
                    pass
                elif error is None and callback.attempt:
                    self._world.delivered.add(task.id)
                elif error is not None and not self._may_fail(error):
                    self._world.laws.fail("no defects", f"a callback raised {error!r}")
            died.cancel()
        service.callback_answered(callback, status, loop.time())

    def _may_fail(self, error: BaseException) -> bool:
        """Whether the error is allowed: the callback could not be confirmed or recorded."""
        if isinstance(error, LedgerError):
            return "disk is full" in str(error) or "is closed" in str(error)
        return isinstance(error, AIVideoError)
