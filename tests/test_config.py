"""Configs right and wrong -> what is read, and the exact text of every kind of mistake."""

import json
import math
import resource
import subprocess
import sys
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import pytest

from configs import generate
from configs.command_line import parse, printed
from configs.contradictions import OPEN_TO_THE_USER, OWNED_BY_LIFTOFF
from configs.expectations import settings
from configs.loading import load_config
from configs.places import dataset_name, raw_dir, run_dir, shards_dir, splits, tokenizer_dir, validation_names
from configs.schema import Config
from utils.messages import UserError
from utils.yaml_writing import to_yaml

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIGS = [path for path in sorted((REPOSITORY / "configs").rglob("*.yaml")) if "user_configs" not in path.parts]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """load("trainer: {max_steps: 3}", "seed=1") reads such a file, my.yaml, with such overrides."""
    monkeypatch.chdir(tmp_path)

    def load(text: str, *overrides: str) -> Config:
        Path("my.yaml").write_text(text)
        return load_config("my.yaml", overrides)

    return load


# --- the pages that are made from the schema --------------------------------------------------------------------------


def test_the_default_config_says_what_the_schema_says() -> None:
    assert generate.DEFAULT_CONFIG.read_text() == generate.default_config(), "run: make configs"
    loaded = load_config(generate.DEFAULT_CONFIG)
    assert loaded.name == "default_config"
    assert loaded.model_copy(update={"name": None}) == Config()


def test_the_json_schema_says_what_the_schema_says() -> None:
    assert generate.JSON_SCHEMA.read_text() == generate.json_schema(), "run: make configs"
    schema = json.loads(generate.JSON_SCHEMA.read_text())
    assert schema["properties"].keys() == Config.model_fields.keys()
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_file_loads(path: Path) -> None:
    load_config(path)


def test_every_setting_says_what_it_is_and_whether_it_trains() -> None:
    for key, field in settings():
        assert field.description, key
        assert isinstance(field.json_schema_extra["trains"], bool), key


# --- what is read -----------------------------------------------------------------------------------------------------


def test_a_config_states_only_what_differs(load: Callable[..., Config]) -> None:
    config = load("optimizer:\n  lr: 3e-4\n  betas: [0.9, 0.95]\nschedule: {final_fraction: 0}\n")
    assert config.optimizer.lr == 3e-4
    assert config.optimizer.arguments == {"betas": [0.9, 0.95]}
    assert config.schedule.arguments == {"final_fraction": 0}
    assert config.trainer == Config().trainer
    assert config.name == "my"


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "---\n", "trainer:\nmodel:\n  # all by default\n"])
def test_an_empty_file_is_all_defaults(load: Callable[..., Config], text: str) -> None:
    assert load(text).model_copy(update={"name": None}) == Config()


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1e-3", 0.001),
        ("1E-3", 0.001),
        ("1.", 1.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("010", 10),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("no", "no"),
        ("0x10", "0x10"),
        ("true", True),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        (".inf", math.inf),
        ("-7", -7),
        ("{a: 1e2, b: [x, null]}", {"a": 100.0, "b": ["x", None]}),
    ],
)
def test_scalars_are_read_as_a_researcher_means_them(load: Callable[..., Config], written: str, read: object) -> None:
    value = load(f"logging:\n  wandb:\n    value: {written}\n").logging.wandb["value"]
    assert value == read and type(value) is type(read)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("name: 0", "name", "0"),
        ("name: 1e-3", "name", "1e-3"),
        ("name: 0.10", "name", "0.10"),
        ("dataset: {source: hub, name: x, revision: 12e4567}", "dataset.revision", "12e4567"),
        ("tokenizer: {special_tokens: {extra: [1, <x>]}}", "tokenizer.special_tokens.extra", ["1", "<x>"]),
        ("trainer: {max_tokens: 1e9}", "trainer.max_tokens", 1_000_000_000),
        ("trainer: {max_epochs: 3}", "trainer.max_epochs", 3.0),
        ("trainer: {max_time: 00:12:00:00}", "trainer.max_time", "00:12:00:00"),
        ("trainer: {devices: auto}", "trainer.devices", "auto"),
    ],
)
def test_a_number_where_text_is_meant_is_that_text(
    load: Callable[..., Config], text: str, key: str, value: object
) -> None:
    read: object = load(text)
    for name in key.split("."):
        read = getattr(read, name)
    assert read == value and type(read) is type(value)


