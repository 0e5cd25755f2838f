"""The training split -> a Hugging Face tokenizer: byte-level BPE, BPE, WordPiece, Unigram, or a pipeline retrained.

    python -m tokenizer.train_hf_tokenizer configs/user_configs/mine.yaml

Trained from a stream, on at most tokenizer.training_bytes of text. Ends with a report on text it has not seen.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from configs.command_line import again, run_stage
from configs.pins import revision_of
from configs.places import REPOSITORY
from configs.schema import Config
from utils.messages import UserError, console, duration, info, progress, size

KINDS = ("byte_level_bpe", "bpe", "wordpiece", "unigram")
DEFAULT_PRE_TOKENISATION = {"byte_level_bpe": "gpt2", "wordpiece": "bert"}


def main(config: Config, flags: argparse.Namespace) -> None:
    """Train, report, write; or say that it is done."""
    from tokenizer import report, trained
    from tokenizer.tokenizer import Tokenizer
    from tokenizer.training_text import TrainingText

    check(config)
    manifest = trained.finished(config, "huggingface", flags.restart)
    if manifest is not None:
        trained.show(config, manifest["report"], again(flags), before=True)
        return
    started = time.monotonic()
    with progress("reading text", config.tokenizer.training_bytes, "bytes") as meter:
        text = TrainingText(config, meter)
        files = retrain(config, text) if config.tokenizer.retrain else train(config, text)
    seconds = time.monotonic() - started
    tokenizer = Tokenizer(files, "the new tokenizer")
    rows = [
        ("trained on", f"{size(text.n_bytes)} of {text.documents:,} documents, in {duration(seconds)}"),
        *report.of(config, tokenizer),
    ]
    trained.write(config, "huggingface", files, rows)
    trained.show(config, rows, again(flags))


def check(config: Config) -> None:
    """Raises UserError for settings that do not go together."""
    settings = config.tokenizer
    if settings.retrain:
        return
    kind, pre = settings.kind, settings.pre_tokenisation
    if kind not in KINDS:
        raise UserError(
            f"tokenizer.kind={kind} is trained by: python -m tokenizer.train_sp_tokenizer; here: {', '.join(KINDS)}"
        )
    if kind == "byte_level_bpe" and pre not in (None, "gpt2", "gpt4"):
        raise UserError(f"tokenizer.pre_tokenisation={pre} is not for byte_level_bpe, which needs gpt2 or gpt4")
    if kind == "wordpiece" and pre not in (None, "bert", "whitespace"):
        raise UserError(f"tokenizer.pre_tokenisation={pre} is not for wordpiece, which needs bert or whitespace")
    if kind != "byte_level_bpe" and settings.special_tokens.unk is None:
        raise UserError(f"tokenizer.kind={kind} needs tokenizer.special_tokens.unk for what is not in its vocabulary")


def train(config: Config, text: Any) -> dict[str, bytes]:
    """A new pipeline by the config -> files of the tokenizer. text: yields pieces of text."""
    from tokenizers import AddedToken, processors

    from tokenizer import chat, convert_sp, trained

    settings = config.tokenizer
    roles, strings = trained.special_strings(config)
    pipeline = new_pipeline(config)
    pipeline.train_from_iterator(text, trainer=_trainer(config, [AddedToken(s, special=True) for s in strings]))
    if settings.kind in ("unigram", "wordpiece"):
        pipeline = _hiding(pipeline, settings.kind, strings)
    if "cls" in roles and "sep" in roles:  # what transformers adds when asked for special tokens, as BERT's does
        ids = [(s, pipeline.token_to_id(s)) for s in dict.fromkeys([roles["cls"], roles["sep"]])]
        single = f"{roles['cls']} $A {roles['sep']}"
        pipeline.post_processor = processors.TemplateProcessing(single, f"{single} $B:1 {roles['sep']}:1", ids)
    others = [s for s in strings if s not in roles.values()]
    return {
        "tokenizer.json": pipeline.to_str(pretty=False).encode(),
        **convert_sp.transformers_files(roles, others),
        "chat_template.jinja": chat.TEMPLATE.encode(),
    }


def new_pipeline(config: Config) -> Any:
    """Normaliser, pre-tokeniser, model and decoder, not trained yet."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    from tokenizer.byte_level import GPT2, GPT4

    kind, unk = config.tokenizer.kind, config.tokenizer.special_tokens.unk
    pre = config.tokenizer.pre_tokenisation or DEFAULT_PRE_TOKENISATION.get(kind, "metaspace")
    model: Any = {
        "byte_level_bpe": lambda: models.BPE(),
        "bpe": lambda: models.BPE(unk_token=unk, fuse_unk=False),
        "wordpiece": lambda: models.WordPiece(unk_token=unk),
        "unigram": lambda: models.Unigram(),
    }[kind]()
    pipeline = Tokenizer(model)
    normalisers: dict[str, list[Any]] = {
        "identity": [],
        "nfc": [normalizers.NFC()],
        "nfkc": [normalizers.NFKC()],
        "nfkc_lowercase": [normalizers.NFKC(), normalizers.Lowercase()],
    }
    if normalisers[config.tokenizer.normalisation]:
        pipeline.normalizer = normalizers.Sequence(normalisers[config.tokenizer.normalisation])
    splits: dict[str, list[Any]] = {
        "gpt2": [pre_tokenizers.Split(Regex(GPT2), "isolated")],
        "gpt4": [pre_tokenizers.Split(Regex(GPT4), "isolated")],
        "whitespace": [pre_tokenizers.Whitespace()],
        "bert": [pre_tokenizers.BertPreTokenizer()],
        # Newlines and tabs by themselves; no space is put before a text, so that what is decoded is what was encoded.
        "metaspace": [
            pre_tokenizers.Split(Regex(r"[\r\n\t]+"), "isolated"),
            pre_tokenizers.Metaspace("▁", prepend_scheme="never"),
        ],
    }
    split = splits[pre]
    if kind == "byte_level_bpe":
        by_gpt2 = pre == "gpt2"  # ByteLevel's own pattern is GPT-2's
        spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=by_gpt2)
        split = [spelled] if by_gpt2 else [*split, spelled]
    pipeline.pre_tokenizer = split[0] if len(split) == 1 else pre_tokenizers.Sequence(split)
    if kind == "byte_level_bpe":
        pipeline.decoder = decoders.ByteLevel()
    elif kind == "wordpiece":
        pipeline.decoder = decoders.WordPiece("##", cleanup=False)
    elif pre == "metaspace":
        pipeline.decoder = decoders.Metaspace("▁", prepend_scheme="never")
    elif pre in ("gpt2", "gpt4"):
        pipeline.decoder = decoders.Fuse()
    return pipeline


