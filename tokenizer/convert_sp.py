"""A SentencePiece .model -> the tokenizer.json that gives the same ids, for transformers.

Exact for unigram and BPE models that were trained here without normalisation; but transformers finds special strings in
a text. The normalisation of the others is handed over as it is, and `tokenizer.report` measures what differs.
"""

import json
from typing import Any

from tokenizer import special_strings
from tokenizer.engines import ROLES
from tokenizer.finding import SPECIALS
from utils.messages import UserError

# Piece types of sentencepiece_model.proto.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE, WORD, CHAR = 1, 2, 3, 4
SPACE = "▁"


def complete(own: dict[str, bytes], roles: dict[str, str], others: list[str]) -> tuple[dict[str, bytes], str | None]:
    """The files of a SentencePiece tokenizer, with those that transformers needs beside the .model.

    own, roles, others: `files` and `special_strings()` of the Tokenizer.
    -> (files, None), or the files as they were and why the model cannot be converted.
    """
    specials = {role: piece for role, piece in roles.items() if role not in ("bos", "eos", "unk", "pad")}
    files = {**own, SPECIALS: own.get(SPECIALS, _json(specials))}
    try:
        pipeline = convert(next(content for name, content in files.items() if name.endswith(".model")))
    except UserError as problem:
        return files, str(problem)
    return {**files, "tokenizer.json": pipeline.encode(), **transformers_files(roles, others)}, None


def transformers_files(roles: dict[str, str], others: list[str]) -> dict[str, bytes]:
    """tokenizer_config.json and special_tokens_map.json. roles: "bos" -> its string; others: special ones without."""
    strings: dict[str, Any] = {f"{role}_token": roles[role] for role in ROLES if role in roles}
    if others:
        strings["additional_special_tokens"] = others
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    return {"tokenizer_config.json": _json({**config, **strings}), "special_tokens_map.json": _json(strings)}


def convert(model: bytes) -> str:
    """The bytes of a .model -> the text of a tokenizer.json.

    Raises UserError for char and word models, and for what has no counterpart.
    """
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers

    proto: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made at run time
    proto.ParseFromString(model)
    kind = proto.trainer_spec.model_type
    if kind in (WORD, CHAR):
        name = "word" if kind == WORD else "char"
        raise UserError(
            f"SentencePiece {name} models cannot be converted to a Hugging Face tokenizer; unigram and bpe can"
        )
    if proto.trainer_spec.treat_whitespace_as_suffix or not proto.normalizer_spec.escape_whitespaces:
        raise UserError("SentencePiece models with spaces at the ends of words, or unescaped, cannot be converted")
    tokenizer = Tokenizer(_unigram(proto) if kind == UNIGRAM else _bpe(proto))
    added = []
    for piece in proto.pieces:
        if piece.type in (UNKNOWN, CONTROL, USER_DEFINED):
            added.append(AddedToken(piece.piece, special=piece.type != USER_DEFINED, normalized=False))
    tokenizer.add_tokens(added)
    normaliser = _normaliser(proto.normalizer_spec)
    tokenizer.normalizer = normaliser
    pattern = _cuts(proto) if kind == UNIGRAM else None
    if pattern is not None:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "merged_with_previous")
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if proto.normalizer_spec.add_dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer.to_str(pretty=False)


def _unigram(proto: Any) -> Any:
    from tokenizers import models

    unknown = next(i for i, piece in enumerate(proto.pieces) if piece.type == UNKNOWN)
    vocabulary = [(piece.piece, piece.score) for piece in proto.pieces]
    normal = {piece.piece for piece in proto.pieces if piece.type == NORMAL}
    if special_strings.has_all_characters(normal):
        vocabulary = special_strings.never_best(vocabulary, _hidden(proto))
    return models.Unigram(vocabulary, unk_id=unknown, byte_fallback=proto.trainer_spec.byte_fallback)


def _bpe(proto: Any) -> Any:
    """SentencePiece joins the neighbours whose union scores best; here every such pair is a merge of that rank."""
    from tokenizers import models

    vocabulary = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    # Only normal pieces take part: the others never stand where two could be joined.
    normal = {piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}
    merges: list[tuple[str, str]] = []
    for whole in sorted(normal, key=lambda piece: (-normal[piece], vocabulary[piece])):
        # SentencePiece takes the leftmost of pairs that make the same piece. The longer left side first is nearest to
        # that, as in a run of one character it is the end that is short; no text was found on which it matters.
        for cut in range(len(whole) - 1, 0, -1):
            if whole[:cut] in normal and whole[cut:] in normal:
                merges.append((whole[:cut], whole[cut:]))
    unknown = next(piece.piece for piece in proto.pieces if piece.type == UNKNOWN)
    fallback = proto.trainer_spec.byte_fallback
    return models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=fallback)


def _normaliser(spec: Any) -> Any:
    from tokenizers import Regex, normalizers

    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        # Not Strip, which takes tabs and newlines for spaces.
        steps += [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])


def _hidden(proto: Any) -> set[str]:
    """Pieces that SentencePiece never finds in a text by their strings."""
    return {piece.piece for piece in proto.pieces if piece.type in (UNKNOWN, CONTROL, BYTE, UNUSED)}


def _cuts(proto: Any) -> str | None:
    normal = {piece.piece for piece in proto.pieces if piece.type == NORMAL}
    return special_strings.cuts(_hidden(proto), normal if special_strings.has_all_characters(normal) else None)


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
