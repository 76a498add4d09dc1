# SPDX-License-Identifier: MPL-2.0
"""Who is asked, who is waited for, and when all have answered."""

from __future__ import annotations

from nomad_nvidia_vgpu.gpu.roll_call import Keeper, RollCall


def test_a_round_is_over_when_all_have_answered() -> None:
    """And not before; an empty one is over at once."""
    roll = RollCall()
    (_, first), (_, second) = roll.begin(2)
    assert not roll.over
    assert not roll.answered(first)
    assert roll.answered(second)
    assert roll.rounds == 1
    assert roll.begin(0) == []
    assert roll.rounds == 2


def test_who_hangs_is_given_up_and_not_asked_again() -> None:
    """One index that hangs ends no round, and gets no second thread."""
    roll = RollCall()
    (_, first), (_, second) = roll.begin(2)
    second.busy_since = 5.0
    roll.answered(first)
    assert roll.give_up(4.0) == []
    assert roll.give_up(5.0) == [1]
    assert roll.give_up(9.0) == []
    assert roll.over
    assert [index for index, _ in roll.begin(2)] == [0]


def test_what_begins_now_ends_after_what_is_under_way() -> None:
    """The answers of a round that has begun may be older than the question."""
    roll = RollCall()
    assert roll.next_round == 1
    roll.begin(1)
    assert roll.next_round == 2


def test_events_make_a_gpu_look_once_in_a_while() -> None:
    """However many come, the next look because of one comes after a rest, and it does come."""
    keeper = Keeper()
    keeper.heed(100.0)
    keeper.heed(100.5)
    assert keeper.look_at == 100.0
    keeper.looks(101.0, 10.0)
    assert keeper.look_at == float("inf")
    keeper.heed(101.5)
    keeper.heed(105.0)
    assert keeper.look_at == 111.0
