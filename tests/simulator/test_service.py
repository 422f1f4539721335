from __future__ import annotations

import uuid
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import attrs
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aivideo.simulator import (
    Endpoint,
    Fault,
    Faults,
    FixedWindow,
    JobsCap,
    Lognormal,
    Nth,
    Scenario,
    Service,
    SimRequest,
    TokenBucket,
)
from tests.simulator.calls import (
    HEADERS,
    KEY,
    PROMPT,
    create,
    credit_balance,
    error,
    get,
    order,
    poll,
    taken,
)

STEADY = Scenario(queue_seconds=10, task_seconds=100)


# -- documented answers -------------------------------------------------------------------------


def test_create_is_answered_with_a_uuid_in_the_documented_format() -> None:
    answer = create(Service(STEADY), 0)

    body = orjson.loads(answer.body)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert body == {"code": 200, "msg": "success", "data": {"taskId": body["data"]["taskId"]}}
    assert str(uuid.UUID(body["data"]["taskId"])) == body["data"]["taskId"]


def test_task_has_exactly_the_documented_fields_in_each_status() -> None:
    service = Service(STEADY)
    task_id = taken(create(service, 0.5))
    created = int(service.unix(0.5))
    running = {"id": task_id, "model": "sora-2", "created_at": created, "progress": None}

    assert poll(service, task_id, 1) == {**running, "status": "pending"}
    assert poll(service, task_id, 10.4) == {**running, "status": "pending"}
    assert poll(service, task_id, 10.5) == {**running, "status": "processing"}
    assert poll(service, task_id, 110.4) == {**running, "status": "processing"}
    done = poll(service, task_id, 110.5)
    (url,) = done["output"]["urls"]
    assert done == {
        "id": task_id,
        "status": "completed",
        "model": "sora-2",
        "created_at": created,
        "completed_at": int(service.unix(110.5)),
        "output": {"urls": [url], "metadata": {"duration": 8, "prompt": PROMPT}},
    }


def test_failed_task_has_exactly_the_documented_fields() -> None:
    service = Service(attrs.evolve(STEADY, failure_rate=1.0))
    task_id = taken(create(service, 0))

    assert poll(service, task_id, 110) == {
        "id": task_id,
        "status": "failed",
        "model": "sora-2",
        "created_at": int(service.unix(0)),
        "error": {"code": "upstream_error", "message": "Video generation failed"},
    }


def test_progress_is_a_rising_percentage_if_configured() -> None:
    service = Service(attrs.evolve(STEADY, progress="percent"))
    task_id = taken(create(service, 0))

    seen = [poll(service, task_id, now)["progress"] for now in (0, 10, 60, 109.9)]

    assert seen == [0, 0, 50, 99]


def test_credits_are_integers_in_the_documented_format() -> None:
    service = Service(Scenario(keys={KEY: 10_000}))
    taken(create(service, 0))

    answer = get(service, "/v1/credits", 1)

    assert orjson.loads(answer.body) == {
        "code": 200,
        "msg": "success",
        "data": {"balance": 9800, "total_purchased": 10000, "total_consumed": 200},
    }


@pytest.mark.parametrize(("seconds", "price"), [(4, 100), (8, 200), (12, 300)])
def test_sora_costs_25_credits_per_second(seconds: int, price: int) -> None:
    service = Service()

    taken(create(service, 0, order(duration=seconds)))

    assert service.truth.charged == price


def test_unknown_fields_and_an_image_are_accepted() -> None:
    service = Service()
    body = order(image_urls=["https://example.com/photo.jpg"], camera="slow")
    body["callback_url"] = "https://your-server.com/webhook"
    body["note"] = 1

    task_id = taken(create(service, 0, body))

    assert service.truth.tasks[task_id].image_urls == ("https://example.com/photo.jpg",)


def test_other_models_accept_any_input_and_images_have_their_own_endpoint() -> None:
    service = Service()

    taken(create(service, 0, {"model": "veo-3", "input": {}}))
    image = {"model": "nano-banana-2", "input": {"prompt": "a"}}
    task_id = taken(create(service, 0, image, path="/v1/images/generations"))

    assert ".png?" in poll(service, task_id, 1e6)["output"]["urls"][0]
    assert error(create(service, 0, image))[:2] == (404, "model_not_found")


