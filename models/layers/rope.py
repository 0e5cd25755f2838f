"""Queries or keys and their positions -> the same, turned by angles that grow with the position.

Rotary position embedding, https://arxiv.org/abs/2104.09864, in the "rotate half" convention of GPT-NeoX and of Hugging
Face's Llama: place i of a head of width K is turned together with place i + K/2 (not with its neighbour i + 1).
"""

import torch
from torch import Tensor, nn


class Rotation(nn.Module):
    """Cosines and sines of all angles, computed once; they follow the model to its device and are in no checkpoint."""

    def __init__(self, head_width: int, theta: float, max_seq_len: int) -> None:
        super().__init__()
        if head_width % 2:
            raise ValueError(f"rotary positions need heads of even width, got {head_width}")
        self.theta = theta  # read when the model is exported
        frequencies = 1.0 / theta ** (torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
        angles = torch.outer(torch.arange(max_seq_len, dtype=torch.float32), frequencies)  # (max_seq_len, K/2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, positions: Tensor | slice) -> tuple[Tensor, Tensor]:
        """positions: (B, T), or a slice of them for all rows alike -> cos, sin: (B or none, T, 1, K/2)"""
        return self.cos[positions].unsqueeze(-2), self.sin[positions].unsqueeze(-2)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """x: (B, T, heads, K), rotation: cos and sin (…, T, 1, K/2) -> (B, T, heads, K), in x's dtype"""
    cos, sin = rotation[0].to(x.dtype), rotation[1].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
