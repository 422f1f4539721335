"""Remove secrets from text that a person may see: messages, log lines and reprs."""

from __future__ import annotations

import re

_KEY = re.compile(r"\b(?:sk-|Bearer\s+)[^\s\"'<>,;)\]}]{3,}", re.IGNORECASE)
_QUERY = re.compile(r"(https?://[^\s\"'<>?#]*)[?#][^\s\"'<>]*", re.IGNORECASE)
_USERINFO = re.compile(r"(https?://)[^\s\"'<>/@]+@", re.IGNORECASE)


def scrub(text: str) -> str:
    """Remove API keys, URL queries, and user names and passwords in URLs.

    >>> scrub("key sk-abcdef refused for https://bucket.example/a.mp4?X-Signature=1f")
    'key sk-… refused for https://bucket.example/a.mp4?…'
    """
    text = _KEY.sub(lambda found: "sk-…" if found[0][:3].lower() == "sk-" else "Bearer …", text)
    return _USERINFO.sub(r"\1…@", _QUERY.sub(r"\1?…", text))


def one_line(text: str, limit: int = 400) -> str:
    """Scrub a text, join its lines with spaces, and cut it to ``limit`` characters."""
    line = " ".join(scrub(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def shown(value: object, limit: int = 80) -> str:
    """Return a scrubbed ``repr`` of a value that a message quotes; a long one is cut.

    The value may be any object that a user passed: one whose ``repr`` raises is named by its type.
    """
    try:
        text = scrub(repr(value))
    except Exception:
        return f"<{type(value).__name__}, whose repr() raises>"
    if len(text) <= limit:
        return text
    length = len(value) if isinstance(value, str) else len(text)
    return f"{text[: limit - 20]}… ({length} characters)"
