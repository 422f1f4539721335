"""What the answer to a paid POST, or the lack of one, means for the user's money.

A create costs $0.50 to $1.50, and the service has no idempotency key and no list of tasks. So the
question is not "did it work?" but "may a task have been made?". There are seven verdicts:

==============  =====================================  ==============================  =========
verdict         what happened                          was a task made and charged?    send again
==============  =====================================  ==============================  =========
:class:`Accepted`   any answer that carries a task id  yes                             never
:class:`Throttled`  429, of whatever body but a        no                              yes, at the
                    ``billing_error``                                                  pace asked
:class:`Exhausted`  402, or 429 ``billing_error``, in  no                              no: ends the
                    the documented shape                                               creates
:class:`Refused`    another 4xx in the documented      no                              no: final
                    shape and of a documented type
:class:`Unsent`     no byte was written                no                              yes
:class:`Faulted`    500, 503 in the documented shape   not documented                  only if the
                                                                                       user said so
:class:`Unknown`    everything else                    unknown                         **never**
==============  =====================================  ==============================  =========

"Everything else" includes:

* a timeout, a reset or a truncated body after a byte of the request was written;
* any 3xx: following it would send the POST again; a 502 or 504; an HTML page;
* a 200 whose envelope reports an error or contains no task id;
* a 4xx that is not in the service's shape, or whose ``type`` its page does not list: a server in
  between wrote it, and the service may have received the request all the same (a 402 ends the
  creates nevertheless);
* 408, 409, 425 and 499, whatever they say: each may follow a request that was processed;
* a refusal or a 429 that contains a task id in an undocumented place.

This module only names the verdict. Whoever acts on it decides whether to send again, by the last
column; nothing below this module ever repeats a POST.
"""

from __future__ import annotations

from typing import TypeAlias

from attrs import frozen

from aivideo._api import answer_errors, wire
from aivideo._api.messages import Answer, json_object
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
    """A task was made and charged."""

    task_id: TaskId


@frozen
class Throttled:
    """A rate limit rejected it; nothing was made.

    Attributes:
        error: the answer as an exception.
        retry_after: seconds that the answer asks us to wait, or None where it does not say.
    """

    error: APIStatusError
    retry_after: float | None


@frozen
class Exhausted:
    """Out of credits, or a spend cap was reached; nothing was made. Other creates will fail too."""

    error: APIStatusError


@frozen
class Refused:
    """The service refused the request for good; nothing was made."""

    error: APIStatusError


@frozen
class Unsent:
    """Not one byte of the request was written; nothing was made."""

    error: APIConnectionError


@frozen
class Faulted:
    """The service reported a failure of its own. Whether a task was made is not documented."""

    error: APIStatusError


@frozen
class Unknown:
    """A task may or may not have been made.

    Attributes:
        error: what was heard, as an exception.
        status: the HTTP status of the answer; None: there was none.
    """

    error: AIVideoError
    status: int | None = None

    @property
    def is_outage(self) -> bool:
        """Whether it is a sign of an outage. A 4xx is not: it is about this one request."""
        return self.status is None or not 400 <= self.status < 500


_FINAL_TYPES = frozenset(("invalid_request_error", "authentication_error", "permission_error"))
"""Error types of the provider's page that are a final answer under any 4xx status but those of
``_PROVE_NOTHING``."""

_DOCUMENTED_STATUSES = (400, 401, 402, 403, 404)
"""The page's own statuses; under them a ``billing_error`` is final too."""

_PROVE_NOTHING = (408, 409, 425, 499)
"""Statuses that may follow a request that was processed: it timed out, it conflicts with another
one, it came too early, its client left."""

Verdict: TypeAlias = Accepted | Throttled | Exhausted | Refused | Unsent | Faulted | Unknown


def of_create(heard: Answer | APIConnectionError, *, wall_now: float) -> Verdict:
    """Return the verdict on a create.

    Args:
        heard: the answer, or the error that came instead of one.
        wall_now: Unix seconds by our clock, for a ``Retry-After`` that is a date.
    """
    if isinstance(heard, APIConnectionError):
        return Unknown(heard) if heard.written else Unsent(heard)
    return _of_answer(heard, wall_now)


def _of_answer(heard: Answer, wall_now: float) -> Verdict:
    body = json_object(heard)
    task_id = wire.task_id_of(body)
    stray = wire.stray_task_id(heard) if task_id is None else None
    if body is not None and 200 <= heard.status < 300:
        task_id = task_id or stray
    if task_id is not None:
        return Accepted(task_id)
    error = answer_errors.error_of(heard)
    if stray is not None:  # a failure that contains a task id does not prove that none was made
        return _unknown(heard, error)
    if heard.status == 429:
        if error is not None and _is_about_money(error):
            return Exhausted(error)
        after = answer_errors.retry_after(heard, wall_now=wall_now)
        limited = answer_errors.throttled(heard)
        limited.retry_after = after
        return Throttled(limited, after)
    if error is not None and _is_final(error):
        return Exhausted(error) if _is_about_money(error) else Refused(error)
    if heard.status in (500, 503) and isinstance(error, InternalServerError | UpstreamError):
        return Faulted(error)
    return _unknown(heard, error)


def _is_about_money(error: APIStatusError) -> bool:
    return error.type == "billing_error" or isinstance(
        error, SpendLimitError | InsufficientCreditsError
    )


def _is_final(error: APIStatusError) -> bool:
    """Return whether an error in the documented shape proves that no task was made."""
    status = error.status
    if not 400 <= status < 500 or status in _PROVE_NOTHING or error.type is None:
        return False
    return error.type in _FINAL_TYPES or (
        error.type == "billing_error" and status in _DOCUMENTED_STATUSES
    )


def _unknown(heard: Answer, error: APIStatusError | None) -> Unknown:
    if error is None or heard.status < 500:
        # The classes of the 4xx say that nothing was charged, which is not known here.
        return Unknown(_undecided(heard), status=heard.status)
    return Unknown(error, status=heard.status)


def _undecided(heard: Answer) -> ResponseError:
    return ResponseError(
        "the answer does not show whether a task was created",
        status=heard.status,
        body=heard.body,
    )