def _trainer(config: Config, special: list[Any]) -> Any:
    from tokenizers import pre_tokenizers, trainers

    kind, vocab_size = config.tokenizer.kind, config.tokenizer.vocab_size
    common: dict[str, Any] = {"vocab_size": vocab_size, "special_tokens": special, "show_progress": console.is_terminal}
    # Rare characters would fill a small vocabulary: they may have half of it.
    alphabet = max(1, (vocab_size - len(special)) // 2)
    if kind == "byte_level_bpe":
        if vocab_size < 256 + len(special):
            raise UserError(
                f"tokenizer.vocab_size={vocab_size} is too small: 256 bytes and {len(special)} special tokens"
            )
        return trainers.BpeTrainer(**common, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    if kind == "bpe":
        return trainers.BpeTrainer(**common, limit_alphabet=alphabet)
    if kind == "wordpiece":
        return trainers.WordPieceTrainer(**common, limit_alphabet=alphabet, continuing_subword_prefix="##")
    return trainers.UnigramTrainer(**common, unk_token=config.tokenizer.special_tokens.unk)


def _hiding(pipeline: Any, kind: str, strings: list[str]) -> Any:
    """The trained pipeline, made blind to strings of special tokens that stand in a text."""
    from tokenizers import Regex, Tokenizer, pre_tokenizers

    from tokenizer import special_strings

    characters = None
    if kind == "unigram":
        description = json.loads(pipeline.to_str())
        vocabulary = [(piece, score) for piece, score in description["model"]["vocab"]]
        description["model"]["vocab"] = special_strings.never_best(vocabulary, set(strings))
        pipeline = Tokenizer.from_str(json.dumps(description))
        characters = {piece for piece, _ in vocabulary if piece not in strings}
    pattern = special_strings.cuts(strings, characters)
    if pattern is not None:
        cut = pre_tokenizers.Split(Regex(pattern), "merged_with_previous")
        pipeline.pre_tokenizer = pre_tokenizers.Sequence([cut, pipeline.pre_tokenizer])
    return pipeline


def retrain(config: Config, text: Any) -> dict[str, bytes]:
    """The pipeline of a pretrained tokenizer with a new vocabulary; its special tokens stay, `extra` are added."""
    from transformers import AutoTokenizer

    from tokenizer.finding import find_files, gather

    name = str(config.tokenizer.retrain)
    here = REPOSITORY / name
    files = find_files(str(here) if here.exists() else name, revision_of(config, "retrain"))
    if "tokenizer.json" not in files:
        raise UserError(f"tokenizer.retrain={name} is a SentencePiece model; train one like it with train_sp_tokenizer")
    with tempfile.TemporaryDirectory() as folder:
        for file, content in files.items():
            (Path(folder) / file).write_bytes(content)
        old = AutoTokenizer.from_pretrained(folder)
    info(f"retraining {name}: its special tokens stay; kind, normalisation and pre-tokenisation are its own")
    extra = list(config.tokenizer.special_tokens.extra)
    batches = _batches(text)
    new = old.train_new_from_iterator(batches, config.tokenizer.vocab_size - len(extra), show_progress=False)
    if extra:
        new.add_special_tokens({"additional_special_tokens": extra})
    with tempfile.TemporaryDirectory() as folder:
        new.save_pretrained(folder)
        return gather(Path(folder))


def _batches(text: Any, length: int = 256) -> Any:
    batch = []
    for piece in text:
        batch.append(piece)
        if len(batch) == length:
            yield batch
            batch = []
    if batch:
        yield batch


if __name__ == "__main__":
    run_stage(main, __doc__, {"restart": "move the tokenizer that is there aside, and train again"})
