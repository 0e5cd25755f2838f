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
    from data_setup import hub, sample_corpus, summary
    from data_setup.raw_text import RawFolder

    make = {"hub": hub.make, "sample": sample_corpus.make}.get(config.dataset.source)
    if make is None:
        summary.show(config, None, again(flags))
        return
    folder = RawFolder(config, restart=flags.restart)
    already = folder.finished
    if not already:
        make(config, folder)
    summary.show(config, folder, again(flags), already)


if __name__ == "__main__":
    run_stage(main, __doc__, {"restart": "move the raw text that is there aside, and make it again"})
