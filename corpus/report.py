"""What tokenising came to -> the table that the stage ends with, or the error that a check ends with."""

from configs.places import shards_dir, splits
from configs.schema import Config
from corpus.inputs import has_split
from corpus.tokenising import Made, lengths_of, verify
from utils.files import shown
from utils.messages import UserError, amount, duration, histogram, info, size, table


def report(made: list[Made], typed: str) -> None:
    """Prints a table of all splits: documents, tokens, bytes per token, speed, what was skipped, lengths.

    typed: the config and what was overridden, for the next command.
    """
    rows = []
    for one in made:
        manifest = one.manifest
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
        if one.seconds:
            speed = one.n_bytes / 1e6 / one.seconds
            rows.append(("", f"{duration(one.seconds)}, {amount(speed)} MB/s"))
        else:
            rows.append(("", "was there already"))
        skipped = ", ".join(f"{reason}: {count:,}" for reason, count in manifest["skipped"].items())
        rows.append(
            ("", f"skipped: {skipped or 'none'}" + (f"; empty: {manifest['empty']:,}" if manifest["empty"] else ""))
        )
        rows += [("", place) for places in one.bad.places.values() for place in places]
        rows.append(("", f"{shown(one.folder)} ({files} {'shard' if files == 1 else 'shards'}, {size(of_disk)})"))
    if made:
        rows.append(
            (f"lengths, {made[0].split}", histogram(lengths_of(made[0].folder, made[0].manifest), unit="tokens"))
        )
    table("Token shards", rows, [f"python train.py {typed}"])


def _is_expected(config: Config, split: str) -> bool:
    """Whether there should be shards of a split: there are some, or documents for it."""
    try:
        return (shards_dir(config) / split).exists() or has_split(config, split)
    except UserError:  # the raw text need not be there any more
        return False


def report_verified(config: Config) -> None:
    """Checks the shards of every split that is there. Raises UserError that names each file that is not right."""
    if not shards_dir(config).exists():
        raise UserError(f"no shards in {shown(shards_dir(config))}; make them with: python tokenize_data.py CONFIG")
    folders = [shards_dir(config) / split for split in splits(config) if _is_expected(config, split)]
    wrong = [line for folder in folders for line in verify(folder)]
    if wrong:
        raise UserError(
            "the shards are not as their manifests say (make them again with --restart):\n" + "\n".join(wrong)
        )
    for folder in folders:
        info(f"{shown(folder)}: every file has the bytes of its checksum, none is missing, none is foreign")
