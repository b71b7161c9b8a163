"""The selective scan by state-spaces' CUDA kernel, which knows no resets."""

import torch
from torch import Tensor

# exp(-200) is zero in float32.
_FORGETTING = 200.0


def selective_scan_mamba_ssm(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    is_init: Tensor,
    state: Tensor,
    z: Tensor | None = None,
    dt_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run the scan of the package ``mamba_ssm``, made to forget at blank steps.

    Its kernel starts from zero at the first column and carries the state from there to
    the last, so each start inside of a row must follow a blank step, as
    :func:`~resel_torchrl.replay.pack_episodes` leaves them with ``gap=1``. A flagged
    step counts as blank if the next one is flagged too, or if it is the last of
    several: an episode has at least two steps. In blank steps the input is replaced by
    zero, and the step size by one at which every state decays to zero.

    Arguments and returns are those of
    :func:`~resel_torchrl.ops.selective_scan.selective_scan`. Outputs of blank steps are
    zero, and the last state has no gradient; it is zero after a blank step. ``A`` must
    have no zeros.

    Raises:
        RuntimeError: if a start inside of a row follows no blank step, or a row neither
            begins with a start flag nor with a state of zeros. On a GPU this is an
            assertion of the device, raised at the next synchronisation.
    """
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    starts = is_init[:, 1:]
    blank = is_init & torch.nn.functional.pad(
        starts, (0, 1), value=is_init.shape[1] > 1
    )
    torch._assert_async(
        (is_init[:, :-1] | blank[:, 1:] | ~starts).all(),
        "backend='mamba_ssm' expected a blank step before each start inside of a row, "
        "got a start right after a step: pack with pack_episodes(..., gap=1), or use "
        "backend='auto'.",
    )
    torch._assert_async(
        (is_init[:, 0] | (state == 0).flatten(1).all(1)).all(),
        "backend='mamba_ssm' expected rows that begin with a start flag or a state of "
        "zeros, got another state: use backend='auto'.",
    )
    blank = blank.unsqueeze(-1)
    forget = _FORGETTING / A.detach().abs().amin()
    y, last = selective_scan_fn(
        torch.where(blank, 0, x).mT,
        torch.where(blank, forget, dt).mT,
        A,
        B.mT,
        C.mT,
        D,
        z=None if z is None else z.mT,
        delta_softplus=dt_softplus,
        return_last_state=True,
    )
    return y.mT, last.detach()
