"""PyTorch's own LSTM layer, taught to forget at start flags."""

import torch
from torch import Tensor

from resel_torchrl.ops._precision import in_full_precision
from resel_torchrl.ops._resets import masked_state

#: A sigmoid of minus this is exactly 0 and of plus this exactly 1, in any float type.
_SATURATED = 1e4


def has_fused_lstm(x: Tensor) -> bool:
    """Whether :func:`lstm_layer` is the fast way for ``x``: float32 on a CPU.

    Examples:
        >>> has_fused_lstm(torch.zeros(1, dtype=torch.float64))
        False
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
    )


# A compiler would write the steps of time out, one by one.
@torch.compiler.disable
@in_full_precision
def lstm_layer(
    x: Tensor,
    is_init: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor,
    bias_hh: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run an LSTM over time, starting from zero wherever ``is_init`` is true.

    The recurrence is PyTorch's fused layer, which knows no start flags: in float32 on
    a CPU that is oneDNN's kernel. So a blank step is put before each start; a
    flag that it carries as one more input shuts the input, forget and output gates, and
    a gate shut by ``-1e4`` is exactly 0: so are the state and the gradient that reach
    the next step, unless they are NaN. Rows with fewer starts than others are filled
    up at their end, where a second flag holds the cell state.

    The number of blank steps is read from ``is_init``, which costs nothing on a CPU and
    would make the host wait on any other device: use :func:`lstm_scan` there.

    Args:
        x: inputs ``[R, L, D]``.
        is_init: start flags, bool ``[R, L]``.
        weight_ih: ``[4H, D]``, gates in PyTorch's order: input, forget, cell, output.
        weight_hh: ``[4H, H]``.
        bias_ih: ``[4H]``.
        bias_hh: ``[4H]``.
        state: hidden and cell state before the first step, side by side, ``[R, 2H]``.

    Returns:
        The outputs ``[R, L, H]`` and the state after the last step ``[R, 2H]``.

    Examples:
        >>> parameters = list(torch.nn.LSTM(3, 2).parameters())
        >>> is_init = torch.tensor([[False, False, True, False]])
        >>> x, state = torch.randn(1, 4, 3), torch.randn(1, 4)
        >>> y, _ = lstm_layer(x, is_init, *parameters, state)
        >>> alone, _ = lstm_layer(x[:, 2:], is_init[:, 2:], *parameters, state)
        >>> torch.allclose(y[:, 2:], alone, atol=1e-6)
        True
    """
    H = weight_hh.shape[1]
    h, c = masked_state(is_init[:, 0], state).split(H, -1)
    later = is_init.clone()
    later[:, 0] = False  # nothing is before the first step, only `state`
    blanks = later.cumsum(1)  # [R, L], blank steps up to each step
    added = max(blanks[:, -1].tolist(), default=0)
    if added:
        R, L, D = x.shape
        row = torch.arange(R).unsqueeze(-1)
        place = torch.arange(L) + blanks  # [R, L], where each step goes
        wide = x.new_zeros(R, L + added, D + 2)
        wide[:, :, D] = 1  # blank, unless replaced
        past_end = torch.arange(L + added) > place[:, -1:]
        wide[:, :, D].masked_fill_(past_end, 0)
        wide[:, :, D + 1].masked_fill_(past_end, 1)
        x = wide.index_put((row, place), torch.nn.functional.pad(x, (0, 2)))
        weight_ih = torch.cat([weight_ih, _flag_weights(weight_ih)], -1)
    outputs, _, c = torch.lstm(
        x,
        (h.unsqueeze(0).contiguous(), c.unsqueeze(0).contiguous()),
        (weight_ih, weight_hh, bias_ih, bias_hh),
        True,  # biases
        1,  # layers
        0.0,  # dropout
        False,  # training matters to dropout alone
        False,  # one direction
        True,  # batch first
    )
    if added:
        outputs = outputs[row, place]
    return outputs, torch.cat([outputs[:, -1], c.squeeze(0)], -1)


def _flag_weights(weight_ih: Tensor) -> Tensor:
    """Columns ``[4H, 2]``: a blank step shuts i, f, o; a held one shuts i, opens f."""
    blank = weight_ih.new_tensor([-1, -1, 0, -1])
    hold = weight_ih.new_tensor([-1, 1, 0, 0])
    columns = torch.stack([blank, hold], -1) * _SATURATED  # [4, 2]
    return columns.repeat_interleave(weight_ih.shape[0] // 4, 0)