def test_the_command_line_overrides(load: Callable[..., Config]) -> None:
    text = "optimizer: {lr: 1}\nmodel: {arguments: {width: 64, depth: 2}}"
    overrides = ["optimizer.lr=1e-5", "model.arguments.width=32", "dataset.splits.test=dev", "seed=1", "seed=2"]
    config = load(
        text, *overrides, "tokenize.prepend=", "trainer.clip=null", "generation.decoding.stop_strings=[a, 'b c']"
    )
    assert config.optimizer.lr == 1e-5
    assert config.model.arguments == {"width": 32, "depth": 2}
    assert config.dataset.splits == {"train": "train", "validation": "validation", "test": "dev"}
    assert config.seed == 2  # a batch script states a setting, and what its user states comes after
    assert config.tokenize.prepend == ""
    assert config.trainer.clip is None
    assert config.generation.decoding.stop_strings == ["a", "b c"]


def test_a_later_choice_replaces_the_earlier_one(load: Callable[..., Config]) -> None:
    assert load("").trainer.max_epochs == 1.0
    by_file = load("trainer: {max_steps: 7}").trainer
    assert (by_file.max_steps, by_file.max_epochs, by_file.max_tokens) == (7, None, None)
    by_command = load("trainer: {max_steps: 7}", "trainer.max_tokens=1e6").trainer
    assert (by_command.max_steps, by_command.max_epochs, by_command.max_tokens) == (None, None, 1_000_000)
    whole_section = load("trainer: {max_steps: 7}", "trainer={max_epochs: 2, clip: 3.0}").trainer
    assert (whole_section.max_steps, whole_section.max_epochs, whole_section.clip) == (None, 2, 3.0)
    assert load("model: {huggingface: AutoModelForCausalLM}").model.backbone is None
    assert load("schedule: {warmup_ratio: null}").schedule.warmup_steps is None


def test_anchors_and_merged_mappings(load: Callable[..., Config]) -> None:
    config = load(
        "inference:\n  decoding: &d {max_new_tokens: 5}\ngeneration:\n  decoding:\n    <<: *d\n    num_beams: 2\n"
    )
    assert config.inference.decoding.max_new_tokens == config.generation.decoding.max_new_tokens == 5
    assert config.generation.decoding.num_beams == 2


