"""What an answer to a POST, or the lack of one, means for the user's money.

A create costs $0.50 to $1.50, and the service has no idempotency key and no list of tasks. So the
question is never "did it work?" but "may a task have been made?". There are seven answers:

==============  =====================================  ==============================  =========
verdict         what happened                          was a task made and charged?    send again
==============  =====================================  ==============================  =========
:class:`Accepted`   any answer that carries a task id  yes                             never
:class:`Throttled`  429, of whatever body but a        no                              yes, at the
                    spend cap's                                                        pace asked
:class:`Exhausted`  402, or 429 spend_limit_exceeded   no                              no: ends the
                                                                                       creates
:class:`Refused`    another 4xx in the documented      no                              no: final
                    shape
:class:`Unsent`     no byte was written                no                              yes
:class:`Faulted`    500, 503 in the documented shape   not documented                  only if the
                                                                                       user said so
:class:`Unknown`    everything else                    unknown                         **never**
==============  =====================================  ==============================  =========

"Everything else" is where money is lost elsewhere: a timeout, a reset or a cut body after a byte
was written; any 3xx (following it would send the POST again); a 502 or 504; an HTML page; a 200
whose envelope says otherwise or has no task id; a 4xx that is not in the service's shape, since
somebody between us and the service wrote it, and what the service did is not told; a "no" (a 429
too) that carries a task's id in a place of its own.

A repeat of an answer that says "no" is decided above; nothing here or below ever repeats a POST.
"""

from __future__ import annotations

from typing import TypeAlias

from attrs import frozen

from aivideo._api import wire
from aivideo.errors import (
    AIVideoError,
    APIConnectionError,
    APIStatusError,
    InsufficientCreditsError,
    InternalServerError,
    ResponseError,
    SpendLimitError,
    UpstreamError,
)
from aivideo.models import TaskId


@frozen
class Accepted:
    """A task was made, and charged."""

    task_id: TaskId


@frozen
class Throttled:
    """Refused by a rate limit; nothing was made. ``retry_after`` in seconds, if it was said."""

    error: APIStatusError
    retry_after: float | None


@frozen
class Exhausted:
    """No money, or a spend cap; nothing was made, and the next create would fare no better."""

    error: APIStatusError


@frozen
class Refused:
    """A final no; nothing was made."""

    error: APIStatusError


@frozen
class Unsent:
    """Not one byte was written; nothing was made."""

    error: APIConnectionError


@frozen
class Faulted:
    """The service failed, in its own words. Whether a task was made is not documented."""

    error: APIStatusError


@frozen
class Unknown:
    """A task may or may not have been made."""

    error: AIVideoError


Verdict: TypeAlias = Accepted | Throttled | Exhausted | Refused | Unsent | Faulted | Unknown


def of_create(heard: wire.Answer | APIConnectionError, *, wall_now: float) -> Verdict:
    """Judge what came of a create.

    Args:
        heard: the answer, or why there was none.
        wall_now: Unix seconds, for a ``Retry-After`` that is a date.
    """
    if isinstance(heard, APIConnectionError):
        return Unknown(heard) if heard.written else Unsent(heard)
    body = wire.json_object(heard)
    task_id = wire.task_id_of(body)
    stray = wire.stray_task_id(heard) if task_id is None else None
    if body is not None and 200 <= heard.status < 300:
        task_id = task_id or stray
    if task_id is not None:
        return Accepted(task_id)
    error = wire.error_of(heard)
    if stray is not None:  # a "no" with a task's id in it proves nothing, be it a 429
        return Unknown(error or _tells_nothing(heard))
    if isinstance(error, SpendLimitError | InsufficientCreditsError) and heard.status < 500:
        return Exhausted(error)  # by its code, whatever 4xx it comes with
    if heard.status == 429:
        after = wire.retry_after(heard, wall_now=wall_now)
        limited = wire.throttled(heard)
        limited.retry_after = after
        return Throttled(limited, after)
    if error is not None and 400 <= heard.status < 500:
        return Refused(error)
    if heard.status in (500, 503) and isinstance(error, InternalServerError | UpstreamError):
        return Faulted(error)
    return Unknown(error or _tells_nothing(heard))


def _tells_nothing(heard: wire.Answer) -> ResponseError:
    return ResponseError(
        "which does not say whether the create was taken", status=heard.status, body=heard.body
    )
