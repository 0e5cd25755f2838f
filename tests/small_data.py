"""The smallest tokenizer, documents and configs that the data rooms can be tested with."""

import json
import random
from pathlib import Path
from typing import Any

from configs.schema import Config
from tokenizer.tokenizer import Tokenizer

SPECIALS = {"bos": "<bos>", "eos": "<eos>", "pad": "<pad>", "mask": "<mask>"}
WORDS = "the cat sat on a mat and the dog ran to town über naïve 東京 🙂 one, two. three! four\n".split(" ")


def small_tokenizer(folder: Path, leave_out: tuple[str, ...] = ()) -> Tokenizer:
    """Byte-level BPE of about 300 ids. leave_out: roles of special tokens that it has not."""
    from tokenizers import Tokenizer as Pipeline
    from tokenizers import decoders, models, pre_tokenizers, trainers

    specials = {role: text for role, text in SPECIALS.items() if role not in leave_out}
    pipeline = Pipeline(models.BPE())
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pipeline.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(specials.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pipeline.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    pipeline.save(str(folder / "tokenizer.json"))
    roles = {f"{role}_token": text for role, text in specials.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    return Tokenizer.load(folder)


def sentence(chance: random.Random, longest: int = 20) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(1, longest)))


def write_documents(path: Path, n: int, fields: tuple[str, ...] = ("text",), seed: int = 0, longest: int = 20) -> Path:
    """A jsonl file of n documents made of random words."""
    chance = random.Random(seed)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(n):
            record = {name: sentence(chance, longest) for name in fields}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return path


def config_for(folder: Path, train: Path, **sections: dict[str, Any]) -> Config:
    """A config that reads `train` as every split, unless sections["dataset"] says otherwise; all below `folder`."""
    dataset = {"source": "files", "train_path": str(train), "validation_path": str(train), "test_path": str(train)}
    values: dict[str, Any] = {
        **sections,
        "paths": {"data": str(folder / "data"), "runs": str(folder / "runs")},
        "dataset": {**dataset, **sections.get("dataset", {})},
        "tokenizer": {"path": str(folder / "tokenizer")},
        "tokenize": {"path": str(folder / "tokens"), "num_workers": 0, **sections.get("tokenize", {})},
    }
    return Config(**values)
