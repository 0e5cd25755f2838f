"""A model of transformers (causal, masked or encoder–decoder) -> the face that training and generation use.

It gets neither `targets` nor `labels`: nats come from its logits, in float32. Where its head is one matrix on top of
the hidden states they come from those, chunk by chunk, and the logits are never held.
"""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.cross_entropy import IGNORED, nats_of_hidden, nats_of_logits
from models.hf_documents import Packed, tried_on_any_device
from models.hf_loading import max_positions_of, silence
from models.interface import Loss, ModelFacts, Stepper
from models.steppers import EncoderDecoderStepper, PastStepper, RecomputingStepper, positions_of


class HuggingFaceModel(nn.Module):
    """State-dict keys: `inner.` and the names of transformers.

    tokens: of the tokenizer (ids beyond are never generated); own_loss: the model's own mean, times its count.
    Raises ValueError where the model's own loss cannot be used so.
    """

    def __init__(self, inner: PreTrainedModel, tokens: int, own_loss: bool = False) -> None:
        super().__init__()
        self.inner, self.tokens, self.own_loss = inner, tokens, own_loss
        parameters = inspect.signature(inner.forward).parameters
        self.takes = set(parameters)
        self.takes_more = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        # What is tried on a few ids, which may be those of special tokens, is no news to the user.
        with silence(), self.on_any_device():
            self.facts = facts_of(inner, self.takes)
            self.packed = Packed(inner, causal=self.facts.causal, first_position=first_position_of(inner))
            self.head_is_apart = not own_loss and head_is_apart(inner)
            if own_loss:
                check_own_loss(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "HuggingFaceModel":
        """`.to` and its kin. Tables that were computed (the angles of rotary positions) move, but keep float32.

        Rounded to bf16 they would be other positions, and the exported model, which computes them anew, another model.
        """
        tables = [
            (module, name, buffer)
            for module in self.inner.modules()
            for name, buffer in module.named_buffers(recurse=False)
            if name in module._non_persistent_buffers_set and buffer.dtype == torch.float32
        ]
        super()._apply(fn, recurse)
        for module, name, buffer in tables:
            moved = getattr(module, name)
            if moved.dtype != buffer.dtype:
                setattr(module, name, buffer.to(moved.device))
        return self

    def forward(self, inputs: dict[str, Tensor], targets: Tensor) -> Loss:
        """inputs: what the model's forward takes; targets: (B, T)"""
        if self.own_loss:
            return self.loss_of_its_own(inputs, targets)
        if self.head_is_apart:
            hidden = self.inner.base_model(**inputs, **self.without_cache()).last_hidden_state
            head = self.inner.get_output_embeddings()
            return nats_of_hidden(hidden, head.weight, targets, head.bias)
        return nats_of_logits(self.output(inputs).logits, targets)

    def loss(self, batch: dict[str, Tensor]) -> Loss:
        """Nats summed over the scored targets."""
        inputs = self.inputs(batch)
        said = "decoder_input_ids" if self.facts.encoder_decoder else "input_ids"
        return self(inputs, batch["targets"].reshape(inputs[said].shape))

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """-> (B, T, V)"""
        said = batch["decoder_input_ids" if self.facts.encoder_decoder else "input_ids"]
        return self.output(self.inputs(batch)).logits.reshape(*said.shape, -1)

    def on_any_device(self) -> AbstractContextManager[None]:
        """Inside it the model can be tried where it was built, whatever its attention needs."""
        return tried_on_any_device(self.inner)

    def output(self, inputs: dict[str, Tensor], **more: Any) -> Any:
        """What the model returns."""
        return self.inner(**self.packed.encoded(inputs), **self.without_cache(), **more)

    def inputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch without targets. Raises ValueError for an entry that the model does not take."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "targets"}
        if "documents" in inputs:
            return self.packed.inputs(inputs, self.takes)
        foreign = inputs.keys() - self.takes
        if foreign:
            raise ValueError(f"{type(self.inner).__name__} takes no {', '.join(sorted(foreign))}, which the batch has")
        if self.facts.encoder_decoder and "decoder_input_ids" not in inputs:
            raise ValueError(f"{type(self.inner).__name__} is an encoder–decoder: set objective: {{name: seq2seq}}")
        mask = inputs.get("attention_mask")
        if mask is not None and mask.dim() == 2 and self.wants_positions and "position_ids" not in inputs:
            inputs["position_ids"] = positions_of(mask)  # by default they count the padding on the left as well
        return inputs

    @property
    def wants_positions(self) -> bool:
        """Whether to give positions where there is padding. (Masked models such as RoBERTa count in their own way.)"""
        return self.facts.causal and not self.facts.encoder_decoder and "position_ids" in self.takes

    def without_cache(self) -> dict[str, bool]:
        """A cache costs memory in training, and lets packed documents see each other."""
        return {"use_cache": False} if "use_cache" in self.takes else {}

    def loss_of_its_own(self, inputs: dict[str, Tensor], targets: Tensor) -> Loss:
        """The model's mean over scored targets times their count. Ours are shifted already, hence `shift_labels`."""
        scored = targets != IGNORED
        causal = self.facts.causal and not self.facts.encoder_decoder
        shifted: dict[str, Any] = {"shift_labels": targets.contiguous()} if causal else {}
        output = self.output(inputs, labels=targets.contiguous(), **shifted)
        nats = output.loss.float() * scored.sum() if bool(scored.any()) else output.logits.float().sum() * 0
        return Loss(nats, scored.sum(), ((output.logits.detach().argmax(-1) == targets) & scored).sum())

    def stepper(self, prompt_ids: Tensor, prompt_mask: Tensor, max_new_tokens: int) -> Stepper:
        """For generation, with the model's cache where it has one, else by reading everything again at each token."""
        if self.facts.encoder_decoder:
            return EncoderDecoderStepper(self, prompt_ids, prompt_mask)
        if "past_key_values" in self.takes and self.facts.causal:
            return PastStepper(self, prompt_ids, prompt_mask)
        return RecomputingStepper(self, prompt_ids, prompt_mask, max_new_tokens)


def facts_of(inner: PreTrainedModel, takes: set[str]) -> ModelFacts:
    """What the config says of it."""
    config = inner.config
    positions = max_positions_of(config)
    if (table := shifted_positions(inner)) is not None:
        positions = table.num_embeddings - first_position_of(inner)
    if is_causal(inner) and getattr(config, "is_decoder", None) is False and looks_ahead(inner):
        raise ValueError(f"{type(inner).__name__} sees both sides; set model.arguments.is_decoder: true")
    return ModelFacts(
        max_positions=positions,
        takes_attention_mask="attention_mask" in takes,
        encoder_decoder=bool(config.is_encoder_decoder),
        causal=is_causal(inner),
        decoder_start_id=getattr(config, "decoder_start_token_id", None) if config.is_encoder_decoder else None,
        vocab_size=inner.get_input_embeddings().weight.shape[0],
    )


def shifted_positions(inner: PreTrainedModel) -> nn.Embedding | None:
    """RoBERTa and its kin have a row for padding in their table of positions, and count from the one after it."""
    tables = (getattr(module, "position_embeddings", None) for module in inner.modules())
    return next((t for t in tables if isinstance(t, nn.Embedding) and t.padding_idx is not None), None)


def first_position_of(inner: PreTrainedModel) -> int:
    """The position of a row's first token, as the model itself counts."""
    table = shifted_positions(inner)
    return 0 if table is None else table.padding_idx + 1


def is_causal(inner: PreTrainedModel) -> bool:
    """By the name of its class, as transformers itself tells them apart."""
    return "MaskedLM" not in type(inner).__name__


@torch.no_grad()
def looks_ahead(inner: PreTrainedModel) -> bool:
    """Whether the last token changes what is said at the first."""
    if inner.config.is_encoder_decoder:
        return False
    training = inner.training
    inner.eval()
    one, other = (inner(input_ids=torch.tensor([[1, 2, last]]), use_cache=False).logits[0, 0] for last in (3, 4))
    inner.train(training)
    return not torch.equal(one, other)


def head_is_apart(inner: PreTrainedModel) -> bool:
    """Whether logits are nothing but one matrix times the hidden states: tried on a few tokens, bit for bit.

    False where the model scales or caps its logits, or transforms hidden states on the way.
    """
    head, base = inner.get_output_embeddings(), inner.base_model
    if not isinstance(head, nn.Linear) or base is inner or inner.config.is_encoder_decoder or not is_causal(inner):
        return False
    ids = torch.arange(min(4, head.weight.shape[0]), device=head.weight.device)[None]
    training = inner.training
    inner.eval()
    try:
        with torch.no_grad():
            logits = inner(input_ids=ids, use_cache=False).logits
            return torch.equal(head(base(input_ids=ids, use_cache=False).last_hidden_state), logits)
    except (TypeError, AttributeError):
        return False
    finally:
        inner.train(training)


@torch.no_grad()
def check_own_loss(model: HuggingFaceModel) -> None:
    """Each target of a causal model must count: one that shifts ours again drops the first and misplaces the others."""
    if model.facts.encoder_decoder or not model.facts.causal:
        return
    name = type(model.inner).__name__
    refusal = f"loss: own: {name} shifts targets that are shifted already; use loss: auto"
    if "shift_labels" not in model.takes and not model.takes_more:
        raise ValueError(refusal)
    ids = torch.arange(4, device=next(model.parameters()).device)[None] % model.facts.vocab_size
    training = model.training
    model.eval()
    before = model.loss_of_its_own({"input_ids": ids}, ids).nats
    for position in range(4):
        targets = ids.clone()
        targets[0, position] = (targets[0, position] + 1) % model.facts.vocab_size
        if bool(model.loss_of_its_own({"input_ids": ids}, targets).nats == before):
            raise ValueError(refusal)
    model.train(training)