def test_same_seed_gives_the_same_run() -> None:
    def run(seed: int) -> list[object]:
        service = Service(Scenario(seed=seed, failure_rate=0.5))
        ids = [taken(create(service, n)) for n in range(20)]
        return [poll(service, task_id, 120) for task_id in ids]

    assert run(3) == run(3)
    assert run(3) != run(4)


# -- error table --------------------------------------------------------------------------------

BAD_BODIES: list[tuple[str, dict[str, Any]]] = [
    ("'model'", {"input": {}}),
    ("'model'", {**order(), "model": 7}),
    ("'input'", {"model": "sora-2"}),
    ("'input'", {"model": "sora-2", "input": [1]}),
    ("'callback_url'", {**order(), "callback_url": "your-server.com"}),
    ("'callback_url'", {**order(), "callback_url": None}),
    ("'input.prompt'", order(prompt=None)),
    ("'input.prompt'", order(prompt="")),
    ("'input.prompt'", order(prompt=["a"])),
    ("'input.prompt'", order(prompt="映" * 5001)),
    ("'input.duration'", order(duration=None)),
    ("'input.duration'", order(duration=5)),
    ("'input.duration'", order(duration="8")),
    ("'input.duration'", order(duration=8.0)),
    ("'input.duration'", order(duration=True)),
    ("'input.aspect_ratio'", order(aspect_ratio=None)),
    ("'input.aspect_ratio'", order(aspect_ratio="1:1")),
    ("'input.image_urls'", order(image_urls="https://example.com/a.jpg")),
    ("'input.image_urls'", order(image_urls=[7])),
    ("'input.image_urls'", order(image_urls=["photo.jpg"])),
    ("'input.image_urls'", order(image_urls=["https://a.b/1", "https://a.b/2"])),
]


@pytest.mark.parametrize(("field", "body"), BAD_BODIES)
def test_invalid_field_gets_a_400_that_names_it(field: str, body: dict[str, Any]) -> None:
    service = Service()

    status, code, kind, message = error(create(service, 0, body))

    assert (status, code, kind) == (400, "invalid_request", "invalid_request_error")
    assert field in message
    assert service.truth.creates_taken == service.truth.charged == 0


def test_missing_model_gets_the_documented_message() -> None:
    assert error(create(Service(), 0, {}))[3] == "'model' is required."


@pytest.mark.parametrize("prompt", ["a", " ", "映" * 5000, "🙂" * 5000])
def test_prompt_of_up_to_5000_characters_is_accepted(prompt: str) -> None:
    taken(create(Service(), 0, order(prompt=prompt)))


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff{}"])
def test_body_that_is_not_a_json_object_gets_a_400(body: bytes) -> None:
    answer = Service().handle(SimRequest("POST", "/v1/videos/generations", HEADERS, body), 0)

    assert error(answer)[:3] == (400, "invalid_request", "invalid_request_error")


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer key-1", "Basic sk-1", "sk-1", "Bearer sk-other"],
)
def test_missing_malformed_or_unknown_key_gets_a_401(authorization: str | None) -> None:
    service = Service(Scenario(keys={KEY: 1}))
    headers = {} if authorization is None else {"Authorization": authorization}

    answer = service.handle(SimRequest("GET", "/v1/credits", headers), 0)

    assert error(answer)[:3] == (401, "invalid_api_key", "authentication_error")


def test_disabled_blocked_and_ip_restricted_keys_get_their_errors() -> None:
    service = Service(
        Scenario(disabled_keys=["sk-d"], blocked_keys=["sk-b"], refused_ip_keys=["sk-i"])
    )

    assert error(create(service, 0, key="sk-d"))[1] == "invalid_api_key"
    assert error(create(service, 0, key="sk-b"))[1] == "invalid_api_key"
    assert error(create(service, 0, key="sk-i"))[:3] == (403, "ip_not_allowed", "permission_error")
    assert create(service, 0).status == 200
    assert service.truth.creates_taken == 1


def test_low_balance_gets_a_402_and_nothing_is_charged() -> None:
    service = Service(Scenario(keys={KEY: 399}))
    taken(create(service, 0))

    assert error(create(service, 0)) == (
        402,
        "insufficient_credits",
        "billing_error",
        "Your credit balance is too low. Please top up.",
    )
    assert credit_balance(service, 0) == {
        "balance": 199,
        "total_purchased": 399,
        "total_consumed": 200,
    }


