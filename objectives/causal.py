"""Predicting the next token: targets[t] is the token after input_ids[t]."""

import numpy as np

from corpus.packing import Windows
from objectives.facts import NOTHING, VocabularyFacts, filled


class Causal:
    """Language modelling from left to right. Only what a window scores is asked for: responses, not prompts."""

    ahead = 1
    pairs = False

    def __init__(self, facts: VocabularyFacts) -> None:
        self.filling = facts.filling

    def __call__(self, windows: Windows, seed: int) -> dict[str, np.ndarray]:
        """windows: (B, T + 1) -> (B, T). The last token of a row is only a target."""
        input_ids, mask = filled(windows.tokens[:, :-1], windows.lengths - 1, self.filling)
        targets = np.where(windows.scored[:, 1:], windows.tokens[:, 1:], NOTHING)
        return {"input_ids": input_ids, "targets": targets, "attention_mask": mask}
