"""Models in the middle of writing: prompts -> logits of the next token, one token at a time (see models/interface.py).

All of them take prompts padded on the left, give float32 logits (B, V), and never let a token be chosen that the
tokenizer does not have.
"""

import math

import torch
from torch import Tensor


class CachedStepper:
    """A `LanguageModel` whose backbone keeps what it has read in a cache."""

    def __init__(self, model, prompt_ids: Tensor, prompt_mask: Tensor, max_new_tokens: int) -> None:
        self.model, self.prompt_ids, self.prompt_mask = model, prompt_ids, prompt_mask
        batch, length = prompt_ids.shape
        self.cache = model.backbone.new_cache(batch, length + max_new_tokens)
        self.position = prompt_mask.sum(-1)  # (B,) of the next token

    def start(self) -> Tensor:
        """-> (B, V)"""
        padded = not bool(self.prompt_mask.all())
        return self.read(self.prompt_ids, positions_of(self.prompt_mask), self.prompt_mask == 0 if padded else None)

    def advance(self, tokens: Tensor) -> Tensor:
        """(B,) -> (B, V)"""
        logits = self.read(tokens[:, None], self.position[:, None], None)
        self.position = self.position + 1
        return logits

    def reorder(self, rows: Tensor) -> None:
        """rows: (B',)"""
        self.cache.reorder(rows)
        self.position = self.position.index_select(0, rows)

    def read(self, tokens: Tensor, positions: Tensor, padding: Tensor | None) -> Tensor:
        """tokens, positions: (B, T) -> (B, V) after the last of them"""
        optional = {} if padding is None else {"padding": padding}
        hidden = self.model.backbone(tokens, positions=positions, cache=self.cache, **optional)
        logits = torch.nn.functional.linear(hidden[:, -1], self.model.head_weight)
        return only_tokens(logits.float(), self.model.tokens)


class RecomputingStepper:
    """Any causal model, by its `logits` alone: reads each row anew for every token, rows filled on the right."""

    def __init__(self, model, prompt_ids: Tensor, prompt_mask: Tensor, max_new_tokens: int) -> None:
        self.model = model
        self.length = prompt_mask.long().sum(-1)  # (B,) tokens so far
        # Real tokens first: a stable sort by "is padding" keeps their order.
        order = (prompt_mask == 0).to(torch.uint8).argsort(dim=-1, stable=True)
        self.ids = prompt_ids.gather(1, order)

    def start(self) -> Tensor:
        """-> (B, V)"""
        logits = self.model.logits({"input_ids": self.ids[:, : int(self.length.max())]})
        rows = torch.arange(len(self.ids), device=self.ids.device)
        return only_tokens(logits[rows, self.length - 1].float(), self.model.tokens)

    def advance(self, tokens: Tensor) -> Tensor:
        """(B,) -> (B, V)"""
        if int(self.length.max()) == self.ids.shape[1]:
            self.ids = torch.cat((self.ids, torch.zeros_like(self.ids[:, :1])), dim=1)
        self.ids = self.ids.scatter(1, self.length[:, None], tokens[:, None])
        self.length = self.length + 1
        return self.start()

    def reorder(self, rows: Tensor) -> None:
        """rows: (B',)"""
        self.ids, self.length = self.ids.index_select(0, rows), self.length.index_select(0, rows)


def positions_of(attention_mask: Tensor) -> Tensor:
    """(B, T), 1 at real tokens -> each token's place among the real ones of its row; padding gets some valid place."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def only_tokens(logits: Tensor, tokens: int) -> Tensor:
    """(B, V): -inf for ids from `tokens` on: rows that only fill the embedding up to a multiple of 64."""
    return logits.index_fill(1, torch.arange(tokens, logits.shape[-1], device=logits.device), -math.inf)
