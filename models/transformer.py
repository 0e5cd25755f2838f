"""Token ids (B, T) -> hidden states (B, T, D): a decoder-only Transformer in the manner of Llama.

Rotary positions (rotate-half convention), RMSNorm before each layer, SwiGLU, grouped-query attention, optional QK-norm.
With the same weights it gives the numbers of Hugging Face's Llama (with `qk_norm`: Qwen3). https://arxiv.org/abs/2302.13971

B batch   T positions   S positions looked at   D width
"""

import math

import torch
from torch import Tensor, nn

from models.layers.attention import Attention, Cache, causal_mask, document_mask
from models.layers.feedforward import SwiGLU
from models.layers.rope import Rotation


class Block(nn.Module):
    """One layer of mixing between positions and one of feed-forward, each added to what came in."""

    def __init__(self, mixing: Attention, feedforward: SwiGLU, width: int, norm_eps: float, dropout: float) -> None:
        super().__init__()
        self.mixing_norm = nn.RMSNorm(width, norm_eps)
        self.mixing = mixing
        self.feedforward_norm = nn.RMSNorm(width, norm_eps)
        self.feedforward = feedforward
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None = None, memory: object | None = None
    ) -> Tensor:
        """(B, T, D) -> (B, T, D)"""
        x = x + self.dropout(self.mixing(self.mixing_norm(x), rotation, mask, memory))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))


class Transformer(nn.Module):
    """A decoder: position t sees itself and what is before it.

    width, depth, heads: of the model; kv_heads: key/value heads (by default as many as heads); head_width: by default
    width / heads; feedforward_width: by default 8/3 of width, rounded up to a multiple of 64; max_seq_len: longest
    row, prompt and continuation together.
    """

    causal = True

    def __init__(
        self,
        vocab_size: int,
        width: int = 384,
        depth: int = 6,
        heads: int = 6,
        kv_heads: int | None = None,
        head_width: int | None = None,
        feedforward_width: int | None = None,
        rope_theta: float = 10000.0,
        norm_eps: float = 1e-5,
        qk_norm: bool = False,
        dropout: float = 0.0,
        max_seq_len: int = 2048,
    ) -> None:
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        if head_width is None and width % heads:
            raise ValueError(f"width={width} is not divisible by heads={heads}; change one, or set head_width")
        if heads % kv_heads:
            raise ValueError(f"heads={heads} is not divisible by kv_heads={kv_heads}")
        head_width = width // heads if head_width is None else head_width
        feedforward_width = 64 * math.ceil(width * 8 / 3 / 64) if feedforward_width is None else feedforward_width
        self.width, self.max_seq_len = width, max_seq_len
        self.embedding = nn.Embedding(vocab_size, width)
        self.rotation = Rotation(head_width, rope_theta, max_seq_len)
        self.blocks = nn.ModuleList(
            Block(
                Attention(width, heads, kv_heads, head_width, norm_eps, qk_norm),
                SwiGLU(width, feedforward_width),
                width,
                norm_eps,
                dropout,
            )
            for _ in range(depth)
        )
        self.final_norm = nn.RMSNorm(width, norm_eps)
        self.initialise()

    def initialise(self, std: float = 0.02) -> None:
        """Weights from N(0, std²); those that write to the residual stream from N(0, std² / (2 depth)), as in GPT-2."""
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                residual = name.endswith("to_output.weight")
                nn.init.normal_(weight, std=std / math.sqrt(2 * len(self.blocks)) if residual else std)

    def new_cache(self, batch: int, length: int) -> Cache:
        """Room for `length` positions of `batch` rows."""
        return Cache(len(self.blocks), length)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        padding: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """tokens: (B, T) -> hidden states: (B, T, D)

        positions: (B, T), by default counted from what the cache holds; documents: (B, T), positions with different
        numbers do not see each other (not with a cache); padding: (B, T), True where there is no token, on either
        side; cache: from `new_cache`, holds what was read before and takes these tokens in.
        Raises ValueError where the rows are longer than max_seq_len.
        """
        read = 0 if cache is None else cache.filled
        x = self.embedding(tokens)
        rotation = self.rotation(self.places(tokens, positions, read))
        mask = self.mask(tokens, documents, padding, cache)
        memories = [None] * len(self.blocks) if cache is None else cache.layers
        for block, memory in zip(self.blocks, memories, strict=True):
            x = block(x, rotation, mask, memory)
        return self.final_norm(x)

    def places(self, tokens: Tensor, positions: Tensor | None, read: int) -> Tensor | slice:
        """Positions of the tokens, as `Rotation` takes them."""
        end = read + tokens.shape[1]
        if positions is None and end > self.max_seq_len:
            raise ValueError(f"a row of {end} tokens is longer than the model's max_seq_len={self.max_seq_len}")
        return slice(read, end) if positions is None else positions

    def mask(
        self, tokens: Tensor, documents: Tensor | None, padding: Tensor | None, cache: Cache | None
    ) -> Tensor | None:
        """Who may look at whom, (B, 1, T, S); None where that is just everything before: the fastest attention."""
        if documents is not None:
            return document_mask(documents if padding is None else documents.masked_fill(padding, -1)).tril()
        batch, count = tokens.shape
        read = 0 if cache is None else cache.filled
        if cache is not None:
            padding = cache.extend_padding(padding, batch, count, tokens.device)
        if padding is None and read and count > 1:
            padding = torch.zeros(batch, read + count, dtype=torch.bool, device=tokens.device)
        return None if padding is None else causal_mask(count, padding)
