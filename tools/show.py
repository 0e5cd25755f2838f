"""What is in a folder of token shards, or in a run: its numbers, a window as a model sees it, and where it came from.

    python -m tools.show data/sample/tokens
    python -m tools.show data/sample/tokens/train data.packing=best_fit data.max_seq_len=512 --window 7
    python -m tools.show runs/quickstart --split test --positions

Only the folder is needed. Settings decide how windows are cut; those of a run are its own. Nothing is written.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.command_line import Parser, at_the_door
from configs.loading import load_config
from configs.places import scored_splits, split_dir
from configs.schema import Config
from utils.files import read_json, shown
from utils.messages import UserError, console, histogram, info, size, table, warn
from utils.yaml_text import read_scalar

if TYPE_CHECKING:
    import numpy as np

    from corpus.picture import Row
    from corpus.shards import ShardSet
    from corpus.window_index import WindowIndex
    from objectives.facts import Objective
    from tokenizer.tokenizer import Tokenizer

FREQUENT = 12  # tokens that are named
AT_ONCE = 32  # positions that are listed


@dataclass
class Shown:
    """What is looked at."""

    config: Config
    folders: dict[str, Path]  # of each split's shards
    run: Path | None
    is_config: bool  # whether it is the one that made them, not only the defaults


def main() -> int:
    """Reads the command line and shows. -> exit code: 1 where a link of the lineage does not hold"""
    parser = Parser(
        prog="python -m tools.show", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", metavar="DIRECTORY", type=Path, help="a split's shards, a folder of splits, a run")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key.path=value", help="settings that windows are cut by"
    )
    parser.add_argument("--split", help="the split whose window is shown (by default the first)")
    parser.add_argument("--window", type=int, default=0, metavar="N", help="its number (0)")
    parser.add_argument("--positions", action="store_true", help=f"its first {AT_ONCE} positions, one by one")
    parser.add_argument("--tokenizer", metavar="PATH", help="where it is not found by itself")
    parser.add_argument("--config", metavar="CONFIG", help="take settings, tokenizer and lineage from this config")
    parser.add_argument("--verify", action="store_true", help="read every file again, and compare it with its checksum")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    arguments = parser.parse_intermixed_args(sys.argv[1:])
    what = look(arguments.directory.resolve(), arguments.config, arguments.overrides)
    from corpus.shards import MANIFEST, ShardSet

    split = arguments.split or next(iter(what.folders))
    if split not in what.folders:
        raise UserError(f"--split {split}: there are {', '.join(what.folders)}")
    there = {name: folder for name, folder in what.folders.items() if (folder / MANIFEST).exists()}
    shards = {name: ShardSet.open(folder.parent, folder.name) for name, folder in there.items()}
    if split not in shards and what.run is None:
        raise UserError(f"no {shown(what.folders[split] / MANIFEST)}; the shards are not finished")
    tokenizer = find_tokenizer(what, shards, arguments.tokenizer)
    if split in shards:
        show_numbers(shards, split, tokenizer, what.config)
        show_window(shards[split], what.config, tokenizer, arguments.window, arguments.positions)
    return show_lineage(what, tokenizer or configured(what), arguments.verify)


def look(directory: Path, config: str | None, overrides: list[str]) -> Shown:
    """What a directory is. Raises UserError where it is nothing that can be shown."""
    from corpus.shards import FORMAT, MANIFEST

    def is_split(folder: Path) -> bool:
        return (folder / MANIFEST).is_file() and read_json(folder / MANIFEST).get("format") == FORMAT

    if (directory / "config.yaml").is_file():
        own = load_config(config or directory / "config.yaml", overrides)
        names = sorted(scored_splits(own), key=lambda name: not name.endswith("train"))
        return Shown(own, {name: split_dir(own, name) for name in names}, directory, True)
    if not is_split(directory) and (directory / "tokens").is_dir():
        directory = directory / "tokens"
    folders = (
        [directory]
        if is_split(directory)
        else sorted(filter(is_split, directory.iterdir() if directory.is_dir() else []))
    )
    if not folders:
        raise UserError(
            f"{shown(directory)} is neither a run (config.yaml) nor token shards ({MANIFEST}), nor holds any; make "
            "shards with: python tokenize_data.py CONFIG"
        )
    folders.sort(key=lambda folder: (folder.name != "train", folder.name))
    kind = read_json(folders[0] / MANIFEST)["kind"]
    settings = load_config(config, overrides) if config else settings_for(kind, overrides)
    return Shown(settings, {folder.name: folder for folder in folders}, None, config is not None)


def settings_for(kind: str, overrides: list[str]) -> Config:
    """The defaults for documents of a kind, and what is overridden; whether a model can be trained so is not asked."""
    values = Config().model_dump()
    values["dataset"]["kind"] = kind
    if kind == "pairs":
        values["data"]["packing"], values["objective"]["name"] = "truncate", "seq2seq"
    for word in overrides:
        key, _, text = word.partition("=")
        section, _, name = key.rpartition(".")
        if name not in values.get(section, {}):
            raise UserError(f"unknown setting '{key}'; those of data and objective can be given: data.packing=best_fit")
        read = read_scalar(text, (section, name), "command line")
        if read.problems:
            raise UserError("; ".join(read.problems))
        values[section][name] = read.values["value"]
    try:
        return Config.model_validate(values)
    except ValueError as problem:  # of pydantic: its first line only counts, the second says what is wrong
        raise UserError(f"{' '.join(overrides)}: {' '.join(str(problem).splitlines()[1:3])}") from None


def find_tokenizer(what: Shown, shards: "dict[str, ShardSet]", named: str | None) -> "Tokenizer | None":
    """The one that made the shards: as it is named, else the config's, else that which lies beside them."""
    from tokenizer.tokenizer import Tokenizer

    wanted = {one.manifest["tokenizer"] for one in shards.values()}
    if named is not None:
        found = Tokenizer.load(named)
        if wanted and found.fingerprint not in wanted:
            raise UserError(f"--tokenizer {named}: its fingerprint is {found.fingerprint[:12]}, not that of the shards")
        return found
    beside = [folder.parent.parent / "tokenizer" for folder in what.folders.values()]
    for place in [None, *beside] if what.is_config else [*beside, None]:
        try:
            found = Tokenizer.configured(what.config) if place is None else Tokenizer.load(place)
        except UserError:
            continue
        if found.fingerprint in wanted or not wanted:
            return found
    if wanted:
        warn(f"the tokenizer of fingerprint {min(wanted)[:12]} is not at hand: ids are shown; name it with --tokenizer")
    return None


