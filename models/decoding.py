"""Prompts and a model -> new tokens: greedy, sampled or by beam search, as small pure functions.

    logits of the next token -> penalty -> temperature -> top-k -> top-p -> one token for each row

What a row gets does not depend on its neighbours: each draw is a function of (seed, prompt, sample, position), and
rows that are done leave the batch. Order and meaning of the settings are those of `transformers`, and tests compare.
"""

# B rows of the batch   V vocabulary   T positions   K beams of a prompt

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from models.interface import ModelFacts, Stepper, TrainableModel

Reason = Literal["eos", "stop_id", "stop_string", "length"]


@dataclass(frozen=True)
class DecodingOptions:
    """How the next token is chosen, and when to stop."""

    max_new_tokens: int = 64
    temperature: float = 0.0  # 0: the most likely token
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    num_beams: int = 1
    length_penalty: float = 1.0
    stop_strings: Sequence[str] = ()
    stop_ids: Sequence[int] = ()

    def __post_init__(self) -> None:
        if self.num_beams > 1 and self.temperature > 0:
            raise ValueError("num_beams above 1 needs temperature 0: beams are searched, not sampled")
        if "" in self.stop_strings:
            raise ValueError("stop_strings holds an empty string, which would end every text at once")


@dataclass
class Generated:
    """What a row wrote."""

    ids: list[int] = field(default_factory=list)  # new tokens, without the EOS or stop id that ended them
    reason: Reason = "length"  # why it stopped
    log_probability: float = 0.0  # of all that was written, the ending token too, by the model itself (temperature 1)


# -- choosing one token: logits (B, V) float32 in, logits (B, V) out --


def within_vocabulary(logits: Tensor, limit: int | None) -> Tensor:
    """Ids from `limit` on are rows that only pad the embedding; they are never chosen."""
    if limit is None or limit >= logits.shape[-1]:
        return logits
    return logits.index_fill(-1, torch.arange(limit, logits.shape[-1], device=logits.device), -math.inf)


