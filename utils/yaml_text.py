"""YAML text -> its values, and for each value the line it stands on and how it was written.

Plain scalars are read as a researcher means them: `1e-3` is a number, `00:12:00:00` and `no` are text, `010` is ten
(YAML 1.1 has a text, 43200, false and eight). A key that stands twice is a problem, not a choice.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]  # ("trainer", "max_steps"); of a list's item the last is its number


@dataclass(frozen=True)
class Origin:
    """Where a value was given."""

    place: str  # "my.yaml:7", or "command line"
    written: str  # a scalar as it stands there; "" for mappings and lists


@dataclass
class Layer:
    """What one file, or the command line, says."""

    values: dict[Any, Any]
    origins: dict[KeyPath, Origin]
    problems: list[str]
    bad: set[KeyPath] = field(default_factory=set)  # keys whose values could not be read


# The libyaml loader is ten times as fast; wheels of PyYAML bring it, some systems' packages do not.
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Only composes nodes; which scalar is what is said below."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), None)
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), None)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9][0-9_]*$"), None)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?"
               r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
    None,
)  # fmt: skip
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^<<$"), None)


def read_yaml(text: str, name: str) -> Layer:
    """The whole of a config file. name: of the file, as problems should call it."""
    layer = Layer({}, {}, [])
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        layer.problems.append(_not_yaml(error, text, name))
        return layer
    if node is None or node.tag == "tag:yaml.org,2002:null":  # an empty file, or comments only
        return layer
    if not isinstance(node, yaml.MappingNode):
        layer.problems.append(f"{name}:{_line(node)}: a config is made of lines 'key: value'")
        return layer
    layer.values = _Reader(layer, name).value(node, (), ())
    return layer


def read_scalar(text: str, key: KeyPath, place: str) -> Layer:
    """The value of `key=value` on the command line: YAML too, so that lists and mappings can be given."""
    layer = Layer({}, {}, [])
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError:
        layer.problems.append(f"{place}: {dotted(key)}: '{text}' is not YAML; put it in quotes: \"{dotted(key)}='…'\"")
        return layer
    if node is None:  # `key=` is the empty text
        layer.values, layer.origins[key] = {"value": ""}, Origin(place, "''")
    else:
        layer.values = {"value": _Reader(layer, place, with_lines=False).value(node, key, ())}
    return layer


def dotted(key: KeyPath) -> str:
    """("trainer", "callbacks", 0) -> "trainer.callbacks.0"."""
    return ".".join(str(part) for part in key)


class _Reader:
    """Nodes of PyYAML -> values, filling the layer's origins and problems on the way."""

    def __init__(self, layer: Layer, name: str, with_lines: bool = True) -> None:
        self.layer, self.name, self.with_lines = layer, name, with_lines

    def place(self, node: yaml.Node) -> str:
        """file:line, or the name alone where lines say nothing."""
        return f"{self.name}:{_line(node)}" if self.with_lines else self.name

    def value(self, node: yaml.Node, key: KeyPath, above: tuple[yaml.Node, ...]) -> Any:
        """Any node. above: the nodes that it lies in, so that a loop is found."""
        if node in above:
            self.layer.problems.append(f"{self.place(node)}: '{dotted(key)}' contains itself")
            return None
        written = node.value if isinstance(node, yaml.ScalarNode) else ""
        if written and node.style in ("'", '"'):
            written = repr(written)
        self.layer.origins.setdefault(key, Origin(self.place(node), written))
        above = (*above, node)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, key, above)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*key, index), above) for index, item in enumerate(node.value)]
        return self.scalar(node, key)

    def mapping(self, node: yaml.MappingNode, key: KeyPath, above: tuple[yaml.Node, ...]) -> dict[Any, Any]:
        """A mapping; a key that stands twice is a problem."""
        values: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *other`
                merged += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self.layer.problems.append(f"{self.place(key_node)}: a key is a name, not a list or a mapping")
                continue
            is_number = key_node.tag == "tag:yaml.org,2002:int"
            name: Any = int(key_node.value) if is_number else key_node.value  # {0: label} for a model's id2label
            if name in lines:
                both = f"{self.place(key_node)}: '{dotted((*key, name))}' stands twice"
                self.layer.problems.append(both + (f", first in line {lines[name]}" if self.with_lines else ""))
                continue
            lines[name] = _line(key_node)
            # The line of the key, which is where a reader looks, not where a long value begins.
            written = value_node.value if isinstance(value_node, yaml.ScalarNode) else ""
            quoted = written and getattr(value_node, "style", None) in ("'", '"')
            self.layer.origins[(*key, name)] = Origin(self.place(key_node), repr(written) if quoted else written)
            values[name] = self.value(value_node, (*key, name), above)
        for other in merged:
            if isinstance(other, yaml.MappingNode):
                values = {**self.value(other, key, above), **values}
            else:
                self.layer.problems.append(f"{self.place(other)}: '<<' merges mappings only")
        return values

    def scalar(self, node: yaml.ScalarNode, key: KeyPath) -> Any:
        """Text, number, boolean or null, `1e-4` too is a number."""
        text, kind = node.value, node.tag.removeprefix("tag:yaml.org,2002:")
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        try:
            if kind == "int":
                return int(text)
            if kind == "float":
                return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan").lower())
        except ValueError:  # `!!int x`
            kind = "!"
        if kind not in ("str", "merge"):
            self.layer.problems.append(f"{self.place(node)}: {dotted(key)}: the tag {node.tag} is not understood")
            self.layer.bad.add(key)
        return text


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _not_yaml(error: yaml.YAMLError, text: str, name: str) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or "it holds a character that YAML does not allow"
    place = f"{name}:{mark.line + 1}" if mark else name
    line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return f"{place}: not YAML: indent with spaces, not with tabs"
    if "mapping values are not allowed" in problem:
        problem = "a ': ' where none can be; is the line before it complete, and is the indentation right?"
    return f"{place}: not YAML: {problem}"
