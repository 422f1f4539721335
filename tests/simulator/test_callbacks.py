from __future__ import annotations

from typing import Any

import orjson
import pytest

from aivideo.simulator import Callback, Faults, Nth, Scenario, Service
from aivideo.simulator.callbacks import is_loopback
from tests.simulator.calls import create, order, poll, taken

HOOK = "http://127.0.0.1:9/hook"


def create_task(service: Service, now: float, url: str = HOOK) -> str:
    return taken(create(service, now, {**order(), "callback_url": url}))


def service(faults: Faults | None = None, **changes: Any) -> Service:
    return Service(
        Scenario(queue_seconds=0, task_seconds=100, faults=faults or Faults(), **changes)
    )


def send_all(
    service: Service, status: int | None, until: float = 5000
) -> list[tuple[float, Callback]]:
    """Return all callbacks and their times, answering each with the same status."""
    sent: list[tuple[float, Callback]] = []
    while (at := service.next_event()) is not None and at <= until:
        for callback in service.due_callbacks(at):
            sent.append((at, callback))
            service.callback_answered(callback, status, at)
    return sent


@pytest.mark.parametrize(("rate", "event"), [(0.0, "task.completed"), (1.0, "task.failed")])
def test_callback_posts_the_task_object_with_the_documented_headers_when_the_task_ends(
    rate: float, event: str
) -> None:
    simulated = service(failure_rate=rate)
    task_id = create_task(simulated, 0)

    ((at, callback),) = send_all(simulated, 204)

    assert at == 100
    assert callback.url == HOOK
    assert callback.headers == {
        "Content-Type": "application/json",
        "X-Event": event,
        "X-Task-Id": task_id,
        "X-Timestamp": str(int(simulated.unix(100))),
    }
    assert orjson.loads(callback.body) == poll(simulated, task_id, 100)
    assert simulated.truth.callbacks_delivered == 1


@pytest.mark.parametrize("status", [None, 500, 404, 302])
def test_failed_callback_is_retried_after_3_and_10_minutes(status: int | None) -> None:
    simulated = service()
    create_task(simulated, 0)

    sent = send_all(simulated, status)

    assert [at for at, _ in sent] == [100, 280, 700]
    assert [callback.attempt for _, callback in sent] == [1, 2, 3]
    assert simulated.truth.callbacks_delivered == 0


def test_callback_times_are_divided_by_speed() -> None:
    simulated = service(speed=10)
    create_task(simulated, 0)

    assert [at for at, _ in send_all(simulated, 503)] == [10, 28, 70]


def test_no_callback_without_a_callback_url() -> None:
    simulated = service()
    create(simulated, 0)

    assert send_all(simulated, 200) == []
    assert simulated.truth.callbacks == []


def test_callbacks_to_other_machines_are_only_recorded() -> None:
    simulated = service()
    create_task(simulated, 0, "https://your-server.com/webhook")

    assert send_all(simulated, 200) == []
    (recorded,) = simulated.truth.callbacks
    assert (recorded.url, recorded.fate) == ("https://your-server.com/webhook", "recorded")


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://localhost:8000/x", True),
        ("http://127.0.0.1/x", True),
        ("http://127.9.9.9/x", True),
        ("http://[::1]:80/x", True),
        ("https://example.com/127.0.0.1", False),
        ("http://127.0.0.1.example.com/", False),
        ("http://10.0.0.1/", False),
        ("http://[bad", False),
    ],
)
def test_is_loopback(url: str, local: bool) -> None:
    assert is_loopback(url) is local


def test_lost_callback_is_never_sent() -> None:
    simulated = service(Faults(callback_lost=Nth(1)))
    create_task(simulated, 0)
    second = create_task(simulated, 1)

    assert [callback.task_id for _, callback in send_all(simulated, 200)] == [second]
    assert [record.fate for record in simulated.truth.callbacks] == ["lost", "sent"]


def test_doubled_callback_is_sent_twice() -> None:
    simulated = service(Faults(callback_doubled=1.0))
    task_id = create_task(simulated, 0)

    sent = send_all(simulated, 200)

    assert [(at, callback.task_id) for at, callback in sent] == [(100, task_id)] * 2
    assert sent[0][1].body == sent[1][1].body


def test_late_callback_is_delayed() -> None:
    simulated = service(Faults(callback_late=1.0, late_seconds=300))
    create_task(simulated, 0)

    assert [at for at, _ in send_all(simulated, 200)] == [400]


def test_disordered_callbacks_are_sent_in_another_order() -> None:
    simulated = service(Faults(callback_disordered=1.0))
    ids = [create_task(simulated, n) for n in range(20)]

    sent = [callback.task_id for _, callback in send_all(simulated, 200)]

    assert sorted(sent) == sorted(ids)
    assert sent != ids


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_forged_callback_reports_a_false_outcome_while_the_task_runs(rate: float) -> None:
    simulated = service(Faults(callback_forged=1.0), failure_rate=rate)
    task_id = create_task(simulated, 0)

    (first_at, forged), (at, genuine) = send_all(simulated, 200)

    assert first_at < at == 100
    false, true = orjson.loads(forged.body), orjson.loads(genuine.body)
    assert false["id"] == true["id"] == task_id
    assert {false["status"], true["status"]} == {"completed", "failed"}
    assert forged.headers.keys() == genuine.headers.keys()
