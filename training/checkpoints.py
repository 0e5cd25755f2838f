"""A run's state <-> a folder of files that is whole or not there, whenever the process is killed.

    checkpoints/step-00000500/    everything, to go on from        checkpoints/best-00000500/    weights, to use
        model.safetensors             weights, under the model's own names
        optimizer.safetensors         tensors of the optimizer, and of callbacks
        state.json                    all else: step, tokens, history, loss scale, the optimizer's numbers
        manifest.json                 size and sha256 of the files above; written last

A folder is written under a hidden name, synced, and renamed. Nothing in it can run code when it is read.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from utils.files import atomic_folder, read_json, write_json
from utils.hashing import sha256_file
from utils.messages import UserError, warn

FORMAT = 1
NAME = re.compile(r"(step|best)-(\d+)")
LEFTOVER = re.compile(r"\.((?:step|best)-\d+)\.(?:.*\.)?(tmp|old|trash)")


def name_of(kind: str, step: int) -> str:
    """kind: step | best"""
    return f"{kind}-{step:08d}"


def write(folder: Path, name: str, parts: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]) -> Path:
    """Writes one checkpoint; what was there under this name gives way only once the new one is whole.

    Args:
        parts: {file name without .safetensors: {name: tensor}}
        state: what json can hold
    Raises:
        UserError: it cannot be written (disk full, no permission)
    """
    aliases = {}
    with atomic_folder(folder / name) as temporary:
        for part, tensors in parts.items():
            kept, aliases[part] = _without_sharing(tensors)
            save_file(kept, temporary / f"{part}.safetensors")
        write_json(temporary / "state.json", {**state, "aliases": aliases})
        files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in temporary.iterdir()}
        write_json(temporary / "manifest.json", {"format": FORMAT, "files": files})
    return folder / name


def problem_with(path: Path) -> str | None:
    """Why a checkpoint cannot be used; None when it is whole."""
    try:
        manifest = read_json(path / "manifest.json")
        if manifest["format"] != FORMAT:
            return f"its format is {manifest['format']}, not {FORMAT}"
        for name, facts in manifest["files"].items():
            if (path / name).stat().st_size != facts["bytes"] or sha256_file(path / name) != facts["sha256"]:
                return f"{name} is not what was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        return str(error) or type(error).__name__
    return None


def listed(folder: Path, kind: str) -> list[Path]:
    """Checkpoints of a kind, newest first, whole or not."""
    found = [
        (int(match[2]), path) for path in _children(folder) if (match := NAME.fullmatch(path.name)) and match[1] == kind
    ]
    return [path for _, path in sorted(found, reverse=True)]


def newest(folder: Path, kind: str = "step") -> Path | None:
    """The newest whole checkpoint; None where there is none at all.

    Raises:
        UserError: there are some, but none is whole
    """
    found = listed(folder, kind)
    for path in found:
        problem = problem_with(path)
        if problem is None:
            return path
        warn(f"{path} is broken ({problem}); passed over")
    if found:
        raise UserError(
            f"none of the {len(found)} checkpoints ({kind}-*) in {folder} is whole; start again with --restart"
        )
    return None


def find(folder: Path, which: str) -> Path:
    """which: best | last, of the checkpoints in a folder.

    Raises:
        UserError: there is no such checkpoint, or none is whole
    """
    path = newest(folder, {"best": "best", "last": "step"}[which])
    if path is None:
        others = {"best": "last", "last": "best"}[which]
        hint = f"; there is '{others}'" if listed(folder, {"best": "best", "last": "step"}[others]) else "; train first"
        raise UserError(f"no '{which}' checkpoint in {folder}{hint}")
    return path


def read_state(path: Path) -> dict[str, Any]:
    """All that is not tensors."""
    return read_json(path / "state.json")


def read_tensors(path: Path, part: str) -> dict[str, Tensor]:
    """Tensors on the CPU, shared ones under each of their names."""
    tensors = load_file(path / f"{part}.safetensors")
    for alias, name in read_state(path)["aliases"].get(part, {}).items():
        tensors[alias] = tensors[name]
    return tensors


def check_named(path: Path) -> None:
    """Of a checkpoint that the user named.

    Raises:
        UserError: it is not there or not whole
    """
    problem = problem_with(path)
    if problem is not None:
        raise UserError(f"the checkpoint {path} is not whole: {problem}")


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Weights under their clean names: what torch.compile puts in between is left out."""
    return {clean(name): tensor for name, tensor in model.state_dict().items()}


def load_weights(model: nn.Module, path: Path) -> None:
    """Every weight, or none.

    Raises:
        UserError: the checkpoint is of another model
    """
    saved = read_tensors(path, "model")
    own = model.state_dict()
    wrong = [f"{name} is missing" for name in own if clean(name) not in saved]
    wrong += [f"{name} is unknown" for name in saved.keys() - {clean(name) for name in own}]
    wrong += [
        f"{name} is {tuple(saved[clean(name)].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if clean(name) in saved and saved[clean(name)].shape != tensor.shape
    ]
    if wrong:
        raise UserError(f"{path} holds another model: {'; '.join(wrong[:5])}{' …' if len(wrong) > 5 else ''}")
    model.load_state_dict({name: saved[clean(name)] for name in own})


def clean(name: str) -> str:
    """'_orig_mod.' is torch.compile's."""
    return name.replace("_orig_mod.", "")


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A nest of dicts, lists, tuples and numbers -> the same for json, its tensors put aside under their paths."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, pack(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [pack(item, f"{name}/{index}", tensors) for index, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(f"{name} holds a {type(value).__name__}, which a checkpoint cannot keep")


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of pack."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unpack(item, tensors) for key, item in content}
    items = [unpack(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)


def keep_newest(written: Path, count: int) -> None:
    """Removes all of its kind but the last `count` up to this one. Call it only after it is whole.

    Those of later steps are broken, or best weights of a life that was killed: they may never come again.
    """
    others = [path for path in listed(written.parent, written.name.partition("-")[0]) if path != written]
    earlier = [path for path in others if path.name < written.name]
    for path in set(others) - set(earlier[: count - 1]):
        trash = path.with_name(f".{path.name}.trash")
        path.rename(trash)  # at once, so that a kill leaves no half of a checkpoint under its name
        shutil.rmtree(trash, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Clears up what a killed process has left half done. Only for the one process that writes here."""
    for path in _children(folder):
        left = LEFTOVER.fullmatch(path.name)
        if left and left[2] == "old" and not (folder / left[1]).exists():
            path.rename(folder / left[1])  # killed after the old one had given way, before the new one took its name
        elif left:
            shutil.rmtree(path, ignore_errors=True)


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _without_sharing(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """safetensors holds each tensor once: the other names of a shared one (a tied head) go into the aliases."""
    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    names: dict[tuple, str] = {}
    for name, tensor in tensors.items():
        key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in names:
            aliases[name] = names[key]
            continue
        names[key] = name
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        tensor = tensor.detach().cpu().contiguous()
        kept[name] = tensor if whole else tensor.clone(memory_format=torch.contiguous_format)
    return kept, aliases
