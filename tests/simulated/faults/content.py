"""What a request asks for, as one readable text: requests are the same if their texts are equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from aivideo.simulator import TaskRecord


def content_of(model_input: Mapping[str, Any]) -> str:
    """Return the content of an ``input`` object. Equal prompts have equal durations and ratios."""
    return _content(str(model_input["prompt"]), model_input.get("image_urls") or ())


def content_of_body(body: bytes | None) -> str:
    """Return the content of the body of a create request."""
    return content_of(orjson.loads(body or b"{}")["input"])


def content_of_task(task: TaskRecord) -> str:
    """Return the content of a task."""
    assert task.prompt is not None
    return _content(task.prompt, task.image_urls)


def _content(prompt: str, images: Any) -> str:
    return f"{prompt} with {images[0][-5:]}" if images else prompt