def configured(what: Shown) -> "Tokenizer | None":
    """The config's own, whatever made the shards; None where there is none."""
    from tokenizer.tokenizer import Tokenizer

    try:
        return Tokenizer.configured(what.config) if what.is_config else None
    except UserError:
        return None


def show_numbers(shards: "dict[str, ShardSet]", split: str, tokenizer: "Tokenizer | None", config: Config) -> None:
    """A table of all splits, and of one of them lengths, frequent tokens and what each packing wastes."""
    from corpus.statistics import first_shards, frequencies, lengths_of, waste_of

    rows: list[tuple[str, str]] = []
    for name, one in shards.items():
        manifest = one.manifest
        tokens = manifest["tokens"] + manifest["target_tokens"]
        rows.append((name, f"{manifest['documents']:,} documents, {tokens:,} tokens of {manifest['dtype']}"))
        scored = "" if manifest["scored_tokens"] == tokens else f"{manifest['scored_tokens']:,} tokens scored; "
        each = f"{manifest['bytes'] / manifest['scored_tokens']:.2f} bytes per token" if manifest["bytes"] else ""
        on_disk = sum(entry["size"] for entry in manifest["shards"])
        files = f"{len(one.shards)} {'shard' if len(one.shards) == 1 else 'shards'}, {size(on_disk)}"
        rows.append(("", f"{scored}{each or 'text not counted'}; {files}"))
    one = shards[split]
    rows.append((f"lengths, {split}", histogram(lengths_of(one), unit="tokens")))
    found = frequencies(one)
    rows.append(("most frequent", frequent(found, tokenizer)))
    seen, known = int((found.counts > 0).sum()), len(found.counts)
    of_all = "all tokens" if found.tokens >= one.n_tokens else f"a sample of {found.tokens:,} tokens"
    rows.append(("vocabulary", f"{seen:,} of {known:,} ids occur in {of_all}"))
    packing = packing_of_config(config, tokenizer, one)[0]
    some = first_shards(one)
    wastes = waste_of(some, packing)
    lines = [f"{'':<9} {'windows':>11}  padding  truncated documents  tokens not scored"]
    lines += [
        f"{mode:<9} {waste.windows:>11,}  {waste.padding:>7.1%}  {waste.truncated:>19.1%}  {waste.unscored:>17.2%}"
        for mode, waste in wastes.items()
    ]
    if some.n_documents < one.n_documents:
        lines.append(f"(of the first {some.n_documents:,} documents)")
    rows.append((f"windows of {packing.max_seq_len}", "\n".join(lines)))
    table(f"Token shards in {shown(one.directory.parent)}", rows)


