"""TorchRL components for recurrent off-policy RL under partial observability.

Implements RESeL: "Efficient Recurrent Off-Policy RL Requires a
Context-Encoder-Specific Learning Rate" (arXiv 2405.15384).
"""

__version__ = "0.1.0"
