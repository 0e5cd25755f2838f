"""Every recipe runs two steps, from raw text to a model directory, on a few documents that stand for its data."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from configs.loading import load_config

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "configs/recipes").glob("*.yaml"))
WORDS = "the a one red small dog cat bird runs sees sleeps under over near tree house hill and then again".split()

# What makes each recipe small. All else is as in the file.
SMALL = {
    "pretrain_gpt": [
        "tokenizer.vocab_size=400",
        "data.max_seq_len=32",
        "model.arguments={width: 32, depth: 1, heads: 2}",
        "model.compile=false",
    ],
    "finetune_prompt_response": ["data.max_seq_len=64", "model.arguments={width: 32, depth: 1, heads: 2}"],
    "masked_lm_bert": [
        "tokenizer.vocab_size=200",
        "data.max_seq_len=32",
        "model.arguments.hidden_size=32",
        "model.arguments.num_hidden_layers=1",
        "model.arguments.num_attention_heads=2",
        "model.arguments.intermediate_size=64",
    ],
    "translation_encoder_decoder": [
        "tokenizer.vocab_size=400",
        "model.arguments.d_model=32",
        "model.arguments.encoder_layers=1",
        "model.arguments.decoder_layers=1",
        "model.arguments.encoder_ffn_dim=64",
        "model.arguments.decoder_ffn_dim=64",
    ],
}
TWO_STEPS = [
    "trainer.max_steps=2",
    "trainer.global_batch_size=4",
    "trainer.micro_batch_size=2",
    "trainer.precision=32-true",
    "trainer.validation_windows=4",
    "logging.tensorboard=false",
]


def sentence(n: int) -> str:
    return " ".join(WORDS[(n * 7 + i * (n % 5 + 1)) % len(WORDS)] for i in range(8 + n % 5))


def stand_in(config: Path, folder: Path) -> Path:
    """A directory in the Hub's layout, with the subset, the splits and the fields that the recipe reads."""
    dataset = load_config(config).dataset
    fields = " ".join(dataset.fields.values())
    if "{instruction}" in fields:
        rows = [{"instruction": sentence(n), "input": "", "output": sentence(n + 1)} for n in range(60)]
    elif dataset.kind == "pairs":
        rows = [{"en": sentence(n), "de": sentence(n + 3).upper()} for n in range(60)]
    else:
        rows = [{"text": sentence(n) + ". " + sentence(n * 3)} for n in range(120)]
    folder.mkdir(parents=True)
    splits = ["train"] if "fractions:" in config.read_text() else ["train", "validation", "test"]
    for split in splits:
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = "".join(f"  - split: {split}\n    path: {split}.jsonl\n" for split in splits)
    name = dataset.subset or "default"
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {name}\n  data_files:\n{files}---\n")
    return folder


def run(door: str, config: Path, overrides: list[str]) -> str:
    words = [sys.executable, *door.split(), str(config), *overrides]
    ran = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, f"{door} {config.name}\n{ran.stdout[-3000:]}\n{ran.stderr[-4000:]}"
    return ran.stdout


def stages(name: str, place: Path, more: list[str]) -> Path:
    """Runs a recipe's stages in a folder -> its run's folder."""
    config = ROOT / f"configs/recipes/{name}.yaml"
    overrides = [
        f"paths.data={place}/data",
        f"paths.runs={place}/runs",
        f"dataset.name={stand_in(config, place / 'hub' / name)}",
        "dataset.fractions={train: 0.8, validation: 0.1, test: 0.1}",
        "dataset.revision=null",
        *TWO_STEPS,
        *SMALL[name],
        *more,
    ]
    run("-m data_setup.download_dataset", config, overrides)
    if load_config(config).tokenizer.path is None:
        run("-m tokenizer.train_hf_tokenizer", config, overrides)
    run("tokenize_data.py", config, overrides)
    run("train.py", config, overrides)
    if name != "masked_lm_bert":
        run("inference.py", config, [*overrides, "inference.max_samples=4", "inference.decoding.max_new_tokens=4"])
    return place / "runs" / name


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


@pytest.fixture(scope="module")
def pretrained(place: Path) -> Path:
    return stages("pretrain_gpt", place, []) / "model"


def test_every_recipe_is_tested() -> None:
    assert {path.stem for path in RECIPES} == SMALL.keys()


def test_pretraining(pretrained: Path) -> None:
    assert (pretrained / "config.json").exists() and (pretrained / "tokenizer.json").exists()


def test_fine_tuning_starts_from_a_run(pretrained: Path, place: Path) -> None:
    more = [f"tokenizer.path={pretrained}", f"model.pretrained={pretrained}"]
    done = stages("finetune_prompt_response", place, more)
    assert (done / "model/config.json").exists()


@pytest.mark.parametrize("name", ["masked_lm_bert", "translation_encoder_decoder"])
def test_other_recipes(name: str, place: Path) -> None:
    done = stages(name, place, [])
    assert (done / "model/config.json").exists() and (done / "metrics.jsonl").exists()
