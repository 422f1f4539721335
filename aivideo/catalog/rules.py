"""Rules for the fields of a model's ``input``.

A rule is data: a field's name and what its value must be. :meth:`Rule.problem` says what is wrong
with a value and how to correct it.
"""

from __future__ import annotations

from typing import Protocol
from urllib.parse import urlsplit

from attrs import frozen


class Rule(Protocol):
    """What one field of a model's ``input`` must be."""

    @property
    def name(self) -> str:
        """The field's name in ``input``."""
        ...

    @property
    def required(self) -> bool:
        """Whether a request without this field is refused."""
        ...

    def problem(self, value: object) -> tuple[str, str] | None:
        """Return the rule that ``value`` breaks and the cure, or None if ``value`` is valid."""
        ...


@frozen
class Text:
    """Text of 1 to ``max_characters`` characters (code points, not bytes), not only blanks."""

    name: str
    max_characters: int = 5000
    required: bool = True

    def problem(self, value: object) -> tuple[str, str] | None:
        """Check type, blankness, length, and that the text can be encoded as UTF-8."""
        if not isinstance(value, str):
            return f"must be text, not {type(value).__name__}", "give a str"
        if not value.strip():
            return "must not be empty or blank", f"give 1 to {self.max_characters} characters"
        if len(value) > self.max_characters:
            return (
                f"has {len(value)} characters, at most {self.max_characters} are allowed",
                f"shorten it by {len(value) - self.max_characters}",
            )
        try:
            value.encode()
        except UnicodeEncodeError:
            return "contains half of a surrogate pair, which is not text", "decode it as UTF-8"
        return None


@frozen
class Choice:
    """One of a few values, of exactly its type: ``"8"``, ``8.0`` and ``True`` are not ``8``."""

    name: str
    values: tuple[int | str, ...]
    unit: str = ""
    required: bool = True

    def problem(self, value: object) -> tuple[str, str] | None:
        """Check that ``value`` is one of ``values`` and has its type."""
        listed = [repr(allowed) for allowed in self.values]
        one_of = " or ".join(filter(None, [", ".join(listed[:-1]), listed[-1]]))
        if self.unit:
            one_of = f"{one_of} ({self.unit})"
        if any(type(value) is type(allowed) and value == allowed for allowed in self.values):
            return None
        types = sorted({type(allowed).__name__ for allowed in self.values})
        if type(value).__name__ not in types:
            return f"must be {' or '.join(types)}, not {type(value).__name__}", f"give {one_of}"
        return f"must be {one_of}", f"give {one_of}"


@frozen
class URLs:
    """A list of at most ``max_items`` http(s) URLs."""

    name: str
    max_items: int = 1
    required: bool = False

    def problem(self, value: object) -> tuple[str, str] | None:
        """Check the number of URLs, and that each is an http(s) URL with a host."""
        if not isinstance(value, list | tuple):
            return f"must be a list of URLs, not {type(value).__name__}", "give a list"
        if len(value) > self.max_items:
            return (
                f"has {len(value)} images, at most {self.max_items} is allowed",
                f"keep {self.max_items}",
            )
        for url in value:
            if not is_web_url(url):
                return (
                    "must be an http:// or https:// URL",
                    "upload the image and give its URL; the service accepts no files",
                )
        return None


def is_name(value: object) -> bool:
    """Return whether ``value`` is a str that is not blank and that every ledger can store.

    A lone surrogate has no UTF-8 form, and a database may cut a text at a NUL character.
    """
    if not isinstance(value, str) or "\0" in value or not value.strip():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_web_url(value: object) -> bool:
    """Return whether ``value`` is an absolute http(s) URL with a host, all printable."""
    if not isinstance(value, str) or " " in value or not value.isprintable():
        return False
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:  # an invalid port or IPv6 address
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0
