"""Previous observation, action and reward as entries of an environment's data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from torch import nn
from torchrl.data import (
    Binary,
    Categorical,
    Composite,
    MultiCategorical,
    MultiOneHot,
    OneHot,
    TensorSpec,
    Unbounded,
)
from torchrl.envs import EnvBase, TensorDictPrimer, Transform

__all__ = ["PreviousStep", "is_previous", "source_key"]

_PREFIX = "prev_"
# Where the action is kept between the inverse pass, which sees it as the policy
# wrote it, and the step, which sees it as the environment takes it.
_POLICY_ACTION = "_previous_step_action"
_MISSING = {
    "reward": "PreviousStep: expected a step of the environment to return {source!r}, "
    "which {key!r} repeats; got {got}. Have the environment return it, or leave "
    "{key!r} out of the inputs.",
    "observation": "PreviousStep: expected the data given to step() to hold "
    "{source!r}, which {key!r} repeats; got {got}. Pass on the data that reset() or "
    "the last step returned.",
}


class PreviousStep(TensorDictPrimer):
    """Supply what happened one step before: observation, action and reward.

    At time t an entry ``prev_x`` holds ``x`` of time t-1, taken from the same level of
    nesting: the observation that the policy saw, the action as the policy wrote it
    (before any inverse transform, such as ``ActionScaling``), the reward that this
    action brought, ``[*B, 1]``. Integer and one-hot actions become floating point, a
    ``Categorical`` action one-hot. After a reset all are zero, in batched environments
    for the reset ones only.

    It is a primer: ``carried`` entries, such as an encoder's hidden state, start at
    zero too, and pass from step to step as the policy writes them under ``"next"``.

    Append it last, so that it sees observations and rewards as the policy does. An
    entry that the environment has already is left to what supplies it.

    Args:
        keys: the entries to supply.
        carried: further entries and their specs, without batch dimensions.

    Raises:
        ValueError: if a key does not begin with ``prev_``; when attached, if the
            environment has no entry to make it from.

    Example:
        >>> import torch
        >>> from resel_torchrl.modules import PreviousStep
        >>> from torchrl.envs import TransformedEnv
        >>> from torchrl.testing.mocking_classes import ContinuousActionVecMockEnv
        >>> env = TransformedEnv(
        ...     ContinuousActionVecMockEnv(), PreviousStep(["prev_action"])
        ... )
        >>> data = env.rollout(3)
        >>> torch.equal(data["prev_action"][1:], data["action"][:-1])
        True
    """

    def __init__(
        self,
        keys: Iterable[NestedKey] = ("prev_observation", "prev_action", "prev_reward"),
        *,
        carried: Mapping[NestedKey, TensorSpec] | None = None,
    ) -> None:
        self.previous_keys = [unravel_key(key) for key in keys]
        wrong = [key for key in self.previous_keys if not is_previous(key)]
        if wrong:
            raise ValueError(
                f"keys: expected names that begin with {_PREFIX!r}, got {wrong}. "
                f"Name an entry after what it repeats, e.g. '{_PREFIX}observation'."
            )
        # Entry to (kind of source, its key, number of categories to one-hot encode).
        self._sources: dict[NestedKey, tuple[str, NestedKey, int]] | None = None
        self.carried = {unravel_key(k): spec for k, spec in (carried or {}).items()}
        # Shapes are read off the environment when the transform is attached; until
        # then only the names matter (TorchRL compares them to skip duplicates).
        previous = {key: Unbounded(()) for key in self.previous_keys}
        super().__init__(Composite({**previous, **self.carried}), expand_specs=True)

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """Add the entries, each previous one shaped like the one it repeats."""
        self._bind(observation_spec)
        observation_spec.update(self.primers.clone())
        return observation_spec

    def transform_input_spec(self, input_spec: Composite) -> Composite:
        """Declare what a step reads: the observation and the carried entries.

        Batched environments hand their workers the inputs of a step only.
        """
        state_spec = input_spec["full_state_spec"]
        if state_spec is None:
            state_spec = Composite(shape=input_spec.shape, device=input_spec.device)
        observation_spec = self.parent.full_observation_spec
        self._bind(observation_spec)
        for key, (kind, source, _) in self._sources.items():
            if kind == "observation" and not _has(state_spec, source):
                state_spec[source] = observation_spec[source].clone()
            elif kind == "carried":
                state_spec[key] = self.primers[key].clone()
        input_spec["full_state_spec"] = state_spec
        return input_spec

    def empty_cache(self) -> None:
        """Forget what was read off the environment; it may have changed."""
        super().empty_cache()
        self._sources = None

    def set_container(self, container: Transform | EnvBase) -> None:
        """Attach to an environment or a chain of transforms."""
        super().set_container(container)
        self._sources = None

    def _bind(self, observation_spec: Composite | None = None) -> None:
        """Find the source of each entry that no one supplies yet, and its spec."""
        parent = self.parent
        if observation_spec is None:
            observation_spec = parent.full_observation_spec
        specs = {
            "action": parent.full_action_spec,
            "reward": parent.full_reward_spec,
            "observation": observation_spec,
        }
        primers = Composite(
            shape=observation_spec.shape, device=observation_spec.device
        )
        sources: dict[NestedKey, tuple[str, NestedKey, int]] = {}
        for key in self.previous_keys:
            if _has(observation_spec, key):
                continue
            source = source_key(key)
            kind = next((k for k, spec in specs.items() if _has(spec, source)), None)
            if kind is None:
                found = {k: list(spec.keys(True, True)) for k, spec in specs.items()}
                raise ValueError(
                    f"{key!r}: expected the environment to have an entry {source!r}, "
                    f"got {found}. Rename the input after one of these, with "
                    f"{_PREFIX!r} before its last part, or leave it out."
                )
            primers[key], n_categories = _previous_spec(key, specs[kind][source])
            sources[key] = (kind, source, n_categories)
        for key, spec in self.carried.items():
            if not _has(observation_spec, key):
                sources[key] = ("carried", key, 0)
                spec = spec.expand(*observation_spec.shape, *spec.shape)
                primers[key] = spec.to(observation_spec.device or spec.device)
        self.primers = primers
        self.default_value = dict.fromkeys(sources, 0.0)
        self._sources = sources

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        if self._sources is None:
            self._bind()
        return super()._reset(tensordict, tensordict_reset)

    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        if self.parent is None:
            return tensordict
        if self._sources is None:
            self._bind()
        for kind, source, _ in self._sources.values():
            if kind == "action":
                tensordict.set(_policy_action(source), tensordict.get(source))
        return tensordict

    def _step(
        self, tensordict: TensorDictBase, next_tensordict: TensorDictBase
    ) -> TensorDictBase:
        for key, (kind, source, n_categories) in self._sources.items():
            if kind == "carried":
                continue
            if kind == "action":
                value = tensordict.get(_policy_action(source))
            else:
                data = next_tensordict if kind == "reward" else tensordict
                value = data.get(source, None)
                if value is None:
                    got = ", ".join(map(str, data.keys()))
                    raise KeyError(
                        _MISSING[kind].format(key=key, source=source, got=got)
                    )
            if n_categories:
                value = nn.functional.one_hot(value.long(), n_categories)
            # A copy: collectors may write into the buffers that these come from.
            dtype = self.primers[key].dtype
            next_tensordict.set(key, value.to(dtype, copy=True))
        return super()._step(tensordict, next_tensordict)


def is_previous(key: NestedKey) -> bool:
    """Tell whether the last part of ``key`` begins with ``prev_``."""
    key = unravel_key(key)
    return (key if isinstance(key, str) else key[-1]).startswith(_PREFIX)


def source_key(key: NestedKey) -> NestedKey:
    """Return ``key`` without ``prev_``: the entry whose previous value it holds."""
    key = unravel_key(key)
    if isinstance(key, str):
        return key[len(_PREFIX) :]
    return (*key[:-1], key[-1][len(_PREFIX) :])


def _policy_action(action_key: NestedKey) -> NestedKey:
    return unravel_key((_POLICY_ACTION, action_key))


def _has(spec: Composite | None, key: NestedKey) -> bool:
    return spec is not None and key in spec.keys(True, True)


def _previous_spec(key: NestedKey, spec: TensorSpec) -> tuple[Unbounded, int]:
    """Return the spec of a previous value and its number of categories or 0."""
    if isinstance(spec, MultiCategorical):
        raise ValueError(
            f"{key!r}: expected a continuous, one-hot or Categorical action, got "
            f"{spec}. Use a MultiOneHot encoding of the action."
        )
    shape, dtype, n_categories = spec.shape, spec.dtype, 0
    if isinstance(spec, Categorical):
        n_categories = spec.space.n
        shape = (*shape, n_categories)
    if isinstance(spec, Categorical | OneHot | MultiOneHot | Binary):
        dtype = torch.get_default_dtype()
    # Unbounded, because zero need not lie within the bounds of `spec`.
    return Unbounded(shape, dtype=dtype, device=spec.device), n_categories
