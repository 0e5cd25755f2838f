"""Exported models against themselves in a fresh process, against transformers' classes, and read back."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from configs.schema import Config
from models.build import build_model
from models.interface import SpecialIds
from models.language_model import LanguageModel
from models.llama_format import arguments_from_config, arguments_of, config_of, to_llama
from models.pretrained import load_backbone
from models.transformer import Transformer
from tokenizer.tokenizer import Tokenizer
from training.export import export

TOKENS = 500
SMALL = {"width": 32, "depth": 2, "heads": 4, "max_seq_len": 64}
TRANSFORMER, MIXER = "models.transformer.Transformer", "architectures.mixer.Mixer"
# A backbone that is no Llama, in several files: with angles and masks that are in no file of weights.
BACKBONE = '''"""Tokens -> hidden states."""

import torch
from torch import nn

from architectures.parts.mixing import Mixing


class Mixer(nn.Module):
    def __init__(self, vocab_size: int, width: int = 16, max_seq_len: int = 64) -> None:
        super().__init__()
        self.width, self.max_seq_len = width, max_seq_len
        self.embedding = nn.Embedding(vocab_size, width)
        self.mixing = Mixing(max_seq_len)
        self.ramp = torch.linspace(1, 2, max_seq_len)[:, None]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        return x + torch.tanh(self.mixing(x)) * self.ramp[: tokens.shape[1]]
'''
PART = '''"""Hidden states -> the same, mixed."""

import torch
from torch import nn


class Mixing(nn.Module):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(length, length) / 4)
        self.register_buffer("mask", torch.ones(length, length).tril(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.weight * self.mask)[: x.shape[1], : x.shape[1]] @ x
'''


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models, pre_tokenizers, trainers

    folder = tmp_path_factory.mktemp("tokenizer")
    fast = Fast(models.BPE())
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS, special_tokens=["<bos>", "<eos>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    fast.train_from_iterator([Path(os.__file__).read_text()], trainer)
    fast.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special}))
    return Tokenizer.load(folder)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def scrambled(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights large enough that everything in the model matters, norms included."""
    torch.manual_seed(seed)
    for weight in model.parameters():
        torch.nn.init.uniform_(weight, 0.5, 1.5) if weight.dim() == 1 else torch.nn.init.normal_(weight, std=0.3)
    return model


def dressed(
    arguments: dict = SMALL, *, name: str = TRANSFORMER, tied: bool = True, tokens: int = TOKENS, seed: int = 0
) -> LanguageModel:
    return build_model(vocab_size=tokens, backbone=name, arguments=arguments, tie_embeddings=tied, seed=seed)


def some_ids(rows: int = 2, length: int = 20) -> torch.Tensor:
    return torch.randint(3, TOKENS, (rows, length), generator=torch.Generator().manual_seed(1))


def padded_batch(tokenizer: Tokenizer) -> dict[str, torch.Tensor]:
    """As it comes from a validation set of documents."""
    ids = some_ids()
    ids[1, -4:] = tokenizer.pad_id
    return {"input_ids": ids}


def in_a_fresh_process(script: str, tmp_path: Path) -> str:
    """What a script prints that has transformers and nothing of ours."""
    environment = os.environ | {"PYTHONPATH": "", "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "cache")}
    script = "import sys, torch, transformers\ntransformers.utils.logging.set_verbosity_error()\n" + script
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("special", [{}, {"kv_heads": 2}, {"qk_norm": True, "head_width": 12}], ids=str)
def test_our_transformer_is_a_llama(special: dict, tied: bool) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    model = scrambled(dressed(SMALL | {"rope_theta": 500.0} | special, tied=tied)).eval()
    values = config_of(model.backbone, tied=tied)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values)).eval()
    weights = to_llama(model.backbone, None if tied else model.head.weight)
    found = theirs.load_state_dict(weights, strict=False)
    assert (found.missing_keys, found.unexpected_keys) == (["lm_head.weight"] if tied else [], [])
    with torch.no_grad():
        torch.testing.assert_close(
            model.logits({"input_ids": some_ids()}), theirs(some_ids()).logits, rtol=1e-5, atol=1e-5
        )
    assert arguments_from_config(theirs.config.to_dict()) == arguments_of(model.backbone)


