from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivideo.simulator import Fault, Scenario, Service, SimAnswer
from tests.simulator.calls import create, fetch, poll, taken

# A task that is over at once, with a result of a few hundred bytes.
QUICK = Scenario(queue_seconds=0, task_seconds=0, media="stub", epoch=1_000_000)


def finished(scenario: Scenario = QUICK) -> tuple[Service, str]:
    """A service, and the URL of its one result."""
    service = Service(scenario)
    (url,) = poll(service, taken(create(service, 0)), 0)["output"]["urls"]
    return service, url


SERVICE, URL = finished()
WHOLE = fetch(SERVICE, URL, 0)
ETAG = WHOLE.headers["ETag"]


def test_a_result_lies_in_a_dated_folder_of_another_origin() -> None:
    path = URL.removeprefix("http://results.invalid")

    assert path.startswith("/videos/1970/01/12/")
    assert ".mp4?X-Expires=1086400&X-Signature=" in path


def test_the_whole_is_sent_with_its_length_and_entity_tag() -> None:
    assert WHOLE.status == 200
    assert WHOLE.headers["Content-Type"] == "video/mp4"
    assert WHOLE.headers["Content-Length"] == str(len(WHOLE.body))
    assert WHOLE.headers["Accept-Ranges"] == "bytes"
    assert fetch(SERVICE, URL, 5) == WHOLE


def test_head_tells_the_same_without_the_bytes() -> None:
    head = fetch(SERVICE, URL, 0, "HEAD")

    assert (head.status, head.headers, head.body) == (200, WHOLE.headers, b"")


def test_a_url_is_good_until_its_day_is_over() -> None:
    assert fetch(SERVICE, URL, 86_399.9).status == 200
    expired = fetch(SERVICE, URL, 86_400)

    assert expired.status == 403
    assert expired.headers["Content-Type"] == "application/xml"
    assert b"<Code>AccessDenied</Code>" in expired.body


@pytest.mark.parametrize(
    "url",
    [
        URL[:-1] + ("0" if URL[-1] != "0" else "1"),
        URL.replace("X-Expires=1086400", "X-Expires=9999999"),
        URL.replace("X-Expires=1086400&", ""),
        URL.partition("?")[0],
        URL.replace("/01/12/", "/01/13/"),
    ],
)
def test_a_url_somebody_changed_is_refused(url: str) -> None:
    refused = fetch(SERVICE, url, 0)

    assert refused.status == 403
    assert b"<Code>SignatureDoesNotMatch</Code>" in refused.body


def test_nothing_else_lies_there_and_nothing_can_be_put() -> None:
    assert fetch(SERVICE, "http://results.invalid/secret", 0).status == 404
    assert fetch(SERVICE, URL, 0, "PUT").status == 405
    assert fetch(Service(QUICK), URL, 0).status == 404


def test_a_failed_task_has_no_result() -> None:
    service = Service(Scenario(failure_rate=1, queue_seconds=0, task_seconds=0))

    assert "output" not in poll(service, taken(create(service, 0)), 0)


def ranged(value: str, **headers: str) -> SimAnswer:
    return fetch(SERVICE, URL, 0, Range=value, **headers)


@given(st.integers(0, 1200), st.integers(0, 1200))
def test_a_range_gives_exactly_its_bytes(first: int, last: int) -> None:
    size = len(WHOLE.body)

    answer = ranged(f"bytes={first}-{last}")

    if last < first:
        assert answer.status == 200
    elif first >= size:
        assert answer.status == 416
        assert answer.headers["Content-Range"] == f"bytes */{size}"
    else:
        end = min(last, size - 1)
        assert answer.status == 206
        assert answer.headers["Content-Range"] == f"bytes {first}-{end}/{size}"
        assert answer.headers["Content-Length"] == str(len(answer.body))
        assert answer.body == WHOLE.body[first : last + 1]


def test_open_and_last_ranges() -> None:
    assert ranged("bytes=100-").body == WHOLE.body[100:]
    assert ranged("bytes=-100").body == WHOLE.body[-100:]
    assert ranged("bytes=-99999").body == WHOLE.body
    assert ranged("bytes=-0").status == 416


@pytest.mark.parametrize("value", ["bytes=0-1,5-6", "lines=0-1", "bytes=-", "bytes=x-1", ""])
def test_a_range_nobody_understands_is_ignored(value: str) -> None:
    assert ranged(value) == WHOLE


def test_if_range_lets_a_download_go_on_only_from_the_same_bytes() -> None:
    assert ranged("bytes=9-", If_Range=ETAG).status == 206
    assert ranged("bytes=9-", If_Range=WHOLE.headers["Last-Modified"]).status == 206
    assert ranged("bytes=9-", If_Range='"other"') == WHOLE
    assert ranged("bytes=9-", If_Range=f"W/{ETAG}") == WHOLE
    assert WHOLE.headers["Last-Modified"] == formatdate(1_000_000, usegmt=True)


def test_a_key_that_comes_along_is_noted() -> None:
    service, url = finished()
    fetch(service, url, 0)
    assert service.truth.keys_at_results == 0

    fetch(service, url, 0, Authorization="Bearer x")
    fetch(service, f"{url}&key=sk-demo", 0)
    fetch(service, url, 0, X_Api_Key="sk-demo")
    fetch(service, "http://results.invalid/v1/videos/generations", 0, "POST", Authorization="x")

    assert service.truth.keys_at_results == 4
    assert service.truth.downloads == 5


def test_a_download_can_be_cut_and_a_range_ignored() -> None:
    service, url = finished()
    service.hook = lambda occasion: Fault.CUT
    cut = fetch(service, url, 0)
    service.hook = lambda occasion: Fault.IGNORE_RANGE
    ignored = fetch(service, url, 0, Range="bytes=5-")

    assert cut.cut == "body"
    assert cut.headers["Content-Length"] == str(len(WHOLE.body))
    assert len(cut.sent_body) < len(WHOLE.body)
    assert ignored == WHOLE
    assert service.truth.bytes_downloaded == len(cut.sent_body) + len(WHOLE.body)
