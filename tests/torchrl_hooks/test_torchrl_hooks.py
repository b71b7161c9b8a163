"""Private TorchRL hooks are the ones this package was written against."""

import pytest

from tests.torchrl_hooks.hooks import HOOKS, Hook, changed_hooks, fingerprint


@pytest.mark.parametrize("path", HOOKS)
def test_hook_is_unchanged(path):
    present = changed_hooks({path: HOOKS[path]}).get(path, HOOKS[path].fingerprint)
    assert present == HOOKS[path].fingerprint, (
        f"TorchRL changed {path} (used here because: {HOOKS[path].reason}). Read the "
        f"new source, adapt the package, then set its fingerprint to {present!r} in "
        "tests.torchrl_hooks.hooks.py."
    )


def test_a_changed_and_a_missing_hook_are_named():
    path = "torchrl.objectives.sac:SACLoss._alpha"
    hooks = {path: Hook("stale", "0" * 12), "torchrl:gone": Hook("gone", "0" * 12)}
    assert changed_hooks(hooks) == {path: fingerprint(path), "torchrl:gone": "missing"}
