"""Any nn.Module whose forward returns logits, or an object with `.loss` and/or `.logits` -> the face of a model.

It is called with the entries of the batch that its forward names, or with all of them where it takes `**kwargs`.
"""

import inspect

import torch
from torch import Tensor, nn

from models.cross_entropy import IGNORED, nats_of_logits
from models.interface import Loss, ModelFacts, Stepper
from models.steppers import RecomputingStepper


class PlainModule(nn.Module):
    """State-dict keys: `inner.` and the module's own.

    tokens: of the tokenizer (ids beyond are never generated); own_loss: its `.loss`, a mean over the scored targets,
    times their count, even where it gives logits. The attributes `causal` (default: yes), `max_seq_len` and
    `decoder_start_id` of the module are read where it has them.
    """

    def __init__(self, inner: nn.Module, vocab_size: int, tokens: int, own_loss: bool = False) -> None:
        super().__init__()
        self.inner, self.tokens, self.own_loss = inner, tokens, own_loss
        parameters = inspect.signature(inner.forward).parameters.values()
        self.takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        self.takes = {parameter.name for parameter in parameters}
        self.facts = ModelFacts(
            max_positions=getattr(inner, "max_seq_len", None),
            takes_attention_mask=self.takes_all or "attention_mask" in self.takes,
            encoder_decoder="decoder_input_ids" in self.takes,
            causal=getattr(inner, "causal", True),
            decoder_start_id=getattr(inner, "decoder_start_id", None),
            vocab_size=vocab_size,
        )

    def forward(self, batch: dict[str, Tensor]) -> Loss:
        """batch: input_ids, targets (B, T) and what else there is."""
        output, targets = self.output(batch), batch["targets"]
        logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        loss = None if isinstance(output, Tensor) else getattr(output, "loss", None)
        if logits is not None and not (self.own_loss and loss is not None):
            return nats_of_logits(logits, targets)
        if loss is None:
            name = type(self.inner).__name__
            raise ValueError(f"{name}.forward must return logits, or an object with .logits or .loss")
        scored = targets != IGNORED
        correct = torch.zeros_like(scored) if logits is None else (logits.detach().argmax(-1) == targets) & scored
        # A mean over nothing is NaN, and NaN times 0 too.
        nats = loss.float() * scored.sum() if bool(scored.any()) else torch.nan_to_num(loss.float()) * 0
        return Loss(nats, scored.sum(), correct.sum())

    def loss(self, batch: dict[str, Tensor]) -> Loss:
        """Nats summed over the scored targets. (Without logits it is not known which were right: correct is then 0.)"""
        return self(batch)

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """-> (B, T, V). Raises ValueError where the module returns none."""
        output = self.output(batch)
        logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        if logits is None:
            raise ValueError(f"{type(self.inner).__name__} returns no logits; without them it can only be trained")
        return logits

    def output(self, batch: dict[str, Tensor]) -> object:
        """What the module returns for the entries that it names."""
        if "attention_mask" in batch and not self.facts.takes_attention_mask:
            name = type(self.inner).__name__
            raise ValueError(f"the batch has an attention_mask, but {name}.forward takes none; add it there")
        if "documents" in batch and not (self.takes_all or self.takes & {"documents", "position_ids"}):
            raise ValueError(
                f"the batch has rows of several documents (data.document_masking), but {type(self.inner).__name__}."
                "forward takes neither `documents` nor `position_ids`; add them there"
            )
        return self.inner(**{name: tensor for name, tensor in batch.items() if self.takes_all or name in self.takes})

    def stepper(self, prompt_ids: Tensor, prompt_mask: Tensor, max_new_tokens: int) -> Stepper:
        """For generation, by reading everything again at each token."""
        return RecomputingStepper(self, prompt_ids, prompt_mask, max_new_tokens)