def test_an_export_is_whole_verified_and_read_back(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = scrambled(dressed())
    measures = {"validation loss": 3.25}
    done = export(model, tokenizer, Config(name="mine"), tmp_path / "model", padded_batch(tokenizer), measures)
    assert done.what.startswith("a Llama") and done.difference < 1e-4 and done.notes == ()
    names = "README.md config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json"
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == names.split()
    for name, content in tokenizer.files.items():
        assert (tmp_path / "model" / name).read_bytes() == content
    card = (tmp_path / "model/README.md").read_text()
    for fact in ("# mine", "validation loss: 3.2500", "500 tokens in 512 rows", "AutoModelForCausalLM.from_pretrained"):
        assert fact in card
    written = json.loads((tmp_path / "model/config.json").read_text())
    assert (written["tokenizer_vocab_size"], written["vocab_size"], written["use_cache"]) == (TOKENS, 512, True)
    assert (written["eos_token_id"], written["dtype"]) == (tokenizer.eos_id, "float32")
    generation = json.loads((tmp_path / "model/generation_config.json").read_text())
    assert generation["suppress_tokens"] == list(range(TOKENS, 512)) and generation["eos_token_id"] == tokenizer.eos_id

    again = scrambled(dressed(), seed=5)
    assert load_backbone(again, tmp_path / "model") == []
    same_weights(again, model)
    export(model, tokenizer, Config(), tmp_path / "model")
    aside = [path.name for path in tmp_path.iterdir() if path.name.startswith("model.")]
    assert len(aside) == 1, "the old export is moved aside, not deleted"


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    for (name, weight), wanted in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(weight, wanted), name


def test_a_model_that_computes_something_else_does_not_count_as_exported(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Transformer.forward
    monkeypatch.setattr(Transformer, "forward", lambda self, *args, **named: plain(self, *args, **named) * 1.001)
    model = scrambled(dressed())
    done = export(model, tokenizer, Config(), tmp_path / "model")
    assert done.what == "weights and config of Transformer, without its code"
    assert len(done.notes) == 2 and all("logits come out different, by 1.0e-03" in note for note in done.notes)
    again = dressed()
    load_backbone(again, tmp_path / "model")
    same_weights(again, model)


@pytest.fixture
def architectures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to put models in, in one that stands for the repository."""
    folder = tmp_path / "repository" / "architectures"
    (folder / "parts").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(folder.parent))
    for name in [name for name in sys.modules if name.split(".")[0] == "architectures"]:
        monkeypatch.delitem(sys.modules, name)
    return folder


@pytest.fixture
def mixer(architectures: Path) -> LanguageModel:
    """A backbone in files of its own."""
    (architectures / "mixer.py").write_text(BACKBONE)
    (architectures / "parts/mixing.py").write_text(PART)
    return scrambled(dressed({"width": 24}, tied=False, name=MIXER))


def test_any_backbone_is_exported_with_its_code(mixer: LanguageModel, tokenizer: Tokenizer, tmp_path: Path) -> None:
    done = export(mixer, tokenizer, Config(), tmp_path / "model", padded_batch(tokenizer))
    assert done.what == "Mixer, with its own code" and done.difference < 1e-4 and done.notes == ()
    assert "architectures_parts_mixing.py" in {path.name for path in (tmp_path / "model").iterdir()}
    (tmp_path / "repository").rename(tmp_path / "elsewhere")
    ids = some_ids(1, 12)
    with torch.no_grad():
        loss = mixer.loss({"input_ids": ids[:, :-1], "targets": ids[:, 1:]})
    said = in_a_fresh_process(
        f"""
model = transformers.AutoModelForCausalLM.from_pretrained("model", trust_remote_code=True)
ids = torch.tensor({ids.tolist()})
print(float(model(ids, labels=ids).loss))
settings = dict(max_new_tokens=6, do_sample=False, eos_token_id=None)
alone = [model.generate(ids[:, start:], **settings)[0, 12 - start:].tolist() for start in (0, 5)]
padded = torch.cat((ids, ids.clone()))
padded[1, :5] = 2
mask = torch.ones_like(padded)
mask[1, :5] = 0
print(model.generate(padded, attention_mask=mask, **settings)[:, 12:].tolist() == alone)
print(any(name.split(".")[0] in ("models", "utils", "training") for name in sys.modules))
""",
        tmp_path,
    ).split()
    assert float(said[0]) == pytest.approx(float(loss.nats / loss.tokens), rel=1e-5)
    assert said[1:] == ["True", "False"], "a padded batch gives what each prompt gives alone, without Liftoff"
    again = dressed({"width": 24}, tied=False, name=MIXER)
    load_backbone(again, tmp_path / "model")
    same_weights(again, mixer)


def test_our_own_stages_open_an_export_with_code(mixer: LanguageModel, tmp_path: Path) -> None:
    from training.export_forms import Vocabulary, write_custom_code

    settings = {"vocab_size": mixer.facts.vocab_size, "tie": False, "tokens": TOKENS}
    arguments = {"vocab_size": mixer.facts.vocab_size, "width": 24}
    write_custom_code(mixer, mixer.backbone, arguments, settings, tmp_path, Vocabulary(TOKENS, 0, 1, 2))
    opened = build_model(
        vocab_size=TOKENS, huggingface="AutoModelForCausalLM", pretrained=str(tmp_path), trust_remote_code=True
    )
    assert (opened.facts.causal, opened.facts.max_positions, opened.facts.vocab_size) == (True, 64, 512)
    with torch.no_grad():
        torch.testing.assert_close(
            opened.eval().logits({"input_ids": some_ids()}), mixer.logits({"input_ids": some_ids()})
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 48}, "width is 32 there, 48 here"),
        ({"rope_theta": 500.0}, "rope_theta is 10000.0 there, 500.0 here"),
        ({"qk_norm": True}, "qk_norm is False there, True here"),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path: Path, arguments: dict, message: str) -> None:
    from training.export_forms import Vocabulary, write_llama

    model = dressed()
    write_llama(model, tmp_path, Vocabulary(TOKENS, 0, 1, 2))
    with pytest.raises(ValueError, match=message):
        load_backbone(dressed(SMALL | arguments), tmp_path)


def test_a_head_and_rows_are_fitted_or_refused(tmp_path: Path) -> None:
    from training.export_forms import Vocabulary, write_llama

    tied = scrambled(dressed())
    write_llama(tied, tmp_path, Vocabulary(TOKENS, 0, 1, 2))
    larger = scrambled(dressed(tied=False, tokens=600), seed=3)
    before = larger.backbone.embedding.weight.clone()
    notes = load_backbone(larger, tmp_path)
    assert len(notes) == 2 and "512 rows there and 640 here" in notes[0]
    assert torch.equal(larger.backbone.embedding.weight[:512], tied.backbone.embedding.weight)
    assert torch.equal(larger.backbone.embedding.weight[512:], before[512:])
    write_llama(larger, tmp_path, Vocabulary(600, 0, 1, 2))
    with pytest.raises(ValueError, match="set model.tie_embeddings: false"):
        load_backbone(dressed(tokens=600), tmp_path)
    with pytest.raises(ValueError, match="no config.json"):
        load_backbone(tied, tmp_path / "nowhere")


GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
T5 = {"model_type": "t5", "d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4}
SPECIAL = SpecialIds(bos=0, eos=1, pad=2)


@pytest.mark.parametrize(
    ("auto_class", "arguments"),
    [("AutoModelForCausalLM", GPT2), ("AutoModelForMaskedLM", BERT), ("AutoModelForSeq2SeqLM", T5)],
)
def test_classes_of_transformers_are_exported_as_they_are(
    auto_class: str, arguments: dict, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    settings = {"vocab_size": TOKENS, "huggingface": auto_class, "special_ids": SPECIAL}
    model = build_model(arguments=arguments, **settings)
    done = export(model, tokenizer, Config(), tmp_path / "model", sample=some_ids(4))
    assert done.what.endswith("a class of transformers") and done.difference < 1e-4 and done.notes == ()
    assert f"transformers.{auto_class}.from_pretrained" in done.how_to_load
    again = build_model(pretrained=str(tmp_path / "model"), seed=7, **settings)
    same_weights(again, model)


def test_an_edited_class_of_transformers_is_exported_with_its_code(
    architectures: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    import transformers

    original = (Path(transformers.__path__[0]) / "models/llama/modeling_llama.py").read_text()
    copied = re.sub(r"^from \.\.\.(?=\w)", "from transformers.", original, flags=re.MULTILINE)
    copied = copied.replace("from .configuration_llama", "from transformers.models.llama.configuration_llama")
    edited = copied.replace("return self.weight * hidden_states", "return self.weight * 0.5 * hidden_states")
    assert edited != copied
    (architectures / "my_llama.py").write_text(edited)
    settings = {"vocab_size": TOKENS, "huggingface": "architectures.my_llama.LlamaForCausalLM", "special_ids": SPECIAL}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = build_model(arguments=sizes, **settings)
    done = export(model, tokenizer, Config(), tmp_path / "model")
    assert done.what == "LlamaForCausalLM, with its own code" and done.difference < 1e-4 and done.notes == ()
    same_weights(build_model(pretrained=str(tmp_path / "model"), seed=7, **settings), model)
    # Whoever forgets trust_remote_code is told, and does not get the Llama that was not edited.
    script = """
try:
    transformers.AutoModelForCausalLM.from_pretrained("model", trust_remote_code=False)
except Exception as error:
    print("trust_remote_code" in str(error))
"""
    assert in_a_fresh_process(script, tmp_path) == "True"


MODULE = '''"""Ids -> an object with logits; the head is the embedding, under a name of its own."""

from types import SimpleNamespace

import torch
from torch import nn


class Bag(nn.Module):
    def __init__(self, vocab_size: int, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        x = self.embedding(input_ids)
        return SimpleNamespace(logits=self.head(torch.tanh(x.cumsum(1))))


class OnlyLoss(Bag):
    def forward(self, input_ids: torch.Tensor, targets: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(loss=super().forward(input_ids).logits.flatten(0, 1).logsumexp(-1).mean())
'''


def test_a_plain_module_is_exported_with_its_code_and_its_weights_stay_tied(
    architectures: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (architectures / "bag.py").write_text(MODULE)
    settings = {"vocab_size": TOKENS, "module": "architectures.bag.Bag", "arguments": {"width": 12}}
    model = build_model(**settings)
    config = Config(model={"backbone": None, "module": settings["module"], "arguments": {"width": 12}})
    done = export(model, tokenizer, config, tmp_path / "model")
    assert done.what == "Bag, with its own code" and done.difference < 1e-4 and done.notes == ()
    again = build_model(pretrained=str(tmp_path / "model"), seed=7, **settings)
    same_weights(again, model)
    script = """
inner = transformers.AutoModelForCausalLM.from_pretrained("model", trust_remote_code=True).inner.inner
print(inner.head.weight is inner.embedding.weight, sum(weight.numel() for weight in inner.parameters()))
"""
    assert in_a_fresh_process(script, tmp_path) == f"True {512 * 12}"


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        (MODULE, "OnlyLoss", "its logits cannot be compared: OnlyLoss"),
        (MODULE + "\n\nimport architectures.bag\n", "Bag", "write `from architectures import bag`"),
        (MODULE + "\n\nopen(__file__.replace('bag.py', 'table.txt'))\n", "Bag", "does not open in a fresh process"),
    ],
)
def test_what_cannot_go_with_its_code_is_said(
    architectures: Path, tokenizer: Tokenizer, tmp_path: Path, text: str, name: str, reason: str
) -> None:
    (architectures / "bag.py").write_text(text)
    (architectures / "table.txt").write_text("")
    model = build_model(vocab_size=TOKENS, module=f"architectures.bag.{name}")
    done = export(model, tokenizer, Config(), tmp_path / "model")
    assert done.what == f"weights and config of {name}, without its code"
    assert len(done.notes) == 1 and reason in done.notes[0]
    assert reason in (tmp_path / "model/README.md").read_text()
