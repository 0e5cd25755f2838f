"""Hidden states -> hidden states, each position a mixture of the ones it looks at: causal attention with a cache.

B batch   T positions asked   S positions looked at   D model width
H query heads   G key/value heads (H % G == 0)   K width of one head
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.rope import rotate


class Attention(nn.Module):
    """Causal attention with rotary positions; groups of H / G query heads share a key and a value head.

    https://arxiv.org/abs/2305.13245; qk_norm: RMSNorm of every query and key head, as in Qwen3.
    """

    def __init__(self, width: int, heads: int, kv_heads: int, head_width: int, norm_eps: float, qk_norm: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = heads, kv_heads, head_width
        # Rows: the query heads', the key heads', the value heads'. One product is faster than three.
        self.to_query_key_value = nn.Linear(width, (heads + 2 * kv_heads) * head_width, bias=False)
        self.to_output = nn.Linear(heads * head_width, width, bias=False)
        self.query_norm = nn.RMSNorm(head_width, norm_eps) if qk_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(head_width, norm_eps) if qk_norm else nn.Identity()

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None = None, memory: "Memory | None" = None
    ) -> Tensor:
        """x: (B, T, D), rotation: of these positions -> (B, T, D)

        mask: (B, 1, T, S), True where position t may look at s; None: at itself and all before it.
        memory: keys and values of earlier positions, to which these are added.
        """
        split = self.to_query_key_value(x).unflatten(-1, (-1, self.head_width))  # (B, T, H + 2G, K)
        query, key, value = split.split((self.heads, self.kv_heads, self.kv_heads), dim=2)
        query = rotate(self.query_norm(query), rotation).transpose(1, 2)  # (B, H, T, K)
        key = rotate(self.key_norm(key), rotation).transpose(1, 2)  # (B, G, T, K)
        value = value.transpose(1, 2)
        if memory is not None:
            key, value = memory.extend(key, value)  # (B, G, S, K)
        grouped = self.heads != self.kv_heads
        if grouped and mask is not None and x.shape[1] > 1:
            # With a mask the fast kernels of a GPU know no groups; the one that does holds the scores of all heads.
            grouped, times = False, self.heads // self.kv_heads
            key, value = key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None and x.shape[1] > 1,
            enable_gqa=grouped,
        )
        return self.to_output(mixed.transpose(1, 2).flatten(2))  # (B, H, T, K) -> (B, T, D)


class Memory:
    """Keys and values of one layer, in one tensor of fixed size that is filled from the left."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.filled = 0
        self.store: Tensor | None = None  # (2, B, G, length, K), made when the dtype of the keys is known

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """key, value: (B, G, T, K) of the next positions -> those of all positions so far, (B, G, S, K) each"""
        if self.store is None:
            batch, heads, _, width = key.shape
            self.store = key.new_empty(2, batch, heads, self.length, width)
        start, self.filled = self.filled, self.filled + key.shape[2]
        self.store[0, :, :, start : self.filled] = key
        self.store[1, :, :, start : self.filled] = value
        return self.store[0, :, :, : self.filled], self.store[1, :, :, : self.filled]


class Cache:
    """What a decoder keeps of the positions it has read: a Memory for each layer, and which places are padding."""

    def __init__(self, depth: int, length: int) -> None:
        self.layers = [Memory(length) for _ in range(depth)]
        self.padding: Tensor | None = None  # (B, S), True where there is no token; None: nowhere

    @property
    def filled(self) -> int:
        """How many positions have been read."""
        return self.layers[0].filled

    def reorder(self, rows: Tensor) -> None:
        """rows: (B',). Row i goes on from what was row rows[i]."""
        for memory in self.layers:
            if memory.store is not None:
                memory.store = memory.store.index_select(1, rows)
        if self.padding is not None:
            self.padding = self.padding.index_select(0, rows)

    def extend_padding(self, padding: Tensor | None, batch: int, count: int, device: torch.device) -> Tensor | None:
        """padding: (B, T) of the next positions, None: all real -> (B, S) of all positions, these included"""
        if padding is None and self.padding is None:
            return None
        new = torch.zeros(batch, count, dtype=torch.bool, device=device) if padding is None else padding
        if self.padding is None:
            self.padding = torch.zeros(batch, self.filled, dtype=torch.bool, device=device)
        self.padding = torch.cat((self.padding, new), dim=1)
        return self.padding


def causal_mask(asked: int, padding: Tensor) -> Tensor:
    """padding: (B, S) of all positions, the last `asked` of which are looking -> (B, 1, asked, S), True: may look.

    A padded position looks at itself, so that no row of the softmax is empty.
    """
    looked_at = padding.shape[1]
    causal = torch.ones(asked, looked_at, dtype=torch.bool, device=padding.device).tril(looked_at - asked)
    itself = torch.eye(looked_at, dtype=torch.bool, device=padding.device)[looked_at - asked :]
    return (causal & ~padding[:, None, None, :]) | itself


def document_mask(documents: Tensor, of_others: Tensor | None = None) -> Tensor:
    """documents: (B, T), the number of each position's document -> (B, 1, T, S), True where the two are the same.

    of_others: (B, S), the numbers of the positions that are looked at, where those are others.
    """
    looked_at = documents if of_others is None else of_others
    return documents[:, None, :, None] == looked_at[:, None, None, :]
