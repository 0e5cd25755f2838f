"""The three ways in: what is built, what is refused, and losses against the models' own."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.build import build_model
from models.interface import SpecialIds, TrainableModel
from utils.messages import UserError

TOKENS = 100
SPECIAL = SpecialIds(bos=0, eos=1, pad=2, unk=3, mask=4, cls=5, sep=6)
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
LAYERS = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
BART = {"d_model": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2, **LAYERS}
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2}
OURS: dict[str, Any] = {
    "backbone": "models.transformer.Transformer",
    "arguments": {"width": 32, "depth": 2, "heads": 2},
}
LONGEST_64 = {"arguments": {**OURS["arguments"], "max_seq_len": 64}}


def build(**settings: Any) -> TrainableModel:
    return build_model(**({"vocab_size": TOKENS, "special_ids": SPECIAL} | settings))


def causal(model_type: str, **arguments: Any) -> TrainableModel:
    return build(huggingface="AutoModelForCausalLM", arguments={"model_type": model_type, **arguments})


def batch(rows: int = 3, length: int = 10) -> dict[str, Tensor]:
    ids = torch.randint(7, TOKENS, (rows, length + 1), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids[:, :-1], "targets": ids[:, 1:].contiguous()}


class Bigrams(nn.Module):
    """The smallest module that gives logits."""

    def __init__(self, vocab_size: int, scale: float = 1.0) -> None:
        super().__init__()
        self.follows = nn.Embedding(vocab_size, vocab_size)
        self.scale = scale

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.follows(input_ids) * self.scale


class Scoring(Bigrams):
    """Takes everything and gives a loss of its own, twice the usual."""

    def forward(self, input_ids: Tensor, **others: Tensor) -> object:
        logits = super().forward(input_ids)
        loss = 2 * F.cross_entropy(logits.flatten(0, 1), others["targets"].flatten())
        return type("Output", (), {"loss": loss, "logits": logits})()


# -- losses --


@pytest.mark.parametrize(
    ("model_type", "arguments", "apart"),
    [
        ("llama", SMALL, True),
        ("gpt2", GPT2, True),
        ("granite", SMALL | {"logits_scaling": 2.0}, False),
        ("gemma2", SMALL | {"head_dim": 16, "num_key_value_heads": 1}, False),
        ("mamba", {"hidden_size": 32, "num_hidden_layers": 1}, True),
    ],
    ids=["llama", "gpt2", "scaled_logits", "capped_logits", "mamba"],
)
def test_a_causal_models_loss_is_its_own(model_type: str, arguments: dict, apart: bool) -> None:
    """Its own shifts labels itself, so it is given the row as it is."""
    model, inputs = causal(model_type, **arguments).eval(), batch()
    row = torch.cat((inputs["input_ids"], inputs["targets"][:, -1:]), dim=1)
    own = model.inner(input_ids=row, labels=row).loss
    ours = model.loss(inputs)
    assert model.head_is_apart is apart, (
        "the loss without logits is for models whose head is one matrix, and only those"
    )
    assert ours.tokens == 30
    torch.testing.assert_close(ours.nats / ours.tokens, own)
    names = [name for name, _ in model.named_parameters()]
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in (ours.nats / 30, own)]
    for name, got, wanted in zip(names, *gradients, strict=True):
        assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max() + 1e-9, name


@pytest.mark.parametrize(("model_type", "arguments"), [("bert", SMALL), ("roberta", SMALL)])
def test_a_masked_models_loss_is_its_own(model_type: str, arguments: dict) -> None:
    model = build(huggingface="AutoModelForMaskedLM", arguments={"model_type": model_type, **arguments}).eval()
    inputs = batch() | {"attention_mask": torch.ones(3, 10, dtype=torch.long)}
    inputs["attention_mask"][1, 6:] = 0
    inputs["targets"] = torch.where(torch.rand(3, 10) < 0.7, -100, inputs["targets"])
    own = model.inner(inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=inputs["targets"]).loss
    ours = model.loss(inputs)
    torch.testing.assert_close(ours.nats / ours.tokens, own)
    assert not model.facts.causal
    assert model.facts.max_positions == (509 if model_type == "roberta" else 512)  # RoBERTa counts from pad + 1


@pytest.mark.parametrize(("model_type", "arguments"), [("t5", T5), ("bart", BART), ("marian", BART)])
def test_an_encoder_decoders_loss_is_its_own(model_type: str, arguments: dict) -> None:
    model = build(huggingface="AutoModelForSeq2SeqLM", arguments={"model_type": model_type, **arguments}).eval()
    inputs = batch()
    assert model.facts.encoder_decoder and model.facts.decoder_start_id == SPECIAL.pad
    start = torch.full((3, 1), model.facts.decoder_start_id)
    read = torch.cat((start, inputs["targets"][:, :-1]), dim=1)
    own = model.inner(input_ids=inputs["input_ids"], labels=inputs["targets"]).loss  # shifts right by itself
    ours = model.loss(inputs | {"decoder_input_ids": read})
    torch.testing.assert_close(ours.nats / ours.tokens, own)
    with pytest.raises(ValueError, match="encoder–decoder: set objective"):
        model.loss(inputs)


def test_padding_is_not_seen_and_positions_do_not_count_it() -> None:
    model, inputs = causal("gpt2", **GPT2).eval(), batch(1, 6)
    filler = torch.full((1, 3), 9)
    alone = model.loss(inputs).nats
    for side in ("left", "right"):
        parts = [(filler, filler * 0 - 100, filler * 0), (*inputs.values(), torch.ones(1, 6, dtype=torch.long))]
        joined = [torch.cat(pair, 1) for pair in zip(*(parts if side == "left" else parts[::-1]), strict=True)]
        padded = dict(zip(("input_ids", "targets", "attention_mask"), joined, strict=True))
        torch.testing.assert_close(model.loss(padded).nats, alone)


def test_the_loss_of_a_model_itself() -> None:
    for settings in (
        {"huggingface": "LlamaForCausalLM", "arguments": SMALL},
        {"huggingface": "BertForMaskedLM", "arguments": SMALL},
    ):
        auto, own, inputs = build(**settings).eval(), build(loss="own", **settings).eval(), batch()
        inputs["targets"][0, 3:] = -100
        for one, other in zip(auto.loss(inputs), own.loss(inputs), strict=True):
            torch.testing.assert_close(one, other)
        nothing = inputs | {"targets": torch.full((3, 10), -100)}
        assert own.loss(nothing).nats == 0
    plain = {"module": "tests.test_build.Scoring"}
    ratio = build(loss="own", **plain).loss(batch()).nats / build(**plain).loss(batch()).nats
    assert ratio.item() == pytest.approx(2.0)


def test_a_model_that_shifts_again_cannot_use_its_own_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaForCausalLM

    plain = LlamaForCausalLM.forward

    def forward(self: Any, input_ids: Tensor, labels: Tensor | None = None, **others: Any) -> Any:
        others.pop("shift_labels", None)  # a copied file that does not know of them
        return plain(self, input_ids, labels=labels, **others)

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    with pytest.raises(UserError, match="shifts targets that are shifted already; use loss: auto"):
        build(huggingface="LlamaForCausalLM", arguments=SMALL, loss="own")


# -- what is built --


def test_embeddings_have_rows_in_multiples_of_64_and_new_weights_depend_on_the_seed_alone() -> None:
    for settings in (
        OURS,
        {"huggingface": "LlamaForCausalLM", "arguments": SMALL},
        {"module": "tests.test_build.Bigrams"},
    ):
        before = torch.random.get_rng_state()
        one, same, other = build(seed=3, **settings), build(seed=3, **settings), build(seed=4, **settings)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert one.facts.vocab_size == 128 and one.logits({"input_ids": torch.tensor([[7]])}).shape[-1] == 128
        weights = [torch.cat([weight.flatten() for weight in model.parameters()]) for model in (one, same, other)]
        assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_the_tokenizers_ids_are_in_the_config_and_the_pad_row_is_trained_where_it_is_also_eos() -> None:
    model = causal("llama", **SMALL)
    assert (model.inner.config.bos_token_id, model.inner.config.eos_token_id, model.inner.config.pad_token_id) == (
        0,
        1,
        2,
    )
    shared = build(
        huggingface="LlamaForCausalLM", arguments=SMALL, special_ids=SpecialIds(eos=1, pad=1), vocab_size=TOKENS
    )
    assert shared.inner.get_input_embeddings().padding_idx is None and shared.inner.config.bos_token_id is None


def test_pretrained_weights_are_fitted_to_more_tokens_and_their_loss_hardly_changes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = causal("gpt2", **GPT2)
    with torch.no_grad():  # all logits far below zero, as GPT-2's are: rows of zeros would win every softmax
        first.inner.transformer.ln_f.bias.copy_(torch.ones(32))
        first.inner.transformer.wte.weight -= 1.0
    first.inner.save_pretrained(tmp_path)
    settings = {"huggingface": "GPT2LMHeadModel", "pretrained": str(tmp_path)}
    same, grown = build(**settings).eval(), build(vocab_size=130, **settings).eval()
    assert (same.facts.vocab_size, grown.facts.vocab_size, grown.tokens) == (128, 192, 130)
    first.eval()
    assert torch.equal(same.logits(batch()), first.logits(batch()))
    torch.testing.assert_close(grown.logits(batch())[..., :128], first.logits(batch()))
    assert first.logits(batch()).max() < -20
    assert abs(grown.loss(batch()).nats / first.loss(batch()).nats - 1) < 0.15
    assert grown.inner.get_output_embeddings().weight is grown.inner.get_input_embeddings().weight
    assert all(weight.dtype == torch.float32 for weight in grown.parameters())


def test_bf16_weights_are_read_as_float32(tmp_path: Path) -> None:
    causal("llama", **SMALL).inner.bfloat16().save_pretrained(tmp_path)
    model = build(huggingface="AutoModelForCausalLM", pretrained=str(tmp_path))
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_angles_keep_float32_when_weights_do_not() -> None:
    model = causal("llama", **SMALL)
    angles = model.inner.model.rotary_emb.inv_freq.clone()
    wrapped = nn.ModuleList([model]).bfloat16()
    assert next(wrapped.parameters()).dtype == torch.bfloat16
    assert torch.equal(model.inner.model.rotary_emb.inv_freq, angles)
    assert model.loss(batch()).nats.isfinite()


def test_our_own_model_goes_on_from_what_it_saved(tmp_path: Path) -> None:
    first = build(seed=1, **OURS)
    first.save(tmp_path)
    again = build(seed=2, pretrained=str(tmp_path), **OURS)
    assert torch.equal(again.logits(batch()), first.logits(batch()))


def test_a_copied_and_edited_model_file_works_by_its_class_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers.models.llama.modeling_llama as original

    text = Path(original.__file__).read_text(encoding="utf-8")
    text = text.replace("from ...", "from transformers.").replace("from .conf", "from transformers.models.llama.conf")
    edited = text.replace("self.act_fn(self.gate_proj(x))", "self.gate_proj(x).relu().square()")
    assert edited != text
    (tmp_path / "my_llama.py").write_text(edited, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    mine = build(huggingface="my_llama.LlamaForCausalLM", arguments=SMALL)
    theirs = build(huggingface="LlamaForCausalLM", arguments=SMALL)
    theirs.inner.load_state_dict(mine.inner.state_dict())
    assert type(mine.inner).__module__ == "my_llama"
    assert not torch.allclose(mine.logits(batch()), theirs.logits(batch()))
    mine.loss(batch()).nats.backward()
    assert all(weight.grad is not None for weight in mine.parameters())


@pytest.mark.parametrize(
    "settings",
    [
        OURS,
        {"huggingface": "LlamaForCausalLM", "arguments": SMALL},
        {"huggingface": "T5ForConditionalGeneration", "arguments": T5 | {"dropout_rate": 0.0}},
    ],
    ids=["ours", "llama", "t5"],
)
def test_activation_checkpointing_changes_no_gradient(settings: dict) -> None:
    inputs = batch()
    if "T5" in settings.get("huggingface", ""):
        inputs["decoder_input_ids"] = inputs["targets"]
    gradients, kept = [], []
    for saving in (False, True):
        model = build(activation_checkpointing=saving, **settings).train()
        counted = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal counted
            counted += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            nats = model.loss(inputs).nats
        kept.append(counted)
        gradients.append(torch.autograd.grad(nats, list(model.parameters())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    assert kept[1] < kept[0] / 2


def test_transformers_is_not_imported_for_a_model_of_ours(repo: Path) -> None:
    code = (
        "import sys; from models.build import build_model; "
        "build_model(backbone='models.transformer.Transformer', vocab_size=100, arguments={'depth': 1}); "
        "heavy = ('transformers', 'pytorch_lightning', 'datasets'); "
        "print([name for name in sys.modules if name.split('.')[0] in heavy])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- what is refused --

LLAMA = {"huggingface": "LlamaForCausalLM"}
AUTO = {"huggingface": "AutoModelForCausalLM"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "models.transformer.Transfomer"}, "did you mean 'Transformer'"),
        (OURS | {"arguments": {"widht": 32}}, "takes no 'widht'; did you mean 'width'"),
        (OURS | {"arguments": {"vocab_size": 32}}, "gets 'vocab_size' from Liftoff itself"),
        (OURS | {"arguments": {"width": 33}}, "width=33 is not divisible by heads=6"),
        (OURS | {"loss": "own"}, "a backbone has no loss of its own"),
        ({"backbone": "torch.nn.Identity"}, "Identity needs an attribute `width`"),
        ({"huggingface": "LlamaForCausalM"}, "did you mean 'LlamaForCausalLM'"),
        (AUTO, "needs a model_type"),
        (AUTO | {"arguments": {"model_type": "lama"}}, "no model_type 'lama'; did you mean 'llama'"),
        (AUTO | {"arguments": {"model_type": "t5"}}, "AutoModelForCausalLM has no model of type t5"),
        (AUTO | {"arguments": SMALL | {"model_type": "bert"}}, "sees both sides; set model.arguments.is_decoder: true"),
        (LLAMA | {"arguments": {"hiden_size": 32}}, "LlamaConfig takes no 'hiden_size'; did you mean 'hidden_size'"),
        (LLAMA | {"arguments": {"hidden_size": "32"}}, "hidden_size.*expected int"),
        (LLAMA | {"arguments": SMALL | {"vocab_size": 99}}, "vocab_size=99 is smaller than the tokenizer's 100"),
        (LLAMA | {"attention": "flash_attention_2"}, "flash_attention_2 needs a GPU and the package flash-attn"),
        ({"huggingface": "MambaForCausalLM", "attention": "sdpa"}, "MambaForCausalLM cannot use sdpa"),
        (LLAMA | {"pretrained": "nowhere/at/all"}, "nowhere/at/all is no directory with a model"),
        ({"huggingface": "torch.nn.Linear"}, "Linear is no model of transformers"),
        ({"module": "tests.test_build.Bigrams", "arguments": {"scales": 2}}, "takes no 'scales'; did you mean 'scale'"),
        (
            {"module": "tests.test_build.Bigrams", "activation_checkpointing": True},
            "needs a ModuleList `blocks`, which Bigrams does not have",
        ),
        (
            {"huggingface": "MarianMTModel", "arguments": BART, "special_ids": SpecialIds(eos=1)},
            "the decoder has no id to start from .*; give the tokenizer a pad token",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_it_is_refused(settings: dict, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=message) as refusal:
        build(**settings)
    assert "\n" not in str(refusal.value)


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    causal("llama", **SMALL).inner.save_pretrained(tmp_path)
    settings = {"huggingface": "LlamaForCausalLM", "pretrained": str(tmp_path)}
    with pytest.raises(UserError, match=r"does not fit LlamaForCausalLM: it has no model\.layers\.2\."):
        build(arguments={"num_hidden_layers": 3}, **settings)
    with pytest.raises(UserError, match=r"is of model_type llama, and BertForMaskedLM of bert"):
        build(huggingface="BertForMaskedLM", pretrained=str(tmp_path))
    with pytest.raises(UserError, match="takes no 'hiden_act'; did you mean 'hidden_act'"):
        build(arguments={"hiden_act": "relu"}, **settings)
    with pytest.raises(UserError, match="vocab_size is that of .*; leave it out"):
        build(arguments={"vocab_size": 64}, **settings)
    with pytest.raises(UserError, match=r"gate_proj\.weight of shape \(64, 32\) for \(96, 32\)"):
        build(arguments={"intermediate_size": 96}, **settings)


def test_a_window_too_long_is_refused_before_weights_are_read(tmp_path: Path) -> None:
    causal("gpt2", **GPT2, n_positions=64).inner.config.save_pretrained(tmp_path)  # no weights there at all
    settings: dict[str, Any] = {"huggingface": "AutoModelForCausalLM", "pretrained": str(tmp_path)}
    for others in (settings, LLAMA | {"arguments": {**SMALL, "max_position_embeddings": 64}}, OURS | LONGEST_64):
        with pytest.raises(UserError, match="data.max_seq_len=65 is longer than the model's 64 positions"):
            build(**others, window=65)
    assert build(**OURS | LONGEST_64, window=64).facts.max_positions == 64


def test_weights_that_are_not_used_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    causal("llama", **SMALL).inner.save_pretrained(tmp_path)
    build(huggingface="LlamaForCausalLM", pretrained=str(tmp_path), arguments={"num_hidden_layers": 1})
    assert "does not use: model.layers.1." in "".join(capsys.readouterr())
