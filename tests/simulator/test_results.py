from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivideo.simulator import Fault, Scenario, Service, SimAnswer
from tests.simulator.calls import create, fetch, poll, taken

# Tasks complete immediately, with a result of about a thousand bytes.
IMMEDIATE = Scenario(queue_seconds=0, task_seconds=0, media="stub", epoch=1_000_000)


def completed(scenario: Scenario = IMMEDIATE) -> tuple[Service, str]:
    """Return a service with one completed task, and the URL of its result."""
    service = Service(scenario)
    (url,) = poll(service, taken(create(service, 0)), 0)["output"]["urls"]
    return service, url


SERVICE, URL = completed()
COMPLETE = fetch(SERVICE, URL, 0)
ETAG = COMPLETE.headers["ETag"]


def test_result_url_has_another_origin_and_a_dated_path() -> None:
    path = URL.removeprefix("http://results.invalid")

    assert path.startswith("/videos/1970/01/12/")
    assert ".mp4?X-Expires=1086400&X-Signature=" in path


def test_complete_result_has_its_length_and_entity_tag() -> None:
    assert COMPLETE.status == 200
    assert COMPLETE.headers["Content-Type"] == "video/mp4"
    assert COMPLETE.headers["Content-Length"] == str(len(COMPLETE.body))
    assert COMPLETE.headers["Accept-Ranges"] == "bytes"
    assert fetch(SERVICE, URL, 5) == COMPLETE


def test_head_has_the_same_headers_and_no_body() -> None:
    head = fetch(SERVICE, URL, 0, "HEAD")

    assert (head.status, head.headers, head.body) == (200, COMPLETE.headers, b"")


def test_url_expires_after_24_hours() -> None:
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
def test_modified_url_is_refused(url: str) -> None:
    refused = fetch(SERVICE, url, 0)

    assert refused.status == 403
    assert b"<Code>SignatureDoesNotMatch</Code>" in refused.body


def test_other_paths_and_methods_are_refused() -> None:
    assert fetch(SERVICE, "http://results.invalid/secret", 0).status == 404
    assert fetch(SERVICE, URL, 0, "PUT").status == 405
    assert fetch(Service(IMMEDIATE), URL, 0).status == 404


def test_failed_task_has_no_result() -> None:
    service = Service(Scenario(failure_rate=1, queue_seconds=0, task_seconds=0))

    assert "output" not in poll(service, taken(create(service, 0)), 0)


def fetch_range(value: str, **headers: str) -> SimAnswer:
    return fetch(SERVICE, URL, 0, Range=value, **headers)


@given(st.integers(0, 1200), st.integers(0, 1200))
def test_range_gives_exactly_its_bytes(first: int, last: int) -> None:
    size = len(COMPLETE.body)

    answer = fetch_range(f"bytes={first}-{last}")

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
        assert answer.body == COMPLETE.body[first : last + 1]


def test_open_ended_and_suffix_ranges() -> None:
    assert fetch_range("bytes=100-").body == COMPLETE.body[100:]
    assert fetch_range("bytes=-100").body == COMPLETE.body[-100:]
    assert fetch_range("bytes=-99999").body == COMPLETE.body
    assert fetch_range("bytes=-0").status == 416


@pytest.mark.parametrize("value", ["bytes=0-1,5-6", "lines=0-1", "bytes=-", "bytes=x-1", ""])
def test_unsupported_or_invalid_range_is_ignored(value: str) -> None:
    assert fetch_range(value) == COMPLETE


def test_range_is_ignored_if_if_range_does_not_match() -> None:
    assert fetch_range("bytes=9-", If_Range=ETAG).status == 206
    assert fetch_range("bytes=9-", If_Range=COMPLETE.headers["Last-Modified"]).status == 206
    assert fetch_range("bytes=9-", If_Range='"other"') == COMPLETE
    assert fetch_range("bytes=9-", If_Range=f"W/{ETAG}") == COMPLETE
    assert COMPLETE.headers["Last-Modified"] == formatdate(1_000_000, usegmt=True)


def test_api_key_sent_to_the_results_is_counted() -> None:
    service, url = completed()
    fetch(service, url, 0)
    assert service.truth.keys_at_results == 0

    fetch(service, url, 0, Authorization="Bearer x")
    fetch(service, f"{url}&key=sk-demo", 0)
    fetch(service, url, 0, X_Api_Key="sk-demo")
    fetch(service, "http://results.invalid/v1/videos/generations", 0, "POST", Authorization="x")

    assert service.truth.keys_at_results == 4
    assert service.truth.downloads == 5


def test_faults_cut_a_download_and_ignore_a_range() -> None:
    service, url = completed()
    service.hook = lambda occasion: Fault.CUT
    cut = fetch(service, url, 0)
    service.hook = lambda occasion: Fault.IGNORE_RANGE
    ignored = fetch(service, url, 0, Range="bytes=5-")

    assert cut.cut == "body"
    assert cut.headers["Content-Length"] == str(len(COMPLETE.body))
    assert len(cut.sent_body) < len(COMPLETE.body)
    assert ignored == COMPLETE
    assert service.truth.bytes_downloaded == len(cut.sent_body) + len(COMPLETE.body)