def penalise_repetition(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Scores of tokens in `seen` (B, V) bool move away from being chosen. arXiv:1909.05858, section 4.1"""
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """The k most likely (more where the k-th is tied)."""
    smallest_kept = logits.topk(min(k, logits.shape[-1])).values[:, -1:]
    return logits.masked_fill(logits < smallest_kept, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """The fewest tokens, most likely first, that together have probability p; at least one. arXiv:1904.09751"""
    ordered, order = logits.sort(descending=True, stable=True)
    probability = ordered.softmax(-1)
    before = probability.cumsum(-1) - probability  # of all that are more likely
    dropped = before >= p
    dropped[:, 0] = False
    return logits.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), -math.inf)


def draw(logits: Tensor, uniforms: Sequence[float]) -> Tensor:
    """One token for each row, by inverting its cumulative distribution at uniforms (B,) in [0, 1). -> (B,) int64"""
    cumulative = logits.double().softmax(-1).cumsum(-1)
    threshold = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0]


def uniform(seed: int, prompt: int, sample: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but these four."""
    digest = hashlib.blake2b(f"{seed} {prompt} {sample} {position}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48  # 48 bits: times a sum near 1 it stays below the sum in float64


def next_tokens(logits: Tensor, options: DecodingOptions, uniforms: Sequence[float]) -> Tensor:
    """The choice for each row. logits (B, V), penalised already; uniforms (B). -> (B) int64"""
    if options.temperature == 0:
        return logits.argmax(-1)
    logits = logits / options.temperature
    if options.top_k is not None:
        logits = keep_top_k(logits, options.top_k)
    if options.top_p is not None:
        logits = keep_top_p(logits, options.top_p)
    return draw(logits, uniforms)


# -- stopping --


def cut_at_stop(text: str, stop_strings: Sequence[str]) -> str:
    """The text before the first stop string in it."""
    places = [place for place in (text.find(string) for string in stop_strings) if place >= 0]
    return text[: min(places)] if places else text


def without_ending(ids: list[int], reason: Reason) -> list[int]:
    """The ids without the EOS or stop id that ended them."""
    return ids[:-1] if reason in ("eos", "stop_id") else ids


class Rules(NamedTuple):
    """The settings, and what the tokenizer adds to them."""

    options: DecodingOptions
    eos_id: int | None
    vocab_limit: int | None
    decode: Callable[[list[int]], str] | None

    def ending(self, ids: list[int], limit: int) -> Reason | None:
        """Why a row is done. ids: its new tokens, the last just chosen; limit: how many there may be.

        Stop strings are looked for in the decoded text, so they may lie across tokens.
        """
        if self.eos_id is not None and ids[-1] == self.eos_id:
            return "eos"
        if ids[-1] in self.options.stop_ids:
            return "stop_id"
        if self.options.stop_strings:
            text = self.decode(ids)
            if any(string in text for string in self.options.stop_strings):
                return "stop_string"
        return "length" if len(ids) >= limit else None

    @property
    def ending_tokens(self) -> int:
        """How many ids end a text."""
        return len({*self.options.stop_ids, self.eos_id} - {None})

    def penalised(self, scores: Tensor, seen: Tensor | None) -> Tensor:
        """scores (B, V), those of tokens already there lowered. seen: (B, V) bool; None: no penalty."""
        return scores if seen is None else penalise_repetition(scores, seen, self.options.repetition_penalty)


class Started(NamedTuple):
    """The prompts, read."""

    stepper: Stepper
    logits: Tensor  # (B, V) of the first new token
    seen: Tensor | None  # (B, V) bool: tokens already there; None: repetition is not penalised
    limits: list[int]  # (B) new tokens that each row may get

    def repeated(self, times: int) -> "Started":
        """Every row so many times, its copies together."""
        rows = torch.arange(len(self.limits), device=self.logits.device).repeat_interleave(times)
        self.stepper.reorder(rows)
        seen = None if self.seen is None else self.seen[rows]
        return Started(self.stepper, self.logits[rows], seen, [limit for limit in self.limits for _ in range(times)])


# -- the two loops --


@torch.no_grad()  # not inference_mode: tables that a model caches here must still serve a later backward
def generate(
    model: TrainableModel,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    options: DecodingOptions,
    *,
    eos_id: int | None = None,
    vocab_limit: int | None = None,
    decode: Callable[[list[int]], str] | None = None,
    seed: int = 0,
    prompt_numbers: Sequence[int] | None = None,
    samples: int = 1,
    watch: Callable[[int, list[int]], None] | None = None,
) -> list[Generated]:
    """Writes on from each prompt (encoder–decoders: for each source). The model should be in evaluation mode.

    prompt_ids, prompt_mask (B, T): padded on the left, mask 1 at real tokens. vocab_limit: tokens of the tokenizer; ids
    from there on only pad the embedding. decode: new ids -> text, needed for stop strings. prompt_numbers (B): what the
    draws of each prompt depend on, by default its row. samples: texts for each prompt (with beams: the best so many).
    watch(row, new ids so far) is told of every token, where there is one beam.
    -> B * samples, those of a prompt together. Raises ValueError where a prompt leaves no position for a new token.
    """
    if options.stop_strings and decode is None:
        raise ValueError("stop strings need `decode`")
    if 1 < options.num_beams < samples:
        raise ValueError(f"{samples} samples of a prompt need as many beams, got num_beams {options.num_beams}")
    lengths = prompt_mask.sum(-1).tolist()
    limits = [new_token_limit(model.facts, length, options.max_new_tokens) for length in lengths]
    if min(limits, default=1) < 1:
        raise ValueError(f"a prompt of {max(lengths)} tokens leaves no room in {model.facts.max_positions} positions")
    if not limits:
        return []
    rules = Rules(options, eos_id, vocab_limit, decode)
    stepper = model.stepper(prompt_ids, prompt_mask, max(limits))
    logits = stepper.start()
    # As in `transformers`, what an encoder reads does not count as already there.
    counted = torch.zeros_like(prompt_mask) if model.facts.encoder_decoder else prompt_mask
    seen = seen_tokens(prompt_ids, counted, logits.shape[-1]) if options.repetition_penalty != 1 else None
    started = Started(stepper, logits, seen, limits)
    if options.num_beams > 1:
        return [text for texts in beam_search(started, rules) for text in texts[:samples]]
    numbers = range(len(lengths)) if prompt_numbers is None else prompt_numbers
    chances = [(seed, number, sample) for number in numbers for sample in range(samples)]
    return one_by_one(started.repeated(samples) if samples > 1 else started, rules, chances, watch)


def new_token_limit(facts: ModelFacts, prompt_length: int, wanted: int) -> int:
    """How many tokens a prompt may get: the last one written is never read, so it needs no position."""
    if facts.max_positions is None:
        return wanted
    if facts.encoder_decoder:
        return min(wanted, facts.max_positions) if prompt_length <= facts.max_positions else 0
    return min(wanted, facts.max_positions - prompt_length + 1) if prompt_length <= facts.max_positions else 0


def seen_tokens(ids: Tensor, mask: Tensor, vocabulary: int) -> Tensor:
    """ids, mask (B, T) -> (B, V) bool: the tokens of each row where the mask is 1."""
    counts = torch.zeros(ids.shape[0], vocabulary, dtype=torch.int64, device=ids.device)
    return counts.scatter_add_(-1, ids, mask.long()) > 0


def one_by_one(
    started: Started,
    rules: Rules,
    chances: list[tuple[int, int, int]],
    watch: Callable[[int, list[int]], None] | None = None,
) -> list[Generated]:
    """Greedy or sampled: a row takes a token at a time until it is done. chances (B): seed, prompt, sample of each."""
    stepper, logits, seen, limits = started
    texts = [Generated() for _ in limits]
    rows = list(range(len(limits)))  # which text each row of the batch writes
    for position in range(max(limits)):
        logits = within_vocabulary(logits.float(), rules.vocab_limit)
        uniforms = [uniform(*chances[row], position) for row in rows]
        chosen = next_tokens(rules.penalised(logits, seen), rules.options, uniforms)
        nats = logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
        going = []
        for place, (row, token, score) in enumerate(zip(rows, chosen.tolist(), nats.tolist(), strict=True)):
            text = texts[row]
            text.ids.append(token)
            text.log_probability += score
            reason = rules.ending(text.ids, limits[row])
            if reason is None:
                going.append(place)
            else:
                text.reason, text.ids = reason, without_ending(text.ids, reason)
            if watch is not None:
                watch(row, text.ids)
        if not going:
            break
        if len(going) < len(rows):
            kept = torch.tensor(going, device=chosen.device)
            stepper.reorder(kept)
            chosen, seen = chosen[kept], None if seen is None else seen[kept]
            rows = [rows[place] for place in going]
        if seen is not None:
            seen = seen.scatter(-1, chosen[:, None], True)
        logits = stepper.advance(chosen)
    return texts


def beam_search(started: Started, rules: Rules) -> list[list[Generated]]:
    """The K = num_beams best texts of each prompt, best first, as `transformers` has it with early_stopping=False."""
    beams = rules.options.num_beams
    searches = [Search(rules, limit) for limit in started.limits]
    stepper, logits, seen, _ = started.repeated(beams)
    going = list(range(len(searches)))  # those still searched; each has K rows of the batch, next to each other
    # At first all beams of a prompt are the same, so only one of them counts.
    ranks = torch.tensor([0.0] + [-math.inf] * (beams - 1), device=logits.device).repeat(len(going), 1)  # (B, K)
    totals = ranks  # the same without the penalty on repetition
    for position in range(max(started.limits)):
        nats = within_vocabulary(logits.float(), rules.vocab_limit).log_softmax(-1)  # (B * K, V)
        vocabulary = nats.shape[-1]
        candidate_ranks = (ranks[:, :, None] + rules.penalised(nats, seen).view(-1, beams, vocabulary)).flatten(1)
        candidate_totals = (totals[:, :, None] + nats.view(-1, beams, vocabulary)).flatten(1)
        # So many that K can go on even where every ending token is among the best of each beam.
        best_ranks, best = candidate_ranks.topk(min(max(2, 1 + rules.ending_tokens) * beams, beams * vocabulary))
        best_totals = candidate_totals.gather(-1, best)
        columns = (best_ranks, best_totals, best // vocabulary, best % vocabulary)
        table = [column.tolist() for column in columns]  # 4 x (prompts, candidates)
        taken = [
            searches[prompt].take([Candidate(*one) for one in zip(*best_of, strict=True)])
            for prompt, *best_of in zip(going, *table, strict=True)
        ]
        places = [place for place, prompt in enumerate(going) if not searches[prompt].is_done(position + 1)]
        if not places:
            break
        going = [going[place] for place in places]
        alive = [taken[place] + [DEAD] * (beams - len(taken[place])) for place in places]
        parents = [place * beams + beam.parent for place, row in zip(places, alive, strict=True) for beam in row]
        rows = torch.tensor(parents, device=logits.device)
        tokens = torch.tensor([beam.token for row in alive for beam in row], device=logits.device)
        ranks = torch.tensor([[beam.rank for beam in row] for row in alive], device=logits.device)
        totals = torch.tensor([[beam.total for beam in row] for row in alive], device=logits.device)
        stepper.reorder(rows)
        if seen is not None:
            seen = seen[rows].scatter(-1, tokens[:, None], True)
        logits = stepper.advance(tokens)
    return [[text for _, text in search.finished] for search in searches]


class Candidate(NamedTuple):
    """A beam and one more token."""

    rank: float  # log-probability, changed by the penalty on repetition
    total: float  # log-probability
    parent: int  # which of the K beams
    token: int


DEAD = Candidate(-math.inf, -math.inf, 0, 0)  # fills the K rows of a prompt that has fewer beams left


class Search:
    """The beams of one prompt: of its most likely continuations the ended ones among the first K are finished, and the
    first K that go on stay live. It is done when K are finished and the best live beam, were it to end at its present
    length, would rank no better than the worst of them."""

    def __init__(self, rules: Rules, limit: int) -> None:
        self.rules, self.limit, self.beams = rules, limit, rules.options.num_beams
        self.live: list[list[int]] = [[] for _ in range(self.beams)]  # new tokens of each
        self.best_live = -math.inf
        self.finished: list[tuple[float, Generated]] = []  # rank / length ** length_penalty; best first, at most K

    def take(self, candidates: list[Candidate]) -> list[Candidate]:
        """candidates: best first. -> the live ones, at most K."""
        taken, live = [], []
        for place, candidate in enumerate(candidates):
            if len(taken) == self.beams or candidate.rank == -math.inf:
                break
            ids = [*self.live[candidate.parent], candidate.token]
            reason = self.rules.ending(ids, self.limit)
            if reason is None:
                taken.append(candidate)
                live.append(ids)
            elif place < self.beams:
                text = Generated(without_ending(ids, reason), reason, candidate.total)
                self.finished.append((candidate.rank / len(ids) ** self.rules.options.length_penalty, text))
        self.finished = sorted(self.finished, key=lambda one: -one[0])[: self.beams]
        self.live, self.best_live = live, taken[0].rank if taken else -math.inf
        return taken

    def is_done(self, length: int) -> bool:
        """Whether no beam that is still open can become better than what is finished. length: tokens so far."""
        if not self.live:
            return True
        hoped = self.best_live / length**self.rules.options.length_penalty
        return len(self.finished) == self.beams and hoped <= self.finished[-1][0]
