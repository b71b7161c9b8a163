"""Key-to-Door: a key taken at the start pays at the end, with apples in between.

``KeyToDoor-{60,120,250,500}-v0``, named after the steps in the room of the apples. An
agent sees the 5 x 5 cells around it and goes through three rooms, each for a fixed
number of steps: in the first it may take a key, in the second it is paid for apples,
in the third only the key opens the door, which pays. The clock of the task ends an
episode, as a terminal.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Discrete

from resel_torchrl.envs._support import Reset, Step, episode_value, whole_number

__all__ = ["TASKS", "KeyToDoor"]

Cell = tuple[int, int]

KEY_STEPS, DOOR_STEPS = 15, 10
N_APPLES = 10
#: Steps from the taking of an apple to the frame at which it is there again.
APPLE_RETURNS = 21
DOOR_REWARD = 5.0

#: ``#`` wall, ``k`` the key may lie here, ``a`` an apple may, ``d`` door, ``+`` start.
KEY_ROOM = """
..#######..
..#kkkkk#..
..#kkkkk#..
..##...##..
..#+++++#..
..#+++++#..
..#######..
"""
APPLE_ROOM = """
###########
#a.a.a.a.a#
#.a.a.a.a.#
#a.a.a.a.a#
#.a.a.a.a.#
#a.a.+.a.a#
###########
"""
DOOR_ROOM = """
...........
...##d##...
...#...#...
...#.+.#...
...#...#...
...#####...
...........
"""
#: Where the taking of the key shows for one frame.
WHITE_CELL = (0, 5)

_COLOURS = {
    "player": (228, 148, 109),
    "wall": (25, 25, 25),
    "background": (204, 204, 204),
    "key": (159, 81, 44),
    "door": (134, 206, 235),
    "apple": (140, 178, 0),
    "white": (255, 255, 255),
}
_RGB = {
    name: np.array(colour, np.float32) / np.float32(255)  # [3]
    for name, colour in _COLOURS.items()
}
_SIGHT = 2  # cells seen to each side
_SIDE = 2 * _SIGHT + 1
_SIZE = 3 * _SIDE**2
#: (row, column) of the actions north, south, west, east.
_MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))


class _Room:
    """A grid: its walls as a picture, and where things are.

    Attributes:
        picture: ``[3, rows + 4, columns + 4]``, with background around.
        cells: cells of each letter, row by row.
        open: the cells that can be walked on, the door's not among them.
    """

    def __init__(self, grid: str):
        rows = grid.split()
        self.cells: dict[str, list[Cell]] = {}
        for row, letters in enumerate(rows):
            for column, letter in enumerate(letters):
                self.cells.setdefault(letter, []).append((row, column))
        self.open = frozenset(
            cell for letter in self.cells.keys() - "#d" for cell in self.cells[letter]
        )
        shape = (3, len(rows) + 2 * _SIGHT, len(rows[0]) + 2 * _SIGHT)
        self.picture = np.empty(shape, np.float32)
        self.picture[:] = _RGB["background"][:, None, None]
        for letter, name in (("#", "wall"), ("d", "door")):
            for cell in self.cells.get(letter, ()):
                _paint(self.picture, cell, name)


def _paint(picture: np.ndarray, cell: Cell, name: str) -> None:
    picture[:, cell[0] + _SIGHT, cell[1] + _SIGHT] = _RGB[name]


_KEY, _APPLES, _DOOR = (_Room(grid) for grid in (KEY_ROOM, APPLE_ROOM, DOOR_ROOM))
_DOOR_CELL = _DOOR.cells["d"][0]


class KeyToDoor(gymnasium.Env):
    """Take the key, take apples, open the door.

    Actions 0 to 3 move north, south, west, east; walls and the edge of the grid stop
    the agent. An episode has 15 steps in the room of the key, ``frames`` in that of the
    apples and 10 in that of the door; the last step in a room acts there and shows the
    first picture of the next one. The observation is the picture of the 5 x 5 cells
    around the agent, ``[3, 5, 5]`` (channel, row, column) flattened, colours divided
    by 255.

    The key and the start in the first room are drawn at random, as are the 10 cells
    with apples out of 22. The frame in which the key is taken shows a white cell in the
    upper wall. An apple pays 1 and is there again 21 frames after it was taken; one
    that returns under the agent is taken by the next step after which the agent is
    still there. The door is a wall without the key; with it, entering pays 5, once.

    Args:
        frames: steps in the room of the apples. ``reset(options={"frames": n})`` makes
            them fewer for one episode.

    Attributes:
        horizon: number of steps of an episode with all ``frames``.
        measures: ``("success", "apples")``: 1 if the door was opened, and the number of
            apples taken.
        curriculum_options: ``("frames",)``.
        steps, player, key, apples, returning: state of the game, for a scripted policy:
            steps made, the cells (row, column) of agent, key and apples, and
            (step, cell) of the apples that will be there again, soonest first.

    Raises:
        ValueError: if ``frames`` is no whole number of 1 or more; from ``reset``, if
            the option is not between 1 and ``frames``; from ``step``, if there is no
            such action.

    Examples:
        >>> env = KeyToDoor(frames=60)
        >>> observation, info = env.reset(seed=0)
        >>> env.horizon, observation.shape
        (85, (75,))
        >>> (observation.reshape(3, 5, 5)[:, 2, 2] * 255).round()  # the agent
        array([228., 148., 109.], dtype=float32)
        >>> info["task"]  # number of the key's cell, row by row
        {'key': 8.0}
    """

    measures = ("success", "apples")
    curriculum_options = ("frames",)

    def __init__(self, frames: int):
        self.frames = whole_number("frames", frames)
        self.observation_space = Box(0.0, 1.0, (_SIZE,), np.float32)
        self.action_space = Discrete(len(_MOVES))

    @property
    def horizon(self) -> int:
        """Number of steps of an episode with all frames."""
        return KEY_STEPS + self.frames + DOOR_STEPS

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Reset:
        """Starts an episode, see :meth:`gymnasium.Env.reset`."""
        super().reset(seed=seed)
        self._apples_end = KEY_STEPS + episode_value(options, "frames", self.frames)
        self._last_step = self._apples_end + DOOR_STEPS
        keys, starts, trees = _KEY.cells["k"], _KEY.cells["+"], _APPLES.cells["a"]
        number = int(self.np_random.integers(len(keys)))
        self._key_number = float(number)
        self.key = keys[number]
        start = starts[self.np_random.integers(len(starts))]
        chosen = self.np_random.choice(len(trees), N_APPLES, replace=False)
        self.apples = {trees[tree] for tree in chosen}
        self.returning: deque[tuple[int, Cell]] = deque()
        self._has_key = self._opened = False
        self._n_apples = self.steps = 0
        self._enter(_KEY, start)
        _paint(self._picture, self.key, "key")
        return self._observation(), self._info()

    def _enter(self, room: _Room, start: Cell) -> None:
        self._room, self.player = room, start
        self._picture = room.picture.copy()
        self._open = room.open

    def step(self, action: int) -> Step:
        """Makes one step, see :meth:`gymnasium.Env.step`."""
        if not 0 <= action < len(_MOVES):
            raise ValueError(f"expected an action from 0 to 3, got {action}")
        self.steps += 1
        down, right = _MOVES[action]
        to = self.player[0] + down, self.player[1] + right
        if to in self._open:
            self.player = to
        reward = 0.0
        if self._room is _KEY:
            self._take_key()
        elif self._room is _APPLES:
            reward = self._take_apple()
        elif self._has_key and not self._opened and self.player == _DOOR_CELL:
            self._opened, reward = True, DOOR_REWARD
        if self.steps == KEY_STEPS:
            self._enter_apples()
        elif self.steps == self._apples_end:
            self._enter_door()
        info = self._info()
        ends = self.steps == self._last_step
        if ends:
            info["measures"] = {
                "success": float(self._opened),
                "apples": float(self._n_apples),
            }
        return self._observation(), reward, ends, False, info

    def _info(self) -> dict[str, Any]:
        return {"task": {"key": self._key_number}}

    def _take_key(self) -> None:
        if self._has_key:
            _paint(self._picture, WHITE_CELL, "wall")
        elif self.player == self.key:
            self._has_key = True
            _paint(self._picture, self.key, "background")
            _paint(self._picture, WHITE_CELL, "white")

    def _take_apple(self) -> float:
        reward = 0.0
        if self.player in self.apples:
            reward = 1.0
            self._n_apples += 1
            self.apples.remove(self.player)
            self.returning.append((self.steps + APPLE_RETURNS, self.player))
            _paint(self._picture, self.player, "background")
        # After the taking: one that returns under the agent is for the next step.
        if self.returning and self.returning[0][0] == self.steps:
            _, cell = self.returning.popleft()
            self.apples.add(cell)
            _paint(self._picture, cell, "apple")
        return reward

    def _enter_apples(self) -> None:
        self._enter(_APPLES, _APPLES.cells["+"][0])
        for cell in self.apples:
            _paint(self._picture, cell, "apple")

    def _enter_door(self) -> None:
        self._enter(_DOOR, _DOOR.cells["+"][0])
        if self._has_key:
            self._open = _DOOR.open | {_DOOR_CELL}

    def _observation(self) -> np.ndarray:
        row, column = self.player
        seen = self._picture[:, row : row + _SIDE, column : column + _SIDE].flatten()
        # The door is drawn over the agent.
        if self._room is not _DOOR or self.player != _DOOR_CELL:
            seen[_SIDE**2 // 2 :: _SIDE**2] = _RGB["player"]
        return seen


TASKS = [
    EnvSpec(
        f"KeyToDoor-{frames}-v0", f"{__name__}:KeyToDoor", kwargs={"frames": frames}
    )
    for frames in (60, 120, 250, 500)
]