def test_paths_are_the_repositorys_and_variables_expand(
    load: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MY_DATA", "/somewhere")
    monkeypatch.setattr("configs.paths.REPOSITORY", tmp_path)
    (tmp_path / ".env").write_text("# places\nexport SCRATCH='/scratch/me'  # mine\nMY_DATA=/not/this\n")
    text = "paths: {runs: $SCRATCH/runs, data: corpora}\n"
    text += "dataset: {source: files, path: ['${MY_DATA}/a.en', b.de], kind: pairs}\n"
    text += "data: {packing: none}\nobjective: {name: seq2seq}\n"
    text += "model: {huggingface: AutoModelForSeq2SeqLM, pretrained: gpt2}\n"
    config = load(text)
    assert config.paths.runs == "/scratch/me/runs"
    assert config.paths.data == f"{tmp_path}/corpora"
    assert config.dataset.path == ["/somewhere/a.en", f"{tmp_path}/b.de"]
    assert config.model.pretrained == "gpt2"  # a name on the Hub stays one
    resolved = config.resolved()
    assert resolved["paths"] == {"data": "corpora", "runs": "$SCRATCH/runs"}
    assert resolved["dataset"]["path"] == ["${MY_DATA}/a.en", "b.de"]


def test_what_is_written_reads_back_the_same(load: Callable[..., Config], tmp_path: Path) -> None:
    values = {
        "text": [
            "1e-3",
            "1",
            "true",
            "null",
            "",
            " x",
            "a: b",
            "#c",
            "- d",
            "{e}",
            "ü",
            "q\"'",
            "line\nbreak",
            "no",
            "-",
        ],
        "numbers": [1e-5, 1e-10, 1e22, 0.1, -3, 10**12, math.inf, True, None],
        "nested": {"a": {"b": []}, 0: "label", "x y": {}},
    }
    (tmp_path / "other.yaml").write_text(to_yaml({"logging": {"wandb": values}}))
    assert load_config(tmp_path / "other.yaml").logging.wandb == values
    config = load("optimizer: {lr: 1e-5}", "seed=3", "model.arguments.width=96")
    (tmp_path / "again.yaml").write_text(printed(config))
    assert load_config(tmp_path / "again.yaml") == config


def test_print_config_says_where_each_value_comes_from(load: Callable[..., Config]) -> None:
    lines = printed(load("optimizer:\n  lr: 0.01\n  weight_decay: 0.1\n", "seed=3")).splitlines()
    assert "seed: 3                           # command line" in lines
    assert "  lr: 0.01                        # my.yaml:2" in lines
    assert "  weight_decay: 0.1" in lines  # stated, but the default


def test_places(load: Callable[..., Config]) -> None:
    config = load("paths: {data: /d, runs: /r}\nname: a/0\n")
    assert raw_dir(config) == Path("/d/sample/raw")
    assert tokenizer_dir(config) == Path("/d/sample/tokenizer")
    assert shards_dir(config) == Path("/d/sample/tokens")
    assert run_dir(config) == Path("/r/a/0")
    assert run_dir(Config(name="x")) == REPOSITORY / "runs" / "x"
    assert splits(config) == ["train", "validation", "test"]
    several = load("dataset: {source: files, train_path: w/train.txt, validation_path: {dev_a: a.txt, dev_b: b.txt}}")
    assert validation_names(several) == ["dev_a", "dev_b"]
    assert splits(several) == ["train", "dev_a", "dev_b", "test"]


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("source: hub, name: me/corpus, subset: en", "me--corpus--en"),
        ("source: files, path: x/corpus/", "corpus"),
        ("source: files, path: x/corpus.jsonl.gz", "corpus"),
        ("source: files, path: 'x/corpus/*.txt'", "corpus"),
        ("source: files, train_path: corpus/train.txt", "corpus"),
        ("source: files, train_path: corpus/train.txt, name: mine", "mine"),
        ("source: tests.documents.of_counting", "of_counting"),
    ],
)
def test_the_datasets_folder(load: Callable[..., Config], dataset: str, name: str) -> None:
    (REPOSITORY / "tests/documents.py").exists()
    text = f"dataset: {{{dataset}}}"
    if "tests." in dataset:
        config = Config.model_validate({"dataset": {"source": "tests.documents.of_counting"}})
    else:
        config = load(text)
    assert dataset_name(config) == name


# --- what is refused --------------------------------------------------------------------------------------------------

ALL = (
    "name, seed, paths, dataset, tokenizer, tokenize, data, model, objective, optimizer, schedule, trainer, checkpoints"
)
ALL += ", logging, inference, generation"

