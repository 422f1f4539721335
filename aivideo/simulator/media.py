"""What the results hold: small videos that really play, with the prompt in the picture.

A batch of a thousand must be bound by the pace and not by the making of its videos (the aim is
under 50 ms of CPU each). So the frames are small and few, the prompt is drawn once, and between
two frames only a ball, a bar and the clock move, written straight into the planes of the picture:
the encoder finds nearly every block unchanged.

PyAV and Pillow are imported when the first result is made, and not with this module.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import Literal

import attrs

from aivideo.simulator.results import etag_of
from aivideo.simulator.truth import TaskRecord

_MOST_HELD = 32


@attrs.frozen
class Media:
    """One result, whole."""

    data: bytes = attrs.field(repr=False)
    content_type: str
    etag: str


class Library:
    """Makes results when they are first asked for, and holds the last few.

    The same task always gives the same bytes, so one that was dropped can be made again in the
    middle of a resumed download. May be used from several threads.
    """

    def __init__(self, media: Literal["mp4", "stub"], seed: int) -> None:
        self._media = media
        self._seed = seed
        self._held: OrderedDict[str, Media] = OrderedDict()
        self._lock = threading.Lock()

    def held(self, task: TaskRecord) -> Media | None:
        """A task's result if it costs nothing to have: at hand, or a stub."""
        if self._media == "stub":
            return self.get(task)
        with self._lock:
            media = self._held.get(task.id)
            if media is not None:
                self._held.move_to_end(task.id)
            return media

    def get(self, task: TaskRecord) -> Media:
        """A task's result, made now if need be: some tens of milliseconds of CPU."""
        if self._media == "stub":
            return _stub(task)
        media = self.held(task)
        if media is None:
            media = self._make(task)
            with self._lock:
                self._held[task.id] = media
                while len(self._held) > _MOST_HELD:
                    self._held.popitem(last=False)
        return media

    def _make(self, task: TaskRecord) -> Media:
        # Imported here: whoever only asks for tasks, and takes no result, needs neither library.
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
    said = f"{task.model} {task.duration} {task.aspect_ratio} {task.prompt}"
    data = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + hashlib.sha256(said.encode()).digest() * 32
    content_type = "video/mp4" if task.kind == "video" else "image/png"
    return Media(data, content_type, etag_of(data))
