"""Values that hide themselves: an API key, what callback tokens are made with, a proxy's URL."""

from __future__ import annotations

from hmac import compare_digest


class Secret:
    """A text that only :meth:`reveal` shows: not repr, str, ``attrs.asdict``, pickle or logs."""

    __slots__ = ("_text",)

    def __init__(self, text: object) -> None:
        self._text = text.strip() if isinstance(text, str) else text

    def reveal(self) -> str:
        """Return the text itself."""
        return str(self._text)

    @property
    def type_name(self) -> str:
        """The type of the value that was given: ``str`` unless the caller made a mistake."""
        return type(self._text).__name__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return compare_digest(self.reveal().encode(), other.reveal().encode())

    def __hash__(self) -> int:
        return hash(self.reveal())

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __repr__(self) -> str:
        return "<secret>"

    def __reduce__(self) -> tuple[type[Secret], tuple[object]]:
        raise TypeError(
            "a secret is not pickled: read AIVIDEO_API_KEY or AIVIDEO_CALLBACK_SECRET in the "
            "process that needs it"
        )


class SecretHeaders(dict[str, str]):
    """HTTP headers that include the API key; hidden from repr and so from tracebacks."""

    def __repr__(self) -> str:
        return "<headers with the key>"


def seal(value: object) -> Secret | None:
    """Wrap a value in a :class:`Secret`; None and secrets stay as they are.

    Call it first, and drop the plain value: a traceback with locals shows what a frame holds.
    """
    return value if isinstance(value, Secret | None) else Secret(value)
