"""A backbone (tokens -> hidden states) -> a language model: head, loss, logits, generation, save and load.

Nothing here knows which backbone it is. What its `forward` names (`positions`, `documents`, `padding`, `cache`) it
gets; what it does not name it never gets, and a batch that needs it is refused.

B batch   T positions   D width   V vocabulary
"""

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.cross_entropy import nats_of_hidden
from models.decoding import DecodingOptions, Generated, generate
from models.interface import Loss, ModelFacts, Stepper
from models.steppers import CachedStepper, RecomputingStepper, positions_of


class LanguageModel(nn.Module):
    """State-dict keys: `backbone.…`, and `head.weight` unless it is tied to the embedding.

    backbone: any module with `width`, and `embedding` where the head is tied; vocab_size: rows of embedding and head;
    tokens: how many of them the tokenizer knows (the others are never generated); arguments: what the backbone was
    built with, for `save`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        vocab_size: int,
        tie: bool = True,
        tokens: int | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        name = type(backbone).__name__
        if not isinstance(getattr(backbone, "width", None), int):
            raise ValueError(f"{name} needs an attribute `width`: the size of the hidden states that it returns")
        if tie and not isinstance(getattr(getattr(backbone, "embedding", None), "weight", None), Tensor):
            raise ValueError(f"{name} has no `embedding` to tie the head to; set model.tie_embeddings: false")
        self.backbone = backbone
        self.head = None if tie else nn.Linear(backbone.width, vocab_size, bias=False)
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=0.02)
        self.arguments = arguments
        self.tokens = vocab_size if tokens is None else tokens
        self.takes = set(inspect.signature(backbone.forward).parameters)
        self.facts = ModelFacts(
            max_positions=getattr(backbone, "max_seq_len", None),
            takes_attention_mask="padding" in self.takes,
            causal=getattr(backbone, "causal", True),
            vocab_size=vocab_size,
        )

    @property
    def head_weight(self) -> Tensor:
        """(V, D)"""
        return self.backbone.embedding.weight if self.head is None else self.head.weight

    def forward(
        self,
        input_ids: Tensor,
        targets: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Loss:
        """input_ids, targets: (B, T), targets -100 where nothing is asked; attention_mask: (B, T), 1 at real tokens;

        documents: (B, T), numbers of documents that must not see each other, -1 at what only fills a row.
        """
        hidden = self.hidden_states(input_ids, attention_mask, position_ids, documents)
        return nats_of_hidden(hidden, self.head_weight, targets)

    def hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """(B, T) -> (B, T, D). Raises ValueError for what the backbone does not take."""
        optional: dict[str, Tensor] = {}
        if attention_mask is not None:
            self.require("padding", "rows with padding that is marked (attention_mask)")
            optional["padding"] = attention_mask == 0
            if position_ids is None and "positions" in self.takes:
                position_ids = positions_of(attention_mask)
        if documents is not None:
            self.require("documents", "rows of several documents (data.document_masking)")
            optional["documents"] = documents
            if "positions" not in self.takes:
                position_ids = None  # it may know no positions, or find them itself: models/documents.py tries it
        if position_ids is not None:
            self.require("positions", "position_ids")
            optional["positions"] = position_ids
        return self.backbone(input_ids, **optional)

    def require(self, argument: str, what: str) -> None:
        """Raises ValueError unless the backbone's forward names `argument`."""
        if argument not in self.takes:
            name = type(self.backbone).__name__
            raise ValueError(f"the batch has {what}, but {name}.forward takes no `{argument}`; add it there")

    def loss(self, batch: dict[str, Tensor]) -> Loss:
        """Nats summed over the scored targets, through `forward` (which is what torch.compile compiles)."""
        return self(**self.known(batch))

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """-> (B, T, V)"""
        inputs = {name: tensor for name, tensor in self.known(batch).items() if name != "targets"}
        return F.linear(self.hidden_states(**inputs), self.head_weight)

    def known(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch, if there is nothing in it that a backbone cannot be given; else raises ValueError."""
        foreign = batch.keys() - {"input_ids", "targets", "attention_mask", "position_ids", "documents"}
        if foreign:
            raise ValueError(f"the batch has {', '.join(sorted(foreign))}, which a backbone does not take")
        return batch

    def stepper(self, prompt_ids: Tensor, prompt_mask: Tensor, max_new_tokens: int) -> Stepper:
        """For generation: with a cache where the backbone has one, else by reading everything again at each token."""
        if "cache" in self.takes and "positions" in self.takes and hasattr(self.backbone, "new_cache"):
            return CachedStepper(self, prompt_ids, prompt_mask, max_new_tokens)
        return RecomputingStepper(self, prompt_ids, prompt_mask, max_new_tokens)

    def generate(
        self, prompt_ids: Tensor, prompt_mask: Tensor | None = None, eos_id: int | None = None, **options: Any
    ) -> list[Generated]:
        """prompt_ids, prompt_mask: (B, T), padded on the left; options: of DecodingOptions -> a text for each row"""
        mask = torch.ones_like(prompt_ids) if prompt_mask is None else prompt_mask
        return generate(self, prompt_ids, mask, DecodingOptions(**options), eos_id=eos_id)

    def save(self, directory: str | Path) -> None:
        """Writes model.safetensors and config.json. Raises ValueError where `arguments` were not given."""
        if self.arguments is None:
            raise ValueError(
                "cannot save: the LanguageModel was not told the `arguments` that its backbone was built with"
            )
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        kind = type(self.backbone)
        config = {
            "backbone": f"{kind.__module__}.{kind.__qualname__}",
            "arguments": self.arguments,
            "vocab_size": self.facts.vocab_size,
            "tokens": self.tokens,
            "tie": self.head is None,
        }
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(weights, directory / "model.safetensors")
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: str | Path) -> "LanguageModel":
        """The inverse of `save`. Raises ValueError where the weights are not those of the model named."""
        directory = Path(directory)
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        module, _, name = config["backbone"].rpartition(".")
        kind = getattr(importlib.import_module(module), name)
        backbone = kind(vocab_size=config["vocab_size"], **config["arguments"])
        model = cls(backbone, config["vocab_size"], config["tie"], config["tokens"], config["arguments"])
        load_weights(model, load_file(directory / "model.safetensors"), str(directory))
        return model


def load_weights(model: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Copies weights into the model; raises ValueError that names what is missing, too many or of another shape."""
    own = model.state_dict()
    problems = [f"no {name}" for name in own if name not in weights]
    problems += [f"{name}, which the model does not have" for name in weights if name not in own]
    problems += [
        f"{name} of shape {tuple(weights[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{where} does not fit the model: it has {'; '.join(problems[:5])}{more}")
    model.load_state_dict(weights)
