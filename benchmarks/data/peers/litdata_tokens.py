"""Tokens in litdata's own format: `python -m benchmarks.data.peers.litdata_tokens TOKENS.bin FOLDER`."""

import sys
from collections.abc import Iterator

import numpy as np
import torch
from litdata import TokensLoader, optimize

PIECE = 1 << 20  # tokens


def pieces(task: tuple[str, int]) -> Iterator[torch.Tensor]:
    """A stretch of the file."""
    path, first = task
    yield torch.from_numpy(np.memmap(path, np.uint16, mode="r")[first : first + PIECE].astype(np.int64))


if __name__ == "__main__":
    source, folder = sys.argv[1:]
    total = len(np.memmap(source, np.uint16, mode="r"))
    optimize(
        pieces, [(source, first) for first in range(0, total, PIECE)], folder, num_workers=1, chunk_bytes="64MB",
        item_loader=TokensLoader(),
    )  # fmt: skip
