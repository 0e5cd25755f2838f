"""A config file and what the command line changes in it -> a checked `Config`, or every problem at once.

    defaults (schema.py)  <-  the file  <-  key.path=value on the command line

A later layer's value replaces an earlier one's; where of a group only one key may be set, its choice replaces theirs.
"""

import copy
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import ValidationError

from configs import contradictions, expectations
from configs.code_arguments import check_code
from configs.expectations import find, section_of
from configs.paths import expand_paths
from configs.places import REPOSITORY
from configs.schema import Config, Section
from utils.messages import UserError
from utils.yaml_text import KeyPath, Layer, Origin, dotted, read_scalar, read_yaml

COMMAND_LINE = "command line"


@dataclass
class _Loading:
    """A config on its way: what the layers have said so far, where, and what is wrong with it."""

    name: str  # of the file, as the user typed it
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)  # each begins with its place
    bad: set[KeyPath] = field(default_factory=set)  # keys that have a problem of their own
    reported: set[KeyPath] = field(default_factory=set)  # those of them whose value is not what the schema expects

    def origin(self, key: KeyPath) -> Origin | None:
        """Where a key was given, or the nearest one above it; None for a default."""
        while key:
            if key in self.origins:
                return self.origins[key]
            key = key[:-1]
        return None

    def stated_last(self, keys: Sequence[KeyPath]) -> KeyPath:
        """Of keys that contradict each other the one to report: on the command line, else in the file, else above."""
        stated = [key for key in keys if key in self.origins]
        typed = [key for key in stated if self.origins[key].place == COMMAND_LINE]
        return next(iter([*typed, *stated, *(key for key in keys if self.origin(key)), keys[0]]))

    def add(self, key: KeyPath, problem: str) -> None:
        """Notes a problem, with the place where its key is stated."""
        origin = self.origin(key)
        self.problems.append(f"{origin.place if origin else self.name}: {problem}")
        self.bad.add(key)

    def is_bad(self, key: KeyPath) -> bool:
        """Whether it, something above it or something in it has a problem."""
        return any(key[: len(other)] == other or other[: len(key)] == key for other in self.bad)


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Reads and checks a config. overrides: `key.path=value`, each value as YAML.

    Paths come out absolute (a relative one is relative to the repository), and `name` is the file's stem unless given.
    Raises UserError with one line for each problem: its file and line, the key, what was expected.
    """
    loading = _Loading(_shown(path))
    file = read_yaml(_read(path), loading.name)
    loading.problems += file.problems
    loading.bad |= file.bad
    loading.reported |= file.bad
    _check_groups(file.values, file.origins, loading)
    _apply_file(file, loading)
    _apply_overrides(overrides, loading)
    _read_as_meant(loading.values, Config, (), loading)
    config = _validate(loading)
    if config is not None:
        for keys, problem in [*contradictions.find(config), *check_code(config)]:
            if not any(loading.is_bad(key) for key in keys):
                loading.add(loading.stated_last(keys), problem)
    values, written = expand_paths(loading.values, loading.is_bad, loading.add)
    if loading.problems or config is None:
        raise UserError("\n".join(_in_order(loading.problems)))
    if values.get("name") is None:
        values["name"] = Path(path).name.removesuffix(".yaml").removesuffix(".yml")
    config = Config.model_validate(values)
    config._origins.update({key: origin.place for key, origin in loading.origins.items()})
    config._written.update(written)
    return config


def _shown(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    return os.path.relpath(text) if text.startswith(os.getcwd() + os.sep) else text


def _read(path: str | os.PathLike[str]) -> str:
    """The text of a config file, or a UserError that names the nearest one."""
    name = _shown(path)
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        others = {file.name: file for file in sorted((REPOSITORY / "configs").rglob("*.yaml"))}
        near = get_close_matches(Path(path).name, others, n=1, cutoff=0.6)
        hint = f"; did you mean {_shown(others[near[0]])}?" if near else ""
        raise UserError(f"no config file {name}{hint}") from None
    except IsADirectoryError:
        raise UserError(f"{name} is a folder; name a config file in it") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not a text file: byte {error.start} is not UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {name}: {(error.strerror or str(error)).lower()}") from None


# --- layers ---------------------------------------------------------------------------------------------------------


def _apply_file(layer: Layer, loading: _Loading) -> None:
    loading.origins.update(layer.origins)
    loading.values = layer.values
    _choose(loading.values, Config)


def _choose(values: dict[str, Any], section: type[Section]) -> None:
    """Where a layer sets a key of a group, the others are null: the default's choice, or an earlier layer's, is off."""
    for group in section.one_of:
        chosen = [name for name in group if values.get(name) is not None]
        for name in group:
            if chosen and name not in chosen:
                values[name] = None
    for name, inner in _inner_sections(section):
        if values.get(name) is None:
            values.pop(name, None)  # `trainer:` with nothing below it
        elif isinstance(values[name], dict):
            _choose(values[name], inner)


def _inner_sections(section: type[Section]) -> list[tuple[str, type[Section]]]:
    inner = [(name, section_of(info)) for name, info in section.model_fields.items()]
    return [(name, other) for name, other in inner if other is not None]


def _check_groups(values: dict[str, Any], origins: dict[KeyPath, Origin], loading: _Loading) -> None:
    """Two keys of a group in one layer contradict each other."""
    for above, section in expectations.sections():
        inner: Any = values
        for name in above:
            inner = inner.get(name) if isinstance(inner, dict) else None
        for group in section.one_of if isinstance(inner, dict) else ():
            chosen = [name for name in group if inner.get(name) is not None]
            if len(chosen) > 1:
                first, *others = ((*above, name) for name in chosen)
                both = " and ".join(dotted(other) for other in (first, *others))
                loading.problems.append(f"{origins[others[-1]].place}: {both} contradict each other; set only one")
                loading.bad.update((first, *others))


def _apply_overrides(overrides: Sequence[str], loading: _Loading) -> None:
    layer = Layer({}, {}, [])
    for override in overrides:
        name, sign, text = override.partition("=")
        key: KeyPath = tuple(name.split("."))
        if not sign or not all(key):
            loading.problems.append(f"{COMMAND_LINE}: '{override}' is not of the form key.path=value")
            continue
        read = read_scalar(text, key, COMMAND_LINE)
        loading.problems += read.problems
        if not read.problems:
            _set(key, read.values["value"], read.origins, loading)
            _nest(layer.values, key, read.values["value"])
            layer.origins.update(read.origins)
    _check_groups(layer.values, layer.origins, loading)


def _nest(values: dict[Any, Any], key: KeyPath, value: Any) -> None:
    for name in key[:-1]:
        inner = values.get(name)
        values[name] = values = inner if isinstance(inner, dict) else {}
    values[key[-1]] = value


def _set(key: KeyPath, value: Any, origins: dict[KeyPath, Origin], loading: _Loading) -> None:
    """One override. Inside of a key with a mapping for its value, the rest of that mapping stays."""
    known, info, section = find(key)
    values: Any = loading.values
    for name in known[:-1] if info else known:
        if not isinstance(values.get(name), dict):
            values[name] = {}
        values = values[name]
    if info and len(known) < len(key):
        inside = values.get(known[-1])
        if inside is None:
            inside = copy.deepcopy(info.get_default(call_default_factory=True)) or {}
        if not isinstance(inside, dict):
            return loading.problems.append(
                f"{COMMAND_LINE}: {dotted(known)} has no keys, so '{dotted(key)}' cannot be set"
            )
        values[known[-1]] = inside
        _nest(inside, key[len(known) :], value)
    elif info or len(known) < len(key):
        _nest(values, key[len(known) - bool(info) :], value)
    elif isinstance(value, dict):  # a whole section: its keys one by one
        for name, inner in value.items():
            _set(
                (*key, name),
                inner,
                {place: origin for place, origin in origins.items() if place[: len(key)] == key},
                loading,
            )
    else:
        _nest(loading.values, key, value)
    stale = [place for place in loading.origins if place[: len(key)] == key and len(place) > len(key)]
    for place in stale if not isinstance(value, dict) else ():
        del loading.origins[place]
    loading.origins.update(origins)
    if not info and len(known) < len(key):  # unknown: pydantic will name only its first part
        loading.origins.setdefault(key[: len(known) + 1], Origin(COMMAND_LINE, ""))
    if info and value is not None:
        for group in section.one_of:
            for other in group if known[-1] in group else ():
                if other != known[-1]:
                    values[other] = None


# --- types and ranges -----------------------------------------------------------------------------------------------


def _read_as_meant(values: Any, annotation: Any, key: KeyPath, loading: _Loading) -> Any:
    """Numbers where text is expected are the text that was written (`revision: 12e4567`, `name: 0`), and whole numbers
    may be written as 1e9. Changes `values` in place and returns it."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        for name, inner in values.items() if isinstance(values, dict) else ():
            info = annotation.model_fields.get(name)
            if info is not None:
                values[name] = _read_as_meant(inner, info.annotation, (*key, name), loading)
        return values
    if isinstance(values, (dict, list)):
        members = [member for member in _flat(annotation) if get_origin(member) is type(values)]
        for name in (values if isinstance(values, dict) else range(len(values))) if members else ():
            values[name] = _read_as_meant(values[name], get_args(members[0])[-1], (*key, name), loading)
        return values
    is_number = isinstance(values, (int, float)) and not isinstance(values, bool)
    origin = loading.origins.get(key)
    if is_number and origin and not expectations.takes(annotation, type(values)):
        if expectations.takes(annotation, str):
            return origin.written
        exponent = isinstance(values, float) and re.fullmatch(r"[\d_.]+[eE]\+?\d+", origin.written)
        if exponent and values.is_integer() and expectations.takes(annotation, int):
            return int(values)
    return values


