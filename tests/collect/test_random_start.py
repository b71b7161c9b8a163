"""Episodes that begin with random actions: how many, what the policy knows of them."""

import functools

import numpy as np
import pytest

from resel_torchrl.collect import episode_seed
from resel_torchrl.collect.episode_collector import RandomStart
from resel_torchrl.envs import make_gym
from resel_torchrl.errors import ConfigError
from tests.collect.test_episode_collector import episodes, make_single, make_vector
from tests.training.runs import assert_same_run, resume, rows, start

MOST = 6


def test_number_of_steps_is_uniform_and_of_the_seed_alone():
    steps = [RandomStart(seed, MOST).steps for seed in range(7000)]
    assert steps == [RandomStart(seed, MOST).steps for seed in range(7000)]
    counts = np.bincount(steps)
    assert len(counts) == MOST + 1
    assert (abs(counts - 1000) < 120).all()  # four standard deviations


def test_number_of_steps_is_independent_of_what_the_environment_draws():
    env = make_gym("KeyToDoor-60-v0")
    seeds = range(1000)
    cells = [env.reset(seed=seed)[1]["task"]["key"] for seed in seeds]
    steps = [RandomStart(seed, 10).steps for seed in seeds]
    assert abs(np.corrcoef(cells, steps)[0, 1]) < 0.13  # four standard deviations
    same_stream = [np.random.default_rng(seed).integers(11) for seed in seeds]
    assert np.corrcoef(cells, same_stream)[0, 1] > 0.9  # the control


def acted(episode, first_random, *, watching=True):
    """Actions of a fresh policy along an episode whose first ones were others."""
    policy = make_single(deterministic=True).policy
    rewards, actions = episode["next", "reward"].numpy(), []
    for t, observation in enumerate(episode["observation"].numpy()):
        reward = rewards[t - 1, 0] if t else None
        actions.append(policy.act(observation, reward, first=t == 0))
        if watching and t < first_random:
            policy.replace_action(episode["action"][t].numpy())
    return np.stack(actions)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_policy_watches_the_start_and_then_acts(num_envs):
    options = {"random_start_steps": MOST, "deterministic": True}
    make = make_single if num_envs == 1 else functools.partial(make_vector, num_envs)
    collector = make(**options)
    for _ in range(150):
        collector.step()
    seeds = {episode_seed(0, k, i) for k in range(num_envs) for i in range(50)}
    starts = {tuple(_observation(seed)): RandomStart(seed, MOST) for seed in seeds}
    found, blind = episodes(collector), 0
    assert len(found) > 10 * num_envs
    for episode in found:
        random = starts[tuple(episode["observation"][0].tolist())]
        k, actions = random.steps, episode["action"].numpy()
        for action in actions[:k]:
            assert np.array_equal(action, random.action(collector.policy))
        tolerance = {"rtol": 1e-4, "atol": 1e-5}
        np.testing.assert_allclose(acted(episode, k)[k:], actions[k:], **tolerance)
        unseen = acted(episode, k, watching=False)
        blind += not np.allclose(unseen[k:], actions[k:], **tolerance)
    assert blind > len(found) / 2


def _observation(seed):
    observation, _ = make_single().env.reset(seed=seed)
    return observation.tolist()


def test_random_phase_is_what_it_was():
    pair = [make_single(random_steps=50, random_start_steps=n) for n in (0, MOST)]
    for collector in pair:
        while collector.in_random_phase:
            collector.step()
    first, second = map(episodes, pair)
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("options", [[], ["train.collection=process"]])
def test_runs_take_the_option_and_resume(tmp_path, options):
    options = [*options, f"train.random_start_steps={MOST}"]
    if "train.collection=process" in options:
        training = start(tmp_path / "run", *options)
        training.run()
        assert training.collector.random_start_steps == MOST
        return
    start(tmp_path / "whole", *options).run()
    start(tmp_path / "parts", *options, "steps=67").run()
    resume(tmp_path / "parts", "steps=130").run()
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    start(tmp_path / "other").run()
    tables = [rows(tmp_path / name / "metrics.csv") for name in ("whole", "other")]
    assert tables[0] != tables[1]


def test_a_negative_number_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="random_start_steps"):
        start(tmp_path / "run", "train.random_start_steps=-1")