def frequent(found: Any, tokenizer: "Tokenizer | None") -> str:
    """The tokens that occur most, and how often."""
    from corpus.picture import plain

    def written(token: int) -> str:
        if tokenizer is None:
            return str(token)
        text = tokenizer.decode([token], skip_special=False)
        is_whole = text and "\ufffd" not in text  # no space alone of SentencePiece, no part of a character
        return plain(repr(text if is_whole else tokenizer.token(token)))

    order = [int(i) for i in found.counts.argsort()[::-1][:FREQUENT] if found.counts[i]]
    said = [f"{written(token)} {found.counts[token] / max(1, found.tokens):.1%}" for token in order]
    return "\n".join("   ".join(said[at : at + 6]) for at in range(0, len(said), 6))


def packing_of_config(config: Config, tokenizer: "Tokenizer | None", shards: "ShardSet") -> tuple[Any, "Objective"]:
    """How the config cuts windows, and what it asks for in them."""
    from models.interface import ModelFacts
    from objectives import build_objective
    from objectives.facts import VocabularyFacts
    from training.fitting import packing_of, vocabulary_facts

    if tokenizer is None:
        facts = VocabularyFacts(vocab_size=shards.manifest["vocab_size"], decoder_start_id=0)
    else:
        facts = vocabulary_facts(tokenizer, ModelFacts(decoder_start_id=tokenizer.pad_id or 0))
    objective = build_objective(config.objective.name, config.objective.arguments, facts)
    return packing_of(config, facts, objective.ahead, objective.pairs), objective


def show_window(
    shards: "ShardSet", config: Config, tokenizer: "Tokenizer | None", number: int, with_positions: bool
) -> None:
    """One window, decoded, with what is asked for in it. Raises UserError where there is no such window."""
    from corpus.picture import legend, picture, positions
    from corpus.window_index import WindowIndex

    packing, objective = packing_of_config(config, tokenizer, shards)
    index = WindowIndex(shards, packing, keep=False)
    if not 0 <= number < len(index):
        raise UserError(f"--window {number}: there are {len(index):,}, counted from 0")

    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special=False) if tokenizer else "".join(f" {i}" for i in ids)

    name = f"{config.objective.name}, packing {packing.packing}" + (", document_masking" * packing.document_masking)
    info(f"Window {number:,} of {len(index):,} of {shown(shards.directory)} ({name}, {packing.max_seq_len} tokens)")
    console.print(legend())
    for title, row, seen, targets in rows_of(index, objective, number, config.seed):
        if title:
            info(f"\n{title}:")
        console.print(picture(row, decode))
        if with_positions:
            table("position by position", positions(row, seen, targets, decode, AT_ONCE))


def rows_of(
    index: "WindowIndex", objective: "Objective", number: int, seed: int
) -> "list[tuple[str, Row, np.ndarray, np.ndarray]]":
    """-> (title, what stands there, what the model sees (T,), what it is asked (T,)) of each side of a window"""
    import numpy as np

    from corpus.picture import Row
    from objectives.facts import NOTHING

    chosen = np.array([number])
    windows, known = index.gather(chosen), index.with_documents().gather(chosen)
    arrays = {name: values[0] for name, values in objective(windows, seed).items()}
    tokens, length = windows.tokens[0], int(windows.lengths[0])
    seen, targets = arrays["input_ids"], arrays["targets"]
    assert known.documents is not None
    if windows.target_tokens is not None:
        assert windows.target_lengths is not None and known.target_documents is not None
        nothing = np.zeros(len(tokens), bool)
        source = Row(tokens, length, nothing, known.documents[0])
        n = int(windows.target_lengths[0])
        target = Row(windows.target_tokens[0], n, targets != NOTHING, known.target_documents[0])
        return [
            ("source", source, seen, np.full(len(tokens), NOTHING)),
            ("target", target, arrays["decoder_input_ids"], targets),
        ]
    if objective.ahead:
        return [("", Row(tokens, length, windows.scored[0], known.documents[0]), seen, targets)]
    return [("", Row(tokens, length, targets != NOTHING, known.documents[0], seen), seen, targets)]


def show_lineage(what: Shown, tokenizer: "Tokenizer | None", verify: bool) -> int:
    """Prints the chain of hashes. -> 1 where a link does not hold, else 0"""
    from rich.text import Text

    from corpus.lineage import chain

    links = chain(what.folders, what.config if what.is_config else None, tokenizer, what.run, verify)
    colours = {"✓": "green", "✗": "bold red", "?": "yellow"}
    width = max((len(link.what) for link in links), default=0)
    console.print("[bold]Lineage[/bold]")
    for link in links:
        line = Text.assemble("  ", (f"{link.mark} ", colours[link.mark]), (link.what.ljust(width), "cyan"))
        line.append(f"  {link.hash[:12]:<12}  {link.where}")
        line.append(f"\n  {'':{width}}    {'':<12}  {link.said}", "" if link.mark == "✗" else "dim")
        console.print(line)
    return int(any(link.mark == "✗" for link in links))


if __name__ == "__main__":
    at_the_door(main)
