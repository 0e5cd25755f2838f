"""Token shards -> batches.

    shards on disk -> windows of max_seq_len tokens -> in the global order -> split over ranks and micro-batches

Which windows make up step k depends on the seed and on k alone. So a run goes on from one number, and a run on 8 GPUs
sees the same samples as a run on 1.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import pytorch_lightning as L
import torch
from torch import Tensor

from configs.places import mixture_sources, run_dir, validation_names
from configs.schema import Config
from corpus.chance import key_of
from corpus.held import read_held
from corpus.mixture import Chosen, TrainingWindows
from corpus.packing import Windows
from corpus.raw import is_streamed
from corpus.samples import Samples
from corpus.window_index import WindowIndex
from models.interface import ModelFacts
from objectives import build_objective
from objectives.facts import NOTHING, kept_apart
from tokenizer.tokenizer import Tokenizer
from training.fitting import check_contents, check_model, check_shards, open_shards, packing_of, vocabulary_facts
from training.loader import Loader
from training.on_the_fly import OnTheFly, StreamLoader
from utils.messages import UserError

Batch = dict[str, Tensor]

# Several steps are read at once, which costs much less than one by one: so many places are put in order together, and
# so many tokens gathered, which still fit into the processor's cache. Batches do not depend on them.
PLACES_AT_ONCE = 1 << 15
TOKENS_AT_ONCE = 1 << 15


class LanguageModelData(L.LightningDataModule):
    """Batches for training, validation and testing.

    A training batch is a list: the micro-batches of this rank's share of one step. The others are one dict each.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer, model_facts: ModelFacts) -> None:
        """Opens nothing yet. Raises UserError where the settings, the tokenizer and the model do not go together."""
        super().__init__()
        self.config, self.tokenizer, self.facts = config, tokenizer, model_facts
        self.start_step = 0  # set by train.py: steps that are done already
        self.total_steps: int | None = None  # set by train.py: length of the run; by default one epoch
        vocabulary = vocabulary_facts(tokenizer, model_facts)
        self.objective = build_objective(config.objective.name, config.objective.arguments, vocabulary)
        self.filling = vocabulary.filling
        self.packing = packing_of(config, vocabulary, self.objective.ahead, self.objective.pairs)
        self._indices: dict[str, WindowIndex] = {}
        self._training: TrainingWindows | None = None
        self._on_the_fly: OnTheFly | None = None
        self._samples: Samples | None = None
        check_model(config, model_facts, self.objective)

    # What there is

    def windows(self, split: str) -> WindowIndex:
        """All windows of a split. Raises UserError where its shards are missing or of another tokenizer."""
        if split not in self._indices:
            try:
                self._indices[split] = self._opened(split)
            except UserError as error:
                if self.config.data.mixture is None:
                    raise
                raise UserError(f"data.mixture, {split}: {error}") from error
        return self._indices[split]

    def _opened(self, split: str) -> WindowIndex:
        if self.config.data.tokens == "on_the_fly":
            return self._held(split)
        shards = open_shards(self.config, split)
        check_shards(shards, self.config, self.tokenizer, self.facts, self.objective)
        index = WindowIndex(shards, self.packing, fallback=run_dir(self.config) / "windows")
        if not len(index):
            raise UserError(
                f"{shards.directory} has no window with anything to predict "
                f"({shards.n_documents} documents, {shards.n_tokens} tokens)"
            )
        return index

    def _held(self, split: str) -> WindowIndex:
        """Of data.tokens=on_the_fly: as many of the first documents as are needed, tokenised now and held in memory."""
        testing = self.trainer is not None and self.trainer.testing
        enough = self.config.inference.max_samples if testing else self.config.trainer.validation_windows
        held = read_held(self.config, split, self.tokenizer, self.packing, enough)
        check_contents(held, self.tokenizer, self.facts, self.objective)
        return WindowIndex(held, self.packing, keep=False)

    @property
    def on_the_fly(self) -> OnTheFly | None:
        """What is trained on where data.tokens says so, in place of shards."""
        if self.config.data.tokens == "on_the_fly" and self._on_the_fly is None:
            self._on_the_fly = OnTheFly(
                self.config, self.tokenizer, self.packing,
                lambda held: check_contents(held, self.tokenizer, self.facts, self.objective),
            )  # fmt: skip
        return self._on_the_fly

    def state_after(self, steps: int) -> Any:
        """What a checkpoint keeps: nothing, if not on the fly, as windows follow from the number of the step alone."""
        return None if self.on_the_fly is None else self.on_the_fly.state(steps)

    def restore(self, state: Any) -> None:
        """state: what `state_after` gave."""
        if self.on_the_fly is not None:
            self.on_the_fly.restore(state)

    @property
    def training(self) -> TrainingWindows:
        """What is trained on, of one corpus or a mixture, in its order."""
        if self._training is None:
            data = self.config.data
            seed = self.config.seed if data.seed is None else data.seed
            if data.mixture is None:
                self._training = TrainingWindows({"train": self.windows("train")}, None, seed, data.shuffle)
            else:
                weights = dict(zip(mixture_sources(self.config), data.mixture.values(), strict=True))
                indices = {name: self.windows(f"{name}.train") for name in weights}
                for name in weights:  # one that is missing is told before the run begins
                    self.windows(name)
                self._training = TrainingWindows(indices, weights, seed, data.shuffle)
        return self._training

    @property
    def n_windows(self) -> int:
        """Training windows: samples in an epoch (of a mixture: in a cycle; on the fly: 1, as nobody has counted)."""
        return 1 if self.on_the_fly else len(self.training)

    @property
    def tokens_per_epoch(self) -> int:
        """Unpadded input tokens of those windows, of decoders too. On the fly a window is taken to be full."""
        return self.config.data.max_seq_len if self.on_the_fly else self.training.input_tokens

    def text_counts(self, split: str, n_windows: int | None = None) -> "TextCounts":
        """Raw text that the targets of a split stand for. n_windows: how many are scored, if not all."""
        index = self.windows(split)
        manifest, counts = index.shards.manifest, index.counts
        why_not = None
        if not self.objective.ahead and not self.objective.pairs:
            why_not = "the objective scores only some tokens of the text"
        elif n_windows is not None and n_windows < len(index):
            why_not = f"only {n_windows} of {len(index)} windows were scored"
        elif counts.unscored_tokens > 1:  # the first token of a stream has nothing before it
            masking = " and data.document_masking" if self.packing.document_masking else ""
            why_not = (
                f"{counts.unscored_tokens} tokens of the text are not scored with "
                f"data.packing={self.packing.packing}{masking}"
            )
        elif manifest["skipped"]:
            why_not = f"{sum(manifest['skipped'].values())} documents were skipped when the text was tokenised"
        return TextCounts(manifest["bytes"], manifest["words"], manifest["lines"], why_not)

    # Training

    def train_dataloader(self) -> "Loader | StreamLoader":
        """Steps from `start_step` to `total_steps`; each a list of micro-batches."""
        rank, ranks = self._rank_and_ranks()
        settings = self.config.trainer
        share, rest = divmod(settings.global_batch_size, ranks)
        micro = settings.micro_batch_size or share
        if rest or share % micro:
            raise UserError(
                f"trainer.global_batch_size={settings.global_batch_size} must be divisible by "
                f"micro_batch_size x devices = {micro} x {ranks}"
            )
        if self.on_the_fly is not None:
            return self._streamed(rank, ranks, share, micro)
        training, size = self.training, settings.global_batch_size
        at_once = max(1, TOKENS_AT_ONCE // (share * self.packing.row))  # steps
        ordered = at_once * max(1, PLACES_AT_ONCE // (share * at_once))

        @lru_cache(maxsize=2)
        def chosen(block: int) -> Chosen:
            numbers = np.arange(block * ordered, (block + 1) * ordered)
            return training.at((numbers[:, None] * size + rank * share + np.arange(share)).ravel())

        def steps(numbers: range) -> list[list[Batch]]:
            block, first = divmod(numbers.start, ordered)
            windows = training.gather(chosen(block).part(slice(first * share, (first + len(numbers)) * share)))
            return self.micro_batches(windows, share, micro)

        total = self.total_steps if self.total_steps is not None else -(-len(training) // size)
        return Loader(steps, self.start_step, total, self.config.data.num_workers, at_once, self._pinned)

    def _streamed(self, rank: int, ranks: int, share: int, micro: int) -> StreamLoader:
        """The same of documents that are tokenised on the fly. Places are those of the run, as ever."""
        assert self.on_the_fly is not None

        def step(number: int, windows: Windows) -> list[Batch]:
            places = (number * ranks + rank) * share + np.arange(share)
            return self.micro_batches(windows._replace(places=places.astype(np.uint64)), share, micro)[0]

        stop = 1 << 40 if self.total_steps is None else self.total_steps
        return self.on_the_fly.loader(step, share, range(self.start_step, stop), rank, ranks, self._pinned)

    def micro_batches(self, windows: Windows, share: int, micro: int) -> list[list[Batch]]:
        """Windows of some steps, `share` of each, -> of each step its batches of `micro` windows."""
        starts, seed = range(0, len(windows.lengths), share), self.config.seed
        if getattr(self.objective, "by_row", False) and (windows.lengths == self.packing.row).all():
            arrays = self.arrays(windows, seed)  # nothing to sort or to narrow: one call does all of them
            return [[tensors(arrays, slice(i, i + micro)) for i in range(s, s + share, micro)] for s in starts]
        steps = []
        for start in starts:
            step = windows.rows(slice(start, start + share))
            if self.config.data.pad_to == "longest" and share > micro:
                step = step.rows(np.argsort(width_of(step), kind="stable"))
            steps.append([self.batch(step.rows(slice(i, i + micro)), seed) for i in range(0, share, micro)])
        return steps

    def batch(self, windows: Windows, seed: int) -> Batch:
        """Windows -> what a model is given. `places` (B,) int64 says which samples they are."""
        return tensors(self.arrays(windows, seed), slice(None))

    def arrays(self, windows: Windows, seed: int) -> dict[str, np.ndarray]:
        """The same, not yet as tensors."""
        if self.config.data.pad_to == "longest":
            windows = windows.narrowed()
        arrays = self.objective(windows, seed)
        mask = arrays["attention_mask"]
        full = mask.strides == (0, 0) or bool(mask.all())  # (0, 0): a single 1, seen from every place
        if not full and self.config.data.padding_side == "left":
            arrays = filled_on_the_left(arrays)
            if not self.facts.encoder_decoder:
                arrays["position_ids"] = np.maximum(arrays["attention_mask"].cumsum(1) - 1, 0)
        if windows.documents is not None:
            arrays = kept_apart(arrays, self.config.objective.name)
        elif (full and self.facts.causal and not self.facts.encoder_decoder) or not self.facts.takes_attention_mask:
            del arrays["attention_mask"]
        arrays["places"] = windows.places.astype(np.int64)
        return {name: np.ascontiguousarray(values) for name, values in arrays.items()}

    # Validation and testing

    def val_dataloader(self) -> list["Loader"]:
        """One loader for each validation set, in the order of the config."""
        settings = self.config.trainer
        size = settings.micro_batch_size or max(1, settings.global_batch_size // self._rank_and_ranks()[1])
        return [
            self._scoring_loader(split, evenly_spaced(len(self.windows(split)), settings.validation_windows), size)
            for split in validation_names(self.config)
        ]

    def test_dataloader(self) -> "Loader":
        """The split of inference.split. Where text is to be generated a batch also has prompts: `prompt_ids` and
        `prompt_mask` (B, S), filled on the left, and `index` (B,), for `prompt` and `reference`. Where windows are not
        documents there are not as many; a batch beyond the last of one has only the other (or nothing scored)."""
        settings = self.config.inference
        n = min(len(self.windows(settings.split)), settings.max_samples or 1 << 62)
        if not self.generates:
            return self._scoring_loader(settings.split, np.arange(n), settings.batch_size)
        samples = np.arange(min(len(self.samples), settings.max_samples or 1 << 62))
        lengths = np.array([len(self.samples.prompt_ids(int(i))) for i in samples])
        longest_first = samples[np.argsort(-lengths, kind="stable")]  # prompts of like length share a batch
        return self._scoring_loader(settings.split, np.arange(n), settings.batch_size, longest_first)

    def _scoring_loader(
        self, split: str, indices: np.ndarray, size: int, samples: np.ndarray | None = None
    ) -> "Loader":
        """Window (and sample) i goes to rank i mod R. Ranks that run out get batches with nothing scored."""
        rank, ranks = self._rank_and_ranks()
        index, seed = self.windows(split), int(key_of(self.config.seed, "validation"))
        prompts = np.empty(0, np.int64) if samples is None else samples
        batches = math.ceil(math.ceil(max(len(indices), len(prompts)) / ranks) / size)
        mine, my_prompts = indices[rank::ranks], prompts[rank::ranks]

        def batch(number: int) -> Batch:
            chosen = mine[number * size : (number + 1) * size]
            made = self.batch(index.gather(chosen if len(chosen) else indices[:1]), seed)
            if not len(chosen):
                made["targets"].fill_(NOTHING)
            asked = my_prompts[number * size : (number + 1) * size]
            return {**made, **self.prompts(asked)} if len(asked) else made

        workers = self.config.data.num_workers
        return Loader(lambda numbers: map(batch, numbers), 0, batches, workers, pinned=self._pinned)

    # Generation for testing

    @property
    def generates(self) -> bool:
        """Whether testing also generates text."""
        wanted = self.config.inference.generate
        return self.config.dataset.kind != "text" if wanted is None else wanted

    @property
    def samples(self) -> Samples:
        """The documents of inference.split, one by one."""
        if self._samples is None:
            from corpus.tokenising import prompts_and_references  # reads raw documents: only testing does

            split = self.config.inference.split

            def raw() -> Iterator[tuple[str, str]]:
                if self.config.data.mixture is not None:
                    raise UserError("a config with data.mixture does not say where its corpora come from")
                # The raw text goes on behind what is held in memory, tokenize.max_tokens, or the end of a stream.
                ends = self.on_the_fly or self.config.tokenize.max_tokens is not None or is_streamed(self.config)
                return islice(prompts_and_references(self.config, split), shards.n_documents if ends else None)

            shards = self.windows(split).shards
            self._samples = Samples(shards, self.tokenizer.decode, raw)
        return self._samples

    def prompt(self, index: int) -> str:
        """The text that sample `index` is prompted with."""
        return self.samples.prompt(index)

    def reference(self, index: int) -> str:
        """The text that was right."""
        return self.samples.reference(index)

    def prompts(self, indices: np.ndarray) -> Batch:
        """Samples -> prompt_ids, prompt_mask (B, S), filled on the left, and index (B,)."""
        packing = self.packing
        room = packing.room if self.objective.pairs else self._room_for_prompts()
        end = packing.end if self.objective.pairs else None  # an answer follows a prompt, not its end
        ids, mask = self.samples.prompt_rows(indices, room, packing.begin, end, self.filling)
        return {
            "prompt_ids": torch.from_numpy(ids),
            "prompt_mask": torch.from_numpy(mask),
            "index": torch.from_numpy(np.asarray(indices, np.int64)),
        }

    def _room_for_prompts(self) -> int:
        """Tokens of a prompt that leave room for the answer."""
        if self.facts.max_positions is None:
            return 1 << 62
        room = (
            self.facts.max_positions - self.config.inference.decoding.max_new_tokens - (self.packing.begin is not None)
        )
        if room < 1:
            raise UserError(
                f"inference.decoding.max_new_tokens={self.config.inference.decoding.max_new_tokens} leaves no room "
                f"for a prompt in the model's {self.facts.max_positions} positions"
            )
        return room

    @property
    def _pinned(self) -> bool:
        return torch.cuda.is_available() and self.config.trainer.accelerator != "cpu"

    def _rank_and_ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)


@dataclass(frozen=True)
class TextCounts:
    """Raw text, in UTF-8 bytes, words and lines, for bits per byte and perplexity per word."""

    bytes: int
    words: int
    lines: int
    why_not: str | None  # why such figures would be wrong; None: they are right


def tensors(arrays: dict[str, np.ndarray], rows: slice) -> Batch:
    """Some rows of them, without a copy."""
    return {name: torch.from_numpy(values[rows]) for name, values in arrays.items()}


def width_of(windows: Windows) -> np.ndarray:
    """What rows are sorted by: the length of a row, of pairs that of its longer side. -> (B,)"""
    if windows.target_lengths is None:
        return windows.lengths
    return np.maximum(windows.lengths, windows.target_lengths)


def filled_on_the_left(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Moves tokens to the right end of their rows; what a decoder says stays where it is."""
    mask = arrays["attention_mask"]
    width = mask.shape[1]
    shift = width - mask.sum(1, keepdims=True)
    places = (np.arange(width) - shift) % width
    stays = {"decoder_input_ids", "targets"} if "decoder_input_ids" in arrays else set()
    return {
        name: values if name in stays or values.shape != mask.shape else np.take_along_axis(values, places, 1)
        for name, values in arrays.items()
    }


def evenly_spaced(n: int, wanted: int | None) -> np.ndarray:
    """At most `wanted` of the numbers 0, …, n - 1, evenly spaced."""
    return np.arange(n) if wanted is None or wanted >= n else np.arange(wanted) * n // wanted
