"""Predicting the next token: targets[t] is the token after input_ids[t]."""

import numpy as np

from corpus.packing import Windows
from objectives.facts import NOTHING, VocabularyFacts, documents_at, filled


class Causal:
    """Language modelling from left to right. Only what a window scores is asked for: responses, not prompts."""

    ahead = 1
    pairs = False
    by_row = True

    def __init__(self, facts: VocabularyFacts) -> None:
        self.filling = facts.filling

    def __call__(self, windows: Windows, seed: int) -> dict[str, np.ndarray]:
        """windows: (B, T + 1) -> (B, T). The last token of a row is only a target."""
        input_ids, mask = filled(windows.tokens[:, :-1], windows.lengths - 1, self.filling)
        asked, following = windows.scored[:, 1:], windows.tokens[:, 1:]
        targets = following if asked.all() else np.where(asked, following, NOTHING)
        batch = {"input_ids": input_ids, "targets": targets, "attention_mask": mask}
        if windows.documents is not None:
            batch["documents"] = documents_at(windows.documents[:, :-1], mask)
        return batch
