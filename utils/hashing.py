"""Files, bytes and settings -> their sha256, as hexadecimal text."""

import hashlib
import json
import os
from typing import Any


def sha256_bytes(data: bytes | memoryview) -> str:
    """Of bytes in memory."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Of what a file holds, in constant memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Of a value made of dicts, lists, text, numbers, booleans and None; the order of keys makes no difference."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return sha256_bytes(text.encode("utf-8", "surrogatepass"))