def test_last_credit_can_be_spent() -> None:
    service = Service(Scenario(keys={KEY: 200}))

    taken(create(service, 0))

    assert credit_balance(service, 0)["balance"] == 0


def test_unknown_models_and_tasks_get_different_404s() -> None:
    service = Service(Scenario(models={}))
    kind = "invalid_request_error"

    assert error(create(service, 0))[:3] == (404, "model_not_found", kind)
    assert error(get(service, "/v1/tasks/none", 0))[:3] == (404, "task_not_found", kind)


def test_task_is_not_found_with_another_key_or_right_after_its_creation() -> None:
    service = Service(Scenario(not_found_for=3))
    path = f"/v1/tasks/{taken(create(service, 0))}"

    assert get(service, path, 2.9).status == 404
    assert get(service, path, 3.0).status == 200
    assert get(service, path, 3.0, key="sk-another").status == 404


def test_spend_limit_gets_its_own_429_until_the_next_window() -> None:
    service = Service(Scenario(spend_limit=500, spend_window=3600, retry_after="seconds"))
    taken(create(service, 10))
    taken(create(service, 20))

    answer = create(service, 30)

    assert error(answer)[:3] == (429, "spend_limit_exceeded", "billing_error")
    assert "Retry-After" not in answer.headers
    assert service.truth.spend_limited == 1
    assert service.truth.rate_limited == 0
    taken(create(service, 3600))


def test_a_spend_limit_is_lifted_by_another_scenario() -> None:
    service = Service(Scenario(spend_limit=0))
    assert error(create(service, 0))[:2] == (429, "spend_limit_exceeded")
    service.scenario = attrs.evolve(service.scenario, spend_limit=None)
    assert create(service, 1).status == 200


def test_unknown_path_gets_a_404_in_the_error_format() -> None:
    assert error(get(Service(), "/v2/everything", 0))[0] == 404


# -- limits -------------------------------------------------------------------------------------


def test_creates_polls_and_credits_share_one_limit_per_key() -> None:
    service = Service(Scenario(rate_limit=FixedWindow(3, 10)))
    task_id = taken(create(service, 0))
    poll(service, task_id, 1)
    credit_balance(service, 2)

    assert error(create(service, 3))[:3] == (429, "rate_limit_exceeded", "rate_limit_error")
    assert get(service, f"/v1/tasks/{task_id}", 9).status == 429
    assert create(service, 9, key="sk-another").status == 200
    assert create(service, 10).status == 200
    assert service.truth.rate_limited == 2
    assert service.truth.rate_limited_creates == 1


def test_retry_after_has_the_format_of_the_scenario() -> None:
    def second_answer(style: Any) -> Any:
        service = Service(Scenario(rate_limit=FixedWindow(1, 10), retry_after=style, epoch=1e9))
        create(service, 0)
        return create(service, 2.5).headers.get("Retry-After")

    assert second_answer("none") is None
    assert second_answer("seconds") == "8"
    when = parsedate_to_datetime(second_answer("date"))
    assert when == datetime.fromtimestamp(1e9 + 10, UTC)


def test_retry_after_is_at_least_one_second() -> None:
    service = Service(Scenario(rate_limit=TokenBucket(50, 1), retry_after="seconds"))
    create(service, 0)

    assert create(service, 0).headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(rate_limit=JobsCap(2), task_seconds=100, queue_seconds=10),
        Scenario(jobs_in_flight=2, task_seconds=100, queue_seconds=10, retry_after="seconds"),
    ],
)
def test_jobs_cap_rejects_creates_until_a_task_ends_but_no_polls(scenario: Scenario) -> None:
    service = Service(scenario)
    task_id = taken(create(service, 0))
    taken(create(service, 50))

    rejected = create(service, 60)

    assert error(rejected)[1] == "rate_limit_exceeded"
    assert "Retry-After" not in rejected.headers
    assert poll(service, task_id, 60)["status"] == "processing"
    assert create(service, 109.9).status == 429
    assert create(service, 110).status == 200
    assert create(service, 111).status == 429
    assert service.truth.max_running == 2


def test_create_rate_limit_does_not_apply_to_polls() -> None:
    service = Service(Scenario(create_rate_limit=FixedWindow(1, 10)))
    task_id = taken(create(service, 0))

    assert create(service, 1).status == 429
    assert poll(service, task_id, 1)["status"] == "pending"


