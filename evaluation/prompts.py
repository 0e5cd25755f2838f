"""A prompts file -> prompts, and prompts -> the ids that a model trained on this config would have read.

.txt: a prompt a line, empty lines apart          .jsonl: an object a line, of which a field or a template is the prompt
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.schema import Config
from corpus.fields import BadRecord, fill
from corpus.files import Row
from corpus.reading import rows_of
from models.interface import ModelFacts
from tokenizer.tokenizer import Tokenizer
from utils.files import shown
from utils.messages import UserError


@dataclass(frozen=True)
class Prompt:
    """What the model is to go on from."""

    text: str
    where: str  # file:line


def read_prompts(path: Path, field: str, longest: int) -> list[Prompt]:
    """field: of each object of a jsonl file, or a template such as '{question}\\n'; longest: bytes of a line.

    Raises UserError, with the line, for a file that is missing, empty, not UTF-8 or not JSON, or lacks the field.
    """
    if path.suffix not in (".txt", ".jsonl"):
        raise UserError(f"generation.prompts_path: {shown(path)} should be a .txt (a prompt a line) or a .jsonl")
    if not path.is_file():
        raise UserError(f"generation.prompts_path: no file {shown(path)}")
    rows = rows_of(path, "line", longest)
    if path.suffix == ".txt":
        field = "text"
        rows = (row for row in rows if row.record is None or row.record["text"].strip())
    prompts = [Prompt(prompt_of(row, field), row.where) for row in rows]
    if not prompts:
        raise UserError(f"generation.prompts_path: {shown(path)} has no prompts in it")
    return prompts


def prompt_of(row: Row, field: str) -> str:
    """A line of the file -> its prompt."""
    if row.record is None:
        raise UserError(f"{row.where}: {row.reason}{f': {row.detail}' if row.detail else ''}")
    try:
        return fill(field if "{" in field else "{" + field + "}", row.record)
    except BadRecord as problem:
        detail = str(problem).replace("set dataset.fields", "set generation.prompt to one of these, or a template")
        raise UserError(f"{row.where}: {detail}") from problem


def encode_prompts(
    prompts: Sequence[Prompt], config: Config, tokenizer: Tokenizer, facts: ModelFacts
) -> list[list[int]]:
    """The ids of each prompt. config: what the model was trained on.

    Raises UserError for a prompt that is longer than the model has positions for.
    """
    rows = [prompt_ids(prompt.text, config, tokenizer, facts.encoder_decoder) for prompt in prompts]
    for prompt, ids in zip(prompts, rows, strict=True):
        if facts.max_positions is not None and len(ids) > facts.max_positions:
            raise UserError(
                f"{prompt.where}: the prompt has {len(ids)} tokens, the model only {facts.max_positions} positions; "
                "shorten it"
            )
    return rows


def prompt_ids(text: str, config: Config, tokenizer: Tokenizer, is_source: bool) -> list[int]:
    """The ids of one prompt as they stood in training; never none at all.

    `tokenize.prepend` comes before the text and `tokenize.separator` after it, where it does not end so by itself; in a
    chat the text is what the user says; rows that began with BOS begin so here. is_source: of an encoder–decoder, where
    it ends with EOS if sources did.
    """
    eos, begin = tokenizer.eos_id, tokenizer.cls_id if tokenizer.bos_id is None else tokenizer.bos_id
    if config.dataset.kind == "messages":
        ids = chat_ids(text, tokenizer)
    else:
        separator = config.tokenize.separator if config.dataset.kind == "prompt_response" else None
        text = config.tokenize.prepend + text
        ids = tokenizer.encode(text if separator is None or text.endswith(separator) else text + separator)
    if config.data.window_bos and begin is not None:
        ids = [begin, *ids]
    if is_source and config.tokenize.document_end == "eos" and eos is not None:
        ids = [*ids, eos]
    if ids:
        return ids
    nothing = begin if begin is not None else eos  # a text begins where another has ended
    return [nothing] if nothing is not None else tokenizer.encode("\n")


def chat_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """A chat of one message, up to where the assistant answers."""
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "a"}]
    ids, scored = tokenizer.encode_chat(turns)
    return ids[: scored[-1][0]]
