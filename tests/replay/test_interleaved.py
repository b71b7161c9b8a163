"""Parts of several environments' episodes, written in turns, are refused."""

import pytest
import torch
from tensordict import TensorDict

from tests.replay.episodes import all_stored, make_buffer, make_episode


def test_start_of_an_episode_inside_an_unfinished_one_is_refused():
    buffer = make_buffer(100, 1)
    first, second = make_episode(0, 6), make_episode(1, 6)
    buffer.extend(make_episode(9, 3))
    for part in (first[:3], second[:3], first[3:], second[3:]):
        buffer.extend(part)
    for _ in range(2):  # and so it stays
        with pytest.raises(ValueError, match=r"one at transition 6 .*in turns"):
            buffer.sample()
    buffer.empty()
    buffer.extend(torch.cat([first, second]))
    assert all_stored(buffer) == [(0, 6), (1, 6)]


def test_control_without_start_flags_both_are_taken_for_one_episode():
    buffer = make_buffer(100, 1)
    first, second = (make_episode(n, 6, with_is_init=False) for n in range(2))
    for part in (first[:3], second[:3], first[3:]):
        buffer.extend(part)
    assert buffer.sample()["observation"][:, 0].tolist() == [
        *[0] * 3,
        *[1] * 3,
        *[0] * 3,
    ]


def test_middle_of_an_episode_after_the_end_of_another_is_refused():
    buffer = make_buffer(100, 1)
    buffer.extend(make_episode(0, 4))
    assert all_stored(buffer) == [(0, 4)]
    buffer.extend(make_episode(1, 6)[3:])
    with pytest.raises(ValueError, match=r"start flag at transition 4 .*got none"):
        buffer.sample()


def test_first_transition_of_all_without_its_start_flag_is_refused():
    buffer = make_buffer(100, 1)
    buffer.extend(make_episode(1, 6)[3:])
    with pytest.raises(ValueError, match=r"start flag at transition 0 .*got none"):
        buffer.sample()


def test_transitions_whose_beginning_was_overwritten_need_no_start_flag():
    buffer = make_buffer(8, 1)
    for part in make_episode(0, 12).split(4):
        buffer.extend(part)
    buffer.extend(make_episode(1, 5))
    assert all_stored(buffer) == [(1, 5)]


@pytest.mark.parametrize("ends", [False, True])
def test_data_of_several_environments_that_is_not_flat_is_refused(ends):
    flags = torch.full((2, 4, 1), ends)
    data = {"observation": torch.zeros(2, 4, 3), "is_init": flags.clone()}
    buffer = make_buffer(20, 1)
    buffer.extend(TensorDict({**data, "next": {"done": flags}}, [2, 4]))
    with pytest.raises(ValueError, match=r"shape \[n\] or \[n, 1\], got \[2, 4, 1\]"):
        buffer.sample()
