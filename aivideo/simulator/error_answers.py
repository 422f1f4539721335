"""Error answers of the API, and the answers to requests that a fault affects."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from aivideo.simulator.exchange import SimAnswer, json_answer
from aivideo.simulator.faults import Fault, Faults
from aivideo.simulator.rules import ERRORS

_HTML_502 = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n"
    b"<body><center><h1>502 Bad Gateway</h1></center></body>\r\n</html>\r\n"
)

# The request is carried out, then answered as if it had not been.
_TAKEN_BUT_ANSWERED_AS = {
    Fault.HTML_502_TAKEN: Fault.HTML_502,
    Fault.INTERNAL_ERROR_TAKEN: Fault.INTERNAL_ERROR,
    Fault.UPSTREAM_ERROR_TAKEN: Fault.UPSTREAM_ERROR,
}
# The request is carried out, and its answer is delayed, damaged or lost.
_DAMAGES_ANSWER = {
    Fault.CUT_AFTER,
    Fault.HANG,
    Fault.SLOW,
    Fault.TRUNCATED,
    Fault.MALFORMED,
    Fault.MISSING_TASK_ID,
}


def error_answer(code: str, message: str) -> SimAnswer:
    """The documented error body, with the HTTP status and type that belong to `code`."""
    status, kind = ERRORS[code]
    return json_answer(status, {"error": {"code": code, "message": message, "type": kind}})


def bad_gateway() -> SimAnswer:
    """A gateway's 502 page, in HTML."""
    return SimAnswer(502, {"Content-Type": "text/html"}, _HTML_502)


def apply_fault(
    fault: Fault, carry_out: Callable[[], SimAnswer], *, settings: Faults, redirect_url: str
) -> SimAnswer:
    """Answer a request to the API with a fault.

    Args:
        fault: any fault of a create or a poll, except `Fault.NONE`.
        carry_out: carries the request out and returns its normal answer. Called at most once, and
            not called if the fault prevents the request from being taken.
        settings: the delays of slow and hanging answers.
        redirect_url: where `Fault.REDIRECT` points to.

    Raises:
        ValueError: if the fault does not apply to requests to the API.
    """
    if fault in _TAKEN_BUT_ANSWERED_AS:
        carry_out()
        return _answer_without_effect(_TAKEN_BUT_ANSWERED_AS[fault], redirect_url)
    if fault in _DAMAGES_ANSWER:
        return _damaged(fault, carry_out(), settings)
    return _answer_without_effect(fault, redirect_url)


def _answer_without_effect(fault: Fault, redirect_url: str) -> SimAnswer:
    """The answer to a request that is not carried out."""
    match fault:
        case Fault.CUT_BEFORE:
            return SimAnswer(0, cut="before")
        case Fault.RESET:
            return SimAnswer(0, cut="reset")
        case Fault.HTML_502:
            return bad_gateway()
        case Fault.WRONG_ENVELOPE:
            return json_answer(200, {"code": 402, "msg": "insufficient credits", "data": None})
        case Fault.REDIRECT:
            return SimAnswer(307, {"Location": redirect_url})
        case Fault.INTERNAL_ERROR:
            return error_answer("internal_error", "Internal server error.")
        case Fault.UPSTREAM_ERROR:
            return error_answer("upstream_error", "The upstream AI service returned an error.")
        case _:
            raise ValueError(f"fault {fault} does not apply to requests to the API")


def _damaged(fault: Fault, answer: SimAnswer, settings: Faults) -> SimAnswer:
    """Delay, damage or drop the answer to a request that was carried out."""
    match fault:
        case Fault.CUT_AFTER:
            return SimAnswer(0, cut="after")
        case Fault.HANG:
            return attrs.evolve(answer, delay=settings.hang_seconds)
        case Fault.SLOW:
            return attrs.evolve(answer, delay=settings.slow_seconds)
        case Fault.TRUNCATED:
            return attrs.evolve(answer, cut="body")
        case Fault.MALFORMED:
            return attrs.evolve(answer, body=answer.body[:-2])
        case _ if answer.status == 200:  # MISSING_TASK_ID
            return json_answer(200, {"code": 200, "msg": "success", "data": {}})
        case _:
            return answer
