"""Small environments for tests of training, registered when this module is imported."""

import os
import signal

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

HORIZON = 12


class Walk(gymnasium.Env):
    """A noisy walk on a line of which the position is hidden; falls at 1.5.

    Episodes end by a fall (terminated) or at the horizon (truncated), so lengths vary.
    """

    observation_space = Box(-10.0, 10.0, (2,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = self.np_random.normal() * 0.2
        self.speed = 0.0
        return self._observation(), {}

    def step(self, action):
        self.speed = 0.5 * float(action[0]) + self.np_random.normal() * 0.1
        self.position += self.speed
        fallen = bool(abs(self.position) > 1.5)
        return self._observation(), -abs(self.position), fallen, False, {}

    def _observation(self):
        return np.array([self.speed, self.np_random.normal()], np.float32)


class FailingWalk(Walk):
    """Gives NaN, once in the life of the process, where `fail_at` steps were made."""

    steps = 0
    fail_at = 0

    def step(self, action):
        observation, *rest = super().step(action)
        type(self).steps += 1
        if type(self).steps == type(self).fail_at:
            observation = np.full_like(observation, np.nan)
        return observation, *rest


class LuckyWalk(Walk):
    """Succeeds in every other episode, by its seed; says so at the end of each."""

    measures = ("success",)
    horizon = 9

    def reset(self, *, seed=None, options=None):
        self.lucky, self.left = seed % 2, self.horizon
        return super().reset(seed=seed, options=options)

    def step(self, action):
        observation, _, _, _, info = super().step(action)
        self.left -= 1
        if self.left == 0:
            info["measures"] = {"success": float(self.lucky)}
        return observation, float(self.lucky), False, self.left == 0, info


class UndeclaredWalk(LuckyWalk):
    """Does not say beforehand what it measures."""

    measures = ()


class KilledWalk(Walk):
    """Ends its own process at the step that the variable KILL_AT names, if set.

    KILL_SIGNAL is the signal: KILL (nothing can be saved) by default, or INT.
    """

    steps = 0

    def step(self, action):
        KilledWalk.steps += 1
        if KilledWalk.steps == int(os.environ.get("KILL_AT", "0")):
            name = os.environ.get("KILL_SIGNAL", "KILL")
            os.kill(os.getpid(), getattr(signal, f"SIG{name}"))
        return super().step(action)


class OrphanedWalk(Walk):
    """Kills the process that started its own at step 40, and goes on."""

    steps = 0

    def step(self, action):
        OrphanedWalk.steps += 1
        if OrphanedWalk.steps == 40:
            os.kill(os.getppid(), signal.SIGKILL)
            print("outlived its learner", flush=True)
        return super().step(action)


class DiscreteWalk(Walk):
    """Left or right, at full force; takes a number and nothing else."""

    action_space = Discrete(2)

    def step(self, action):
        assert self.action_space.contains(action)
        return super().step([2 * action - 1])


for kind in (LuckyWalk, UndeclaredWalk):
    if f"{kind.__name__}-v0" not in gymnasium.registry:
        gymnasium.register(f"{kind.__name__}-v0", kind)
if "ShortPendulum-v0" not in gymnasium.registry:
    gymnasium.register(
        "ShortPendulum-v0",
        lambda: gymnasium.make("Pendulum-V-v0"),
        max_episode_steps=12,
    )
for kind in (Walk, FailingWalk, KilledWalk, OrphanedWalk, DiscreteWalk):
    name = f"{kind.__name__}-v0"
    if name not in gymnasium.registry:
        gymnasium.register(name, kind, max_episode_steps=HORIZON)
