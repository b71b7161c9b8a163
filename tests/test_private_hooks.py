"""The private parts of other packages that this one overrides or calls.

Nobody promises anything about these. Each is listed once, here, with the reason and a
fingerprint of its source in the releases that the tests use. A hook that an upgrade
changed fails by name, so that the upgrade is read through before it is trusted.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from typing import NamedTuple

import pytest


class Hook(NamedTuple):
    """What the package does with a private name, and :func:`fingerprint` of it."""

    reason: str
    fingerprint: str


HOOKS = {
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
    "torchrl.envs:Transform._step": Hook(
        "overridden: supplies the previous step after a step of the environment",
        "b352d3e4803f",
    ),
    "torchrl.envs:Transform._inv_call": Hook(
        "overridden: keeps the action as the policy wrote it", "27f69c2f6eaa"
    ),
    "torchrl.envs:TensorDictPrimer._reset": Hook(
        "overridden: binds to the environment before the first reset", "4ca3b7c6a7f1"
    ),
    "hydra._internal.utils:get_args_parser": Hook(
        "reads the command line as Hydra does, before Hydra does", "eb60a7da0957"
    ),
    "numba.core.caching:IndexDataCacheFile": Hook(
        "kernels go out of date with the functions compiled into them: the stamp "
        "`_source_stamp` is replaced",
        "8226ec2cfd7f",
    ),
    "numba.core.caching:Cache.__init__": Hook(
        "holds that file as `_cache_file`", "11ba6b467ea0"
    ),
    "numba.core.dispatcher:Dispatcher.enable_caching": Hook(
        "holds that cache as `_cache`", "af573ce302e0"
    ),
    "torch._inductor.cpp_builder:get_cpp_compiler": Hook(
        "tells whether there is a C++ compiler, by raising RuntimeError", "80959c5082d4"
    ),
    "torch._dynamo.config:recompile_limit": Hook(
        "raised: batches have more layouts than eight", "int"
    ),
    "torch._dynamo.config:accumulated_recompile_limit": Hook("raised likewise", "int"),
    "torch:_assert_async": Hook(
        "checks what mamba_ssm needs without a wait for the host",
        "builtin_function_or_method",
    ),
    "torch.utils._python_dispatch:TorchDispatchMode.__torch_dispatch__": Hook(
        "overridden by the benchmark: records products of matrices", "23939fda0c48"
    ),
    "torch.utils._pytree:tree_map": Hook("describes their arguments", "ec0d87aa950c"),
    "triton.runtime.interpreter:_patch_builtin": Hook(
        "replaced in tests/ops/interpreted by a faster one", "5ef51d94b6b6"
    ),
    "triton.runtime.interpreter:_patch_attr": Hook(
        "called by that one", "e6100e2bd6a0"
    ),
}


def fingerprint(path: str) -> str:
    """Hash the source behind ``"module:attribute.path"``, white space apart.

    Properties and wrapped functions are followed to the function underneath. What has
    no source in Python gives the name of its type, what is gone ``"missing"``.
    """
    module, attribute = path.split(":")
    try:
        target = importlib.import_module(module)
        for name in attribute.split("."):
            target = getattr(target, name)
    except (ImportError, AttributeError):
        return "missing"
    if isinstance(target, property):
        target = target.fget
    try:
        source = inspect.getsource(inspect.unwrap(target))
    except TypeError:
        return type(target).__name__
    return hashlib.sha256("".join(source.split()).encode()).hexdigest()[:12]


@pytest.mark.parametrize("path", HOOKS)
def test_hook_is_unchanged(path):
    pytest.importorskip(path.partition(".")[0].partition(":")[0])
    present = fingerprint(path)
    assert present == HOOKS[path].fingerprint, (
        f"{path} has changed (used here because: {HOOKS[path].reason}). Read the new "
        f"source, adapt the package, then set its fingerprint to {present!r} in "
        "tests/test_private_hooks.py."
    )


def test_a_missing_hook_and_one_without_a_source_are_told_apart():
    assert fingerprint("torchrl:no_such_name") == "missing"
    assert fingerprint("no_such_package:name") == "missing"
    assert fingerprint("math:sqrt") == "builtin_function_or_method"
    assert len(fingerprint("torchrl.objectives.sac:SACLoss._alpha")) == 12
