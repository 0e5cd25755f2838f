"""Raw documents -> token shards.

    python tokenize_data.py configs/user_configs/mine.yaml
    python tokenize_data.py configs/user_configs/mine.yaml --verify

Stopped at any moment, the same command goes on. The shards depend on the documents and the config alone, not on how
many processes made them.
"""

from argparse import Namespace

from configs.command_line import again, run_stage
from configs.schema import Config


def main(config: Config, flags: Namespace) -> None:
    """Tokenises every split of the config, or checks what is there."""
    from corpus.report import report, report_verified
    from corpus.tokenising import tokenise
    from tokenizer.tokenizer import Tokenizer

    if flags.verify:
        report_verified(config)
    else:
        report(tokenise(config, Tokenizer.configured(config), restart=flags.restart), again(flags))


if __name__ == "__main__":
    run_stage(
        main,
        __doc__,
        {
            "verify": "check every checksum of the shards and name files that are wrong, missing or foreign",
            "restart": "move shards that are there aside, and make them again",
        },
    )
