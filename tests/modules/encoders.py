"""A small encoder, its inputs, and both ways to run it."""

import torch
from tensordict import TensorDict
from torchrl.modules import set_recurrent_mode

from resel_torchrl.modules import ContextEncoder, context_inputs

SIZES = {"embedding_size": 5, "hidden_size": 8, "context_size": 3}


def make_encoder(core="gru", dtype=torch.float32, **kwargs):
    torch.manual_seed(0)
    inputs = context_inputs(4, 2, reward=True)
    return ContextEncoder(inputs, core, **{**SIZES, **kwargs}).to(dtype)


def make_data(rows=3, length=17, dtype=torch.float32, resets=True):
    """Return random inputs [rows, length]; episodes start at scattered places."""
    generator = torch.Generator().manual_seed(1)
    data = TensorDict(
        {
            key: torch.randn(rows, length, size, generator=generator, dtype=dtype)
            for key, size in context_inputs(4, 2, reward=True).items()
        },
        batch_size=[rows, length],
    )
    is_init = torch.rand(rows, length, 1, generator=generator) < 0.2
    is_init[:, 0] = True
    if not resets:
        is_init[:, 1:] = False
    return data.set("is_init", is_init)


def run_steps(encoder, data, state=None):
    """Run sequential mode over the columns of ``data``; return contexts and memory."""
    if state is None:
        # Noise, so that memory of before the episode cannot hide.
        state = torch.randn(data.shape[0], encoder.state_size).to(data["observation"])
    contexts = []
    for t in range(data.shape[1]):
        step = data[:, t].clone().set(encoder.state_key, state)
        contexts.append(encoder(step)[encoder.out_key])
        state = step.get(("next", encoder.state_key), state)
    return torch.stack(contexts, 1), state


def run_recurrent(encoder, data):
    with set_recurrent_mode(True):
        return encoder(data.clone())[encoder.out_key]