# -- money --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lowers", "consumed"), [(True, 0), (False, 200)])
def test_failed_task_is_refunded_when_it_ends(lowers: bool, consumed: int) -> None:
    service = Service(
        Scenario(
            keys={KEY: 1000},
            failure_rate=1,
            queue_seconds=0,
            task_seconds=50,
            refund_lowers_consumed=lowers,
        )
    )
    taken(create(service, 0))

    assert credit_balance(service, 49.9)["balance"] == 800
    assert credit_balance(service, 50) == {
        "balance": 1000,
        "total_purchased": 1000,
        "total_consumed": consumed,
    }


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 40), st.sampled_from([4, 8, 12])), max_size=60),
    st.integers(0, 100),
    st.booleans(),
)
def test_charges_refunds_and_balance_always_add_up(
    steps: list[tuple[float, int]], seed: int, windowed: bool
) -> None:
    service = Service(
        Scenario(
            keys={KEY: 3000},
            seed=seed,
            failure_rate=0.4,
            spend_limit=2000,
            spend_window=100 if windowed else None,
            task_seconds=Lognormal(20, 1),
            faults=Faults(create_cut_after=0.2, create_upstream_error_taken=0.1),
        )
    )
    now = 0.0
    for gap, seconds in steps:
        now += gap
        create(service, now, order(duration=seconds))
        account = service.truth.accounts.get(KEY)
        assert account is not None
        tasks = service.truth.tasks.values()
        assert account.charged == sum(task.credits for task in tasks)
        assert account.refunded == sum(task.credits for task in tasks if task.refunded)
        assert account.balance == account.purchased - account.charged + account.refunded
        assert account.balance + account.consumed == account.purchased
        assert account.balance >= 0
        assert account.running == sum(task.ends > now for task in tasks)
        assert 0 <= account.spent <= 2000
        if not windowed:
            assert account.spent == account.charged - account.refunded
        for task in tasks:
            assert task.refunded == (task.outcome == "failed" and task.ends <= now)


# -- faults -------------------------------------------------------------------------------------

TAKEN = {
    Fault.CUT_AFTER,
    Fault.HANG,
    Fault.SLOW,
    Fault.TRUNCATED,
    Fault.MALFORMED,
    Fault.HTML_502_TAKEN,
    Fault.MISSING_TASK_ID,
    Fault.INTERNAL_ERROR_TAKEN,
    Fault.UPSTREAM_ERROR_TAKEN,
}


def only_fault(endpoint: Endpoint, fault: Fault, when: Any) -> Faults:
    fields: dict[str, Any] = {f"{endpoint}_{fault}": when}
    return Faults(**fields)


@pytest.mark.parametrize("fault", [fault for fault, _ in Faults().of(Endpoint.CREATE)])
def test_create_with_a_fault_is_taken_or_not_as_documented(fault: Fault) -> None:
    service = Service(Scenario(faults=only_fault(Endpoint.CREATE, fault, Nth(2))))
    taken(create(service, 0))

    create(service, 1)

    assert service.truth.creates_taken == 1 + (fault in TAKEN)
    assert service.truth.creates_seen == 2
    assert service.truth.faults == {(Endpoint.CREATE, fault): 1}
    taken(create(service, 2))


def create_with_fault(fault: Fault) -> Any:
    service = Service(Scenario(faults=Faults(slow_seconds=5, hang_seconds=50)))
    service.hook = lambda occasion: fault
    return create(service, 0)


def test_each_fault_changes_the_answer_as_documented() -> None:
    assert create_with_fault(Fault.CUT_BEFORE).cut == "before"
    assert create_with_fault(Fault.RESET).cut == "reset"
    assert create_with_fault(Fault.CUT_AFTER).cut == "after"
    assert create_with_fault(Fault.SLOW).delay == 5
    assert create_with_fault(Fault.HANG).delay == 50
    truncated = create_with_fault(Fault.TRUNCATED)
    assert truncated.cut == "body"
    assert 0 < len(truncated.sent_body) < len(truncated.body)
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(create_with_fault(Fault.MALFORMED).body)
    assert create_with_fault(Fault.HTML_502).status == 502
    assert create_with_fault(Fault.HTML_502).body.startswith(b"<html>")
    assert orjson.loads(create_with_fault(Fault.WRONG_ENVELOPE).body)["code"] == 402
    assert "taskId" not in orjson.loads(create_with_fault(Fault.MISSING_TASK_ID).body)["data"]
    redirect = create_with_fault(Fault.REDIRECT)
    assert redirect.status == 307
    assert redirect.headers["Location"] == "http://results.invalid/v1/videos/generations"
    assert error(create_with_fault(Fault.INTERNAL_ERROR))[:3] == (
        500,
        "internal_error",
        "api_error",
    )
    assert error(create_with_fault(Fault.UPSTREAM_ERROR))[:3] == (
        503,
        "upstream_error",
        "upstream_error",
    )


