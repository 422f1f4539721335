"""The table from verdicts to consequences, row by row."""

from __future__ import annotations

import pytest

from aivideo import (
    APIConnectionError,
    AuthenticationError,
    BadRequestError,
    InsufficientCreditsError,
    InternalServerError,
    PermissionDeniedError,
    RateLimitError,
    ResponseError,
    SpendLimitError,
    UpstreamError,
)
from aivideo._api import verdict
from aivideo._api.send_deadline import too_late
from aivideo._session import consequences
from aivideo._session.consequences import GateEffect, PermitEnd, Then
from aivideo.ledger import events
from aivideo.ledger.records import Reason

LIMIT = RateLimitError("slow down", status=429, code="rate_limit_exceeded")
MONEY = InsufficientCreditsError("no money", status=402, code="insufficient_credits")
CAP = SpendLimitError("cap", status=429, code="spend_limit_exceeded")
BAD = BadRequestError("bad", status=400, code="invalid_request")
KEY = AuthenticationError("key", status=401, code="invalid_api_key")
ADDRESS = PermissionDeniedError("ip", status=403, code="ip_not_allowed")
FAULT = InternalServerError("oops", status=500, code="internal_error")
UPSTREAM = UpstreamError("oops", status=503, code="upstream_error")
BROKEN = APIConnectionError("reset", written=True)
PAGE = ResponseError("a page", status=403, body=b"<html>")
NO_ROUTE = APIConnectionError("no route", written=False)


def reason_of(error: BadRequestError | InternalServerError | UpstreamError) -> Reason:
    return Reason(message=error.message, status=error.status, code=error.code)


ROWS = [
    (
        verdict.Accepted("t"),
        events.Taken("t"),
        PermitEnd.JOB_TAKEN,
        GateEffect.ANSWERED,
        Then.RUNS,
    ),
    (
        verdict.Throttled(LIMIT, 3.0),
        events.Released(),
        PermitEnd.REJECTED,
        GateEffect.NONE,
        Then.SEND_WHEN_ALLOWED,
    ),
    (
        verdict.Exhausted(MONEY),
        events.Released(),
        PermitEnd.ACCEPTED,
        GateEffect.CLOSED,
        Then.FAIL,
    ),
    (verdict.Exhausted(CAP), events.Released(), PermitEnd.ACCEPTED, GateEffect.CLOSED, Then.FAIL),
    (
        verdict.Refused(BAD),
        events.Refused(reason_of(BAD)),
        PermitEnd.ACCEPTED,
        GateEffect.ANSWERED,
        Then.FAIL,
    ),
    (
        verdict.Refused(KEY),
        events.Released(),
        PermitEnd.ACCEPTED,
        GateEffect.ANSWERED_AND_CLOSED,
        Then.FAIL,
    ),
    (
        verdict.Refused(ADDRESS),
        events.Released(),
        PermitEnd.ACCEPTED,
        GateEffect.ANSWERED_AND_CLOSED,
        Then.FAIL,
    ),
    (
        verdict.Unsent(NO_ROUTE),
        events.Released(),
        PermitEnd.LOST,
        GateEffect.UNCONNECTED,
        Then.SEND_IF_NOT_CONNECTED,
    ),
    (
        verdict.Faulted(FAULT),
        events.Faulted(reason_of(FAULT)),
        PermitEnd.ACCEPTED,
        GateEffect.DOUBTED,
        Then.SEND_IF_USER_ALLOWED,
    ),
    (
        verdict.Faulted(UPSTREAM),
        events.Faulted(reason_of(UPSTREAM)),
        PermitEnd.ACCEPTED,
        GateEffect.DOUBTED,
        Then.SEND_IF_USER_ALLOWED,
    ),
    (
        verdict.Unknown(BROKEN),
        events.Doubted(Reason(message=str(BROKEN))),
        PermitEnd.LOST,
        GateEffect.DOUBTED,
        Then.UNKNOWN,
    ),
    (
        verdict.Unknown(PAGE, status=403),
        events.Doubted(Reason(message=str(PAGE))),
        PermitEnd.ACCEPTED,
        GateEffect.NONE,
        Then.UNKNOWN,
    ),
    (
        verdict.Unknown(PAGE, status=402),
        events.Doubted(Reason(message=str(PAGE))),
        PermitEnd.ACCEPTED,
        GateEffect.CLOSED,
        Then.UNKNOWN,
    ),
]


@pytest.mark.parametrize(
    ("answer", "event", "permit", "gate", "then"), ROWS, ids=lambda value: str(value)[:24]
)
def test_each_verdict_has_these_consequences(
    answer: verdict.Verdict,
    event: events.AttemptEvent,
    permit: PermitEnd,
    gate: GateEffect,
    then: Then,
) -> None:
    what = consequences.of(answer)
    assert (what.event, what.permit, what.gate, what.then) == (event, permit, gate, then)
    if isinstance(answer, verdict.Accepted):
        assert what.error is None
    else:
        assert what.error is answer.error


def test_the_retry_after_of_a_429_is_passed_on() -> None:
    assert consequences.of(verdict.Throttled(LIMIT, 3.0)).retry_after == 3.0


def test_a_create_is_sent_again_only_if_it_was_not_taken_or_the_user_allows_it() -> None:
    again = {Then.SEND_WHEN_ALLOWED, Then.SEND_IF_NOT_CONNECTED}
    for answer, event, _, _, then in ROWS:
        if then in again:
            assert isinstance(event, events.Released), answer
        if isinstance(answer, verdict.Unknown | verdict.Accepted):
            assert then in (Then.UNKNOWN, Then.RUNS)


def test_a_402_of_a_gateway_closes_the_gate_for_lack_of_credits() -> None:
    what = consequences.of(verdict.Unknown(PAGE, status=402))
    assert isinstance(what.gate_error, InsufficientCreditsError)


def test_a_retry_of_a_500_that_was_not_taken_leaves_the_job_faulted() -> None:
    for answer in (
        verdict.Throttled(LIMIT, None),
        verdict.Unsent(NO_ROUTE),
        verdict.Exhausted(CAP),
    ):
        assert consequences.of(answer, retry=True).event == events.Released(again=False)
    assert consequences.of(verdict.Accepted("t"), retry=True).event == events.Taken("t")


def test_a_create_whose_claim_lapsed_says_nothing_about_the_connection() -> None:
    lapsed = consequences.of(verdict.Unsent(too_late()))
    assert lapsed.gate is GateEffect.NONE
    assert lapsed.event == events.Released()
