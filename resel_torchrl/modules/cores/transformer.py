"""Causal Transformer core."""

from types import MappingProxyType

import torch
from torch import Tensor, nn

from resel_torchrl.modules.cores.base import SequenceCore, check_positive


class TransformerCore(SequenceCore):
    """GPT-style Transformer that attends inside an episode only.

    ``n_layers`` pre-norm blocks, a final LayerNorm and a Linear layer. Attention is
    causal, has no dropout, and knows positions by ALiBi: a key that is ``i`` steps back
    loses ``i · 2^{-8 j / n_heads}`` in the logits of head ``j = 1, ..., n_heads``
    (arXiv 2108.12409). Defaults are those of the code released with arXiv 2405.15384,
    whose width is 512. Parameters start as PyTorch draws them.

    The state is the cache of keys and values, ``[max_length, n_layers, 2, size]``
    flattened, and the number of steps in it: ``2 · max_length · n_layers · size + 1``
    numbers for each row, two million at the defaults and a width of 256. Slots that
    are not in use are zero. :meth:`step` reads and copies those that are.
    :meth:`forward` makes one mask of ``R · n_heads · L · L`` numbers for all blocks.

    An episode longer than ``max_length`` raises on a CPU; elsewhere looking at the
    positions would make the host wait, so there its outputs are NaN from that step to
    the episode's end, and with them the loss. After an input that is not finite, too,
    all outputs are NaN until the next start.

    Args:
        size: width of input and output.
        n_layers: blocks.
        n_heads: attention heads; they divide ``size``.
        feedforward_size: inner width of the feed-forward; None for ``4 · size``.
        max_length: longest episode, in steps. An episode of T transitions has T + 1
            observations, which is what a packed row holds.
        norm_eps: added to the norms' variance.

    Raises:
        ValueError: if a size is not a positive integer or ``n_heads`` does not divide
            ``size``.

    Examples:
        >>> core = TransformerCore(16, n_layers=2, n_heads=4, max_length=5)
        >>> is_init = torch.tensor([[True, False, False, True, False]])
        >>> y, state = core(torch.randn(1, 5, 16), is_init)
        >>> y.shape, state.shape, state[0, -1]
        (torch.Size([1, 5, 16]), torch.Size([1, 321]), tensor(2., grad_fn=...))
    """

    renamed = MappingProxyType({"context": "max_length"})

    def __init__(
        self,
        size: int,
        n_layers: int = 4,
        n_heads: int = 8,
        feedforward_size: int | None = None,
        max_length: int = 1024,
        norm_eps: float = 1e-5,
    ):
        check_positive(size, "size")
        check_positive(n_layers, "n_layers")
        check_positive(max_length, "max_length")
        if size % check_positive(n_heads, "n_heads"):
            divisors = [n for n in range(1, size + 1) if size % n == 0]
            raise ValueError(
                f"Expected n_heads to divide the width {size}, got {n_heads}. Choose "
                f"one of {divisors}, or another width."
            )
        super().__init__(size, state_size=2 * max_length * n_layers * size + 1)
        self.n_layers, self.n_heads, self.max_length = n_layers, n_heads, max_length
        inner = 4 * size if feedforward_size is None else feedforward_size
        self.blocks = nn.ModuleList(
            TransformerBlock(size, n_heads, inner, norm_eps) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(size, eps=norm_eps)
        self.out_proj = nn.Linear(size, size)

    def forward(
        self, x: Tensor, is_init: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`SequenceCore.forward`.

        Raises:
            ValueError: also on a CPU, if an episode has more than ``max_length`` steps.
        """
        fresh = state is None
        if fresh:  # zeros that take no memory
            state = x.new_zeros(()).expand(x.shape[0], self.state_size)
        self.check_sequence(x, is_init, state)
        R, L, _ = x.shape
        if not R:  # no longest episode to make room for
            return x, state
        time = torch.arange(L, device=x.device)
        start = torch.where(is_init, time, -1).cummax(1).values  # last one; -1: none
        length, spoilt = _read_length(state, is_init[:, 0], self.max_length)
        begin = torch.where(start < 0, -length[:, None], start)  # where position 0 is
        position = time - begin  # [R, L]

        # Masked keys still meet a factor of 0, and 0 · NaN is NaN: none gets that far.
        finite = x.isfinite().all(-1)
        x = torch.where(finite.unsqueeze(-1), x, x.new_zeros(()))
        last_bad = torch.where(finite, -1, time).cummax(1).values
        spoilt = (last_bad >= start.clamp(min=0)) | (spoilt[:, None] & (start < 0))
        if _sync_is_free(x):
            self._check_length(position)
            used, kept = int(length.max()), int(position[:, -1].max()) + 1
        else:
            spoilt = spoilt | (position >= self.max_length)
            used, kept = 0 if fresh else self.max_length, self.max_length

        cache = state[:, :-1].view(R, self.max_length, self.n_layers, 2, -1)[:, :used]
        slots = torch.arange(used, device=x.device)
        in_use = slots < length[:, None]  # [R, used]
        cache = torch.where(in_use[..., None, None, None], cache, cache.new_zeros(()))
        bias = self._bias(x, time, start, position, slots, in_use)
        present = []
        for block, past in zip(self.blocks, cache.unbind(2), strict=True):
            x, keys_values = block(x, past, bias)
            present.append(keys_values)
        y = self.out_proj(self.norm(x)).to(x.dtype)
        y = y.masked_fill(spoilt.unsqueeze(-1), torch.nan)
        present = torch.stack(present, 2)  # [R, L, n_layers, 2, size]
        count = (position[:, -1] + 1).to(y.dtype).masked_fill(spoilt[:, -1], torch.nan)
        if L > 1:
            cache = _last_episode(present, cache, begin[:, -1], kept)
        held, state = cache.flatten(1), y.new_zeros(R, self.state_size)
        if held.shape[1]:
            state[:, : held.shape[1]] = held
        if L == 1:  # acting: one more slot, without another copy of the cache
            new = present.flatten(1)
            place = position.clamp(max=self.max_length - 1) * new.shape[1]
            state.scatter_(1, place + torch.arange(new.shape[1], device=x.device), new)
        state[:, -1] = count
        return y, state

    def step(self, x: Tensor, is_init: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`SequenceCore.step`.

        Raises:
            ValueError: also on a CPU, if the episode has had ``max_length`` steps.
        """
        self.check_step(x, is_init, state)
        y, state = self.forward(x.unsqueeze(1), is_init.unsqueeze(1), state)
        return y.squeeze(1), state

    def _check_length(self, position):
        longest = int(position.max()) + 1
        if longest > self.max_length:
            raise ValueError(
                f"TransformerCore expected episodes of at most max_length="
                f"{self.max_length} steps, got one of {longest} or more. Build it with "
                f"max_length={longest} or more, or check that is_init marks each "
                "start."
            )

    def _bias(self, x, time, start, position, slots, in_use):
        """ALiBi where a key may be seen, else -inf: [R, n_heads, L, L + used]."""
        allowed = (time <= time[:, None]) & (time >= start[..., None])  # [R, L, L]
        past = in_use[:, None] & (start < 0)[..., None]  # [R, L, used]
        back = (time[:, None] - time).expand_as(allowed)
        back = torch.cat([back, position[..., None] - slots], -1)
        allowed = torch.cat([allowed, past], -1)
        heads = torch.arange(1, self.n_heads + 1, device=x.device, dtype=x.dtype)
        slopes = torch.exp2(-8 / self.n_heads * heads)
        bias = -slopes[:, None, None] * back.to(x.dtype).unsqueeze(1)
        return bias.masked_fill_(~allowed.unsqueeze(1), -torch.inf)


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and feed-forward, each with a residual."""

    def __init__(self, size: int, n_heads: int, feedforward_size: int, norm_eps: float):
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(size, eps=norm_eps)
        self.in_proj = nn.Linear(size, 3 * size)  # query, key, value
        self.out_proj = nn.Linear(size, size)
        self.feedforward = FeedForward(size, feedforward_size, norm_eps)

    def forward(self, x: Tensor, past: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Attend to past and present.

        Args:
            x: ``[R, L, size]``.
            past: keys and values before them, ``[R, P, 2, size]``.
            bias: added to the attention's logits, ``[R, n_heads, L, L + P]``: first
                the present keys, then the past ones.

        Returns:
            Outputs ``[R, L, size]``, and their keys and values ``[R, L, 2, size]``.
        """
        query, key, value = self.in_proj(self.norm(x)).to(x.dtype).chunk(3, -1)
        present = torch.stack([key, value], 2)
        key, value = torch.cat([present, past], 1).unbind(2)
        attended = nn.functional.scaled_dot_product_attention(
            self._heads(query), self._heads(key), self._heads(value), attn_mask=bias
        )
        x = x + self.out_proj(attended.transpose(1, 2).flatten(2))
        return self.feedforward(x), present

    def _heads(self, x):
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Pre-norm feed-forward with a residual: ``x + W2 GELU(W1 LayerNorm(x))``."""

    def __init__(self, size: int, inner_size: int, norm_eps: float = 1e-5):
        super().__init__()
        check_positive(inner_size, "feedforward_size")
        self.norm = nn.LayerNorm(size, eps=norm_eps)
        self.layers = nn.Sequential(
            nn.Linear(size, inner_size), nn.GELU(), nn.Linear(inner_size, size)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[*, size]`` to ``[*, size]``."""
        return x + self.layers(self.norm(x))


def _last_episode(present: Tensor, cache: Tensor, begin: Tensor, kept: int) -> Tensor:
    """Keys and values of each row's last episode in its first ``kept`` slots.

    The episode begins at time ``begin``; before 0 are those of its steps that the cache
    holds. Slots that it does not fill are zero.
    """
    L, slot = present.shape[1], torch.arange(kept, device=begin.device)
    everything = torch.cat([present, cache], 1)
    time = begin[:, None] + slot
    source = torch.where(time < 0, L + slot, time.clamp(max=L - 1))
    rows = torch.arange(len(begin), device=begin.device)[:, None]
    slots = everything[rows, source.clamp(max=everything.shape[1] - 1)]
    return slots.masked_fill((time >= L)[..., None, None, None], 0)


def _sync_is_free(tensor: Tensor) -> bool:
    """Whether reading a value costs no host sync, nor a break of a compiled graph."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def _read_length(state: Tensor, starts: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Steps in the cache, 0 in rows that start, and whether they are spoilt by NaN."""
    count = state[:, -1].detach().masked_fill(starts, 0)
    spoilt = count.isnan()
    length = count.nan_to_num(0, limit, 0).round().clamp(0, limit).long()
    return length, spoilt
