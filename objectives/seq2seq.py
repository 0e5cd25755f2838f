"""Predicting a target from its source: the encoder reads the source, the decoder says the target."""

import numpy as np

from corpus.packing import Windows
from objectives.facts import NOTHING, VocabularyFacts, documents_at, filled, first_places
from utils.messages import UserError


class Seq2seq:
    """Translation, summaries, answers: pairs of source and target, or of prompt and response."""

    ahead = 0
    pairs = True

    def __init__(self, facts: VocabularyFacts) -> None:
        if facts.decoder_start_id is None:
            raise UserError(
                "objective seq2seq needs the id that a decoder starts from: the model's config has no "
                "decoder_start_token_id and the tokenizer no pad token; set model.arguments.decoder_start_token_id"
            )
        self.filling, self.start = facts.filling, facts.decoder_start_id

    def __call__(self, windows: Windows, seed: int) -> dict[str, np.ndarray]:
        """windows: sources (B, S) and targets (B, T) -> input_ids (B, S), decoder_input_ids and targets (B, T)"""
        assert windows.target_tokens is not None and windows.target_lengths is not None
        # An empty source still has one place to look at: attention to nothing is not a number.
        input_ids, mask = filled(windows.tokens, np.maximum(windows.lengths, 1), self.filling)
        said, real = filled(windows.target_tokens, windows.target_lengths, self.filling)
        # The decoder reads the start and then the targets without their last, in each document anew.
        start = np.full((len(said), 1), self.start, np.int64)
        read = np.concatenate([start, said[:, :-1]], axis=1)
        if windows.target_documents is not None:
            read = np.where(first_places(windows.target_documents), self.start, read)
        read, _ = filled(read, windows.target_lengths, self.filling)
        targets = np.where(real == 1, said, NOTHING)
        batch = {"input_ids": input_ids, "attention_mask": mask, "decoder_input_ids": read, "targets": targets}
        if windows.documents is not None and windows.target_documents is not None:
            batch["documents"] = documents_at(windows.documents, mask)
            batch["decoder_documents"] = documents_at(windows.target_documents, real)
        return batch
