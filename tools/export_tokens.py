"""A split's token shards -> the files of another program.

    python -m tools.export_tokens data/sample/tokens/train megatron elsewhere/sample
    python -m tools.export_tokens data/sample/tokens/train datasets elsewhere/sample

    datasets   a folder for `datasets.load_from_disk`, with input_ids (and labels, where not all is scored)
    nanogpt    NAME.bin: bare ids, uint16 (uint32 for vocabularies beyond 65,536)
    llmc       NAME_000000.bin, …: the same behind the header of llm.c
    megatron   NAME.bin and NAME.idx: each document is a sequence

Beside them goes a note of whose ids they are, which `tools.import_tokens` reads.
"""

import argparse
import sys
from pathlib import Path

from configs.command_line import Parser, at_the_door
from utils.files import shown
from utils.hashing import sha256_file
from utils.messages import UserError, size, table, warn


def main() -> None:
    """Reads the command line and exports."""
    from corpus.interop import FORMATS, write
    from corpus.shards import MANIFEST, ShardSet

    parser = Parser(
        prog="python -m tools.export_tokens", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", metavar="DIRECTORY", type=Path, help="the folder of a split's shards")
    parser.add_argument("form", metavar="FORMAT", choices=FORMATS, help=", ".join(FORMATS))
    parser.add_argument("path", metavar="NAME", type=Path, help="what to write: a folder, or the beginning of a name")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    arguments = parser.parse_args(sys.argv[1:])
    directory = arguments.directory.resolve()
    if not (directory / MANIFEST).exists() and (inside := sorted(directory.glob(f"*/{MANIFEST}"))):
        raise UserError(
            f"{shown(directory)} holds several splits; name one: {', '.join(shown(p.parent) for p in inside)}"
        )
    shards = ShardSet.open(directory.parent, directory.name)
    manifest = shards.manifest
    note = {
        "tokenizer": manifest["tokenizer"],
        "vocab_size": manifest["vocab_size"],
        "dtype": manifest["dtype"],
        "documents": manifest["documents"],
        "tokens": manifest["tokens"],
        "kind": manifest["kind"],
        "manifest": sha256_file(directory / MANIFEST),
    }
    files = write(arguments.form, shards, arguments.path, note)
    if shards.kind != "text" and arguments.form != "datasets":
        warn(f"which tokens are scored (kind {shards.kind}) has no place in {arguments.form}: all of them will be")
    rows = [
        ("documents", f"{manifest['documents']:,}"),
        ("tokens", f"{manifest['tokens']:,}"),
        *((shown(file), size(file.stat().st_size)) for file in files),
    ]
    table(f"{shown(directory)} for {arguments.form}", rows)


if __name__ == "__main__":
    at_the_door(main)
