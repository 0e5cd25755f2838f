"""Config, tokenizer, model and shards -> whether they go together, and what batches follow from them."""

from configs.places import shards_dir, split_dir, splits
from configs.schema import Config
from corpus.documents import input_settings
from corpus.encoding import layout_of
from corpus.lineage import INPUT_SIZES, input_sizes
from corpus.packing import Packing
from corpus.raw import differences
from corpus.shards import MANIFEST, SETTINGS, ShardSet
from corpus.sources import has_split
from models.interface import ModelFacts
from objectives.facts import Objective, VocabularyFacts
from tokenizer.tokenizer import Tokenizer
from utils.files import read_json, shown
from utils.messages import UserError, warn


def vocabulary_facts(tokenizer: Tokenizer, model_facts: ModelFacts) -> VocabularyFacts:
    """What objectives know of the vocabulary. A decoder starts from its model's own id, else from pad."""
    start = model_facts.decoder_start_id
    return VocabularyFacts(
        vocab_size=tokenizer.vocab_size, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id,
        unk_id=tokenizer.unk_id, mask_id=tokenizer.mask_id, cls_id=tokenizer.cls_id, sep_id=tokenizer.sep_id,
        special_ids=tuple(tokenizer.special_ids), starts_word=lambda: tokenizer.starts_word,
        decoder_start_id=tokenizer.pad_id if start is None else start,
    )  # fmt: skip


def packing_of(config: Config, vocabulary: VocabularyFacts, ahead: int, pairs: bool) -> Packing:
    """How windows are cut. Models that see both sides (ahead = 0) are given CLS and SEP where there are any."""
    begin_ids, end_ids = (vocabulary.bos_id, vocabulary.cls_id), (vocabulary.eos_id, vocabulary.sep_id)
    if not ahead and not pairs:
        begin_ids, end_ids = begin_ids[::-1], end_ids[::-1]
    edges: dict[str, int | None] = {"begin": None, "end": None}
    for edge, setting, wanted, ids in (
        ("begin", "window_bos", config.data.window_bos, begin_ids),
        ("end", "window_eos", config.data.window_eos, end_ids),
    ):
        if wanted:
            edges[edge] = next((i for i in ids if i is not None), None)
            if edges[edge] is None:
                name = "BOS or CLS" if edge == "begin" else "EOS or SEP"
                raise UserError(
                    f"data.{setting}=true, but the tokenizer has no {name} token; see tokenizer.special_tokens"
                )
    data = config.data
    return Packing(
        data.max_seq_len, ahead, data.packing, data.overlap, **edges, pairs=pairs,
        document_masking=data.document_masking,
    )  # fmt: skip


def check_model(config: Config, facts: ModelFacts, objective: Objective) -> None:
    """Raises UserError where a model cannot be given such batches."""
    data, pairs = config.data, objective.pairs
    if facts.max_positions is not None and data.max_seq_len > facts.max_positions:
        raise UserError(
            f"data.max_seq_len={data.max_seq_len} is longer than the model's {facts.max_positions} positions"
        )
    if pairs != facts.encoder_decoder:
        needs, has = (
            ("an encoder-decoder", "is none") if pairs else ("a model without encoder", "is an encoder-decoder")
        )
        raise UserError(f"objective {config.objective.name} needs {needs}; the model {has}")
    if objective.ahead and not facts.causal:
        raise UserError(
            f"objective {config.objective.name} has each position predict the next token, but the model sees both "
            "sides of a position; use a causal model, or objective masked"
        )
    if not objective.ahead and not pairs and facts.causal:
        warn(f"objective {config.objective.name} asks for tokens where they stand, but the model sees none after them")
    if data.document_masking:
        return  # documents say what is filled, and models/documents.py has tried them
    if not facts.takes_attention_mask and (data.padding_side == "left" or not facts.causal) and data.packing != "full":
        raise UserError(
            f"the model takes no attention_mask: with data.packing={data.packing} it would read what fills short rows; "
            f"use data.packing=full" + (" or data.padding_side=right" if facts.causal else "")
        )


def open_shards(config: Config, split: str) -> ShardSet:
    """The shards of a split. Raises UserError where there are none, and says what would make them."""
    folder = split_dir(config, split)
    if config.data.mixture is None and split in splits(config) and not (folder / MANIFEST).exists():
        others = shards_dir(config).glob(f"*/{MANIFEST}")
        if any("imported" in read_json(path) for path in others):
            raise UserError(
                f"no shards of the split '{split}' beside the imported ones; import it, too: "
                f"python -m tools.import_tokens CONFIG FORMAT PATH --split {split}"
            )
        if not _is_named(config, split):
            raise UserError(
                f"the config names no documents for the split '{split}', and they are needed; see "
                "dataset.validation_path, test_path, fractions and (of the Hub) splits"
            )
    return ShardSet.open(folder.parent, folder.name)


