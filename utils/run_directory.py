"""The folder of a run: what lies where in it, and whether a config may begin or continue it.

    runs/<name>/  config.yaml · environment.json · metrics.jsonl · checkpoints/ · model/ · inference/ · generation/ · …

The same command continues a run; a config that would train something else is refused; nothing is ever deleted.
"""

import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from utils.environment import describe
from utils.files import atomic_write, make_folder, read_json, shown, write_json
from utils.messages import UserError, info, is_first_rank, warn
from utils.yaml_text import KeyPath, dotted, read_yaml
from utils.yaml_writing import flow, to_yaml

_MISSING = object()


class RunConfig(Protocol):
    """What is asked of a config."""

    def resolved(self) -> dict[str, Any]:
        """Every setting, as it is to be written."""

    def completed(self, values: dict[str, Any]) -> dict[str, Any]:
        """Settings that were written by an older Liftoff, with those that it did not have at their defaults."""

    def trains(self, key: KeyPath) -> bool:
        """Whether a run with another value of this key is another run."""


class RunDirectory:
    """The places of a run's files; they need not exist."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.inference = self.path / "inference"
        self.generation = self.path / "generation"
        self.pictures = self.path / "pictures"
        self._finished = self.path / "finished.json"
        self._lock: int | None = None

    def check(self, config: RunConfig, restart: bool = False) -> bool:
        """Whether there is anything left to train. Writes nothing, so that all else can be checked before `open`.

        Raises UserError where the run is of another config.
        """
        if self._restarts(restart):
            return True
        self._changes(config, config.resolved())
        return not self.finished

    def open(self, config: RunConfig, restart: bool = False) -> None:
        """Begins the run, or continues it with what may change (placement, evaluation, generation).

        restart: move what is there aside, to <name>.<time>, and begin anew. Only the first rank writes; others check
        what does not change under them.

        Raises UserError where the run is of another config, or another process is training it.
        """
        restart = self._restarts(restart)
        values = config.resolved()
        if not is_first_rank():
            if not restart:
                self._changes(config, values)
            return
        if restart:
            self._lock_it(make=False)
            self.move_aside()
        make_folder(self.path)
        self._lock_it()
        changes = self._changes(config, values)
        self._write(values, changes)

    @staticmethod
    def _restarts(asked: bool) -> bool:
        """Not in a job that Slurm has requeued: it is to continue its own work."""
        if asked and os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0"):
            info("the job was requeued: --restart was for its first start, and is ignored")
            return False
        return asked

    @property
    def begun(self) -> bool:
        """Whether there is anything of a training in it."""
        has_metrics = self.metrics.exists() and self.metrics.stat().st_size > 0
        return has_metrics or (self.checkpoints.is_dir() and any(self.checkpoints.iterdir())) or self.finished

    @property
    def finished(self) -> bool:
        """Whether the run was trained to its end."""
        return self._finished.exists()

    def mark_finished(self, **facts: Any) -> None:
        """Says that the run is at its end; the last thing that a training writes."""
        write_json(self._finished, {"at": _now(), **facts})

    def move_aside(self) -> Path | None:
        """Renames the folder to <name>.<time>. -> the new path; None where there was nothing."""
        if not self.path.exists():
            return None
        to = self.path.with_name(f"{self.path.name}.{_now().replace(':', '-')}")
        number = 1
        while to.exists():
            number += 1
            to = to.with_name(f"{self.path.name}.{_now().replace(':', '-')}.{number}")
        try:
            os.rename(self.path, to)
        except OSError as error:
            raise UserError(f"cannot move {shown(self.path)} aside: {(error.strerror or str(error)).lower()}") from None
        info(f"what was in {shown(self.path)} is now in {shown(to)}")
        return to

    def _changes(self, config: RunConfig, values: dict[str, Any]) -> dict[str, list[Any]]:
        """-> {key: [old, new]} of what has changed and may. Raises UserError for what may not."""
        if not self.begun or not self.config.exists():
            return {}
        layer = read_yaml(self.config.read_text(encoding="utf-8"), shown(self.config))
        if layer.problems:
            raise UserError(f"{layer.problems[0]}; --restart begins anew, and moves this run aside")
        old, new = _flat(config.completed(layer.values)), _flat(values)
        changed = {}
        for key in [*new, *(key for key in old if key not in new)]:
            before, after = old.get(key, _MISSING), new.get(key, _MISSING)
            # A whole number may have become a float by being written; True is not 1 here.
            if before != after or isinstance(before, bool) != isinstance(after, bool):
                changed[key] = [before, after]
        fatal = {key: pair for key, pair in changed.items() if config.trains(key)}
        if fatal:
            lines = [f"{dotted(key)}: {_value(before)} -> {_value(after)}" for key, (before, after) in fatal.items()]
            verb = "a setting that trains has" if len(fatal) == 1 else f"{len(fatal)} settings that train have"
            raise UserError(
                f"{shown(self.path)} is a run of another config: {verb} changed ({'; '.join(lines)}). "
                "Train it under another name (name=...), or --restart, which moves this run aside"
            )
        return {dotted(key): [None if part is _MISSING else part for part in pair] for key, pair in changed.items()}

    def _write(self, values: dict[str, Any], changes: dict[str, list[Any]]) -> None:
        with atomic_write(self.config, "w") as file:
            file.write("# Every setting of this run, as it was resolved.\n" + to_yaml(values))
        try:
            starts = read_json(self.environment)["starts"]
        except (UserError, KeyError, TypeError):
            starts = []
        start, patch = describe()
        start = {"at": _now(), **start}
        if changes:
            start["changed settings"] = changes
        if patch:
            (self.path / "code").mkdir(exist_ok=True)
            place = self.path / "code" / start["code"]["patch"]
            if not place.exists():
                with atomic_write(place) as file:
                    file.write(patch)
        write_json(self.environment, {"starts": [*starts, start]})

    def _lock_it(self, make: bool = True) -> None:
        """Holds the folder until this process ends, however it ends; where the file system knows locks."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        path = self.path / ".lock"
        if not make and not path.exists():
            return
        try:
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"cannot write {shown(self.path)}: {(error.strerror or str(error)).lower()}") from None
        try:
            # A lock of the process, not of the open file: orphaned workers do not hold it when this one is killed.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            with suppress(OSError):
                owner = os.pread(self._lock, 200, 0).decode(errors="replace").strip()
            os.close(self._lock)
            self._lock = None
            raise UserError(
                f"{shown(self.path)} is being trained by {owner or 'another process'}; wait for it, or stop it"
            ) from None
        except OSError:
            warn(f"{shown(self.path)}: this file system has no locks; take care not to train the run twice at once")
            return
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, by step; after a resume steps repeat, and the last line of each counts.

    A line that a kill has torn is skipped. An absent file has no lines.
    """
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    try:
        file = open(path, encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    with file:
        for text in file:
            with suppress(json.JSONDecodeError):
                line = json.loads(text)
                if isinstance(line, dict) and "kind" in line and isinstance(line.get("step"), int):
                    lines[line["kind"], line["step"], line.get("set")] = line
    return sorted(lines.values(), key=lambda line: line["step"])


def _flat(values: Any, above: KeyPath = ()) -> dict[KeyPath, Any]:
    if not isinstance(values, dict) or not values:
        return {above: values}
    return {key: value for name, inner in values.items() for key, value in _flat(inner, (*above, name)).items()}


def _value(value: Any) -> str:
    return "(not set)" if value is _MISSING else flow(value)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")
