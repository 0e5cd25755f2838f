"""A class of transformers, or a copied and edited one, and its arguments -> the model, fitted to the tokenizer.

Everything that cannot be had is refused before weights are made or read: unknown config arguments, an attention
implementation, a vocabulary that is too small. All raise ValueError with one line.
"""

import contextlib
import dataclasses
import inspect
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from models.interface import SpecialIds, check_window, padded_vocab

# Taken by every config beside its own fields.
ALWAYS_TAKEN = {"decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"}
ROPE_SHORTHANDS = {"rope_theta", "rope_scaling", "partial_rotary_factor"}  # of rope_parameters


def from_config(
    kind: type,
    arguments: dict[str, Any],
    attention: str | None,
    tokens: int,
    special: SpecialIds,
    window: int | None = None,
) -> PreTrainedModel:
    """New weights. kind: an auto class (arguments then hold model_type) or a class of models."""
    config = new_config(kind, arguments, tokens, special)
    check_window(window, max_positions_of(config))
    model_class = class_for(kind, config)
    check_attention(model_class, attention)
    model = model_class._from_config(config, dtype=torch.float32, **chosen(attention))
    return with_special_ids(model, special, arguments, replace=True)


def from_pretrained(
    kind: type,
    where: str,
    arguments: dict[str, Any],
    attention: str | None,
    tokens: int,
    special: SpecialIds,
    revision: str | None = None,
    trust_remote_code: bool = False,
    window: int | None = None,
) -> tuple[PreTrainedModel, list[str]]:
    """Weights from a directory or the Hub, in float32; embeddings grown where the tokenizer has more tokens.

    -> the model, and names of weights that were there and are not used (another head, for example).
    """
    source = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = pretrained_config(kind, where, arguments, source)
    check_window(window, max_positions_of(config))
    if not is_remote(config, kind):
        check_attention(class_for(kind, config), attention)
    with silence():
        model, report = kind.from_pretrained(
            where,
            config=config,
            dtype=torch.float32,
            weights_only=True,
            ignore_mismatched_sizes=True,  # so that they are all named below
            output_loading_info=True,
            **source,
            **chosen(attention),
        )
    problems = [f"no {name}" for name in sorted(report["missing_keys"])]
    problems += [
        f"{name} of shape {tuple(there)} for {tuple(here)}" for name, there, here in sorted(report["mismatched_keys"])
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{where} does not fit {type(model).__name__}: it has {'; '.join(problems[:5])}{more}")
    fit_embeddings(model, tokens)
    return with_special_ids(model, special, arguments, replace=False), sorted(report["unexpected_keys"])


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """transformers prints tables and advice; what matters of it is an error here, or told by who called."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()


def is_auto(kind: type) -> bool:
    """Whether the class only chooses another by the config."""
    return hasattr(kind, "_model_mapping")


def is_remote(config: PreTrainedConfig, kind: type) -> bool:
    """Whether the auto class will take code that lies beside the weights."""
    return is_auto(kind) and kind.__name__ in (getattr(config, "auto_map", None) or {})


def class_for(kind: type, config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class that is built."""
    if not is_auto(kind):
        return kind
    if type(config) not in kind._model_mapping:
        raise ValueError(f"{kind.__name__} has no model of type {config.model_type}")
    found = kind._model_mapping[type(config)]
    return found[0] if isinstance(found, (tuple, list)) else found


def chosen(attention: str | None) -> dict[str, str]:
    """The argument that chooses an attention implementation; none: sdpa where the model has it, else eager."""
    return {} if attention is None else {"attn_implementation": attention}


def check_attention(model_class: type[PreTrainedModel], attention: str | None) -> None:
    """Refuses what the model or this machine does not have."""
    name = model_class.__name__
    support = {
        "sdpa": "_supports_sdpa",
        "flex_attention": "_supports_flex_attn",
        "flash_attention_2": "_supports_flash_attn",
        "flash_attention_3": "_supports_flash_attn",
    }
    if attention in support and not getattr(model_class, support[attention], False):
        raise ValueError(f"attention: {name} cannot use {attention}; leave it out, or set eager")
    packages = {
        "flash_attention_2": ("flash-attn", transformers.utils.is_flash_attn_2_available),
        "flash_attention_3": ("flash_attn_3", transformers.utils.is_flash_attn_3_available),
    }
    if attention in packages and not packages[attention][1]():
        package = packages[attention][0]
        raise ValueError(f"attention: {attention} needs a GPU and the package {package}, which are not here; use sdpa")
    if attention == "flex_attention" and not torch.cuda.is_available():
        raise ValueError("attention: flex_attention has no backward pass on a CPU; use sdpa")


# -- configs --


def new_config(kind: type, arguments: dict[str, Any], tokens: int, special: SpecialIds) -> PreTrainedConfig:
    """The config of a new model: the arguments, the tokenizer's size and its special ids, and defaults for the rest."""
    arguments = dict(arguments)
    if is_auto(kind):
        model_type = arguments.pop("model_type", None)
        if model_type is None:
            raise ValueError(f"arguments: {kind.__name__} needs a model_type (llama, gpt2, bert, t5, marian, …)")
        if model_type not in CONFIG_MAPPING:
            near = nearest(model_type, CONFIG_MAPPING)
            raise ValueError(f"arguments: transformers has no model_type {model_type!r}{near}")
        config_class = CONFIG_MAPPING[model_type]
    else:
        config_class = config_class_of(kind)
    check_names(config_class, arguments)
    stated = arguments.pop("vocab_size", tokens)
    if stated < tokens:
        raise ValueError(f"arguments: vocab_size={stated} is smaller than the tokenizer's {tokens}; leave it out")
    # Ids that a class has by default mean something in its own vocabulary, not in this one.
    values = {f"{name}_token_id": getattr(special, name) for name in ("bos", "eos", "pad")}
    values["pad_token_id"] = embedding_pad(special)
    values["decoder_start_token_id"] = special.pad
    if getattr(config_class, "is_encoder_decoder", False) and special.pad is None:
        check_start(arguments.get("decoder_start_token_id"), padded_vocab(stated))
    others = {"forced_eos_token_id": special.eos, "cls_token_id": special.cls, "sep_token_id": special.sep}
    others["mask_token_id"] = special.mask
    values |= {name: value for name, value in others.items() if name in field_names(config_class)}
    try:
        config = config_class(**(values | {"vocab_size": padded_vocab(stated)} | arguments))
    except Exception as problem:  # whatever a class checks of its values, it was the user who set them
        raise ValueError(f"arguments: {' '.join(str(problem).split())}") from problem
    return config


def pretrained_config(kind: type, where: str, arguments: dict[str, Any], source: dict[str, Any]) -> PreTrainedConfig:
    """The config that comes with the weights, changed by the arguments."""
    for name in ("model_type", "vocab_size"):
        if name in arguments:
            raise ValueError(f"arguments: {name} is that of {where}; leave it out")
    if is_auto(kind):
        config = AutoConfig.from_pretrained(where, **source)
        check_names(type(config), arguments)
        return AutoConfig.from_pretrained(where, **source, **arguments)
    config_class = config_class_of(kind)
    check_names(config_class, arguments)
    found = PreTrainedConfig.get_config_dict(where, revision=source["revision"])[0].get("model_type")
    # An edited class is exported under a model_type that the original's code does not answer to.
    if str(found).removeprefix("liftoff_") != config_class.model_type:
        raise ValueError(f"{where} is of model_type {found}, and {kind.__name__} of {config_class.model_type}")
    return config_class.from_pretrained(where, revision=source["revision"], **arguments)


def config_class_of(kind: type) -> type[PreTrainedConfig]:
    """The class of a model's config."""
    found = getattr(kind, "config_class", None)
    if found is None:
        raise ValueError(f"{kind.__name__} is no model of transformers (it has no config_class); use model.module")
    return found


def field_names(config_class: type[PreTrainedConfig]) -> set[str]:
    """What a config names, under its own names and the common ones."""
    if dataclasses.is_dataclass(config_class):
        names = {field.name for field in dataclasses.fields(config_class)}
    else:
        names = set(inspect.signature(config_class.__init__).parameters) - {"self", "kwargs"}
    return names | set(config_class.attribute_map)


def check_names(config_class: type[PreTrainedConfig], arguments: Iterable[str]) -> None:
    """transformers takes any name in silence; here one that a config does not have is refused."""
    known = field_names(config_class) | ALWAYS_TAKEN
    known |= ROPE_SHORTHANDS if "rope_parameters" in known else set()
    unknown = [name for name in arguments if name not in known]
    if unknown:
        listed = "; ".join(f"{name!r}{nearest(name, known)}" for name in unknown)
        raise ValueError(f"arguments: {config_class.__name__} takes no {listed}")


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint, where a name is near."""
    found = get_close_matches(name, list(names), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


# -- fitting to the tokenizer --


def max_positions_of(config: PreTrainedConfig) -> int | None:
    """The longest row that a model has positions for; None where it does not say."""
    return getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)


def vocabulary_of(config: PreTrainedConfig) -> int:
    """Rows of the embedding."""
    return config.get_text_config(decoder=True).vocab_size


def fit_embeddings(model: PreTrainedModel, tokens: int) -> None:
    """Grows embedding and head to a multiple of 64 that holds the tokenizer's tokens; never shrinks them.

    New rows are the mean of the old: a row near zero would take a large share of the softmax of a model whose logits
    all lie far below zero (GPT-2's do), and change its loss.
    """
    old = model.get_input_embeddings().weight.shape[0]
    new = padded_vocab(max(old, tokens))
    if new == old:
        return
    model.resize_token_embeddings(new, mean_resizing=False)
    head = model.get_output_embeddings()
    grown: list[nn.Parameter | None] = [model.get_input_embeddings().weight]
    grown += [] if head is None else [head.weight, getattr(head, "bias", None)]
    with torch.no_grad():
        for parameter in grown:
            if parameter is not None:
                parameter[old:] = parameter[:old].mean(0)


def embedding_pad(special: SpecialIds) -> int | None:
    """The pad id, unless it is another special token's as well: the row of a config's pad is never trained."""
    shared = special.pad in (special.bos, special.eos, special.unk, special.cls, special.sep, special.mask)
    return None if shared else special.pad


def with_special_ids(
    model: PreTrainedModel, special: SpecialIds, arguments: dict[str, Any], replace: bool
) -> PreTrainedModel:
    """Writes the tokenizer's ids into config and generation config. replace: also that it has none."""
    generation = getattr(model, "generation_config", None)  # masked models have none
    for name in ("bos", "eos", "pad"):
        key, value = f"{name}_token_id", getattr(special, name)
        if key in arguments or (value is None and not replace):
            continue
        if name != "pad" or embedding_pad(special) is not None:
            setattr(model.config, key, value)
        if generation is not None:
            setattr(generation, key, value)
    if model.config.is_encoder_decoder:
        start = getattr(model.config, "decoder_start_token_id", None)
        start = start if start is not None else special.pad
        check_start(start, vocabulary_of(model.config))
        model.config.decoder_start_token_id = start
        if generation is not None:
            generation.decoder_start_token_id = start
    return model


def check_start(start: int | None, rows: int) -> None:
    """Refuses what no decoder can start from."""
    if start is None or start >= rows:
        raise ValueError(
            f"the decoder has no id to start from (it is {start}); give the tokenizer a pad token, or set "
            "model.arguments.decoder_start_token_id"
        )