def _flat(annotation: Any) -> list[Any]:
    """The members of a union, Annotated stripped."""
    if get_origin(annotation) is Annotated:
        return _flat(get_args(annotation)[0])
    if get_origin(annotation) in (list, dict) or not get_args(annotation):
        return [annotation]
    return [inner for member in get_args(annotation) for inner in _flat(member)]


def _validate(loading: _Loading) -> Config | None:
    """The config; without the keys that have problems, so that the others can be checked as well."""
    values = loading.values
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_context=False):
            _report(problem["type"], problem["loc"], loading)
    values = copy.deepcopy(values)
    for key in sorted(loading.bad, key=len):
        inner: Any = values
        for name in key[:-1]:
            inner = inner.get(name, {}) if isinstance(inner, dict) else {}
        if isinstance(inner, dict):
            inner.pop(key[-1], None)
    try:
        return Config.model_validate(values)
    except ValidationError:
        return None


def _report(kind: str, location: tuple[int | str, ...], loading: _Loading) -> None:
    """One of pydantic's errors, in our words; those about several members of a union are one."""
    key = _key_of(location, loading.values)
    if key in loading.reported:
        return
    loading.reported.add(key)
    known, info, section = find(key)
    value = _value_at(key, loading.values)
    if kind == "extra_forbidden":
        origin = loading.origin(key)
        on_command_line = origin is not None and origin.place == COMMAND_LINE
        inside = _only_key(value, key) if on_command_line else key  # foo.bar=1 came as {foo: {bar: 1}}
        loading.add(key, f"unknown setting '{dotted(inside)}'{expectations.nearest(inside)}")
    elif info is None:
        loading.add(key, f"{dotted(key)} is a section with keys of its own, got {expectations.shown(value)}")
    elif location[-1] == "[key]":
        keys = " | ".join(expectations.choices(info.annotation))
        loading.add(key, f"{dotted(known)} has the keys {keys}, got {key[-1]!r}")
    else:
        annotation: Any = info.annotation
        metadata = info.metadata
        if len(key) > len(known):
            annotation, metadata = _element(annotation), []
        origin = loading.origins.get(key)
        got = expectations.shown(value, origin.written if origin else "")
        near = ""
        if isinstance(value, str):
            close = get_close_matches(value.lower(), expectations.choices(annotation), n=1, cutoff=0.6)
            near = f"; did you mean '{close[0]}'?" if close else ""
        loading.add(key, f"{dotted(key)} should be {expectations.expected(annotation, metadata)}, got {got}{near}")


