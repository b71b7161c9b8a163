"""Key, apples and door: what each does, and two policies that tell them apart."""

import gymnasium
import numpy as np

from resel_torchrl.envs import make_gym
from resel_torchrl.envs.key_to_door import KeyToDoor
from tests.envs.key_to_door import EAST, NORTH, SOUTH, WEST, shows, to_key

#: From a cell to the one that a move came from.
BACK = {NORTH: (1, 0), SOUTH: (-1, 0), WEST: (0, 1), EAST: (0, -1)}


def next_apple(game: KeyToDoor) -> int:
    """The move to the nearest apple that is there when the agent is."""
    row, column = game.player

    def distance(cell):
        return abs(cell[0] - row) + abs(cell[1] - column)

    soon = {cell for step, cell in game.returning if game.steps + distance(cell) > step}
    goals = [cell for cell in game.apples | soon if cell != game.player]
    to_row, to_column = min(goals, key=lambda cell: (distance(cell), cell))
    if to_column != column:
        return WEST if to_column < column else EAST
    return NORTH if to_row < row else SOUTH


def scripted(env: gymnasium.Env, seed: int, *, key: bool = True) -> dict[str, float]:
    """Return and measures of a policy that looks behind the picture."""
    env.reset(seed=seed)
    game = env.unwrapped
    way = to_key(game) if key else []
    total, terminated = 0.0, False
    for step in range(env.horizon):
        assert not terminated
        if step < 15:  # against a wall once there, or all the time
            action = way[step] if step < len(way) else NORTH if key else SOUTH
        else:
            action = next_apple(game) if step < env.horizon - 10 else NORTH
        _, reward, terminated, _, info = env.step(action)
        total += reward
    assert terminated
    return {"return": total, **info["measures"]}


def test_key_and_apples_bring_what_they_should_and_no_key_no_door():
    env = make_gym("KeyToDoor-60-v0")
    best = [scripted(env, seed) for seed in range(60)]
    assert all(episode["success"] == 1 for episode in best)
    assert all(e["return"] == e["apples"] + 5 for e in best)
    assert 21 < np.mean([episode["apples"] for episode in best]) < 25
    without = [scripted(env, seed, key=False) for seed in range(60)]
    assert not any(episode["success"] for episode in without)
    assert [e["return"] for e in without] == [e["apples"] for e in best]


def test_taking_the_key_shows_a_white_cell_for_one_frame():
    env = make_gym("KeyToDoor-60-v0")
    for seed in range(12):
        env.reset(seed=seed)
        way, (row, column) = to_key(env), env.unwrapped.key
        seen = [env.step(action)[0] for action in [*way, NORTH, NORTH]]
        white = [shows(observation, "white") for observation in seen]
        expected = [[] for _ in seen]
        expected[len(way) - 1] = [(-row, 5 - column)]
        assert white == expected
        keys = [shows(observation, "k") for observation in seen]
        assert [(-row, -column) for row, column in keys[len(way) - 2]] == [
            BACK[way[-1]]
        ]
        assert keys[len(way) - 1 :] == [[]] * 3  # it lies there no more


def test_key_taken_by_the_last_step_of_its_room_counts():
    env = make_gym("KeyToDoor-60-v0", frames=2)
    for seed in range(5):
        env.reset(seed=seed)
        env.step(SOUTH)
        while env.unwrapped.steps + len(to_key(env)) < 15:
            env.step(SOUTH)  # against the lower wall
        for action in to_key(env):
            observation, *_ = env.step(action)
        assert shows(observation, "white") == []  # the next room is shown already
        assert env.unwrapped.player == (5, 5)
        rewards = [env.step(action)[1] for action in [SOUTH] * 2 + [NORTH] * 2]
        assert rewards == [0, 0, 0, 5]


def at_the_door(env: gymnasium.Env, *, key: bool) -> list[tuple]:
    """Observation, reward and cell after each move around the door."""
    env.reset(seed=5)
    way = to_key(env) if key else []
    for action in [*way, *[SOUTH] * (17 - len(way))]:
        env.step(action)
    moves = [NORTH, NORTH, NORTH, SOUTH, NORTH, NORTH, WEST, SOUTH, EAST, EAST]
    return [(*env.step(action)[:2], env.unwrapped.player) for action in moves]


def test_door_pays_once_hides_the_agent_and_does_not_end_the_episode():
    env = make_gym("KeyToDoor-60-v0", frames=2)
    steps = at_the_door(env, key=True)
    assert [cell for *_, cell in steps] == [
        *[(2, 5), (1, 5), (0, 5), (1, 5), (0, 5)],
        *[(0, 5), (0, 4), (0, 4), (0, 5), (0, 6)],  # edge and walls stop
    ]
    assert [reward for _, reward, _ in steps] == [0, 5, *[0] * 8]
    assert shows(steps[1][0], "+") == [] and shows(steps[1][0], "d") == [(0, 0)]
    assert shows(steps[2][0], "+") == [(0, 0)]


def test_door_is_a_wall_without_the_key():
    env = make_gym("KeyToDoor-60-v0", frames=2)
    steps = at_the_door(env, key=False)
    assert {cell[0] for *_, cell in steps} <= {2, 3}
    assert [reward for _, reward, _ in steps] == [0] * 10


def test_apple_is_there_again_after_21_frames_under_the_agent_too():
    env = make_gym("KeyToDoor-60-v0")
    game = env.unwrapped
    checked = 0
    for seed in range(20):
        env.reset(seed=seed)
        if (5, 9) not in game.apples:
            continue
        checked += 1
        to_corner = [SOUTH] * 15 + [EAST] * 4
        assert [env.step(action)[1] for action in to_corner][-1] == 1
        # Bumping into the corner: it returns at the 21st step, the 22nd takes it.
        paid, there = [], []
        for _ in range(23):
            paid.append(env.step(SOUTH)[1])
            there.append((5, 9) in game.apples)
        assert paid == [0.0] * 21 + [1.0, 0.0]
        assert there == [False] * 20 + [True, False, False]
        # From beside, it is seen from the 21st frame on.
        env.reset(seed=seed)
        for action in to_corner:
            env.step(action)
        seen = [env.step(action)[0] for action in [NORTH] + [EAST] * 21]
        assert game.player == (4, 9)
        apples = [(1, 0) in shows(observation, "a") for observation in seen]
        assert apples == [False] * 20 + [True] * 2
    assert checked > 3


def test_apples_are_ten_of_the_22_places():
    env = make_gym("KeyToDoor-60-v0")
    places = set()
    for seed in range(60):
        env.reset(seed=seed)
        assert len(env.unwrapped.apples) == 10
        places |= env.unwrapped.apples
    assert len(places) == 22


def test_key_and_start_take_every_place_and_the_key_stands_in_every_info():
    env = make_gym("KeyToDoor-60-v0")
    keys, starts = set(), set()
    env.reset(seed=0)
    for _ in range(200):
        _, info = env.reset()
        game = env.unwrapped
        keys.add(game.key)
        starts.add(game.player)
        row, column = game.key
        assert info["task"] == {"key": 5.0 * (row - 1) + column - 3}
        assert env.step(NORTH)[-1]["task"] == info["task"]
    assert keys == {(row, column) for row in (1, 2) for column in range(3, 8)}
    assert starts == {(row, column) for row in (4, 5) for column in range(3, 8)}
