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


class Tried(NamedTuple):
    """Largest absolute values of logits, or of their differences."""

    leak: float  # how far they move when the other document of the row is replaced
    difference: float  # how far they are from those of the document alone
    seen: float  # how far a document's first token moves what is said after it
    largest: float


def check_documents(model: TrainableModel, window: int | None = None) -> None:
    """Raises ValueError where a model lets documents see each other, or says something else of them than of each alone.

    window: tokens of the longest row. Logits are compared, so a model that gives none is refused as well.
    """
    name = name_of(model)
    length = min(TOKENS, window or TOKENS, model.facts.max_positions or TOKENS)
    reach = reach_of(model)
    if reach is not None:  # half a row is longer than what a layer sees, where there is room
        enough = 2 * reach + 8
        length = min(enough, window or enough, model.facts.max_positions or enough)
    if length < 2:
        return  # a row holds one document
    advice = "set data.document_masking: false, or take another model"
    with quiet(model):
        try:
            found = tried(model, length)
            if found.seen <= LEAST_MOVE * found.largest:  # new weights near zero hide what a model looks at
                found = tried(shaken(model), length)
        except Exception as problem:  # whatever a class raises at what it does not know, it cannot do it
            reason = str(problem).strip().partition("\n")[0] or type(problem).__name__
            raise ValueError(f"data.document_masking cannot be had with {name}: {reason}; {advice}") from problem
    if not found.leak <= ROUNDING * found.largest:
        raise ValueError(
            f"data.document_masking: {name} lets documents in a row see each other (changing one moves the logits of "
            f"another by {found.leak:.1e}); {advice}"
        )
    if not found.difference <= ROUNDING * found.largest:
        raise ValueError(
            f"data.document_masking: {name} says something else of a document in a row of several than of the same "
            f"document alone (logits differ by {found.difference:.1e}; do positions restart?); {advice}"
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
def tried(model: TrainableModel, length: int) -> Tried:
    """Two rows of two documents, the first of one row and the second of the other being replaced."""
    short, long = max(1, length * 3 // 8), max(1, length // 2)
    places = [(0, 0, short), (0, short, short + long), (1, 0, long), (1, long, long + short)]  # row, begin, end
    batch = rows_of_documents(model, length, places)
    names = [name for name in ("input_ids", "decoder_input_ids") if name in batch]
    others = batch | {name: batch[name].clone() for name in names}
    for row, begin, end in (places[0], places[3]):
        for name in names:
            others[name][row, begin:end] = batch[name][1 - row, begin:end]
    logits = model.logits(batch)
    moved = (model.logits(others) - logits).abs()
    leak = max(moved[row, begin:end].max().item() for row, begin, end in places[1:3])
    difference = largest = seen = 0.0
    for pair in ((places[0], places[3]), (places[1], places[2])):  # of the same length
        rows = {name: torch.stack([batch[name][row, begin:end] for row, begin, end in pair]) for name in names}
        for name in names:  # the first of them once more, with another token before the others
            rows[name] = torch.cat((rows[name], rows[name][:1]))
            rows[name][2, 0] = rows[name][1, 0]
        alone = model.logits(rows)
        together = torch.stack([logits[row, begin:end] for row, begin, end in pair])
        difference = max(difference, (together - alone[:2]).abs().max().item())
        largest = max(largest, alone.abs().max().item())
        seen = max([seen, *(alone[2] - alone[0]).abs().amax(-1)[1:].tolist()])
    return Tried(leak, difference, seen, largest)


def rows_of_documents(model: TrainableModel, length: int, places: list[tuple[int, int, int]]) -> dict[str, Tensor]:
    """places: (row, begin, end) of documents -> a batch of two rows, filled where there are none"""
    device = next(iter(model.parameters()), torch.empty(0)).device
    documents = torch.full((2, length), -1, device=device)
    position_ids = torch.arange(length, device=device).repeat(2, 1)
    for row, begin, end in places:
        documents[row, begin:end] = int(begin > 0)
        for start in (begin, end):  # filling counts from 0 as well
            position_ids[row, start:] = torch.arange(length - start, device=device)
    ids = ordinary_ids(model, 4 * length).to(device).view(2, 2, length)
    batch = {"input_ids": ids[0], "documents": documents, "position_ids": position_ids}
    if model.facts.encoder_decoder:
        decoder = {"decoder_input_ids": ids[1], "decoder_documents": documents}
        batch |= decoder | {"decoder_position_ids": position_ids}
    return batch


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
