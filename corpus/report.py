"""What tokenising came to -> the table that the stage ends with, or the error that a check ends with."""

from configs.places import shards_dir, splits
from configs.schema import Config
from corpus.parts import begin, join
from corpus.shards import MANIFEST, ShardSet
from corpus.sources import has_split, sources
from corpus.statistics import lengths_of
from corpus.tokenising import Made, settings_of
from corpus.verifying import verify
from tokenizer.tokenizer import Tokenizer
from utils.files import read_json, shown
from utils.messages import UserError, amount, duration, histogram, info, size, table


def report(made: list[Made], typed: str, engine: str) -> None:
    """Prints a table of all splits: documents, tokens, bytes per token, speed, what was skipped, lengths.

    typed: the config and what was overridden, for the next command. engine: what encoded, and why.
    """
    rows: list[tuple[str, str]] = []
    for one in made:
        manifest = one.manifest
        if manifest is None:
            rows.append(
                (one.split, f"parts still missing: {_numbers(one.missing)}; the task that ends last joins them")
            )
            continue
        files = len(manifest["shards"])
        of_disk = sum(entry["size"] for entry in manifest["shards"])
        tokens = manifest["tokens"] + manifest["target_tokens"]
        rows.append((one.split, f"{manifest['documents']:,} documents, {tokens:,} tokens of {manifest['dtype']}"))
        if manifest["scored_tokens"] != tokens:
            rows.append(("", f"{manifest['scored_tokens']:,} of them scored"))
        if manifest["scored_tokens"]:
            each = manifest["bytes"] / manifest["scored_tokens"]
            rows.append(
                ("", f"{each:.2f} bytes per token; scored text: {size(manifest['bytes'])}, {manifest['words']:,} words")
            )
        if not one.seconds:
            rows.append(("", "was there already"))
        skipped = ", ".join(f"{reason}: {count:,}" for reason, count in manifest["skipped"].items())
        rows.append(
            ("", f"skipped: {skipped or 'none'}" + (f"; empty: {manifest['empty']:,}" if manifest["empty"] else ""))
        )
        rows += [("", place) for places in one.bad.places.values() for place in places]
        rows.append(("", f"{shown(one.folder)} ({files} {'shard' if files == 1 else 'shards'}, {size(of_disk)})"))
    if made[0].manifest is not None:
        shards = ShardSet(made[0].folder, made[0].manifest)
        rows.append((f"lengths, {made[0].split}", histogram(lengths_of(shards), unit="tokens")))
    # Splits that are cut from the same source were made together.
    runs = {(one.seconds, one.n_bytes) for one in made if one.seconds}
    if runs:
        seconds, n_bytes = sum(run[0] for run in runs), sum(run[1] for run in runs)
        rows.append(("speed", f"{size(n_bytes)} in {duration(seconds)}, {amount(n_bytes / 1e6 / seconds)} MB/s"))
        rows.append(("engine", engine))
    is_whole = all(one.manifest is not None for one in made)
    table("Token shards", rows, [f"python train.py {typed}"] if is_whole else [])


def _numbers(missing: list[int], most: int = 20) -> str:
    return ", ".join(map(str, missing[:most])) + (f" and {len(missing) - most} more" if len(missing) > most else "")


def report_joined(config: Config, tokenizer: Tokenizer) -> None:
    """Joins the parts of every split, after checking every byte of them; says what each came to.

    Raises UserError that names the part that is missing or not whole, or each file that is not as it was joined."""
    for source in sources(config):
        for split in source.shares:
            folder = shards_dir(config) / split
            settings = settings_of(config, split, tokenizer, source)
            manifest = begin(folder, settings)
            if manifest is None:
                manifest = join(folder, split, settings, config, tokenizer, source, check_bytes=True)
            else:
                _raise_for(verify(folder))
            info(
                f"{shown(folder)}: {len(manifest['units'])} parts, {manifest['documents']:,} documents, "
                f"{manifest['tokens'] + manifest['target_tokens']:,} tokens"
            )


def _is_expected(config: Config, split: str) -> bool:
    """Whether there should be shards of a split: there are some, or documents for it (imported ones have none)."""
    if (shards_dir(config) / split).exists():
        return True
    try:
        imported = any("imported" in read_json(path) for path in shards_dir(config).glob(f"*/{MANIFEST}"))
        return not imported and has_split(config, split)
    except UserError:  # the raw text need not be there any more
        return False


def report_verified(config: Config) -> None:
    """Checks the shards of every split that is there. Raises UserError that names each file that is not right."""
    if not shards_dir(config).exists():
        raise UserError(f"no shards in {shown(shards_dir(config))}; make them with: python tokenize_data.py CONFIG")
    folders = [shards_dir(config) / split for split in splits(config) if _is_expected(config, split)]
    unfinished = [shown(folder) for folder in folders if folder.is_dir() and not (folder / MANIFEST).exists()]
    advice = (
        f"; {', '.join(unfinished)} has no manifest yet: the same command without --verify goes on"
        if unfinished
        else ""
    )
    _raise_for([line for folder in folders for line in verify(folder)], advice)
    for folder in folders:
        info(f"{shown(folder)}: every file has the bytes of its checksum, none is missing, none is foreign")


def _raise_for(wrong: list[str], advice: str = "") -> None:
    if wrong:
        raise UserError(
            f"the shards are not as their manifests say (make them again with --restart{advice}):\n" + "\n".join(wrong)
        )
