"""The object store the results lie in: another origin, pre-signed URLs that expire, ranges.

A URL is `<origin>/videos/YYYY/MM/DD/<id>.mp4?X-Expires=<Unix seconds>&X-Signature=<hex>`. Whoever
holds it may read it until it expires; no key is asked for, and none must ever come here.
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
    """Whether a request brings an `Authorization` header, or a key anywhere in its head."""
    return (
        request.header("Authorization") is not None
        or _KEY.search(request.query) is not None
        or any(_KEY.search(value) for value in request.headers.values())
    )


def _signature(secret: bytes, path: str, expires: str) -> str:
    return hmac.digest(secret, f"{path}\n{expires}".encode(), "sha256").hex()


def signed_url(origin: str, secret: bytes, task: TaskRecord, created: float, expires: int) -> str:
    """The URL of a task's result.

    Args:
        origin: scheme, host and port.
        secret: what the signature is made with.
        task: whose result.
        created: its Unix time, for the folder.
        expires: the Unix second from which it is refused.
    """
    day = datetime.fromtimestamp(created, UTC)
    folder, ending = ("videos", "mp4") if task.kind == "video" else ("images", "png")
    path = f"/{folder}/{day.year}/{day.month:02}/{day.day:02}/{task.id}.{ending}"
    signature = _signature(secret, path, str(expires))
    return f"{origin}{path}?X-Expires={expires}&X-Signature={signature}"


def admit(request: SimRequest, secret: bytes, unix: float) -> str | SimAnswer:
    """Check a request's method, signature and expiry: the task's id, or the refusal."""
    if request.method not in ("GET", "HEAD"):
        return _refusal(405, "MethodNotAllowed", "The method is not allowed for this resource.")
    match = _PATH.fullmatch(request.path)
    if match is None:
        return no_such_key()
    values = parse_qs(request.query)
    expires = values.get("X-Expires", [""])[0]
    given = values.get("X-Signature", [""])[0]
    expected = _signature(secret, request.path, expires)
    if not hmac.compare_digest(given.encode(), expected.encode()):
        return _refusal(403, "SignatureDoesNotMatch", "The signature does not match.")
    if unix >= int(expires):
        return _refusal(403, "AccessDenied", "Request has expired")
    return match["id"]


def etag_of(data: bytes) -> str:
    """A strong entity tag."""
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
    """The answer that carries a result: 200, 206 or 416, with `If-Range` heeded.

    Args:
        request: `GET` or `HEAD`.
        data: the whole result.
        content_type: its media type.
        etag: its strong entity tag.
        modified: its `Last-Modified`.
        ignore_range: answer 200 with the whole, whatever `Range` says.
    """
    headers = {
        "Content-Type": content_type,
        "ETag": etag,
        "Last-Modified": modified,
        "Accept-Ranges": "bytes",
    }
    asked = None if ignore_range else request.header("Range")
    condition = request.header("If-Range")
    if condition is not None and condition not in (etag, modified):
        asked = None
    status, body = 200, data
    span = _span(asked, len(data)) if asked is not None else None
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


def _span(asked: str, size: int) -> tuple[int, int] | None:
    """The bytes that are asked for, end exclusive, and empty if there are none such.

    None for a header that is to be ignored.
    """
    match = _RANGE.fullmatch(asked.strip())
    if match is None or match.groups() == ("", ""):
        return None  # several ranges, another unit, nonsense: a server may answer with the whole
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size) if last else size


def no_such_key() -> SimAnswer:
    """404: nothing lies at that path."""
    return _refusal(404, "NoSuchKey", "The specified key does not exist.")


def _refusal(status: int, code: str, message: str) -> SimAnswer:
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    )
    return SimAnswer(status, {"Content-Type": "application/xml"}, body.encode())