MISTAKES = {
    # unknown keys
    "modle: {}": "my.yaml:1: unknown setting 'modle'; did you mean 'model'?",
    "\n\ntrainer:\n  max_step: 3": "my.yaml:4: unknown setting 'trainer.max_step'; did you mean 'trainer.max_steps'?",
    "lr: 1e-3": "my.yaml:1: unknown setting 'lr'; did you mean 'optimizer.lr'?",
    "trainer: {lr: 1}": "my.yaml:1: unknown setting 'trainer.lr'; did you mean 'optimizer.lr'?",
    "learning_rate: 1e-3": "my.yaml:1: unknown setting 'learning_rate'; did you mean 'optimizer.lr'?",
    "trainer: {batch_size: 8}": (
        "my.yaml:1: unknown setting 'trainer.batch_size'; did you mean 'trainer.global_batch_size'?"
    ),
    "max_new_tokens: 3": (
        "my.yaml:1: unknown setting 'max_new_tokens'; did you mean 'inference.decoding.max_new_tokens' or "
        "'generation.decoding.max_new_tokens'?"
    ),
    "xyzzy: 3": f"my.yaml:1: unknown setting 'xyzzy'; there are {ALL}",
    "paths: {xyzzy: 3}": "my.yaml:1: unknown setting 'paths.xyzzy'; 'paths' has data, runs",
    # wrong types and values
    "trainer: {max_steps: true}": "my.yaml:1: trainer.max_steps should be a whole number above 0 or null, got true",
    "trainer: {max_steps: 1.5}": "my.yaml:1: trainer.max_steps should be a whole number above 0 or null, got 1.5",
    "trainer: {max_steps: '3'}": "my.yaml:1: trainer.max_steps should be a whole number above 0 or null, got '3'",
    "seed: null": "my.yaml:1: seed should be a whole number, got null",
    "optimizer: {lr: fast}": "my.yaml:1: optimizer.lr should be a number above 0, got 'fast'",
    "optimizer: {lr: 0}": "my.yaml:1: optimizer.lr should be a number above 0, got 0",
    "optimizer: {lr: .inf}": "my.yaml:1: optimizer.lr should be a number above 0, got .inf",
    "schedule: {warmup_ratio: 1.5}": (
        "my.yaml:1: schedule.warmup_ratio should be a number at least 0 and at most 1 or null, got 1.5"
    ),
    "model: {compile: 1}": "my.yaml:1: model.compile should be true or false, got 1",
    "model: {compile: yes}": "my.yaml:1: model.compile should be true or false, got 'yes'",
    "data: {packing: ful}": (
        "my.yaml:1: data.packing should be full | partial | truncate | none | best_fit, got 'ful'; did you mean 'full'?"
    ),
    "name: [a]": "my.yaml:1: name should be text or null, got a list",
    "name: true": "my.yaml:1: name should be text or null, got true",
    "inference: {metrics: bleu}": "my.yaml:1: inference.metrics should be a list, got 'bleu'",
    "dataset:\n  splits:\n    test: [a]": "my.yaml:3: dataset.splits.test should be text, got a list",
    "dataset:\n  splits: {train: train, dev: dev}": (
        "my.yaml:2: dataset.splits has the keys train | validation | test, got 'dev'"
    ),
    "dataset:\n  splits: {test: test}": "my.yaml:2: dataset.splits should say which of the Hub's splits is train",
    "dataset: {fractions: {trian: 1}}": (
        "my.yaml:1: dataset.fractions has the keys train | validation | test, got 'trian'"
    ),
    "trainer: 5": "my.yaml:1: trainer is a section with keys of its own, got 5",
    "generation: {decoding: {stop_ids: [1, x]}}": (
        "my.yaml:1: generation.decoding.stop_ids.1 should be a whole number, got 'x'"
    ),
    # contradictions
    "trainer:\n  max_steps: 3\n  max_epochs: 1": (
        "my.yaml:3: trainer.max_steps and trainer.max_epochs contradict each other; set only one"
    ),
    "trainer: {max_epochs: null}": "my.yaml:1: trainer needs exactly one of max_steps, max_epochs and max_tokens",
    "model: {backbone: null}": "my.yaml:1: model needs exactly one of backbone, huggingface and module",
    "trainer: {global_batch_size: 10, micro_batch_size: 4}": (
        "my.yaml:1: trainer.global_batch_size=10 must be divisible by micro_batch_size x devices x num_nodes "
        "= 4 x 1 x 1"
    ),
    "trainer: {devices: 3}": "my.yaml:1: trainer.global_batch_size=32 must be divisible by devices x num_nodes = 3 x 1",
    "trainer: {devices: 0}": "my.yaml:1: trainer.devices should be at least 1, or auto, got 0",
    "trainer:\n  accelerator: cpu\n  precision: 16-mixed": (
        "my.yaml:3: trainer.precision: 16-mixed needs a GPU; on a CPU take bf16-mixed or 32-true"
    ),
    "trainer: {max_time: 12h}": ("my.yaml:1: trainer.max_time should be DD:HH:MM:SS, such as 00:12:00:00, got '12h'"),
    "trainer: {max_steps: 5}\nschedule: {warmup_steps: 9}": (
        "my.yaml:2: schedule.warmup_steps=9 is longer than the run: trainer.max_steps=5"
    ),
    "data: {overlap: 256}": (
        "my.yaml:1: data.overlap=256 should be smaller than what a window has for text: max_seq_len=256"
    ),
    "data: {overlap: 5, packing: none}": (
        "my.yaml:1: data.overlap=5 needs data.packing full | partial; none has no next window"
    ),
    "data: {overlap: 5, packing: best_fit}": (
        "my.yaml:1: data.overlap=5 needs data.packing full | partial; best_fit has no next window"
    ),
    "dataset: {fractions: {train: 0.9, test: 0.2}}": ("my.yaml:1: dataset.fractions should sum to 1, got 0.9 + 0.2"),
    "dataset: {source: files}": (
        "my.yaml:1: dataset.source: files needs dataset.path (or train_path, validation_path, test_path)"
    ),
    "dataset: {path: x.txt}": ("my.yaml:1: dataset.path is read by source: files only, and dataset.source is sample"),
    "dataset: {source: hub}": "my.yaml:1: dataset.source: hub needs dataset.name",
    "dataset: {fields: {txt: body}}": (
        "my.yaml:1: dataset.fields: a text document has text, no 'txt'; did you mean 'text'?"
    ),
    "dataset: {kind: pairs}\nobjective: {name: seq2seq}\nmodel: {huggingface: AutoModelForSeq2SeqLM}": (
        "my.yaml:1: dataset.kind: pairs takes data.packing none | truncate | best_fit, got full"
    ),
    "objective: {name: seq2seq}\nmodel: {huggingface: AutoModelForSeq2SeqLM}": (
        "my.yaml:1: objective seq2seq needs dataset.kind: pairs | prompt_response, got text"
    ),
    "model: {huggingface: AutoModelForMaskedLM}": (
        "my.yaml:1: objective causal needs model.huggingface: AutoModelForCausalLM, got AutoModelForMaskedLM"
    ),
    "tokenizer: {special_tokens: {mask: <m>}}\nobjective: {name: masked}": (
        "my.yaml:2: objective masked does not go with models.transformer.Transformer, which is causal; "
        "set model.huggingface: AutoModelForMaskedLM"
    ),
    "objective: {name: masked}\nmodel: {huggingface: AutoModelForMaskedLM}": (
        "my.yaml:1: objective masked needs tokenizer.special_tokens.mask, such as '<mask>'"
    ),
    "tokenize: {separator: '|'}": (
        "my.yaml:1: tokenize.separator cuts text into prompt and response: it needs dataset.kind: "
        "prompt_response, not text"
    ),
    "tokenizer: {vocab_size: 100}": (
        "my.yaml:1: tokenizer.vocab_size=100 is too small for byte_level_bpe: 256 bytes and 4 special tokens make 260"
    ),
    "generation: {decoding: {top_k: 5}}": (
        "my.yaml:1: generation.decoding.top_k has no effect at temperature 0, which is greedy"
    ),
    "inference: {split: tset}": "my.yaml:1: inference.split: there is no split 'tset'; did you mean 'test'?",
    "name: ../x": "my.yaml:1: name is that of a folder in paths.runs (letters, digits and . _ - + =), got '../x'",
    # what Liftoff owns
    "trainer:\n  lightning:\n    max_epochs: 3": (
        "my.yaml:3: trainer.lightning.max_epochs is set by Liftoff; use trainer.max_epochs"
    ),
    "trainer: {lightning: {benchmrk: true}}": (
        "my.yaml:1: trainer.lightning: Lightning's Trainer takes no 'benchmrk'; did you mean 'benchmark'?"
    ),
    "trainer: {callbacks: [pytorch_lightning.callbacks.ModelCheckpoint]}": (
        "my.yaml:1: trainer.callbacks: what ModelCheckpoint does is Liftoff's; use the section checkpoints"
    ),
    "trainer: {callbacks: [{name: model.LanguageModelTraning}]}": (
        "my.yaml:1: trainer.callbacks.0: model has no 'LanguageModelTraning'; did you mean 'LanguageModelTraining'?"
    ),
    "inference: {metrics: [blue]}": (
        "my.yaml:1: inference.metrics.0: bleu | chrf | exact_match or an import path, got 'blue'; did you mean 'bleu'?"
    ),
    # code
    "model: {backbone: models.transformer.Transfomer}": (
        "my.yaml:1: model.backbone: models.transformer has no 'Transfomer'; did you mean 'Transformer'?"
    ),
    "model: {backbone: models.transfomer.Transformer}": (
        "my.yaml:1: model.backbone: models has no 'transfomer'; did you mean 'transformer'?"
    ),
    "model: {backbone: modles.transformer.Transformer}": (
        "my.yaml:1: model.backbone: no package 'modles'; did you mean 'models'?"
    ),
    "model: {backbone: Transformer}": (
        "my.yaml:1: model.backbone: 'Transformer' is no import path; did you mean 'models.transformer.Transformer'?"
    ),
    "model:\n  arguments:\n    n_heads: 4": (
        "my.yaml:3: model.arguments: Transformer takes no 'n_heads'; did you mean 'heads'?"
    ),
    "model: {arguments: {width: wide}}": "my.yaml:1: model.arguments.width should be a whole number, got 'wide'",
    "data: {max_seq_len: 4096}": (
        "my.yaml:1: data.max_seq_len=4096 is longer than the 2048 positions of Transformer; "
        "set model.arguments.max_seq_len=4096"
    ),
    "data: {max_seq_len: 64}\nmodel: {arguments: {max_seq_len: 32}}": (
        "my.yaml:1: data.max_seq_len=64 is longer than the model's positions: model.arguments.max_seq_len=32"
    ),
    "objective: {name: casual}": (
        "my.yaml:1: objective.name: there is no objectives/casual.py; did you mean 'causal'?"
    ),
    "schedule: {name: cosin}": "my.yaml:1: schedule.name: optim.schedules has no 'cosin'; did you mean 'cosine'?",
    "schedule:\n  final_fractoin: 0.1": (
        "my.yaml:2: schedule: cosine takes no 'final_fractoin'; did you mean 'final_fraction'?"
    ),
    "schedule: {total: 5}": "my.yaml:1: cosine gets 'total' from Liftoff itself; leave it out",
    "optimizer: {name: adamw}": (
        "my.yaml:1: optimizer.name: 'adamw' is no import path; did you mean 'torch.optim.AdamW'?"
    ),
    "dataset: {source: smaple}": (
        "my.yaml:1: dataset.source: hub | files | sample | synthetic or an import path, got 'smaple'; "
        "did you mean 'sample'?"
    ),
    # the file itself
    "seed: 1\nseed: 2": "my.yaml:2: 'seed' stands twice, first in line 1",
    "seed 1\nname: 2": (
        "my.yaml:2: not YAML: a ': ' where none can be; is the line before it complete, and is the indentation right?"
    ),
    "trainer:\n\tmax_steps: 3": "my.yaml:2: not YAML: indent with spaces, not with tabs",
    "- a\n- b": "my.yaml:1: a config is made of lines 'key: value'",
    "paths: {data: $NOT_THERE/x}": (
        "my.yaml:1: paths.data: $NOT_THERE is not defined; export it, or put NOT_THERE=... into .env"
    ),
    "seed: !!python/name:os.system x": (
        "my.yaml:1: seed: the tag tag:yaml.org,2002:python/name:os.system is not understood"
    ),
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.items(), ids=list(map(str, range(len(MISTAKES)))))
def test_a_mistake_in_the_file(load: Callable[..., Config], text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load(text)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_steps=x", "command line: trainer.max_steps should be a whole number above 0 or null, got 'x'"),
        ("optimiser.lr=1", "command line: unknown setting 'optimiser.lr'; did you mean 'optimizer.lr'?"),
        ("lr=1", "command line: unknown setting 'lr'; did you mean 'optimizer.lr'?"),
        ("max_steps=", "command line: unknown setting 'max_steps'; did you mean 'trainer.max_steps'?"),
        ("seed", "command line: 'seed' is not of the form key.path=value"),
        ("seed=[1", "command line: seed: '[1' is not YAML; put it in quotes: \"seed='…'\""),
        ("seed.x=1", "command line: seed has no keys, so 'seed.x' cannot be set"),
        ("seed=", "command line: seed should be a whole number, got ''"),
        (
            "model.arguments.n_head=2",
            "command line: model.arguments: Transformer takes no 'n_head'; did you mean 'heads'?",
        ),
    ],
)
def test_a_mistake_on_the_command_line(load: Callable[..., Config], override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load("seed: 1", override)
    assert str(error.value) == message


def test_two_choices_on_the_command_line(load: Callable[..., Config]) -> None:
    with pytest.raises(
        UserError, match="^command line: trainer.max_steps and trainer.max_tokens contradict each other"
    ):
        load("", "trainer.max_steps=1", "trainer.max_tokens=2")


def test_all_problems_at_once_in_order(load: Callable[..., Config]) -> None:
    text = (
        "modle: {}\ntrainer:\n  max_steps: true\n  devices: 3\noptimizer: {lr: -1}\nmodel:\n  arguments: {widht: 3}\n"
    )
    with pytest.raises(UserError) as error:
        load(text, "seed=x")
    assert [line.partition(": ")[0] for line in str(error.value).splitlines()] == [
        "my.yaml:1", "my.yaml:3", "my.yaml:4", "my.yaml:5", "my.yaml:7", "command line",
    ]  # fmt: skip


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^no config file quickstrt.yaml; did you mean .*configs/quickstart.yaml\?$"):
        load_config("quickstrt.yaml")
    with pytest.raises(UserError, match="is a folder; name a config file in it"):
        load_config(tmp_path)
    (tmp_path / "x.yaml").write_bytes(b"name: \xff")
    with pytest.raises(UserError, match="not a text file: byte 6 is not UTF-8"):
        load_config(tmp_path / "x.yaml")


CODE = """
from torch import nn

class Base(nn.Module):
    def __init__(self, vocab_size: int, width: int, *, rate: float = 0.0, kind: "str | None" = None): ...

class Derived(Base):
    pass

class Open(Base):
    def __init__(self, vocab_size, **anything): ...

def documents(split, n: int): ...
"""


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """models/mine.py with CODE, in a repository of its own."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.py").write_text(CODE)
    (tmp_path / "models" / "transformer.py").symlink_to(REPOSITORY / "models" / "transformer.py")
    (tmp_path / "models" / "broken.py").write_text("class X(:\n")
    (tmp_path / "objectives").symlink_to(REPOSITORY / "objectives")
    (tmp_path / "optim").symlink_to(REPOSITORY / "optim")
    monkeypatch.setattr("configs.code_arguments.REPOSITORY", tmp_path)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("backbone: models.mine.Derived, arguments: {width: 1, rate: 1}", None),
        ("backbone: models.mine.Base, arguments: {width: 1, kind: null}", None),
        ("backbone: models.mine.Open, arguments: {whatever: 1}", None),
        ("module: models.mine.Base, arguments: {width: 1}", None),
        ("backbone: models.mine.Derived", "model.backbone: Derived needs 'width'; set model.arguments.width"),
        (
            "backbone: models.mine.Derived, arguments: {width: 1, rte: 1}",
            "model.arguments: Derived takes no 'rte'; did you mean 'rate'?",
        ),
        (
            "backbone: models.mine.Base, arguments: {width: 1, xyz: 1}",
            "model.arguments: Base takes no 'xyz'; it takes kind, rate, width",
        ),
        (
            "backbone: models.mine.Base, arguments: {width: true}",
            "model.arguments.width should be a whole number, got true",
        ),
        ("backbone: models.broken.X", "model.backbone: models/broken.py:1: not Python: invalid syntax"),
    ],
)
def test_arguments_of_ones_own_code(
    load: Callable[..., Config], own_code: None, model: str, message: str | None
) -> None:
    if message is None:
        load(f"model: {{{model}}}")
        return
    with pytest.raises(UserError) as error:
        load(f"model: {{{model}}}")
    assert str(error.value) == f"my.yaml:1: {message}"


def test_arguments_of_a_function_that_yields_documents(load: Callable[..., Config], own_code: None) -> None:
    load("dataset: {source: models.mine.documents, arguments: {n: 3}}")
    with pytest.raises(UserError, match="dataset.arguments: documents takes no 'm'; it takes n"):
        load("dataset: {source: models.mine.documents, arguments: {m: 3, n: 3}}")


def test_every_argument_of_lightnings_trainer_is_owned_or_open() -> None:
    from pytorch_lightning import Trainer

    assert set(signature(Trainer.__init__).parameters) - {"self"} == {*OWNED_BY_LIFTOFF, *OPEN_TO_THE_USER}


# --- the front door --------------------------------------------------------------------------------------------------

STAGE = '''"""A stage for a test.

    python stage.py CONFIG
"""
import sys
sys.path.insert(0, {repository!r})
from configs.command_line import run_stage
from utils.messages import UserError

def main(config, flags):
    if config.seed == 1:
        raise UserError("the text is missing\\nthe tokenizer too")
    if config.seed == 2:
        raise ValueError("a bug")
    if config.seed == 3:
        raise KeyboardInterrupt
    if config.seed == 4:
        open("/dev/full", "w", buffering=1).write("x" * 100000)
    if config.seed == 5:
        return 7
    print(config.name, flags.restart, flags.debug, sorted(set(sys.modules) & {{"torch", "transformers", "numpy"}}))

run_stage(main, __doc__, {{"restart": "begin again", "debug": "look at one batch"}})
'''


@pytest.fixture
def stage(tmp_path: Path, run_script: Run) -> Callable[..., subprocess.CompletedProcess[str]]:
    """stage("my.yaml", "--restart") runs a script behind the front door, in a folder with my.yaml."""
    (tmp_path / "stage.py").write_text(STAGE.format(repository=str(REPOSITORY)))
    (tmp_path / "my.yaml").write_text("trainer: {max_steps: 3}\n")
    return lambda *arguments, **env: run_script(["stage.py", *arguments], env=env, cwd=tmp_path)


def test_the_config_is_named_in_three_ways(stage: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    for way in (["my.yaml"], ["--config=my.yaml"], ["-c", "my.yaml"]):
        done = stage(*way, "seed=0", "--restart")
        assert (done.returncode, done.stdout, done.stderr) == (0, "my True False []\n", "")
    assert stage("my.yaml", "--debug").stdout == stage("my.yaml", DEBUG="1").stdout == "my False True []\n"
    assert stage("my.yaml", DEBUG="0").stdout == "my False False []\n"


def test_exit_codes_and_one_line_errors(stage: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = stage("my.yaml", "seed=1")
    assert (done.returncode, done.stderr) == (2, "error: the text is missing\nerror: the tokenizer too\n")
    assert stage("my.yaml", "seed=1", RANK="1").stderr == ""
    assert "Traceback" in stage("my.yaml", "seed=1", "--traceback").stderr
    bug = stage("my.yaml", "seed=2")
    assert bug.returncode == 1 and "Traceback" in bug.stderr
    assert stage("my.yaml", "seed=3").returncode == 130
    full = stage("my.yaml", "seed=4")
    assert (full.returncode, full.stderr) == (2, "error: no space left on device\n")
    assert stage("my.yaml", "seed=5").returncode == 7
    wrong = stage("my.yaml", "modle=1")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "error: command line: unknown setting 'modle'; did you mean 'model'?\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no config given: python stage.py CONFIG, such as configs/quickstart.yaml"),
        (
            ["a.yaml", "b.yaml"],
            "one config, please, got a.yaml and b.yaml; settings to override look like key.path=value",
        ),
        (["my.yaml", "--seed=3"], "unknown option '--seed=3'; settings have no dashes: seed=3"),
        (["my.yaml", "--rstart"], "unknown option '--rstart'; see --help"),
    ],
)
def test_a_command_line_that_is_not_understood(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["stage.py"])
    with pytest.raises(UserError) as error:
        parse(arguments, "", {"restart": "begin again"})
    assert str(error.value) == message


def test_help_and_print_config(stage: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    text = stage("--help").stdout
    assert "A stage for a test." in text and "--restart" in text and "begin again" in text
    done = stage("my.yaml", "seed=1", "--print-config")
    assert done.returncode == 0
    assert "seed: 1                           # command line\n" in done.stdout
    assert "  max_steps: 3                    # my.yaml:1\n" in done.stdout


def test_a_typo_is_answered_in_half_a_second(stage: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    seconds = []  # of CPU time: this machine may be busy with other things
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert stage("my.yaml", "model.arguments.widht=3").returncode == 2
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(seconds) < 0.5, seconds
