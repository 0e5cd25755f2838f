"""A run and a test set -> scores, and predictions beside references.

    python inference.py configs/quickstart.yaml
    python inference.py configs/quickstart.yaml inference.checkpoint=last inference.split=validation

Scoring goes through `test_step` of model.py; what is measured and how is in evaluation/scoring.py.
"""

import argparse

from configs.command_line import again, run_stage
from configs.schema import Config


def main(config: Config, flags: argparse.Namespace) -> None:
    """Scores the model that `inference.checkpoint` names on `inference.split`."""
    from dataset import LanguageModelData
    from evaluation.scoring import score
    from model import LanguageModelTraining

    score(config, LanguageModelData, LanguageModelTraining, restart=flags.restart, typed=again(flags))


if __name__ == "__main__":
    run_stage(main, __doc__, {"restart": "score again what is scored already"})
