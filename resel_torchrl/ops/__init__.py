"""Reset-aware sequence operations on plain tensors; they know no networks."""

# Notes the process that it is loaded in: a fork has no threads of its parent's.
import resel_torchrl.ops._threads  # noqa: F401
from resel_torchrl.ops.causal_conv import (
    causal_conv,
    causal_conv_naive,
    causal_conv_step,
)
from resel_torchrl.ops.gru import gru_scan, gru_scan_naive
from resel_torchrl.ops.linear_scan import (
    linear_scan,
    linear_scan_naive,
    linear_scan_step,
)
from resel_torchrl.ops.lstm import lstm_scan, lstm_scan_naive
from resel_torchrl.ops.lstm_layer import has_fused_lstm, lstm_layer
from resel_torchrl.ops.selective_scan import selective_scan, selective_scan_step

__all__ = [
    "causal_conv",
    "causal_conv_naive",
    "causal_conv_step",
    "gru_scan",
    "gru_scan_naive",
    "has_fused_lstm",
    "linear_scan",
    "linear_scan_naive",
    "linear_scan_step",
    "lstm_layer",
    "lstm_scan",
    "lstm_scan_naive",
    "selective_scan",
    "selective_scan_step",
]
