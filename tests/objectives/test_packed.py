"""Reading a packed batch leaves nothing of what stands outside its episodes."""

import torch

from resel_torchrl.objectives import read_packed
from tests.objectives.episodes import make_episodes, pack
from tests.objectives.test_isolation import poison


def test_poison_outside_the_episodes_is_gone():
    batch = pack(make_episodes([4, 1, 6, 2, 3]), 13)
    keys = ["observation", "prev_observation", "prev_action"]
    clean, read = (read_packed(b, keys) for b in (batch, poison(batch)))
    assert (clean.rows == read.rows).all()
    for name in ("action", "reward", "terminated", "mask"):
        assert torch.equal(getattr(read, name), getattr(clean, name)), name


def test_last_observation_of_an_episode_is_kept_and_its_transition_is_not():
    (episode,) = make_episodes([3])
    batch = pack([episode], 6)
    batch["action"][0, 3] = torch.nan
    read = read_packed(batch, ["observation", "prev_action"])
    assert torch.equal(read.rows["observation"][0, :4], episode.observation)
    assert torch.equal(read.rows["prev_action"][0, 1:4], episode.action)
    assert read.mask.tolist() == [[True, True, True, False, False]]
    assert (read.action[0, 3:] == 0).all()
    assert read.rows["is_init"].flatten().tolist() == [True] + [False] * 3 + [True] * 2