def _is_named(config: Config, split: str) -> bool:
    try:
        return has_split(config, split)
    except UserError:  # the raw text need not be there any more
        return True


def check_shards(
    shards: ShardSet, config: Config, tokenizer: Tokenizer, facts: ModelFacts, objective: Objective
) -> None:
    """Raises UserError where shards were made with another tokenizer or other settings, or for another objective."""
    manifest = shards.manifest
    if config.data.mixture is None:
        _check_settings(shards, config)
        _check_documents(shards, config)
    elif shards.kind != config.dataset.kind:
        raise UserError(
            f"the shards in {shown(shards.directory)} hold {shards.kind}, and dataset.kind is {config.dataset.kind}; "
            "all corpora of a mixture are of that kind"
        )
    if manifest["tokenizer"] != tokenizer.fingerprint:
        raise UserError(
            f"the shards in {shown(shards.directory)} were made with another tokenizer (fingerprint "
            f"{manifest['tokenizer'][:12]}, configured: {tokenizer.fingerprint[:12]}); "
            f"make them again with: python tokenize_data.py CONFIG --restart"
        )
    check_contents(shards, tokenizer, facts, objective)


def check_contents(shards: ShardSet, tokenizer: Tokenizer, facts: ModelFacts, objective: Objective) -> None:
    """Raises UserError where the model does not know an id, or the objective wants documents of another kind."""
    manifest, pairs = shards.manifest, objective.pairs
    size = min(tokenizer.vocab_size, facts.vocab_size or tokenizer.vocab_size)
    if manifest["largest_id"] >= size:
        whose = "model" if facts.vocab_size and facts.vocab_size < tokenizer.vocab_size else "tokenizer"
        raise UserError(
            f"{shown(shards.directory)}: there is the id {manifest['largest_id']}, "
            f"the {whose}'s vocabulary has only {size}"
        )
    if pairs and shards.kind not in ("pairs", "prompt_response"):
        raise UserError(f"objective seq2seq needs dataset.kind pairs or prompt_response; the shards hold {shards.kind}")
    if shards.kind == "pairs" and not pairs:
        raise UserError(
            "dataset.kind=pairs needs an objective that reads pairs, such as seq2seq; for a model without encoder use "
            "dataset.kind=prompt_response"
        )


def _check_settings(shards: ShardSet, config: Config) -> None:
    """Raises UserError where the config would now make other tokens of the same documents."""
    noted, wanted = read_json(shards.directory / SETTINGS), layout_of(config).settings()
    differing = [
        f"{key}: {noted.get(key)!r} there, {value!r} in the config"
        for key, value in wanted.items()
        if noted.get(key) != value
    ]
    if differing:
        raise UserError(
            f"the shards in {shown(shards.directory)} were made with other settings ({'; '.join(differing)}); set "
            "them back, or make the shards again with: python tokenize_data.py CONFIG --restart"
        )


def _check_documents(shards: ShardSet, config: Config) -> None:
    """Raises UserError where the config would now read other documents. The raw text need not be there any more."""
    noted, wanted = shards.manifest.get("dataset"), input_settings(config, shards.manifest["split"])
    if noted is None:  # tokens that another program made
        return
    words = {"caps": "[max_documents, max_bytes]", "share": "share of dataset.path"}
    there, here = ({words.get(key, key): value for key, value in settings.items()} for settings in (noted, wanted))
    differing = differences(there, here) or _other_sizes(shards, config)
    if not differing:
        return
    said = f"the shards in {shown(shards.directory)} were made from other documents ({'; '.join(differing)})"
    if config.tokenize.path is None:
        raise UserError(
            f"{said}; set the section dataset back, or make the shards again with: python tokenize_data.py CONFIG "
            "--restart"
        )
    warn(f"{said}; they are used all the same, as tokenize.path names them")


def _other_sizes(shards: ShardSet, config: Config) -> list[str]:
    """Whether the files of the text have become longer, shorter, more or fewer. They may be gone altogether."""
    sizes = read_json(shards.directory / SETTINGS).get(INPUT_SIZES)
    try:
        now = input_sizes(config, shards.manifest["split"]) if sizes is not None else None
    except UserError:
        return []
    return [] if now == sizes else ["the files that it was read from have other sizes now"]
