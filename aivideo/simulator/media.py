"""The contents of results: small videos and images that can be played and show the prompt.

The duration of a batch of a thousand videos must depend on the rate limit, not on the time to make
the videos (target: less than 50 ms of CPU each). So the frames are few and small, the prompt is
drawn once, and only a ball, a bar and a clock move between frames: the encoder finds nearly every
block unchanged.

PyAV and Pillow are imported when the first result is made, not with this module.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import Literal

import attrs

from aivideo.simulator.results import etag_of
from aivideo.simulator.truth import TaskRecord

_MAX_CACHED = 32


@attrs.frozen
class Media:
    """The complete content of one result."""

    data: bytes = attrs.field(repr=False)
    content_type: str
    etag: str


class Library:
    """Makes results when they are first requested, and caches the most recent ones.

    The same task always gives the same bytes, so a result that left the cache can be made again
    when a download is resumed. Thread-safe.
    """

    def __init__(self, media: Literal["mp4", "stub"], seed: int) -> None:
        self._media = media
        self._seed = seed
        self._cached: OrderedDict[str, Media] = OrderedDict()
        self._lock = threading.Lock()

    def get_if_ready(self, task: TaskRecord) -> Media | None:
        """Return a task's result if it takes no time: it is cached, or a stub. Else None."""
        if self._media == "stub":
            return self.get(task)
        with self._lock:
            media = self._cached.get(task.id)
            if media is not None:
                self._cached.move_to_end(task.id)
            return media

    def get(self, task: TaskRecord) -> Media:
        """Return a task's result. Making one that is not cached takes tens of ms of CPU time."""
        if self._media == "stub":
            return _stub(task)
        media = self.get_if_ready(task)
        if media is None:
            media = self._make(task)
            with self._lock:
                self._cached[task.id] = media
                while len(self._cached) > _MAX_CACHED:
                    self._cached.popitem(last=False)
        return media

    def _make(self, task: TaskRecord) -> Media:
        # Imported here: programs that never download a result do not need PyAV and Pillow.
        from aivideo.simulator.film import picture, video

        prompt, ratio = task.prompt or "", task.aspect_ratio or "16:9"
        if task.kind == "image":
            data, content_type = (
                picture(prompt, ratio, model=task.model, seed=self._seed),
                "image/png",
            )
        else:
            data = video(prompt, task.duration or 4, ratio, model=task.model, seed=self._seed)
            content_type = "video/mp4"
        return Media(data, content_type, etag_of(data))


def _stub(task: TaskRecord) -> Media:
    text = f"{task.model} {task.duration} {task.aspect_ratio} {task.prompt}"
    data = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + hashlib.sha256(text.encode()).digest() * 32
    content_type = "video/mp4" if task.kind == "video" else "image/png"
    return Media(data, content_type, etag_of(data))
