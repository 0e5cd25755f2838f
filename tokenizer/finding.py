"""A directory, a file or a name on the Hub -> the files of a tokenizer: name -> bytes."""

import json
import re
import tempfile
from pathlib import Path

from utils.messages import UserError

# Beside a .model trained here: roles that the model does not know, as {"mask": "<mask>"}. Where this file lies, the
# .model is what encodes, and a tokenizer.json is only its translation for transformers.
SPECIALS = "specials.json"

BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", SPECIALS)
OTHER_VOCABULARIES = ("vocab.json", "merges.txt", "vocab.txt")
# What is fetched of a repository on the Hub.
HUB_FILES = ["tokenizer.json", "*.model", *BESIDE, *OTHER_VOCABULARIES, "config.json"]
# Classes of transformers whose ids are those of their .model; others shift them or add to them.
PLAIN_CLASSES = ("Llama", "T5", "Gemma", "PreTrained", "Tokenizers", "SentencePiece")


def find_files(path_or_name: str, revision: str | None = None) -> dict[str, bytes]:
    """The tokenizer's files: tokenizer.json or a .model, and what lies beside them.

    Raises UserError where there is no tokenizer, or where one cannot be had.
    """
    path = Path(path_or_name)
    if path.is_file():
        return _of_file(path)
    if path.is_dir():
        return gather(path)
    if re.fullmatch(r"[\w][\w.-]*(/[\w][\w.-]*)?", path_or_name):
        return gather(_from_hub(path_or_name, revision))
    raise UserError(f"no tokenizer at {path_or_name}; train one, or correct tokenizer.path")


def _of_file(path: Path) -> dict[str, bytes]:
    if path.suffix not in (".json", ".model"):
        raise UserError(f"{path} is no tokenizer: tokenizer.path is a directory, a tokenizer.json or a .model")
    files = _beside(path.parent)
    if path.suffix == ".model":
        return {path.name: path.read_bytes(), **files}
    files.pop(SPECIALS, None)
    return {"tokenizer.json": path.read_bytes(), **files}


def gather(directory: Path) -> dict[str, bytes]:
    """The files of the tokenizer in a directory."""
    models = {path.name: path.read_bytes() for path in sorted(directory.glob("*.model"))}
    files = _beside(directory)
    if (directory / "tokenizer.json").is_file():
        own = models if SPECIALS in files else {}
        return {"tokenizer.json": (directory / "tokenizer.json").read_bytes(), **files, **own}
    if models:
        _check_class(directory, files)
        return {**models, **files}
    if any((directory / name).is_file() for name in OTHER_VOCABULARIES):
        return _through_transformers(directory)
    raise UserError(
        f"no tokenizer in {directory}: neither a tokenizer.json nor a .model; train one, or correct tokenizer.path"
    )


def _beside(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in BESIDE if (directory / name).is_file()}


def _check_class(directory: Path, files: dict[str, bytes]) -> None:
    name = json.loads(files.get("tokenizer_config.json", b"{}")).get("tokenizer_class") or "PreTrained"
    if not name.startswith(PLAIN_CLASSES):
        raise UserError(
            f"{directory}: the ids of {name} are not those of its .model; save a tokenizer.json beside it with "
            "transformers.AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )


def _through_transformers(directory: Path) -> dict[str, bytes]:
    """Files of older tokenizers (vocab.json and merges.txt, vocab.txt), rewritten as a tokenizer.json."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory))
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            files = gather(Path(folder))
    except Exception as problem:
        raise UserError(f"{directory}: transformers cannot read this tokenizer: {problem}") from problem
    # Some classes answer a file that they do not know with an empty tokenizer.
    if not tokenizer("a b c", add_special_tokens=False)["input_ids"]:
        raise UserError(f"{directory}: transformers makes an empty tokenizer of this; give a tokenizer.json instead")
    return files


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=HUB_FILES))
    except Exception as problem:
        first_line = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        raise UserError(
            f"no tokenizer at {name}: there is no such path here, and the Hub answers: {first_line}; "
            "correct tokenizer.path, or fetch it where there is a network"
        ) from problem
