"""A dataset's source -> raw text, checked and shown: counts, bytes, lengths, a few documents.

    python -m data_setup.download_dataset configs/user_configs/mine.yaml

The Hub's data is downloaded and the sample corpus made, into data/<name>/raw; files are read where they lie. Run again,
it goes on where it was interrupted, and says so where there is nothing left to do.
"""

import argparse

from configs.command_line import again, run_stage
from configs.schema import Config


def main(config: Config, flags: argparse.Namespace) -> None:
    """Make the raw text, if the source has any, and look at it."""
    from corpus.raw import is_streamed
    from data_setup import hub, sample_corpus, summary
    from data_setup.raw_text import RawFolder

    if is_streamed(config):
        look_at_stream(config, flags)
        return
    make = {"hub": hub.make, "sample": sample_corpus.make}.get(config.dataset.source)
    if make is None:
        summary.show(config, None, again(flags))
        return
    folder = RawFolder(config, restart=flags.restart)
    already = folder.finished
    if not already:
        make(config, folder)
    summary.show(config, folder, again(flags), already)


def look_at_stream(config: Config, flags: argparse.Namespace) -> None:
    """There is nothing to store: which commit will be read is written down. restart: the newest one, anew."""
    from corpus import hub_rows
    from data_setup.summary import next_commands
    from utils.files import shown
    from utils.messages import table

    record = hub_rows.record_path(config)
    if flags.restart:
        record.unlink(missing_ok=True)
    found = hub_rows.pinned(config)
    rows = [
        ("nothing to download", "dataset.streamed: documents are read from the Hub as they are tokenised"),
        ("commit", f"{found['commit']}, in {shown(record)}" if record.is_file() else "none, it is a directory"),
        *((f"split {name}", f"{units:,} files") for name, units in found["units"].items()),
    ]
    table(f"Dataset {config.dataset.name} (hub, streamed)", rows, next_commands(config, again(flags)))


if __name__ == "__main__":
    run_stage(main, __doc__, {"restart": "move the raw text that is there aside, and make it again"})
