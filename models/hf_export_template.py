"""A model of ours as transformers wants it: a config, and a class that `from_pretrained` and `generate` know.

`training/export.py` writes this file, as modeling_liftoff.py, beside the weights of every model that is no class of
transformers: with the two imports marked below of the model's own, and its class named for what it does.

B batch   T positions   V vocabulary
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from models.language_model import LanguageModel as Dress  # export: the dress
from models.transformer import Transformer as Architecture  # export: the architecture


class LiftoffConfig(PreTrainedConfig):
    """What the architecture (`architecture`) and its dress (`dress`) are called with."""

    model_type = "liftoff"
    architecture: dict[str, Any] | None = None
    dress: dict[str, Any] | None = None
    tied: dict[str, str] | None = None  # name of a weight -> name of the one that it is
    vocab_size: int | None = None  # rows of the embedding, those that only fill it up to a multiple of 64 included
    tokenizer_vocab_size: int | None = None  # tokens of the tokenizer
    max_position_embeddings: int | None = None
    causal: bool = True


class LiftoffForCausalLM(PreTrainedModel, GenerationMixin):
    """Ids -> logits. `generate` reads everything again for each token: there is no cache."""

    config_class = LiftoffConfig
    main_input_name = "input_ids"

    def __init__(self, config: LiftoffConfig) -> None:
        super().__init__(config)
        # Really built, although from_pretrained is building on the meta device: what is computed here and is in no
        # file of weights (angles, masks) would be lost.
        with torch.device("cpu"):
            self.inner = Dress(Architecture(**config.architecture), **config.dress)
        self._computed = {
            (module, name): buffer.clone()
            for module in self.inner.modules()
            for name, buffer in module.named_buffers(recurse=False)
            if name in module._non_persistent_buffers_set
        }
        self._tied_weights_keys = config.tied or None
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """from_pretrained calls this for what is in no file of weights, having emptied it."""
        for (owner, name), buffer in self._computed.items():
            if owner is module:
                getattr(module, name).copy_(buffer)

    def get_input_embeddings(self) -> torch.nn.Module:
        """The table with a row for every id."""
        tables = (module for module in self.inner.modules() if isinstance(module, torch.nn.Embedding))
        return next(table for table in tables if table.num_embeddings == self.config.vocab_size)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        **inputs: Tensor,
    ) -> CausalLMOutput:
        """input_ids: (B, T); attention_mask: (B, T), 1 at real tokens -> .logits (B, T, V), with labels also .loss.

        labels: (B, T), -100 where nothing is asked. As everywhere in transformers, those of a causal model are the
        input ids themselves, and are shifted here.
        """
        batch = {"input_ids": input_ids} | inputs
        batch |= {} if decoder_input_ids is None else {"decoder_input_ids": decoder_input_ids}
        order = None
        if attention_mask is not None and not bool(attention_mask.all()):
            if self.config.causal:
                # Real tokens first: nothing is hidden from a causal model that comes after, so it needs no mask.
                order = (attention_mask == 0).to(torch.uint8).argsort(dim=-1, stable=True)
                batch = {name: tensor.gather(1, order) for name, tensor in batch.items()}
            else:
                batch["attention_mask"] = attention_mask
        logits = self.inner.logits(batch)
        if order is not None:
            logits = logits.gather(1, order.argsort(-1)[..., None].expand_as(logits))
        loss = None
        if labels is not None:
            scores, labels = (logits[:, :-1], labels[:, 1:]) if self.config.causal else (logits, labels)
            loss = F.cross_entropy(scores.flatten(0, 1).float(), labels.flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> dict[str, Tensor | None]:
        """All ids so far, at each token."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}
