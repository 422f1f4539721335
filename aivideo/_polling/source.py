"""Where the poller gets the right to send polls."""

from __future__ import annotations

from typing import Protocol

from aivideo.models import Task, TaskId


class PollTurn(Protocol):
    """The right to send one poll now."""

    async def fetch(self, task_id: TaskId) -> Task:
        """Send the poll; raises what :meth:`aivideo.Client.retrieve` raises."""
        ...

    def give_back(self) -> None:
        """Return the right unused: no task needs a poll any more."""
        ...


class PollSource(Protocol):
    """Grants the right to send polls, at the rate that the limit allows."""

    @property
    def contended(self) -> bool:
        """Whether creates wait for the same rate limit."""
        ...

    async def admit(self) -> PollTurn:
        """Wait until a poll may be sent. Which task it is for is decided only then."""
        ...
