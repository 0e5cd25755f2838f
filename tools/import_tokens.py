"""Token files of another program -> a split's shards, which training takes like any other.

    python -m tools.import_tokens configs/user_configs/mine.yaml nanogpt elsewhere/train.bin --split train

    datasets   a folder of `save_to_disk`: input_ids, a row a document
    nanogpt    bare ids (a .bin, a folder of them, or a pattern in quotes), cut after each EOS
    llmc       the same behind the header of llm.c
    megatron   the prefix of a .bin and an .idx

The config names the tokenizer that made the ids (tokenizer.path) and where the shards go (tokenize.path).
"""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.command_line import Parser, at_the_door
from configs.loading import load_config
from configs.places import shards_dir, splits
from configs.schema import Config
from utils.files import shown
from utils.messages import UserError, info, table

if TYPE_CHECKING:
    from tokenizer.tokenizer import Tokenizer


def main() -> None:
    """Reads the command line and imports."""
    from corpus.interop import FORMATS

    parser = Parser(
        prog="python -m tools.import_tokens", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", metavar="CONFIG", help="the config file")
    parser.add_argument("form", metavar="FORMAT", choices=FORMATS, help=", ".join(FORMATS))
    parser.add_argument("path", metavar="PATH", type=Path, help="what to read")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key.path=value", help="settings to override")
    parser.add_argument("--split", default="train", help="which split it is to be (train)")
    parser.add_argument("--dtype", choices=("uint16", "uint32"), help="of nanogpt's ids (uint16)")
    parser.add_argument("--by-eos", action="store_true", help="rows and sequences run on: cut after EOS alone")
    parser.add_argument("--no-text", action="store_true", help="do not decode: no bits per byte can be told then")
    parser.add_argument("--restart", action="store_true", help="move a split that is there aside")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    arguments = parser.parse_intermixed_args(sys.argv[1:])
    bring(load_config(arguments.config, arguments.overrides), arguments)


def bring(config: Config, arguments: argparse.Namespace) -> None:
    """Raises UserError where the shards are there already, or the ids are another tokenizer's."""
    from corpus.importing import import_tokens
    from corpus.interop import note_of, read
    from tokenizer.tokenizer import Tokenizer

    split, form, path = arguments.split, arguments.form, arguments.path
    if split not in splits(config):
        raise UserError(f"--split {split}: the config has {', '.join(splits(config))}")
    folder = shards_dir(config) / split
    if folder.exists() and not arguments.restart:
        raise UserError(f"{shown(folder)} is there already; choose another tokenize.path, or --restart moves it aside")
    tokenizer = Tokenizer.configured(config)
    note = note_of(form, path) or {}
    if note.get("tokenizer", tokenizer.fingerprint) != tokenizer.fingerprint:
        raise UserError(
            f"{shown(path)} was exported from shards of another tokenizer (fingerprint {note['tokenizer'][:12]}, "
            f"configured: {tokenizer.fingerprint[:12]}); set tokenizer.path to that one"
        )
    eos = tokenizer.eos_id
    if eos is None and (arguments.by_eos or form in ("nanogpt", "llmc")):
        if arguments.by_eos:
            raise UserError("--by-eos: the tokenizer has no EOS to cut after")
        info("the tokenizer has no EOS to cut after: each file is one document")
    source = read(form, path, split, eos, arguments.by_eos, arguments.dtype or note.get("dtype", "uint16"))
    for said in source.notes:
        info(said)
    started = time.monotonic()
    if folder.exists():
        aside = folder.with_name(f"{split}.{time.strftime('%Y%m%d-%H%M%S')}")
        folder.rename(aside)
        info(f"what was in {shown(folder)} is now in {shown(aside)}")
    manifest = import_tokens(config, tokenizer, split, folder, form, source, with_text=not arguments.no_text)
    show(folder, manifest, tokenizer, time.monotonic() - started)


def show(folder: Path, manifest: dict[str, Any], tokenizer: "Tokenizer", seconds: float) -> None:
    """The table at the end, with the beginning of the text: the surest sign of a wrong tokenizer."""
    from corpus.shards import ShardSet

    shard = ShardSet.open(folder.parent, folder.name).shards[0]
    each = f"{manifest['bytes'] / manifest['tokens']:.2f} bytes per token" if manifest["bytes"] else "text not counted"
    rows = [
        (
            manifest["split"],
            f"{manifest['documents']:,} documents, {manifest['tokens']:,} tokens of {manifest['dtype']}",
        ),
        ("", f"{each}; {manifest['tokens'] / 1e6 / max(seconds, 1e-9):.3g} M tokens/s"),
        ("begins", repr(tokenizer.decode(shard.tokens[:40], skip_special=False))),
        ("where", shown(folder)),
    ]
    table("Imported token shards", rows, [f"python -m tools.show {shown(folder)}"])


if __name__ == "__main__":
    at_the_door(main)
