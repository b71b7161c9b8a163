"""Tests of the Triton kernels on a CPU: run by ``tests/ops/test_triton.py``.

Triton reads ``TRITON_INTERPRET`` when it is imported, so they need a process of their
own. By hand: ``TRITON_INTERPRET=1 python -m pytest tests/ops/interpreted``.
"""

import importlib
import inspect
import os

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if INTERPRETED else ["test_*.py"]


def remember_builtins():
    """Spare the interpreter a third of its time.

    At each call of a function it looks through all of Triton's language for what is to
    be replaced, and finds it replaced already, by the launch that the call is part of.
    """
    interpreter = importlib.import_module("triton.runtime.interpreter")
    is_builtin = importlib.import_module("triton.language").core.is_builtin
    names = {}

    def patch_builtin(package, builder, scope):
        if package not in names:
            members = inspect.getmembers(package)
            names[package] = [name for name, value in members if is_builtin(value)]
        for name in names[package]:
            member = getattr(package, name)
            if not is_builtin(member):  # this one is replaced, and so are all others
                break
            interpreter._patch_attr(package, name, member, builder, scope)

    interpreter._patch_builtin = patch_builtin


if INTERPRETED:
    remember_builtins()
