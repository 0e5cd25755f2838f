"""A tokenizer that was trained here -> its directory: files, and a manifest that says what it was made from."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from configs.places import tokenizer_dir
from configs.schema import Config
from corpus.documents import input_fingerprint
from corpus.raw import differences
from corpus.sources import source_of
from utils.files import atomic_folder, check_writable, read_json, shown
from utils.messages import UserError, table, warn

FORMAT = 1
MANIFEST = "manifest.json"


def made_from(config: Config, trainer: str) -> dict[str, Any]:
    """What a trained tokenizer depends on: settings and input. trainer: huggingface | sentencepiece."""
    return {**settings_of(config, trainer), "input": input_fingerprint(config, "train")}


def settings_of(config: Config, trainer: str) -> dict[str, Any]:
    """The settings among them."""
    settings = config.tokenizer.model_dump(exclude={"path", "revision"} if not config.tokenizer.retrain else {"path"})
    return {"trainer": trainer, **settings}


def finished(config: Config, trainer: str, restart: bool) -> dict[str, Any] | None:
    """The manifest of the tokenizer that is there already, if it is the one that would be trained.

    restart: what is there is moved aside. Raises UserError where it was made from something else, where
    tokenizer.path names another one, or where none could be written.
    """
    if config.tokenizer.path is not None:
        raise UserError(f"tokenizer.path={config.tokenizer.path} names a tokenizer; unset it to train one of your own")
    directory = tokenizer_dir(config)
    if restart and directory.exists():
        shutil.move(directory, directory.with_name(f"{directory.name}.{time.strftime('%Y%m%d-%H%M%S')}"))
    if not directory.exists():
        check_writable(directory.parent)
        return None
    if not (directory / MANIFEST).is_file():
        raise UserError(
            f"{shown(directory)} is there, but no trainer made it (no {MANIFEST}); use --restart to move it aside"
        )
    manifest = read_json(directory / MANIFEST)
    differing = differences(manifest["made_from"], made_from(config, trainer))
    if differing:
        raise UserError(
            f"the tokenizer in {shown(directory)} was made from something else: {'; '.join(differing)}. Use "
            "--restart to move it aside and train again, or set tokenizer.path to use another one"
        )
    return manifest


def changes(config: Config) -> list[str]:
    """How the tokenizer that was trained here differs from what the config would train now; nothing where none was.

    Text that is older than the tokenizer, and as long as it was, is taken to be the same; text that is gone as well."""
    path = tokenizer_dir(config) / MANIFEST
    if config.tokenizer.path is not None or not path.is_file():
        return []
    manifest = read_json(path)
    made = manifest["made_from"]
    now = {**settings_of(config, made["trainer"]), "input": made["input"]}
    try:
        source = source_of(config, "train")
        is_same = source is not None and source.sizes() == manifest.get("sizes")
        if not is_same or source.changed_since(path.stat().st_mtime):
            now["input"] = input_fingerprint(config, "train")
    except UserError:  # the raw text need not be there any more
        pass
    return differences(made, now)


def check(config: Config) -> None:
    """Raises UserError where the tokenizer that was trained here is not the one that the config describes.

    With tokenize.path it only warns: shards in a place of their own may be of other text."""
    differing = changes(config)
    if not differing:
        return
    where = shown(tokenizer_dir(config))
    said = f"the tokenizer in {where} was made from something else: {'; '.join(differing)}"
    if config.tokenize.path is None:
        raise UserError(f"{said}. Train it again with --restart, or set tokenizer.path={where} to use it all the same")
    warn(f"{said}; it is used all the same, as tokenize.path names a place of its own")


def write(config: Config, trainer: str, files: dict[str, bytes], report: list[tuple[str, str]]) -> Path:
    """Write the directory, whole or not at all. report: rows of the table, kept for when the command is given again."""
    directory = tokenizer_dir(config)
    source = source_of(config, "train")
    manifest = {
        "format_version": FORMAT,
        "made_from": made_from(config, trainer),
        "sizes": source.sizes() if source is not None else None,  # of the text: what can be compared without reading it
        "report": report,
    }
    with atomic_folder(directory) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return directory


def show(config: Config, manifest_report: list[tuple[str, str]], arguments: str, before: bool = False) -> None:
    """The table at the end. before: the tokenizer was there already."""
    rows = [(name, text) for name, text in manifest_report]
    rows.append(("where", shown(tokenizer_dir(config))))
    if before:
        rows.append(("finished", "before; nothing to do (--restart trains again)"))
    kind = f"retrained {config.tokenizer.retrain}" if config.tokenizer.retrain else config.tokenizer.kind
    table(f"Tokenizer: {kind}", rows, [f"python tokenize_data.py {arguments}"])


def special_strings(config: Config) -> tuple[dict[str, str], list[str]]:
    """(role -> string of the roles that the config gives, all strings in the order of their ids, each once)."""
    tokens = config.tokenizer.special_tokens
    roles = {role: getattr(tokens, role) for role in ("unk", "bos", "eos", "pad", "mask", "cls", "sep")}
    given = {role: text for role, text in roles.items() if text is not None}
    if any(not text for text in [*given.values(), *tokens.extra]):
        raise UserError("tokenizer.special_tokens: a special token cannot be empty text; use null for none")
    return given, list(dict.fromkeys([*given.values(), *tokens.extra]))
