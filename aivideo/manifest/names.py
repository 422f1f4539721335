"""Names of lines: their keys in the ledger, which are the names of their files too."""

from __future__ import annotations

import hashlib
import re

import orjson

from aivideo.models import Request, Sora2, fingerprint


def content_name(request: Request, occurrence: int) -> str:
    """Name a line without an ``id``: by its content, never by its number.

    So the line has the same name after lines were added above it, and two runs that read different
    versions of a manifest give it the same name.

    Args:
        request: what to make.
        occurrence: 1 for the first of several lines with this content.

    Returns:
        ``a-red-kite-1a2b3c4d``, and ``a-red-kite-1a2b3c4d-2`` for the second occurrence.
    """
    name = f"{slug(text_of(request))}-{fingerprint(request)[:8]}"
    return name if occurrence == 1 else f"{name}-{occurrence}"


def text_of(request: Request) -> str:
    """Return a request's prompt, or its model where it has none that we know."""
    return request.prompt if isinstance(request, Sora2) else request.model


def slug(text: str) -> str:
    """Return a prompt shortened to a few words that suit a file name."""
    words = re.findall(r"[^\W_]+", text.lower())
    return "-".join(words)[:40].strip("-") or "clip"


def file_stem(name: str) -> str:
    """Return ``name`` as a file name for every system; a hash marks a name that had to change."""
    safe = re.sub(r"[^\w.+\- ]", "_", name).strip(" .")[:100]
    while len(safe.encode()) > 180:
        safe = safe[:-1]
    if safe == name and safe.upper().partition(".")[0] not in _RESERVED:
        return safe
    digest = hashlib.sha256(orjson.dumps(name)).hexdigest()
    return f"{safe or 'clip'}-{digest[:6]}"


_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{p}{n}" for p in ("COM", "LPT") for n in range(10))}


def same_file(name: str) -> str:
    """Return a form that is equal for names that are one file on a case-insensitive file system."""
    return name.casefold()
