"""What an exported model is -> its README.md: how to load it, what it was trained on and how, and how well it does."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from configs.schema import Config
from models.interface import TrainableModel
from training.export_forms import Form, Vocabulary

# What of the config is the model's history; the rest tells of one machine.
SECTIONS = ("seed", "dataset", "tokenizer", "data", "model", "objective", "optimizer", "schedule", "trainer")


def model_card(
    config: Config,
    form: Form,
    model: TrainableModel,
    vocabulary: Vocabulary,
    notes: tuple[str, ...],
    measures: dict[str, Any],
) -> str:
    """The text, in Markdown."""
    rows = model.facts.vocab_size
    facts = {
        "what it is": form.what,
        "parameters": f"{sum(weight.numel() for weight in model.parameters()):,}",
        "vocabulary": f"{vocabulary.tokens:,} tokens in {rows:,} rows"
        + (
            " (the rows beyond fill it up to a multiple of 64, and are never generated)"
            if rows > vocabulary.tokens
            else ""
        ),
        "longest row": model.facts.max_positions or "any",
        "weights": "float32",
        **{name: f"{value:.4f}" if isinstance(value, float) else value for name, value in measures.items()},
    }
    parts = [
        f"# {config.name or 'A model'}",
        "Trained with Liftoff.",
        "\n".join(f"- {name}: {value}" for name, value in facts.items()),
        "## How to load it",
        f"```python\n{_loading(form)}\n```",
    ]
    if form.packages:
        parts.append("Its code needs " + ", ".join(_pinned(name) for name in sorted(form.packages)) + ".")
    if notes:
        parts += ["## What to know", "\n".join(f"- {note}" for note in notes)]
    stated = _stated(config.model_dump(include=set(SECTIONS), mode="json"), Config().model_dump(mode="json"))
    text = yaml.safe_dump(
        {name: stated[name] for name in SECTIONS if name in stated}, sort_keys=False, allow_unicode=True
    )
    parts += ["## Config", "What differs from the defaults:", f"```yaml\n{text.strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def _stated(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """What differs from the defaults, places in the file system left out: they say nothing to others."""
    stated: dict[str, Any] = {}
    for name, value in values.items():
        default = defaults.get(name)
        if name.endswith("path") or value == default or (name == "pretrained" and Path(value).is_absolute()):
            continue
        stated[name] = _stated(value, default) if isinstance(value, dict) and isinstance(default, dict) else value
    return stated


def _loading(form: Form) -> str:
    if form.auto_class is None:
        return (
            'from safetensors.torch import load_file\n\nweights = load_file("model.safetensors")  # from this directory'
        )
    custom = ", trust_remote_code=True" if form.custom_code else ""
    return (
        f"from transformers import {form.auto_class}, AutoTokenizer\n\n"
        f'model = {form.auto_class}.from_pretrained("."{custom})  # this directory\n'
        f'tokenizer = AutoTokenizer.from_pretrained(".")'
    )


def _pinned(package: str) -> str:
    try:
        return f"{package}=={version(package).partition('+')[0]}"
    except PackageNotFoundError:
        return package
