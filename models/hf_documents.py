"""A batch whose rows hold several documents -> what a model of transformers is given to keep them apart.

    causal           positions that restart, and no mask: transformers finds the documents by them
    masked           a 4-D mask, and positions that restart
    encoder–decoder  4-D masks for the encoder, for the decoder and between them, and positions that restart

Whether a class really keeps to it is another question: `models/documents.py` tries it.

B batch   T positions   S positions of a source
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.layers.attention import document_mask


class Packed:
    """What batches with `documents` become, for this model."""

    def __init__(self, inner: PreTrainedModel, causal: bool, first_position: int) -> None:
        """first_position: of a row's first token, as the model counts."""
        self.inner, self.causal, self.first_position = inner, causal, first_position
        both = (inner.get_encoder(), inner.get_decoder()) if inner.config.is_encoder_decoder else ()
        self.tables = [tables_of(part) for part in both]

    def inputs(self, batch: dict[str, Tensor], takes: set[str]) -> dict[str, Any]:
        """batch: without targets; takes: what the model's forward names. Raises ValueError where that is not enough."""
        if getattr(self.inner.config, "attention_type", None) == "block_sparse":  # but in short rows it sees everything
            raise ValueError("it sees blocks of a row; set model.arguments.attention_type: original_full")
        if self.inner.config.is_encoder_decoder:
            return self.of_encoder_decoder(batch, takes)
        name, ids = type(self.inner).__name__, batch["input_ids"]
        positions = batch["position_ids"] + self.first_position
        if not self.causal:
            mask = self.masks(document_mask(batch["documents"]))
            return {"input_ids": ids, "attention_mask": mask} | named(takes, position_ids=positions)
        if "position_ids" not in takes:
            raise ValueError(f"{name} takes no position_ids, by which documents in a row are kept apart")
        if self.attention.startswith("flash"):
            # In one row: flash attention looks for documents only there. The rows themselves are documents, too.
            ids, positions = ids.reshape(1, -1), positions.reshape(1, -1)
        return {"input_ids": ids, "position_ids": positions}

    def of_encoder_decoder(self, batch: dict[str, Tensor], takes: set[str]) -> dict[str, Any]:
        """Encoder and decoder are called one after the other: they need different masks under the same name."""
        source, target = batch["documents"], batch["decoder_documents"]
        for tables, name in zip(self.tables, ("position_ids", "decoder_position_ids"), strict=True):
            for table in tables:
                table.restarted = batch[name]
        encoder = {"input_ids": batch["input_ids"], "attention_mask": self.mask(document_mask(source))}
        between = document_mask(target, source)
        return {
            "encoder": encoder,
            # What fills the decoder's row may find no filling in the source. A softmax over nothing is not a number.
            "attention_mask": self.mask(between | ~between.any(-1, keepdim=True)),
            "decoder_input_ids": batch["decoder_input_ids"],
            "decoder_attention_mask": self.mask(document_mask(target).tril()),
        } | named(takes, decoder_position_ids=batch["decoder_position_ids"])

    def encoded(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The same with what the encoder says, where it has to be called by itself."""
        if "encoder" not in inputs:
            return inputs
        said = self.inner.get_encoder()(**inputs["encoder"], return_dict=True)
        return {name: value for name, value in inputs.items() if name != "encoder"} | {"encoder_outputs": said}

    @property
    def attention(self) -> str:
        """The implementation in use."""
        return self.inner.config._attn_implementation

    def mask(self, may_look: Tensor) -> Tensor:
        """(B, 1, T, S) bool -> as the attention implementation wants it."""
        if self.attention == "sdpa":
            return may_look
        if self.attention != "eager":
            raise ValueError(f"attention: {self.attention} takes no masks of documents; use sdpa")
        dtype = self.inner.dtype  # added to the scores
        return torch.zeros_like(may_look, dtype=dtype).masked_fill_(~may_look, torch.finfo(dtype).min)

    def masks(self, may_look: Tensor) -> Tensor | dict[str, Tensor]:
        """The same for each kind of layer, where some of them look only so far to both sides (ModernBERT)."""
        config = self.inner.config
        if "sliding_attention" not in (getattr(config, "layer_types", None) or ()):
            return self.mask(may_look)
        place = torch.arange(may_look.shape[-1], device=may_look.device)
        near = (place[:, None] - place).abs() <= config.sliding_window
        return {"full_attention": self.mask(may_look), "sliding_attention": self.mask(may_look & near)}


def named(takes: set[str], **tensors: Tensor) -> dict[str, Tensor]:
    """Those that the model's forward names."""
    return {name: tensor for name, tensor in tensors.items() if name in takes}


def tables_of(part: nn.Module) -> list[nn.Module]:
    """Tables of positions in an encoder or decoder, made so that they are read in the order of `restarted` (B, T).

    BART, Marian and their kin take no position_ids: what the table gives a row is put into another order.
    """
    tables = [table for name, table in part.named_modules() if name.rpartition(".")[2] == "embed_positions"]
    for table in tables:
        table.restarted = None
        table.register_forward_hook(reordered)
    return tables


def reordered(table: nn.Module, _: Any, given: Tensor) -> Tensor:
    """given: (T, D), (1, T, D) or (B, T, D), of places 0, 1, … -> (B, T, D), of `restarted`, which counts once."""
    positions, table.restarted = table.restarted, None
    if positions is None:
        return given
    return given.expand(len(positions), -1, -1).gather(1, positions[..., None].expand(-1, -1, given.shape[-1]))


@contextlib.contextmanager
def tried_on_any_device(inner: PreTrainedModel) -> Iterator[None]:
    """Inside it sdpa takes the place of an attention that needs a GPU: a model is tried where it is built."""
    before = inner.config._attn_implementation
    if before in (None, "sdpa", "eager"):
        yield
        return
    inner.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        inner.set_attn_implementation(before)
