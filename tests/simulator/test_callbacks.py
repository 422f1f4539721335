from __future__ import annotations

from typing import Any

import orjson
import pytest

from aivideo.simulator import Callback, Faults, Nth, Scenario, Service
from aivideo.simulator.callbacks import is_loopback
from tests.simulator.calls import create, order, poll, taken

HOOK = "http://127.0.0.1:9/hook"


def ordered(service: Service, now: float, url: str = HOOK) -> str:
    return taken(create(service, now, {**order(), "callback_url": url}))


def service(faults: Faults | None = None, **changes: Any) -> Service:
    return Service(
        Scenario(queue_seconds=0, task_seconds=100, faults=faults or Faults(), **changes)
    )


def drained(
    service: Service, status: int | None, until: float = 5000
) -> list[tuple[float, Callback]]:
    """Every callback with the second it came, each answered with the same status."""
    came: list[tuple[float, Callback]] = []
    while (at := service.next_event()) is not None and at <= until:
        for callback in service.due_callbacks(at):
            came.append((at, callback))
            service.callback_answered(callback, status, at)
    return came


@pytest.mark.parametrize(("rate", "event"), [(0.0, "task.completed"), (1.0, "task.failed")])
def test_the_task_object_is_posted_when_it_ends_with_the_documented_headers(
    rate: float, event: str
) -> None:
    simulated = service(failure_rate=rate)
    task_id = ordered(simulated, 0)

    ((at, callback),) = drained(simulated, 204)

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
def test_a_callback_is_tried_at_once_and_3_and_10_minutes_later(status: int | None) -> None:
    simulated = service()
    ordered(simulated, 0)

    came = drained(simulated, status)

    assert [at for at, _ in came] == [100, 280, 700]
    assert [callback.attempt for _, callback in came] == [1, 2, 3]
    assert simulated.truth.callbacks_delivered == 0


def test_the_tries_are_scaled_by_speed() -> None:
    simulated = service(speed=10)
    ordered(simulated, 0)

    assert [at for at, _ in drained(simulated, 503)] == [10, 28, 70]


def test_no_callback_without_a_url() -> None:
    simulated = service()
    create(simulated, 0)

    assert drained(simulated, 200) == []
    assert simulated.truth.callbacks == []


def test_other_machines_are_never_called_only_noted() -> None:
    simulated = service()
    ordered(simulated, 0, "https://your-server.com/webhook")

    assert drained(simulated, 200) == []
    (noted,) = simulated.truth.callbacks
    assert (noted.url, noted.fate) == ("https://your-server.com/webhook", "recorded")


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
def test_only_loopback_hosts_are_this_machine(url: str, local: bool) -> None:
    assert is_loopback(url) is local


def test_a_lost_callback_never_comes() -> None:
    simulated = service(Faults(callback_lost=Nth(1)))
    ordered(simulated, 0)
    second = ordered(simulated, 1)

    assert [callback.task_id for _, callback in drained(simulated, 200)] == [second]
    assert [record.fate for record in simulated.truth.callbacks] == ["lost", "sent"]


def test_a_doubled_callback_comes_twice() -> None:
    simulated = service(Faults(callback_doubled=1.0))
    task_id = ordered(simulated, 0)

    came = drained(simulated, 200)

    assert [(at, callback.task_id) for at, callback in came] == [(100, task_id)] * 2
    assert came[0][1].body == came[1][1].body


def test_a_late_callback_comes_late() -> None:
    simulated = service(Faults(callback_late=1.0, late_seconds=300))
    ordered(simulated, 0)

    assert [at for at, _ in drained(simulated, 200)] == [400]


def test_disordered_callbacks_overtake_each_other() -> None:
    simulated = service(Faults(callback_disordered=1.0))
    ids = [ordered(simulated, n) for n in range(20)]

    came = [callback.task_id for _, callback in drained(simulated, 200)]

    assert sorted(came) == sorted(ids)
    assert came != ids


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_forged_callback_lies_while_the_task_still_runs(rate: float) -> None:
    simulated = service(Faults(callback_forged=1.0), failure_rate=rate)
    task_id = ordered(simulated, 0)

    (first_at, forged), (at, honest) = drained(simulated, 200)

    assert first_at < at == 100
    lie, truth = orjson.loads(forged.body), orjson.loads(honest.body)
    assert lie["id"] == truth["id"] == task_id
    assert {lie["status"], truth["status"]} == {"completed", "failed"}
    assert forged.headers.keys() == honest.headers.keys()
