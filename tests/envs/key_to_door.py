"""Key-to-Door written plainly, and how to look at its pictures."""

from __future__ import annotations

import gymnasium
import numpy as np

NORTH, SOUTH, WEST, EAST = range(4)

GRIDS = {
    "key": [
        "  #######  ",
        "  #     #  ",
        "  #     #  ",
        "  ##   ##  ",
        "  #     #  ",
        "  #     #  ",
        "  #######  ",
    ],
    "apples": [
        "###########",
        "#         #",
        "#         #",
        "#         #",
        "#         #",
        "#         #",
        "###########",
    ],
    "door": [
        "           ",
        "   ## ##   ",
        "   #   #   ",
        "   #   #   ",
        "   #   #   ",
        "   #####   ",
        "           ",
    ],
}
RGB = {
    "+": (228, 148, 109),
    "#": (25, 25, 25),
    " ": (204, 204, 204),
    "k": (159, 81, 44),
    "d": (134, 206, 235),
    "a": (140, 178, 0),
    "white": (255, 255, 255),
}
MOVES = {NORTH: (-1, 0), SOUTH: (1, 0), WEST: (0, -1), EAST: (0, 1)}


class Reference:
    """The episode with this key, start and apples, each a (row, column).

    Letters on grids, painted and cropped at every step.
    """

    def __init__(self, frames, key, start, apples):
        self.frames, self.key, self.player = frames, key, start
        self.taken_at = dict.fromkeys(apples, -100)  # step at which each was taken
        self.steps, self.has_key, self.key_taken_at, self.opened = 0, False, None, False
        self.rewards = []

    def room(self) -> str:
        if self.steps < 15:
            return "key"
        return "apples" if self.steps < 15 + self.frames else "door"

    def step(self, action: int) -> None:
        room, reward = self.room(), 0.0
        row, column = (p + m for p, m in zip(self.player, MOVES[action], strict=True))
        inside = 0 <= row < 7 and 0 <= column < 11
        door = room == "door" and (row, column) == (1, 5)
        wall = inside and GRIDS[room][row][column] == "#"
        if inside and not wall and (self.has_key or not door):
            self.player = (row, column)
        there = {c for c, step in self.taken_at.items() if self.steps >= step + 21}
        self.steps += 1
        if room == "key" and self.player == self.key and not self.has_key:
            self.has_key, self.key_taken_at = True, self.steps
        if room == "apples" and self.player in there:
            self.taken_at[self.player] = self.steps
            reward = 1.0
        if room == "door" and self.player == (1, 5) and not self.opened:
            self.opened, reward = True, 5.0
        self.rewards.append(reward)
        if self.steps == 15:
            self.player = (5, 5)
        if self.steps == 15 + self.frames:
            self.player = (3, 5)

    def painted(self) -> np.ndarray:
        """The whole grid, [7, 11, 3] in 0 to 255."""
        room = self.room()
        picture = np.zeros((7, 11, 3))
        for row in range(7):
            for column in range(11):
                picture[row, column] = RGB[GRIDS[room][row][column]]
        if room == "key" and not self.has_key:
            picture[self.key] = RGB["k"]
        if room == "key" and self.key_taken_at == self.steps:
            picture[0, 5] = RGB["white"]
        if room == "apples":
            for cell, step in self.taken_at.items():
                if self.steps >= step + 21:
                    picture[cell] = RGB["a"]
        picture[self.player] = RGB["+"]
        if room == "door":
            picture[1, 5] = RGB["d"]
        return picture

    def observation(self) -> np.ndarray:
        """The 5 x 5 cells around the player, [75]."""
        around = np.zeros((7 + 4, 11 + 4, 3))
        around[:] = RGB[" "]
        around[2:-2, 2:-2] = self.painted()
        row, column = self.player
        crop = around[row : row + 5, column : column + 5]  # [5, 5, 3]
        channels_first = crop.transpose(2, 0, 1)
        return np.float32(channels_first.reshape(75)) / np.float32(255)


def reference(env: gymnasium.Env, frames: int) -> Reference:
    """Of the episode that has just begun."""
    env = env.unwrapped
    return Reference(frames, env.key, env.player, set(env.apples))


def cells(observation: np.ndarray) -> np.ndarray:
    """[5, 5, 3], 0 to 255."""
    return np.rint(observation.reshape(3, 5, 5).transpose(1, 2, 0) * 255)


def shows(observation: np.ndarray, name: str) -> list[tuple[int, int]]:
    """Where a colour is seen, as steps (down, right) from the agent."""
    found = np.argwhere((cells(observation) == RGB[name]).all(-1)) - 2
    return [tuple(cell) for cell in found.tolist()]


def to_key(env: gymnasium.Env) -> list[int]:
    """The way to the key, by the gap between the two halves of the room."""
    game = env.unwrapped
    (row, column), (to_row, to_column) = game.player, game.key
    gap = min(max(column, 4), 6)
    moves = [WEST if gap < column else EAST] * abs(gap - column)
    moves += [NORTH] * (row - to_row)
    return moves + [WEST if to_column < gap else EAST] * abs(gap - to_column)
