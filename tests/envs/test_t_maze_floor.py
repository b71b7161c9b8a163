"""How long a T-Maze may be for a policy whose every action has some probability."""

import functools
import math

import pytest

from resel_torchrl.envs import make_gym
from resel_torchrl.modules import CategoricalActor

EAST, UP, WEST, DOWN = range(4)
MOVES = {EAST: (1, 0), UP: (0, 1), WEST: (-1, 0), DOWN: (0, -1)}


def first_moves(length: int, floor: float, gamma: float = 0.99) -> list[float]:
    """Discounted value of each first action in the active maze, by backward induction.

    After it the best action is meant at every step, and taken as often as ``floor``
    allows. The goal is in the arm y = 1, which the agent knows once it saw the sign.
    """
    end, junction = length + 3, length + 1

    def moved(x, y, action):
        dx, dy = MOVES[action]
        if y == 0 and dy == 0:
            return min(max(x + dx, 0), junction), y
        if x == junction and dx == 0:
            return x, min(max(y + dy, -1), 1)
        return x, y

    @functools.cache
    def taken(x, y, t, known, action):
        x, y = moved(x, y, action)
        t, known = t + 1, known or x == 0
        if t == end:
            return float(y == 1) if known else 0.5 * (y != 0)
        penalty = -1 / length if x < t - 1 else 0
        values = [taken(x, y, t, known, other) for other in MOVES]
        # Each action has the floor's share, the best one the rest.
        share = floor / (1 + 4 * floor)
        meant = (1 - 4 * share) * max(values) + share * sum(values)
        return penalty + gamma * meant

    return [taken(1, 0, 0, False, action) for action in MOVES]


@pytest.mark.parametrize("length", [1, 5, 20])
def test_induction_without_a_floor_knows_the_best_return(length):
    values = first_moves(length, floor=0, gamma=1)
    assert values[WEST] == max(values) == 1
    assert values[EAST] == 0.5
    env = make_gym("TMaze-Active-v0", length=length)
    while env.reset()[1]["task"]["goal"] != 1:
        pass
    total = sum(env.step(a)[1] for a in [WEST, EAST, *[EAST] * length, UP])
    assert math.isclose(total, values[WEST])


def test_going_to_the_sign_pays_in_short_mazes_only():
    """With every other action at a hundredth the walk is wrong too often to be on time.

    An agent that goes straight on and guesses has two steps to spare.
    """
    floor = CategoricalActor(2, 4).network.probability_floor
    assert floor == 0.01
    for length in (3, 5, 8, 10):
        values = first_moves(length, floor)
        assert values[WEST] == max(values)
    for length in (12, 20, 50):
        values = first_moves(length, floor)
        assert values[EAST] > values[WEST]
        for lower in (0.001, 0.0):
            values = first_moves(length, lower)
            assert values[WEST] > values[EAST]
