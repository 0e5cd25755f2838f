"""Models in the middle of writing: prompts -> logits of the next token, one token at a time (see models/interface.py).

All of them take prompts padded on the left, give float32 logits (B, V), and never let a token be chosen that the
tokenizer does not have.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class CachedStepper:
    """A `LanguageModel` whose backbone keeps what it has read in a cache."""

    def __init__(self, model: Any, prompt_ids: Tensor, prompt_mask: Tensor, max_new_tokens: int) -> None:
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
        logits = F.linear(hidden[:, -1], self.model.head_weight)
        return only_tokens(logits.float(), self.model.tokens)


class RecomputingStepper:
    """Any causal model, by its `logits` alone: reads each row anew for every token, rows filled on the right.

    Of an encoder–decoder it is the decoder's row that grows, from the start id; the source stays.
    """

    def __init__(self, model: Any, prompt_ids: Tensor, prompt_mask: Tensor, max_new_tokens: int) -> None:
        if not model.facts.causal:
            raise ValueError("a model that sees both sides cannot write: its logits depend on what comes later")
        self.model = model
        self.ids, mask = filled_on_the_right(prompt_ids, prompt_mask)
        self.length = mask.sum(-1)  # (B,) tokens so far
        self.source: dict[str, Tensor] = {}
        if model.facts.encoder_decoder:
            if model.facts.decoder_start_id is None:
                raise ValueError("an encoder–decoder needs a `decoder_start_id` to write")
            self.source = {"input_ids": self.ids} | ({} if bool(mask.all()) else {"attention_mask": mask})
            self.ids = torch.full_like(self.ids[:, :1], model.facts.decoder_start_id)
            self.length = torch.ones_like(self.length)

    def start(self) -> Tensor:
        """-> (B, V)"""
        ids = self.ids[:, : int(self.length.max())]
        logits = self.model.logits(self.source | {"decoder_input_ids" if self.source else "input_ids": ids})
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
        self.source = {name: tensor.index_select(0, rows) for name, tensor in self.source.items()}


class PastStepper:
    """A causal model of transformers, with its own cache, whatever its config says of `use_cache`."""

    def __init__(self, model: Any, prompt_ids: Tensor, prompt_mask: Tensor) -> None:
        self.model, self.prompt_ids = model, prompt_ids
        # Without padding no mask is given: attention is then at its fastest.
        self.mask = None if bool(prompt_mask.all()) else prompt_mask.long()
        self.position = prompt_mask.sum(-1)  # (B,) of the next token
        self.past: Any = None

    def start(self) -> Tensor:
        """-> (B, V)"""
        mask = torch.ones_like(self.prompt_ids) if self.mask is None else self.mask
        return self.read(self.prompt_ids, positions_of(mask))

    def advance(self, tokens: Tensor) -> Tensor:
        """(B,) -> (B, V)"""
        if self.mask is not None:
            self.mask = torch.cat((self.mask, torch.ones_like(self.mask[:, :1])), dim=1)
        logits = self.read(tokens[:, None], self.position[:, None])
        self.position = self.position + 1
        return logits

    def reorder(self, rows: Tensor) -> None:
        """rows: (B',)"""
        self.past.reorder_cache(rows)
        self.position = self.position.index_select(0, rows)
        self.mask = None if self.mask is None else self.mask.index_select(0, rows)

    def read(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """tokens, positions: (B, T) -> (B, V) after the last of them"""
        optional = {"attention_mask": self.mask, "position_ids": positions, "logits_to_keep": 1}
        output = self.model.inner(
            input_ids=tokens,
            past_key_values=self.past,
            use_cache=True,
            **{name: value for name, value in optional.items() if name in self.model.takes and value is not None},
        )
        self.past = output.past_key_values
        return only_tokens(output.logits[:, -1].float(), self.model.tokens)


class EncoderDecoderStepper:
    """An encoder–decoder of transformers: the source is encoded once, filled on the right as in training."""

    def __init__(self, model: Any, source_ids: Tensor, source_mask: Tensor) -> None:
        self.model = model
        self.source_ids, mask = filled_on_the_right(source_ids, source_mask)
        self.mask = None if bool(mask.all()) else mask
        self.encoded: Any = None
        self.past: Any = None

    def start(self) -> Tensor:
        """-> (B, V)"""
        self.encoded = self.model.inner.get_encoder()(
            input_ids=self.source_ids, attention_mask=self.mask, return_dict=True
        )
        return self.advance(torch.full_like(self.source_ids[:, 0], self.model.facts.decoder_start_id))

    def advance(self, tokens: Tensor) -> Tensor:
        """(B,) -> (B, V)"""
        output = self.model.inner(
            encoder_outputs=self.encoded,
            attention_mask=self.mask,
            decoder_input_ids=tokens[:, None],
            past_key_values=self.past,
            use_cache=True,
        )
        self.past = output.past_key_values
        return only_tokens(output.logits[:, -1].float(), self.model.tokens)

    def reorder(self, rows: Tensor) -> None:
        """rows: (B',)"""
        self.encoded.last_hidden_state = self.encoded.last_hidden_state.index_select(0, rows)
        self.mask = None if self.mask is None else self.mask.index_select(0, rows)
        self.past.reorder_cache(rows)


def filled_on_the_right(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """ids, mask (B, T), padded anywhere -> the same with each row's real tokens first, in their order."""
    order = (mask == 0).to(torch.uint8).argsort(dim=-1, stable=True)
    return ids.gather(1, order), mask.long().gather(1, order)


def positions_of(attention_mask: Tensor) -> Tensor:
    """(B, T), 1 at real tokens -> each token's place among the real ones of its row; padding gets some valid place."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def only_tokens(logits: Tensor, tokens: int) -> Tensor:
    """(B, V): -inf for ids from `tokens` on: rows that only fill the embedding up to a multiple of 64."""
    return logits.index_fill(1, torch.arange(tokens, logits.shape[-1], device=logits.device), -math.inf)
