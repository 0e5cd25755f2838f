"""Raw documents -> token shards.

    python tokenize_data.py configs/user_configs/mine.yaml
    python tokenize_data.py configs/user_configs/mine.yaml --verify

Stopped at any moment, the same command goes on. The shards depend on the documents and the config alone, not on how
many processes or machines made them: with tokenize.parts=8 each of eight tasks makes one, tokenize.part=0 to 7, and
the last to finish joins them (slurm/run_tokenize_array.sh).
"""

from argparse import Namespace

from configs.command_line import again, run_stage
from configs.schema import Config


def main(config: Config, flags: Namespace) -> None:
    """Tokenises every split of the config, or checks what is there."""
    from corpus.report import report, report_joined, report_verified
    from corpus.tokenising import tokenise
    from tokenizer.tokenizer import Tokenizer
    from tokenizer.trained import check
    from utils.messages import warn

    if config.data.mixture is not None:
        warn("data.mixture: its corpora are tokenised by configs of their own; this is about the section dataset")
    if flags.verify:
        report_verified(config)
        return
    tokenizer = Tokenizer.configured(config)
    check(config)
    if flags.join:
        report_joined(config, tokenizer)
    else:
        report(tokenise(config, tokenizer, restart=flags.restart), again(flags), tokenizer.fast)


if __name__ == "__main__":
    run_stage(
        main,
        __doc__,
        {
            "verify": "check every checksum of the shards and name files that are wrong, missing or foreign",
            "join": "check every part that tasks of an array have made, and join them",
            "restart": "move shards that are there aside, and make them again",
        },
    )