@pytest.mark.parametrize("fault", [fault for fault, _ in Faults().of(Endpoint.POLL)])
def test_each_poll_fault_can_happen(fault: Fault) -> None:
    service = Service(Scenario(faults=only_fault(Endpoint.POLL, fault, 1.0)))
    task_id = taken(create(service, 0))

    get(service, f"/v1/tasks/{task_id}", 1)

    assert service.truth.faults == {(Endpoint.POLL, fault): 1}


def test_fault_probability_is_respected_and_independent_of_other_endpoints() -> None:
    faults = Faults(create_cut_after=0.25, poll_hang=0.5)

    def cut(polls: int) -> list[bool]:
        service = Service(Scenario(faults=faults, seed=5, default_balance=10**9))
        answers = []
        for n in range(2000):
            answers.append(create(service, n).cut == "after")
            for _ in range(polls):
                get(service, "/v1/tasks/x", n)
        return answers

    assert cut(0) == cut(2)
    assert 0.2 < sum(cut(0)) / 2000 < 0.3


def test_hook_takes_precedence_and_may_prevent_a_fault() -> None:
    service = Service(Scenario(faults=Faults(create_cut_before=1.0)))
    calls: list[tuple[Endpoint, int]] = []

    def hook(occasion: Any) -> Fault | None:
        calls.append((occasion.endpoint, occasion.nth))
        return Fault.NONE if occasion.nth == 2 else None

    service.hook = hook

    assert create(service, 0).cut == "before"
    assert create(service, 0).cut is None
    assert calls == [(Endpoint.CREATE, 1), (Endpoint.CREATE, 2)]


@pytest.mark.parametrize("faults", [{"poll_hang": 1.5}, {"poll_hang": 0.6, "poll_reset": 0.6}])
def test_invalid_probabilities_are_refused(faults: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="probability"):
        Faults(**faults)


# -- truth and time -----------------------------------------------------------------------------


def test_truth_needs_no_api_key_and_never_contains_one() -> None:
    service = Service(Scenario(rate_limit=FixedWindow(1, 10)))
    task_id = taken(create(service, 0))
    create(service, 1)

    summary = service.handle(SimRequest("GET", "/_sim/truth"), 2)
    with_tasks = service.handle(SimRequest("GET", "/_sim/truth", query="tasks=1"), 2)

    totals = orjson.loads(summary.body)
    assert totals["creates_seen"] == 2
    assert totals["creates_taken"] == 1
    assert totals["rate_limited"] == 1
    assert totals["credits_charged"] == 200
    assert totals["statuses"] == {"create 200": 1, "create 429": 1}
    assert "tasks" not in totals
    (task,) = orjson.loads(with_tasks.body)["tasks"]
    assert (task["id"], task["prompt"], task["status"]) == (task_id, PROMPT, "processing")
    assert KEY.encode() not in summary.body + with_tasks.body


def test_next_event_is_the_next_task_end_or_callback() -> None:
    service = Service(STEADY)
    assert service.next_event() is None

    create(service, 5)
    create(service, 6, {**order(), "callback_url": "http://127.0.0.1:1/x"})

    assert service.next_event() == 115
    service.due_callbacks(115)
    assert service.next_event() == 116
    assert len(service.due_callbacks(116)) == 1
    assert service.next_event() is None


def test_speed_affects_only_task_times() -> None:
    service = Service(attrs.evolve(STEADY, speed=100, rate_limit=FixedWindow(2, 10)))
    task_id = taken(create(service, 0))

    assert poll(service, task_id, 1.1)["status"] == "completed"
    assert create(service, 9.9).status == 429


def test_latency_and_clock_skew_match_the_scenario() -> None:
    service = Service(Scenario(latency=0.2, clock_skew=-30, epoch=1000))

    answer = create(service, 0)

    assert answer.delay == 0.2
    assert poll(service, taken(answer), 0)["created_at"] == 970
