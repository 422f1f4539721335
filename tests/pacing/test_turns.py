from __future__ import annotations

import pytest

from aivideo._pacing.turns import Turns


def test_three_creates_go_per_poll_while_both_wait() -> None:
    turns, order = Turns(), ""
    for _ in range(12):
        create = turns.next_is_create(True, True, probe=False)
        assert create is not None
        turns.granted(create, probe=False)
        order += "c" if create else "p"
    assert order == "cccpcccpcccp"
    assert turns.next_is_create(False, True, probe=False) is False
    assert turns.next_is_create(True, False, probe=False) is True
    assert turns.next_is_create(False, False, probe=False) is None


def test_after_a_create_rejected_as_a_probe_the_next_probe_is_a_poll() -> None:
    turns = Turns()
    turns.rejected(True)
    kinds = []
    for _ in range(4):
        create = turns.next_is_create(True, True, probe=True)
        assert create is not None
        turns.granted(create, probe=True)
        if create:
            turns.rejected(True)
        kinds.append(create)
    assert kinds == [True, False, True, False]


@pytest.mark.parametrize(
    ("rejected", "create_is_probed"), [([True], True), ([False], False), ([True, False], False)]
)
def test_the_probe_is_of_the_rejected_kind_and_a_poll_if_both_were(
    rejected: list[bool], create_is_probed: bool
) -> None:
    turns = Turns()
    for is_create in rejected:
        turns.rejected(is_create)
    assert turns.next_is_create(True, True, probe=True) is create_is_probed


def test_an_accepted_probe_ends_the_hold_and_clears_the_rejections() -> None:
    turns = Turns()
    turns.rejected(True)
    turns.hold_ended()
    assert turns.next_is_create(True, True, probe=True) is False
