"""Whether a sequence core can be built as configured, and takes the task's episodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from resel_torchrl.config.schema import Config
from resel_torchrl.modules.cores import CORES, SequenceCore

__all__ = ["core_problems", "device_problems", "length_problems", "memory_problems"]

#: Bytes that the memories in a replay buffer may take.
LARGEST_MEMORIES = 32 * 10**9


def core_problems(core: str, size: Any, options: Mapping[str, Any]) -> list[str]:
    """What the constructor of a core says to its options.

    Args:
        core: Name of the core.
        size: Its width; one that is no whole number above 0 is told elsewhere.
        options: Its options, of known names.

    Returns:
        The mistakes, in sentences.

    >>> core_problems("transformer", 64, {"n_heads": 7})[0][:60]
    'agent.core_kwargs with agent.hidden_size=64: Expected n_head'
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        return []
    try:
        _without_values(core, size, options)
    except (ValueError, TypeError, ModuleNotFoundError) as error:
        return [f"agent.core_kwargs with agent.hidden_size={size}: {error}"]
    return []


def device_problems(config: Config) -> list[str]:
    """Whether the core's implementation runs on the device of the updates.

    >>> from resel_torchrl.config import compose
    >>> device_problems(compose(["core=gru", "agent.core_kwargs.backend=torch"]))
    []
    """
    agent = config.agent
    core = _without_values(agent.core, agent.hidden_size, agent.core_kwargs)
    wanted = None if core is None else core.device_type
    device = config.device.partition(":")[0]
    if wanted in (None, device):
        return []
    return [
        f"agent.core_kwargs.backend: expected one for device={config.device}, got "
        f"{agent.core_kwargs['backend']}, which runs on {wanted} only; write "
        "agent.core_kwargs.backend=auto."
    ]


def length_problems(config: Config, horizon: int) -> list[str]:
    """Whether the core takes the longest episode, its last observation included.

    Args:
        config: The configuration.
        horizon: Steps of the longest episode.

    Returns:
        The mistakes, in sentences.

    >>> from resel_torchrl.config import compose
    >>> short = compose(["core=transformer", "agent.core_kwargs.context=200"])
    >>> length_problems(short, 200)
    ['agent.core_kwargs.context: expected at least 201, one more than the horizon of \
200 steps, got 200; write agent.core_kwargs.context=201.']
    """
    agent = config.agent
    core = _without_values(agent.core, agent.hidden_size, agent.core_kwargs)
    limit = None if core is None else core.max_length
    if limit is None or limit > horizon:
        return []
    return [
        f"agent.core_kwargs.context: expected at least {horizon + 1}, one more than "
        f"the horizon of {horizon} steps, got {limit}; write agent.core_kwargs.context="
        f"{horizon + 1}."
    ]


def memory_problems(config: Config) -> list[str]:
    """Whether there are memories for the replay buffer to keep, and of a fair size.

    Args:
        config: The configuration.

    Returns:
        The mistakes, in sentences.

    >>> from resel_torchrl.config import compose
    >>> stored = ["replay.segment_length=64", "replay.start_state=stored"]
    >>> memory_problems(compose(["task=hopper_v", "core=lstm", *stored]))
    []
    >>> memory_problems(compose(["task=hopper_v", "core=mamba", *stored]))[0][:76]
    'replay.start_state: expected memories of at most 32 GB in all, got 145.4 GB '
    """
    agent, replay = config.agent, config.replay
    if replay.start_state == "zero":
        return []
    core = _without_values(agent.core, agent.hidden_size, agent.core_kwargs)
    if core is None:
        return []
    if not core.state_size:
        return [
            f"replay.start_state: expected zero with the core {agent.core}, which has "
            "no memory, got stored; write replay.start_state=zero, or choose another "
            "core=NAME."
        ]
    if core.blank_rows:
        return [
            "replay.start_state: expected zero with agent.core_kwargs.backend="
            f"{agent.core_kwargs['backend']}, which starts from no other memory, got "
            "stored; write replay.start_state=zero, or "
            "agent.core_kwargs.backend=auto."
        ]
    step_bytes = 4 * core.state_size
    total = step_bytes * replay.buffer_size
    if total <= LARGEST_MEMORIES:
        return []
    return [
        "replay.start_state: expected memories of at most "
        f"{LARGEST_MEMORIES / 1e9:.0f} GB in all, got {total / 1e9:.1f} GB "
        f"({core.state_size} numbers of the core {agent.core} for each of "
        f"{replay.buffer_size} transitions); write replay.buffer_size="
        f"{LARGEST_MEMORIES // step_bytes}, or replay.start_state=zero."
    ]


def _without_values(
    core: str, size: int, options: Mapping[str, Any]
) -> SequenceCore | None:
    """The core without memory for its parameters: nothing is computed or drawn.

    None for a core of one's own that looks at values while it is made.
    """
    try:
        with torch.device("meta"):
            return CORES[core](size, **options)
    except RuntimeError:
        return None
