"""The training split -> a SentencePiece model: unigram, BPE, char or word; and, of the first two, a tokenizer.json.

    python -m tokenizer.train_sp_tokenizer configs/user_configs/mine.yaml

Trained from a stream, on at most tokenizer.training_bytes of text, which the library holds in memory while it trains.
Spaces are kept as they are. Ends with a report on text it has not seen.
"""

import argparse
import io
import json
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

from configs.command_line import again, run_stage
from configs.schema import Config
from utils.messages import UserError, duration, progress, size

KINDS = ("unigram", "bpe", "char", "word")
NORMALISATION = {"identity": "identity", "nfkc": "nfkc", "nfkc_lowercase": "nfkc_cf"}
# Scores of unigram pieces are rounded to 1/32 nat. The library adds them up as 32-bit floats, whose errors depend on
# the order; of such round numbers the sums are exact, up to some 60,000 tokens. So every reader of the model
# (transformers adds up 64-bit ones) finds the same segmentation. It costs less than a hundredth of a percent of tokens.
SCORE_STEPS = 32


def main(config: Config, flags: argparse.Namespace) -> None:
    """Train, convert, report, write; or say that it is done."""
    from tokenizer import report, trained
    from tokenizer.tokenizer import Tokenizer
    from tokenizer.training_text import TrainingText

    check(config)
    manifest = trained.finished(config, "sentencepiece", flags.restart)
    if manifest is not None:
        trained.show(config, manifest["report"], again(flags), before=True)
        return
    started = time.monotonic()
    with progress("reading text", config.tokenizer.training_bytes, "bytes") as meter:
        text = TrainingText(config, meter, by_line=True)
        files = train(config, text)
    seconds = time.monotonic() - started
    tokenizer = Tokenizer(files, "the new tokenizer")
    rows = [
        ("trained on", f"{size(text.n_bytes)} of {text.documents:,} documents, in {duration(seconds)}"),
        *report.of(config, tokenizer),
    ]
    files, said = convert(config, tokenizer)
    trained.write(config, "sentencepiece", files, [*rows, ("transformers", said)])
    trained.show(config, [*rows, ("transformers", said)], again(flags))


def check(config: Config) -> None:
    """Raises UserError for settings that do not go together."""
    settings = config.tokenizer
    if settings.retrain:
        raise UserError("tokenizer.retrain is for python -m tokenizer.train_hf_tokenizer; unset it")
    if settings.kind not in KINDS:
        raise UserError(
            f"tokenizer.kind={settings.kind} is trained by: python -m tokenizer.train_hf_tokenizer; here: "
            f"{', '.join(KINDS)}"
        )
    if settings.normalisation not in NORMALISATION:
        raise UserError(
            f"tokenizer.normalisation={settings.normalisation}: SentencePiece has {', '.join(NORMALISATION)}; "
            "train_hf_tokenizer has it"
        )
    if settings.pre_tokenisation not in (None, "metaspace"):
        raise UserError(
            f"tokenizer.pre_tokenisation={settings.pre_tokenisation} is for train_hf_tokenizer; SentencePiece has "
            "its own (metaspace)"
        )
    if settings.special_tokens.unk is None:
        raise UserError("tokenizer.special_tokens.unk: a SentencePiece model always has one; name it, such as <unk>")


def train(config: Config, text: Any) -> dict[str, bytes]:
    """Pieces of text -> the files of a SentencePiece tokenizer.

    Raises UserError for what the library refuses, such as a vocabulary larger than the text has pieces for.
    """
    import sentencepiece

    from tokenizer import chat, trained
    from tokenizer.finding import SPECIALS

    settings = config.tokenizer
    roles, strings = trained.special_strings(config)
    own: dict[str, str] = {}  # roles that the library knows; of two roles with one string the first, by its place
    for role in ("unk", "bos", "eos", "pad"):
        if role in roles and roles[role] not in own.values():
            own[role] = roles[role]
    named: dict[str, Any] = {
        f"{role}_id": list(own).index(role) if role in own else -1 for role in ("unk", "bos", "eos", "pad")
    }
    named |= {f"{role}_piece": piece for role, piece in own.items()}
    model = io.BytesIO()
    raised: list[Exception] = []
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_remembering(text, raised),
            model_writer=model,
            model_type=settings.kind,
            vocab_size=settings.vocab_size,
            normalization_rule_name=NORMALISATION[settings.normalisation],
            # Every space is text, at the ends and doubled too; none is added.
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            byte_fallback=settings.byte_fallback,
            # Newlines and tabs are bytes; without bytes they are symbols of their own, lest they get lost.
            user_defined_symbols=[] if settings.byte_fallback else ["\n", "\t"],
            control_symbols=[s for s in strings if s not in own.values()],
            character_coverage=settings.character_coverage,
            hard_vocab_limit=False,
            max_sentence_length=1 << 20,  # longer ones would be left out in silence; pieces are shorter than that
            num_threads=16,  # on any machine: sums, and so the model, depend on it
            minloglevel=2,
            **named,
        )
    except RuntimeError as problem:
        if raised:  # the library makes text of what the iterator raises
            raise raised[0] from None
        raise UserError(f"SentencePiece cannot train this tokenizer: {_readable(problem)}") from problem
    specials = {role: piece for role, piece in roles.items() if role not in own}
    return {
        "tokenizer.model": _rounded(model.getvalue()) if settings.kind == "unigram" else model.getvalue(),
        SPECIALS: (json.dumps(specials, indent=2, ensure_ascii=False) + "\n").encode(),
        "chat_template.jinja": chat.TEMPLATE.encode(),
    }


def _remembering(text: Iterable[str], raised: list[Exception]) -> Iterator[str]:
    try:
        yield from text
    except Exception as problem:
        raised.append(problem)
        raise


def convert(config: Config, tokenizer: Any) -> tuple[dict[str, bytes], str]:
    """-> the files with those for transformers, where the model can be converted, and what is said of it."""
    from tokenizer import convert_sp, report
    from tokenizer.tokenizer import Tokenizer

    files, problem = convert_sp.complete(tokenizer.files, *tokenizer.special_strings())
    if problem is not None:
        return files, f"none: {problem}"
    converted = Tokenizer({name: content for name, content in files.items() if name == "tokenizer.json"}, "converted")
    differing, texts = report.differing_share(tokenizer, converted, report.held_out_texts(config))
    if not differing:
        return files, f"tokenizer.json gives the same ids (all {texts:,} texts tried; special strings in text apart)"
    said = f"tokenizer.json gives other ids for {differing:,} of {texts:,} texts ({differing / texts:.2%})"
    exact = config.tokenizer.normalisation == "identity"
    return files, said if exact else f"{said}; with normalisation identity it is exact"


def _rounded(model: bytes) -> bytes:
    """The model with its scores rounded to whole steps."""
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made at run time
    proto.ParseFromString(model)
    for piece in proto.pieces:
        piece.score = round(piece.score * SCORE_STEPS) / SCORE_STEPS
    return proto.SerializeToString()


def _readable(problem: Exception) -> str:
    """What the library says, without where in its source it says so."""
    said = str(problem).strip().splitlines()[-1]
    return re.sub(r"^\w+: (\S+\(\d+\) )?(\[.*?\] )?", "", said) or str(problem)


if __name__ == "__main__":
    run_stage(main, __doc__, {"restart": "move the tokenizer that is there aside, and train again"})