def _key_of(location: tuple[int | str, ...], values: Any) -> KeyPath:
    """The part of pydantic's location that is a place in the values: it also names members of unions."""
    key: list[int | str] = []
    for part in location:
        inside_dict = isinstance(values, dict) and part in values
        inside_list = isinstance(values, list) and isinstance(part, int) and part < len(values)
        if inside_dict or inside_list:
            key.append(part)
            values = values[part]
    return tuple(key)


def _only_key(value: Any, key: KeyPath) -> KeyPath:
    while isinstance(value, dict) and len(value) == 1:
        ((name, value),) = value.items()
        key = (*key, name)
    return key


def _value_at(key: KeyPath, values: Any) -> Any:
    for part in key:
        values = values[part]
    return values


def _element(annotation: Any) -> Any:
    """What is expected of the items of a list or the values of a mapping."""
    members = [member for member in _flat(annotation) if get_origin(member) in (list, dict)]
    return get_args(members[-1])[-1] if members else annotation


def _in_order(problems: list[str]) -> list[str]:
    """By line; the command line's last; each once."""

    def place(problem: str) -> tuple[bool, int]:
        line = re.match(r"[^\n]*?:(\d+): ", problem)
        return problem.startswith(COMMAND_LINE), int(line[1]) if line else 0

    return sorted(dict.fromkeys(problems), key=place)
