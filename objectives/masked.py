"""Predicting hidden tokens where they stand, seeing both sides (BERT, https://arxiv.org/abs/1810.04805, 3.1).

Which tokens are hidden, and behind what, is a function of (seed, place, position): the same on any number of devices
and after any resume, and another in each epoch.
"""

import numpy as np

from corpus.chance import integers, key_of, uniform
from corpus.packing import Windows
from objectives.facts import NOTHING, VocabularyFacts, documents_at, filled, first_places
from utils.messages import UserError


class Masked:
    """Of the tokens a share `rate` is asked for; of those `mask_share` become the mask token, `random_share` another
    token, the rest stay as they are. Special tokens are never asked for."""

    ahead = 0
    pairs = False
    by_row = True

    def __init__(
        self,
        facts: VocabularyFacts,
        rate: float = 0.15,
        mask_share: float = 0.8,
        random_share: float = 0.1,
        whole_words: bool = False,
    ) -> None:
        """whole_words: the tokens of a word are asked for together. Raises UserError where there is no mask token."""
        if facts.mask_id is None:
            raise UserError("objective masked needs a tokenizer with a mask token; see tokenizer.special_tokens.mask")
        if not 0 < rate <= 1 or mask_share < 0 or random_share < 0 or mask_share + random_share > 1:
            raise UserError(
                f"objective masked: rate={rate} must be in (0, 1], and mask_share={mask_share} and "
                f"random_share={random_share} at least 0 and together at most 1"
            )
        self.rate, self.mask_share, self.random_share = rate, mask_share, random_share
        self.filling, self.mask_id = facts.filling, facts.mask_id
        self.special = np.zeros(facts.vocab_size, bool)
        self.special[list(facts.special_ids)] = True
        self.ordinary = np.flatnonzero(~self.special)  # what a random token is drawn from
        self.starts_word = None
        if whole_words:
            if facts.starts_word is None:
                raise UserError("objective masked: whole_words needs a tokenizer that marks where words start")
            self.starts_word = np.asarray(facts.starts_word(), bool)

    def __call__(self, windows: Windows, seed: int) -> dict[str, np.ndarray]:
        """windows: (B, T) -> (B, T)"""
        tokens, places = windows.tokens, windows.places[:, None]
        positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        special = self.special[tokens]
        drawn_at = positions if self.starts_word is None else self._word_starts(windows, special, positions)
        asked = windows.scored & ~special & (uniform(key_of(seed, "asked"), places, drawn_at) < self.rate)
        fate = uniform(key_of(seed, "fate"), places, positions)
        other = self.ordinary[integers(len(self.ordinary), key_of(seed, "other token"), places, positions)]
        shown = np.where(fate < self.mask_share, self.mask_id, tokens)
        shown = np.where((fate >= self.mask_share) & (fate < self.mask_share + self.random_share), other, shown)
        input_ids, mask = filled(np.where(asked, shown, tokens), windows.lengths, self.filling)
        batch = {"input_ids": input_ids, "targets": np.where(asked, tokens, NOTHING), "attention_mask": mask}
        if windows.documents is not None:
            batch["documents"] = documents_at(windows.documents, mask)
        return batch

    def _word_starts(self, windows: Windows, special: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """The position where each token's word starts: one draw a word. A word cut by the window starts at its edge."""
        starts = self.starts_word[windows.tokens] | special
        starts[:, 1:] |= special[:, :-1]
        if windows.documents is not None:
            starts |= first_places(windows.documents)
        return np.maximum.accumulate(np.where(starts, positions, 0), axis=1)
