"""Hidden states -> hidden states, each position by itself: the gated feed-forward layer SwiGLU."""

import torch.nn.functional as F
from torch import Tensor, nn


class SwiGLU(nn.Module):
    """A feed-forward layer whose inner values are multiplied by a learned gate. https://arxiv.org/abs/2002.05202"""

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        # Rows: first the gate's, then the values'. One product is faster than two.
        self.to_gate_and_value = nn.Linear(width, 2 * inner_width, bias=False)
        self.to_output = nn.Linear(inner_width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)"""
        gate, value = self.to_gate_and_value(x).chunk(2, dim=-1)  # (B, T, inner_width) each
        return self.to_output(F.silu(gate) * value)
