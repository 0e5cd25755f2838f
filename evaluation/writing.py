"""Rows of ids and a model -> what it writes, in the order of the rows, whatever order is fastest.

Rows of like length share a batch, so that little is padding; the longest come first, so that what does not fit into
memory fails at once.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from models.decoding import DecodingOptions, Generated, generate
from models.interface import TrainableModel
from utils.messages import progress

CHECKED_PROMPTS = 4
CHECKED_TOKENS = 16


class Writer:
    """A model and how it writes.

    Args:
        decode: new ids -> text, for stop strings
        vocab_limit: tokens of the tokenizer
        around: a context in which the model computes, such as autocast
    """

    def __init__(
        self,
        model: TrainableModel,
        options: DecodingOptions,
        *,
        device: torch.device,
        eos_id: int | None,
        vocab_limit: int,
        decode: Callable[[list[int]], str],
        around: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self.model, self.options, self.device, self.around = model, options, device, around
        self.tokens = {"eos_id": eos_id, "vocab_limit": vocab_limit, "decode": decode}

    def write(
        self,
        rows: Sequence[Sequence[int]],
        batch_size: int,
        samples: int = 1,
        seed: int = 0,
        watch: Callable[[int, list[int]], None] | None = None,
        description: str = "writing",
    ) -> list[list[Generated]]:
        """-> for each row its samples. watch: see `models.decoding.generate`; with it no progress is shown."""
        order = sorted(range(len(rows)), key=lambda row: (-len(rows[row]), row))
        results: list[list[Generated]] = [[] for _ in rows]
        self.model.eval()
        with nullcontext() if watch else progress(description, total=len(rows) * samples, unit="texts") as bar:
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                texts = self.write_batch([rows[row] for row in batch], self.options, samples, seed, batch, watch)
                for place, row in enumerate(batch):
                    results[row] = texts[place * samples : (place + 1) * samples]
                if bar is not None:
                    bar.advance(len(texts))
        return results

    def write_batch(
        self,
        rows: Sequence[Sequence[int]],
        options: DecodingOptions,
        samples: int = 1,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
        watch: Callable[[int, list[int]], None] | None = None,
    ) -> list[Generated]:
        """numbers: of the prompts, which their draws depend on."""
        ids, mask = padded_left(rows, self.device)
        drawn = {"seed": seed, "prompt_numbers": numbers, "samples": samples, "watch": watch}
        with self.around():
            return generate(self.model, ids, mask, options, **self.tokens, **drawn)

    def differing(self, rows: Sequence[Sequence[int]]) -> int:
        """Of a few rows of very different lengths: how many get another greedy text alone than in a batch."""
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        step = max(1, (len(order) - 1) // (CHECKED_PROMPTS - 1))
        chosen = [rows[row] for row in dict.fromkeys([*order[::step][: CHECKED_PROMPTS - 1], order[-1]])]
        greedy = DecodingOptions(max_new_tokens=min(CHECKED_TOKENS, self.options.max_new_tokens))
        self.model.eval()
        together = self.write_batch(chosen, greedy)
        alone = [text for row in chosen for text in self.write_batch([row], greedy)]
        return sum(ours.ids != theirs.ids for ours, theirs in zip(together, alone, strict=True))


def padded_left(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """-> ids and mask (B, T), int64; the mask is 1 at real tokens. What stands under a 0 is id 0."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask
