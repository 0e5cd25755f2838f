"""A model -> whether documents that share a row really do not see each other in it: tried, not believed.

Two rows with two documents each, of ids made up: each document must get the logits that it gets alone, and changing
one must not move those of the other.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.interface import TrainableModel

TOKENS = 32  # of a row that is tried
LEAST_MOVE = 1e-3  # of the largest logit: where a token moves the next ones less, leaks would be hard to see, too
ROUNDING = 3e-5  # of the largest logit: float32 through many layers, products in other shapes


class Piece(NamedTuple):
    """A document in a row. changed: it is the one that is replaced by another."""

    row: int
    begin: int
    end: int
    changed: bool


def check_documents(model: TrainableModel, window: int | None = None) -> None:
    """Raises ValueError where a model lets documents see each other, or says something else of them than of each alone.

    window: tokens of the longest row. Logits are compared, so a model that gives none is refused as well.
    """
    name = name_of(model)
    length = min(TOKENS, window or TOKENS, model.facts.max_positions or TOKENS)
    reach = reach_of(model)
    if reach is not None:  # longer than what a layer sees, where there is room
        length = min(3 * reach, window or 3 * reach, model.facts.max_positions or 3 * reach)
    if length < 2:
        return  # a row holds one document
    with quiet(model):
        try:
            if moves_the_next(model, length):
                leak, difference, largest = tried(model, length)
            else:  # new weights near zero hide what a model looks at
                leak, difference, largest = tried(shaken(model), length)
        except Exception as problem:  # whatever a class raises at what it does not know, it cannot do it
            reason = str(problem).strip().partition("\n")[0] or type(problem).__name__
            raise ValueError(f"data.document_masking cannot be had with {name}: {reason}") from problem
    advice = "set data.document_masking: false, or take another model"
    if not leak <= ROUNDING * largest:
        raise ValueError(
            f"data.document_masking: {name} lets documents in a row see each other (changing one moves the logits of "
            f"another by {leak:.1e}); {advice}"
        )
    if not difference <= ROUNDING * largest:
        raise ValueError(
            f"data.document_masking: {name} says something else of a document in a row of several than of the same "
            f"document alone (logits differ by {difference:.1e}; do positions restart?); {advice}"
        )


def name_of(model: nn.Module) -> str:
    """The class that the user has named."""
    return type(getattr(model, "inner", None) or getattr(model, "backbone", None) or model).__name__


def reach_of(model: nn.Module) -> int | None:
    """How far layers see that do not see everything, where the masks that they are given have to say so."""
    if model.facts.causal and not model.facts.encoder_decoder:
        return None
    whole = getattr(getattr(model, "inner", None), "config", None)
    configs = (whole, getattr(whole, "encoder", None), getattr(whole, "decoder", None))
    found = [getattr(config, "sliding_window", None) for config in configs]
    return max((reach for reach in found if isinstance(reach, int)), default=None)


@torch.no_grad()
def tried(model: TrainableModel, length: int) -> tuple[float, float, float]:
    """-> how far another document in its place moves the logits of one, how far logits are from those of each document
    alone, and the largest logit; all largest absolute values"""
    batch, pieces = rows_of_documents(model, length)
    names = [name for name in ("input_ids", "decoder_input_ids") if name in batch]
    others = {name: tensor.clone() for name, tensor in batch.items()}
    for row, begin, end, is_changed in pieces:
        if is_changed:
            for name in names:
                others[name][row, begin:end] = batch[name][1 - row, begin:end]
    logits = model.logits(batch)
    moved = (model.logits(others) - logits).abs().amax(-1)  # (B, T)
    leak = difference = largest = 0.0
    for row, begin, end, is_changed in pieces:
        alone = model.logits({name: batch[name][row : row + 1, begin:end] for name in names})[0]
        difference = max(difference, (logits[row, begin:end] - alone).abs().max().item())
        largest = max(largest, alone.abs().max().item())
        if not is_changed:
            leak = max(leak, moved[row, begin:end].max().item())
    return leak, difference, largest


@torch.no_grad()
def moves_the_next(model: TrainableModel, length: int) -> bool:
    """Whether the first token of a row changes what is said at others."""
    ids = ordinary_ids(model, length).to(next(iter(model.parameters()), torch.empty(0)).device)[None]
    names = ("input_ids", "decoder_input_ids") if model.facts.encoder_decoder else ("input_ids",)
    before, after = (
        model.logits(dict.fromkeys(names, row))[0, 1:] for row in (ids, torch.cat((ids[:, -1:], ids[:, 1:]), 1))
    )
    return bool((after - before).abs().max() > LEAST_MOVE * before.abs().max())


def rows_of_documents(model: TrainableModel, length: int) -> tuple[dict[str, Tensor], list[Piece]]:
    """-> a batch of two rows: two documents and filling, the first to be replaced; two documents, the second to be."""
    device = next(iter(model.parameters()), torch.empty(0)).device
    first, second = max(1, length // 4), max(1, length // 8)
    ends = (first, max(first + 1, length - second)), (max(1, length - first - 1), length)
    pieces = [
        Piece(0, 0, ends[0][0], True), Piece(0, ends[0][0], ends[0][1], False),
        Piece(1, 0, ends[1][0], False), Piece(1, ends[1][0], ends[1][1], True),
    ]  # fmt: skip
    documents = torch.full((2, length), -1, device=device)
    position_ids = torch.zeros_like(documents)
    for number, (row, begin, end, _) in enumerate(pieces):
        documents[row, begin:end] = number % 2
        position_ids[row, begin:end] = torch.arange(end - begin, device=device)
    filling = length - ends[0][1]
    position_ids[0, ends[0][1] :] = torch.arange(filling, device=device)
    ids = ordinary_ids(model, 4 * length).to(device)
    batch = {"input_ids": ids[: 2 * length].view(2, -1), "documents": documents, "position_ids": position_ids}
    if model.facts.encoder_decoder:
        decoder = {"decoder_input_ids": ids[2 * length :].view(2, -1)}
        batch |= decoder | {"decoder_documents": documents, "decoder_position_ids": position_ids}
    return batch, pieces


def ordinary_ids(model: TrainableModel, count: int) -> Tensor:
    """(count,) different ones, as far as there are so many; no special tokens, which models may look away from."""
    config = getattr(getattr(model, "inner", None), "config", None)
    roles = ("pad", "bos", "eos", "sep", "cls", "mask", "unk", "decoder_start")
    special = {getattr(config, f"{role}_token_id", None) for role in roles}
    ids = [i for i in range(min(model.tokens, 64 * count)) if i not in special] or [0]
    stride = max(1, len(ids) // count)
    return torch.tensor([ids[i * stride % len(ids)] for i in range(count)])


def shaken(model: TrainableModel, std: float = 0.05) -> TrainableModel:
    """A copy with noise on its weights."""
    model = copy.deepcopy(model)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.is_floating_point():
                weight.add_(torch.randn(weight.shape, generator=noise).to(weight) * std)
    return model


@contextmanager
def quiet(model: TrainableModel) -> Iterator[None]:
    """Inside it there is no dropout, nothing is drawn from what the run draws from, and no attention needs a GPU."""
    training = model.training
    model.eval()
    with torch.random.fork_rng(devices=[]), getattr(model, "on_any_device", nullcontext)():
        try:
            yield
        finally:
            model.train(training)
