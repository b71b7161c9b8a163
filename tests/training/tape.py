"""What a CUDA graph does, on a CPU: the operations taken down once, run again later.

As with a graph, Python runs at the recording only. Later each operation runs on the
tensors of the recording and writes into them, so a step that looks at a value, binds a
name to another tensor where it should change one in place, or uses a number that
Python worked out goes wrong here too.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

LOOKS = ("_local_scalar_dense", "is_nonzero", "aten.nonzero")


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def detached(tree):
    """The same memory, which the tape so keeps."""
    return tree_map(lambda x: x.detach() if isinstance(x, torch.Tensor) else x, tree)


def storage(tensor):
    return tensor.untyped_storage().data_ptr()


class Tape(TorchDispatchMode):
    """Takes down every operation that runs inside."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert not any(look in str(function) for look in LOOKS), (
            f"{function} looks at a value"
        )
        outputs = function(*args, **(kwargs or {}))
        inputs = {storage(x) for x in tensors((args, kwargs))}
        new = [x.detach() for x in tensors(outputs)]
        fresh = [storage(x) not in inputs for x in new]
        self.operations.append((function, detached((args, kwargs or {})), new, fresh))
        return outputs

    @torch.no_grad()
    def play(self):
        for function, (args, kwargs), outputs, fresh in self.operations:
            results = tensors(function(*args, **kwargs))
            for result, output, is_fresh in zip(results, outputs, fresh, strict=True):
                if is_fresh:
                    output.copy_(result)


class TapeRecorder:
    """A recorder of a learner's steps that counts recordings and replays."""

    def __init__(self, learner):
        self.learner = learner
        self.recorded, self.replayed = 0, 0

    def __call__(self, function):
        self.recorded += 1
        moments = self.learner.optimizer.state.values()
        live = tensors([self.learner.loss.state_dict(), *moments])
        before = [x.detach().clone() for x in live]
        generator = torch.get_rng_state()
        with Tape() as tape:
            outputs = function()
        # A graph is recorded without being run.
        for tensor, value in zip(live, before, strict=True):
            tensor.detach().copy_(value)
        torch.set_rng_state(generator)

        def replay():
            self.replayed += 1
            tape.play()
            return outputs

        return replay


def record(learner):
    """Lets a learner replay its steps from tapes; returns its recorders, oldest first.

    Like a learner on a GPU it looks at no loss before its step.
    """
    recorders = []

    def make_recorder():
        recorders.append(TapeRecorder(learner))
        return recorders[-1]

    learner._sync_is_free = False
    learner.record_with(make_recorder)
    return recorders
