"""A run and prompts -> text.

    python generation.py configs/quickstart.yaml
    python generation.py configs/quickstart.yaml generation.decoding.temperature=0.8 generation.samples_per_prompt=3

How a token is chosen is in models/decoding.py; how prompts are read and texts are written, in evaluation/.
"""

import argparse

from configs.command_line import again, run_stage
from configs.schema import Config


def main(config: Config, flags: argparse.Namespace) -> None:
    """Goes on from every prompt in `generation.prompts_path` with the model that `generation.checkpoint` names."""
    from evaluation.generating import write_texts

    write_texts(config, restart=flags.restart, typed=again(flags))


if __name__ == "__main__":
    run_stage(main, __doc__, {"restart": "write again what is written already"})
