"""The schema -> `default_config.yaml`, the page that shows every setting, and `config.schema.json`, for editors.

    python -m configs.generate          (make configs)
"""

import json
from pathlib import Path
from typing import Any

from configs.places import REPOSITORY
from configs.schema import Config
from configs.yaml_writing import description, to_yaml
from utils.files import atomic_write
from utils.messages import info

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
    return _HEADER + to_yaml(Config().model_dump(), description, headings=True)


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
