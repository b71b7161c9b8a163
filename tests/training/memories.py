"""The memory of an encoder over stored episodes, the slow way."""

import torch

from resel_torchrl.replay import pack_episodes


@torch.no_grad()
def recomputed(encoder, flat):
    """The memory before each transition, one step at a time."""
    packed = pack_episodes(flat[:], len(flat) * 2)
    order = packed["valid"].squeeze(-1)
    inputs = [packed[key][0] for key in encoder.input_keys]
    start = packed["is_init"][0, :, 0]
    state, found = torch.zeros(1, encoder.state_size), {}
    for t in range(packed.shape[1]):
        before = torch.where(start[t], 0.0, state)
        if order[0, t]:
            found[tuple(packed["observation"][0, t].tolist())] = before[0]
        _, state = encoder.encode_step(
            [x[t : t + 1] for x in inputs], start[t : t + 1], state
        )
    return torch.stack([found[tuple(o.tolist())] for o in flat["observation"]])
