"""Writing one token at a time: with caches, padded and reordered, it is what reading everything again gives."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.build import build_model
from models.interface import SpecialIds, TrainableModel

TOKENS = 100
SPECIAL = SpecialIds(bos=0, eos=1, pad=2)
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
LAYERS = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
BART = {"d_model": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2, **LAYERS}
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
LENGTHS = [6, 2, 5]


class Summing(nn.Module):
    """A causal module that knows nothing of padding: the mean of all tokens so far."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 16)
        self.head = nn.Linear(16, vocab_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        return self.head(x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None])


class Translating(nn.Module):
    """An encoder–decoder that is no class of transformers."""

    decoder_start_id = 0

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 16)
        self.read, self.write = nn.GRU(16, 16, batch_first=True), nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, vocab_size)

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        source = (self.read(self.embedding(input_ids))[0] * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.head(self.write(self.embedding(decoder_input_ids), source[None])[0])


def causal(model_type: str, **arguments: Any) -> dict[str, Any]:
    return {"huggingface": "AutoModelForCausalLM", "arguments": {"model_type": model_type, **arguments}}


def seq2seq(model_type: str, **arguments: Any) -> dict[str, Any]:
    return {"huggingface": "AutoModelForSeq2SeqLM", "arguments": {"model_type": model_type, **arguments}}


MODELS: dict[str, dict[str, Any]] = {
    "ours": {
        "backbone": "models.transformer.Transformer",
        "arguments": {"width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "qk_norm": True},
    },
    "llama": causal("llama", **SMALL, use_cache=False),
    "gpt2": causal("gpt2", n_embd=32, n_layer=2, n_head=2),  # learned positions
    "opt": causal(
        "opt", hidden_size=32, num_hidden_layers=2, num_attention_heads=2, ffn_dim=64, word_embed_proj_dim=32
    ),
    "mamba": causal("mamba", hidden_size=32, num_hidden_layers=2),  # no cache of the usual kind, no mask in its scan
    "t5": seq2seq("t5", **T5),  # relative positions
    "bart": seq2seq("bart", **BART),  # learned positions
    "marian": seq2seq("marian", **BART),  # sinusoids
    "module": {"module": "tests.test_steppers.Summing"},
    "encoder_decoder_module": {"module": "tests.test_steppers.Translating"},
}


@pytest.fixture(params=list(MODELS))
def model(request: pytest.FixtureRequest) -> TrainableModel:
    built = build_model(**MODELS[request.param], vocab_size=TOKENS, special_ids=SPECIAL).eval()
    with torch.no_grad():  # larger weights, so that logits differ by more than rounding
        for weight in built.parameters():
            if weight.dim() > 1:
                weight.mul_(3)
    return built


def prompts() -> tuple[Tensor, Tensor]:
    """Padded on the left, with an id that also stands in the text."""
    chance = torch.Generator().manual_seed(3)
    ids = torch.randint(7, TOKENS, (len(LENGTHS), max(LENGTHS)), generator=chance)
    mask = (torch.arange(max(LENGTHS)) >= max(LENGTHS) - torch.tensor(LENGTHS)[:, None]).long()
    return ids.where(mask == 1, ids[0, 0]), mask


def alone(model: TrainableModel, prompt: Tensor, written: list[int]) -> Tensor:
    """prompt (n,) and what was written after it -> logits (V,) of the next, without caches, padding or neighbours"""
    new = torch.tensor([written], dtype=torch.long)
    if model.facts.encoder_decoder:
        start = torch.full((1, 1), model.facts.decoder_start_id)
        batch = {"input_ids": prompt[None], "decoder_input_ids": torch.cat((start, new), 1)}
    else:
        batch = {"input_ids": torch.cat((prompt[None], new), 1)}
    return model.logits(batch)[0, -1]


@torch.no_grad()
def test_a_batch_with_caches_is_each_prompt_read_alone(model: TrainableModel) -> None:
    ids, mask = prompts()
    rows = [(ids[row][mask[row] == 1], []) for row in range(len(ids))]
    stepper = model.stepper(ids, mask, 8)
    logits = stepper.start()
    # After two tokens rows change places, one is doubled and one goes; after four one more goes.
    changes = {2: [2, 0, 2], 4: [1, 2]}
    for step in range(6):
        assert logits.shape == (len(rows), model.facts.vocab_size) and logits.dtype == torch.float32
        for got, (prompt, written) in zip(logits, rows, strict=True):
            wanted = alone(model, prompt, written)
            assert (got - wanted)[:TOKENS].abs().max() <= 1e-4 * wanted.abs().max(), f"step {step}"
        assert logits[:, TOKENS:].max() == -float("inf"), "ids that only fill the embedding up"
        if step in changes:
            chosen = changes[step]
            stepper.reorder(torch.tensor(chosen))
            rows = [(rows[row][0], list(rows[row][1])) for row in chosen]
            logits = logits[chosen]
        # Doubled rows go different ways.
        tokens = logits[:, :TOKENS].topk(len(rows)).indices.diagonal()
        for (_, written), token in zip(rows, tokens.tolist(), strict=True):
            written.append(token)
        logits = stepper.advance(tokens)


def test_the_cache_is_used_whatever_the_config_says(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(**MODELS["llama"], vocab_size=TOKENS, special_ids=SPECIAL).eval()
    widths: list[int] = []
    model.inner.get_input_embeddings().register_forward_hook(
        lambda module, inputs, out: widths.append(inputs[0].shape[1])
    )
    ids, mask = prompts()
    with torch.no_grad():
        stepper = model.stepper(ids, mask, 4)
        tokens = stepper.start().argmax(-1)
        stepper.advance(stepper.advance(tokens).argmax(-1))
    assert model.inner.config.use_cache is False and widths == [6, 1, 1]


def test_what_sees_both_sides_does_not_write() -> None:
    model = build_model(huggingface="BertForMaskedLM", arguments=SMALL, vocab_size=TOKENS, special_ids=SPECIAL)
    with pytest.raises(ValueError, match="sees both sides cannot write"):
        model.stepper(*prompts(), 4)
