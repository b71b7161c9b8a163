"""The private parts of TorchRL that this package overrides or calls.

TorchRL gives no promise about these. Each is listed once, here, with the reason and
a fingerprint of its source in the supported releases. A test compares the
fingerprints with the installed TorchRL and names every hook that changed, so that an
upgrade is read through before it is trusted.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from typing import NamedTuple


class Hook(NamedTuple):
    """One private TorchRL name.

    Attributes:
        reason: what the package does with it.
        fingerprint: :func:`fingerprint` of its source, as last read through.
    """

    reason: str
    fingerprint: str


HOOKS: dict[str, Hook] = {
    "torchrl.objectives.common:_LossMeta": Hook(
        "methods named *loss run in recurrent mode and without exploration",
        "f601ec7a6e7c",
    ),
    "torchrl.objectives.common:LossModule.convert_to_functional": Hook(
        "registers networks without copying their parameters", "c1447a11a9e4"
    ),
    "torchrl.objectives.common:LossModule._loss_mask_keys": Hook(
        "names the masks of a batch, besides `valid`", "5e0ff8b88ee6"
    ),
    "torchrl.objectives.common:LossModule._expand_loss_mask": Hook(
        "aligns such a mask with the transitions", "3df0ca59225e"
    ),
    "torchrl.objectives.common:LossModule._forward_value_estimator_keys": Hook(
        "calls `_set_in_keys` after `set_keys`", "eb45b97d0d36"
    ),
    "torchrl.objectives.common:LossModule._default_device": Hook(
        "the device of the value estimator", "3018f391c30d"
    ),
    "torchrl.objectives.common:LossModule._clear_weakrefs": Hook(
        "called at the end of forward, as TorchRL's losses do", "eabb5d769586"
    ),
    "torchrl.objectives.sac:SACLoss.__init__": Hook(
        "called with num_qvalue_nets=None and the ensemble critic", "a759de7be1b8"
    ),
    "torchrl.objectives.sac:SACLoss._make_vmap": Hook(
        "overridden: the ensemble critic is one batched module", "2b4a85ab1387"
    ),
    "torchrl.objectives.sac:SACLoss._set_in_keys": Hook(
        "overridden: lists the keys of a packed batch", "df9cac0afe06"
    ),
    "torchrl.objectives.sac:SACLoss._alpha": Hook(
        "clamps log_alpha in place and returns alpha without gradient", "f9e88072900d"
    ),
    "torchrl.objectives.sac:SACLoss.target_entropy": Hook(
        "read in the constructor, where it turns into a buffer", "3118484e4202"
    ),
    "torchrl.objectives.sac:compute_rsample_log_prob": Hook(
        "draws an action and its log-probability from one noise", "f6084b6c54bf"
    ),
    "torchrl.data.replay_buffers.storages.base:Storage._mutation_revision": Hook(
        "read: more mutations than noted writes have the episode index read anew",
        "c322e8bfad72",
    ),
    "torchrl.data.replay_buffers.storages.base:Storage._last_cursor_index": Hook(
        "read: where a full ring ends, for an episode index that begins anew",
        "f566e950fc4f",
    ),
    "torchrl.data.replay_buffers.storages.tensor:TensorStorage._is_full": Hook(
        "read: whether the ring has wrapped", "95e750856072"
    ),
    "torchrl.data.replay_buffers.replay_buffers.base:ReplayBuffer._extend": Hook(
        "calls the sampler's extend with the slots, after they were written",
        "c4c2ffb0b979",
    ),
    "torchrl.data.replay_buffers.replay_buffers.base:ReplayBuffer.set_rng": Hook(
        "gives the buffer's generator to the sampler as `_rng`", "e501c34ae119"
    ),
    "torchrl.data:TensorDictReplayBuffer._sample": Hook(
        "calls the sampler's sample and reads the rows once", "40eb432e0753"
    ),
    "torchrl.data.replay_buffers.samplers.slice:SliceSampler._sampleable_count": Hook(
        "overridden: transitions in whole episodes", "bf7f56a69ffd"
    ),
    "torchrl.data.replay_buffers.samplers.slice:SliceSampler._empty": Hook(
        "overridden: forgets the episode index", "a882cd7e1a0e"
    ),
}


def fingerprint(path: str) -> str:
    """Hash of the source behind ``"module:attribute.path"``, white space apart.

    Args:
        path: module and attribute, for instance
            ``"torchrl.objectives.sac:SACLoss._alpha"``. Properties and wrapped
            functions are followed to the function underneath.

    Returns:
        Twelve hexadecimal digits.

    Raises:
        AttributeError: the attribute is gone.

    Examples:
        >>> len(fingerprint("torchrl.objectives.sac:SACLoss._alpha"))
        12
    """
    module, attribute = path.split(":")
    target = importlib.import_module(module)
    for name in attribute.split("."):
        target = getattr(target, name)
    if isinstance(target, property):
        target = target.fget
    source = inspect.getsource(inspect.unwrap(target))
    return hashlib.sha256("".join(source.split()).encode()).hexdigest()[:12]


def changed_hooks(hooks: dict[str, Hook] = HOOKS) -> dict[str, str]:
    """The hooks whose source in the installed TorchRL is not the one listed.

    Args:
        hooks: the table to check.

    Returns:
        For each hook that changed, its present fingerprint, or ``"missing"``.

    Examples:
        >>> changed_hooks({"torchrl:no_such_name": Hook("an example", "0" * 12)})
        {'torchrl:no_such_name': 'missing'}
    """
    changed = {}
    for path, hook in hooks.items():
        try:
            present = fingerprint(path)
        except (ImportError, AttributeError):
            present = "missing"
        if present != hook.fingerprint:
            changed[path] = present
    return changed
