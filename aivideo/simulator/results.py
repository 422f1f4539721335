"""The object store of the results: another origin, pre-signed URLs that expire, range requests.

A URL is `<origin>/videos/YYYY/MM/DD/<id>.mp4?X-Expires=<Unix seconds>&X-Signature=<hex>`. It can be
read without an API key until it expires. Clients must never send an API key to this origin.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import UTC, datetime
from urllib.parse import parse_qs

from aivideo.simulator.exchange import SimAnswer, SimRequest
from aivideo.simulator.truth import TaskRecord

_PATH = re.compile(r"/(?:videos|images)/\d{4}/\d\d/\d\d/(?P<id>[0-9a-f-]{36})\.(?:mp4|png)")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_KEY = re.compile(r"(?<![A-Za-z0-9])sk-[A-Za-z0-9]")


def carries_key(request: SimRequest) -> bool:
    """Whether a request has an `Authorization` header, or an API key in its query or a header."""
    return (
        request.header("Authorization") is not None
        or _KEY.search(request.query) is not None
        or any(_KEY.search(value) for value in request.headers.values())
    )


def _signature(secret: bytes, path: str, expires: str) -> str:
    return hmac.digest(secret, f"{path}\n{expires}".encode(), "sha256").hex()


def signed_url(origin: str, secret: bytes, task: TaskRecord, created: float, expires: int) -> str:
    """Return the URL of a task's result.

    Args:
        origin: scheme, host and port.
        secret: key of the signature.
        task: the task of the result.
        created: Unix time at which the task was created; its date is part of the path.
        expires: Unix time in whole seconds from which the URL is refused.
    """
    day = datetime.fromtimestamp(created, UTC)
    folder, suffix = ("videos", "mp4") if task.kind == "video" else ("images", "png")
    path = f"/{folder}/{day.year}/{day.month:02}/{day.day:02}/{task.id}.{suffix}"
    signature = _signature(secret, path, str(expires))
    return f"{origin}{path}?X-Expires={expires}&X-Signature={signature}"


def admit(request: SimRequest, secret: bytes, unix: float) -> str | SimAnswer:
    """Check method, signature and expiry. Returns the task's id, or an error answer."""
    if request.method not in ("GET", "HEAD"):
        return _error_answer(
            405, "MethodNotAllowed", "The method is not allowed for this resource."
        )
    match = _PATH.fullmatch(request.path)
    if match is None:
        return no_such_key()
    values = parse_qs(request.query)
    expires = values.get("X-Expires", [""])[0]
    given = values.get("X-Signature", [""])[0]
    expected = _signature(secret, request.path, expires)
    if not hmac.compare_digest(given.encode(), expected.encode()):
        return _error_answer(403, "SignatureDoesNotMatch", "The signature does not match.")
    if unix >= int(expires):
        return _error_answer(403, "AccessDenied", "Request has expired")
    return match["id"]


def etag_of(data: bytes) -> str:
    """Return a strong entity tag (`ETag`)."""
    return f'"{hashlib.sha256(data).hexdigest()[:32]}"'


def content(
    request: SimRequest,
    data: bytes,
    *,
    content_type: str,
    etag: str,
    modified: str,
    ignore_range: bool = False,
) -> SimAnswer:
    """Return the answer that contains a result: 200, 206 or 416. `If-Range` is respected.

    Args:
        request: a `GET` or `HEAD`.
        data: the complete result.
        content_type: its media type.
        etag: its strong entity tag.
        modified: its `Last-Modified`.
        ignore_range: answer 200 with the complete result, even if the request has a `Range`.
    """
    headers = {
        "Content-Type": content_type,
        "ETag": etag,
        "Last-Modified": modified,
        "Accept-Ranges": "bytes",
    }
    requested = None if ignore_range else request.header("Range")
    condition = request.header("If-Range")
    if condition is not None and condition not in (etag, modified):
        requested = None
    status, body = 200, data
    span = _span(requested, len(data)) if requested is not None else None
    if span is not None:
        start, stop = span
        if start < stop:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            status, body = 206, data[start:stop]
        else:
            headers["Content-Range"] = f"bytes */{len(data)}"
            status, body = 416, b""
    headers["Content-Length"] = str(len(body))
    return SimAnswer(status, headers, b"" if request.method == "HEAD" else body)


def _span(requested: str, size: int) -> tuple[int, int] | None:
    """Parse a `Range` header: start and exclusive end, an empty span if it cannot be satisfied.

    Returns None if the header is to be ignored.
    """
    match = _RANGE.fullmatch(requested.strip())
    if match is None or match.groups() == ("", ""):
        return None  # several ranges, another unit or invalid: a server may send the complete file
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size) if last else size


def no_such_key() -> SimAnswer:
    """Return the 404 for a path without a result."""
    return _error_answer(404, "NoSuchKey", "The specified key does not exist.")


def _error_answer(status: int, code: str, message: str) -> SimAnswer:
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    )
    return SimAnswer(status, {"Content-Type": "application/xml"}, body.encode())
