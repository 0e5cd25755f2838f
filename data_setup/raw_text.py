"""Records of a source -> the raw folder: `<split>-00000.jsonl` …, and a manifest when all is there.

Files are written whole, a round at a time, and `progress.json` says after each how far the source has been read, so
that a killed download goes on there. Killed between the two it writes the same files again.
"""

import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from configs.places import raw_dir
from configs.schema import Config
from corpus.raw import RAW_FORMAT, differences, raw_settings
from utils.files import atomic_write, make_folder, read_json, shown, write_json
from utils.hashing import sha256_bytes
from utils.messages import UserError


class RawFolder:
    """The raw text of a dataset while it is made."""

    def __init__(self, config: Config, restart: bool = False) -> None:
        """Opens what an earlier, killed run has left. restart: moves aside what is there.

        Raises UserError where that was made with other settings.
        """
        self.path: Path = raw_dir(config)
        self.settings = raw_settings(config)
        if restart and self.path.exists():
            aside = self.path.with_name(f"{self.path.name}.{time.strftime('%Y%m%d-%H%M%S')}")
            shutil.move(self.path, aside)
        make_folder(self.path)
        self.state: dict[str, Any] = {"settings": self.settings, "read": {}, "splits": {}, "notes": {}}
        self.finished = False
        for name in ("manifest.json", "progress.json"):
            if (self.path / name).is_file():
                self.state = read_json(self.path / name)
                self.finished = name == "manifest.json"
                self._check()
                break
        # How much of what is to be written was there before: (documents, bytes).
        self.resumed = sum(entry["documents"] for entry in self.splits.values())

    @property
    def splits(self) -> dict[str, Any]:
        """By split: {"documents", "bytes", "text_bytes", "files": [{"name", "sha256", "bytes", "documents"}]}."""
        return self.state["splits"]

    @property
    def notes(self) -> dict[str, Any]:
        """What is worth knowing about the source: revision, licence …"""
        return self.state["notes"]

    def rows_read(self, stream: str) -> int:
        """How many rows of a stream of the source are done."""
        return self.state["read"].get(stream, 0)

    def is_full(self, split: str) -> bool:
        """Whether the split has reached its cap."""
        return bool(self.splits.get(split, {}).get("full"))

    def add_round(
        self, stream: str, rows: int, records: dict[str, list[bytes]], text_bytes: dict[str, int], full: Iterable[str]
    ) -> None:
        """Write the records (JSON lines) that `rows` more rows of `stream` have given, by split."""
        for split, lines in records.items():
            entry = self.splits.setdefault(
                split, {"documents": 0, "bytes": 0, "text_bytes": 0, "full": False, "files": []}
            )
            entry["full"] = entry["full"] or split in full
            if not lines:
                continue
            name = f"{split}-{len(entry['files']):05}.jsonl"
            content = b"".join(lines)
            with atomic_write(self.path / name) as file:
                file.write(content)
            entry["files"].append(
                {"name": name, "sha256": sha256_bytes(content), "bytes": len(content), "documents": len(lines)}
            )
            entry["documents"] += len(lines)
            entry["bytes"] += len(content)
            entry["text_bytes"] += text_bytes[split]
        self.state["read"][stream] = self.rows_read(stream) + rows
        write_json(self.path / "progress.json", self.state)

    def finish(self) -> None:
        """Write the manifest: all is there."""
        write_json(self.path / "manifest.json", {"format_version": RAW_FORMAT, **self.state})
        (self.path / "progress.json").unlink(missing_ok=True)
        self.finished = True

    def _check(self) -> None:
        differing = differences(self.state["settings"], json.loads(json.dumps(self.settings)))
        if differing:
            raise UserError(
                f"the raw text in {shown(self.path)} was made with other settings: {'; '.join(differing)}. Use "
                "--restart to move it aside and make it again, or choose another place with dataset.raw_path"
            )


def json_line(record: dict[str, Any]) -> bytes:
    """A record as a line of UTF-8. What JSON does not know (dates …) is written as text."""
    return (json.dumps(record, ensure_ascii=False, default=str) + "\n").encode("utf-8", "surrogatepass")
