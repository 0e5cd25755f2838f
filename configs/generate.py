"""The schema -> `default_config.yaml`, the page that shows every setting, and `config.schema.json`, for editors.

python -m configs.generate          (make configs)
"""

import json
from pathlib import Path
from typing import Any

from configs.expectations import find, sections
from configs.places import REPOSITORY
from configs.schema import Config
from utils.files import atomic_write
from utils.messages import info
from utils.yaml_text import KeyPath
from utils.yaml_writing import to_yaml

DEFAULT_CONFIG = REPOSITORY / "configs" / "default_config.yaml"
JSON_SCHEMA = REPOSITORY / "configs" / "config.schema.json"

_HEADER = """\
# Every setting of Liftoff, with its default and its meaning. Generated from configs/schema.py by `make configs`.
#
# Not a config to edit: copy configs/quickstart.yaml or a recipe into configs/user_configs/, and state there only what
# differs from this. On the command line: python train.py CONFIG optimizer.lr=3e-4 data.max_seq_len=512
#
# yaml-language-server: $schema=config.schema.json

"""


def default_config() -> str:
    """The text of default_config.yaml."""
    return _HEADER + to_yaml(Config().model_dump(), _description, _heading)


def _description(key: KeyPath) -> str:
    """What the schema says about a key; "" of a value inside of a key's mapping."""
    known, field, _ = find(key)
    return (field.description or "") if field is not None and known == key else ""


def _heading(key: KeyPath) -> str:
    """What the schema says about a section."""
    section = dict(sections()).get(key)
    if section is None:
        return ""
    groups = [f"Only one of {', '.join(group)}: setting one switches the others off." for group in section.one_of]
    return "\n".join([section.__doc__ or "", *groups])


def json_schema() -> str:
    """The text of config.schema.json: an editor that knows it completes and checks a config as it is typed."""
    schema = Config.model_json_schema()
    schema["title"] = "Liftoff config"
    _loosen(schema)
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _loosen(part: Any) -> None:
    """Leaves out what an editor has no use for, and allows an empty section (`trainer:` alone)."""
    if isinstance(part, dict):
        part.pop("trains", None)
        if "properties" in part:
            for inner in part["properties"].values():
                inner.pop("title", None)
        if part.get("type") == "object" and "properties" in part:
            part["type"] = ["object", "null"]
        if part.get("type") == "string" and "enum" not in part:
            part["type"] = ["string", "number"]  # `name: 0` and `revision: 12e4567` are read as text
        for inner in part.values():
            _loosen(inner)
    elif isinstance(part, list):
        for inner in part:
            _loosen(inner)


def main() -> None:
    """Writes both files."""
    texts: dict[Path, str] = {DEFAULT_CONFIG: default_config(), JSON_SCHEMA: json_schema()}
    for path, text in texts.items():
        with atomic_write(path, "w") as file:
            file.write(text)
        info(f"wrote {path.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
