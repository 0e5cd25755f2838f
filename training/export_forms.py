"""A trained model -> weights, config and, where it needs some, code: the forms in which transformers reads it.

Each `write_*` fills a folder and says how it is loaded; whether it computes the same is for `training/export.py` to
find out. A form that does not suit a model raises `NotThisForm`, with the reason.
"""

import copy
import inspect
import json
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

import models
from models.interface import ModelFacts
from models.language_model import LanguageModel
from models.llama_format import config_of, to_llama
from models.transformer import Transformer
from training.flat_code import flatten
from utils.files import write_json
from utils.messages import UserError

# Where the wrapper for models that are no class of transformers lies. It is read as text, with these names replaced.
TEMPLATE = Path(models.__file__).parent / "hf_export_template.py"
DRESS = "from models.language_model import LanguageModel as Dress"
ARCHITECTURE = "from models.transformer import Transformer as Architecture"
WRAPPER = "LiftoffForCausalLM"
MODELING = "modeling_liftoff"


class NotThisForm(Exception):
    """Why a model cannot be written in this form."""


@dataclass
class Form:
    """What a folder holds, and how it is loaded."""

    what: str  # for the reader
    auto_class: str | None  # of transformers; None: it cannot be loaded by transformers
    custom_code: bool = False
    packages: set[str] = field(default_factory=set)  # that the code needs


@dataclass(frozen=True)
class Vocabulary:
    """What a model's config says of the tokenizer."""

    tokens: int
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None

    def of_config(self) -> dict[str, int | None]:
        """Keys of config.json."""
        ids = {"bos_token_id": self.bos_id, "eos_token_id": self.eos_id, "pad_token_id": self.pad_id}
        return ids | {"tokenizer_vocab_size": self.tokens}

    def of_generation(self, rows: int, *, cache: bool) -> dict[str, Any]:
        """Keys of generation_config.json. Rows that only fill the embedding up are never generated."""
        ids = {"bos_token_id": self.bos_id, "eos_token_id": self.eos_id, "pad_token_id": self.pad_id}
        filling = list(range(self.tokens, rows))
        return ids | {"use_cache": cache} | ({"suppress_tokens": filling} if filling else {})


def auto_class_of(facts: ModelFacts) -> str:
    """The auto class for what the model does."""
    if facts.encoder_decoder:
        return "AutoModelForSeq2SeqLM"
    return "AutoModelForCausalLM" if facts.causal else "AutoModelForMaskedLM"


def write_llama(model: LanguageModel, folder: Path, vocabulary: Vocabulary) -> Form:
    """Our Transformer as a Llama or Qwen3 of transformers."""
    if type(model.backbone) is not Transformer:
        raise NotThisForm("only models.transformer.Transformer is a Llama")
    try:
        weights = to_llama(model.backbone, None if model.head is None else model.head.weight)
        config = config_of(model.backbone, tied=model.head is None)
    except (ValueError, AttributeError) as problem:  # the file has been edited
        raise NotThisForm(f"models.transformer.Transformer is no Llama any more: {problem}") from None
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config | vocabulary.of_config() | {"dtype": "float32", "use_cache": True})
    rows = model.facts.vocab_size
    write_json(folder / "generation_config.json", vocabulary.of_generation(rows, cache=True))
    name = "Qwen3" if config["model_type"] == "qwen3" else "Llama"
    return Form(f"a {name}, of transformers' own class", "AutoModelForCausalLM")


def write_huggingface(
    hf: nn.Module, facts: ModelFacts, folder: Path, vocabulary: Vocabulary, *, code: bool = True
) -> Form:
    """hf: a PreTrainedModel, of a class of transformers or of an edited copy of one, which goes with its code.

    code: false leaves the code of an edited copy out.
    """
    import transformers

    hf.config = copy.deepcopy(hf.config)
    rows = facts.vocab_size
    values = vocabulary.of_config() | {"use_cache": True}
    for key, value in values.items():
        # An id that the tokenizer lacks may be one that the model needs (the pad of an encoder-decoder): kept.
        if value is not None or not hasattr(hf.config, key):
            setattr(hf.config, key, value)
    if getattr(hf, "generation_config", None) is not None:
        hf.generation_config = copy.deepcopy(hf.generation_config)
        for key, value in vocabulary.of_generation(rows, cache=True).items():
            if value is not None:
                setattr(hf.generation_config, key, value)
    transformers.utils.logging.disable_progress_bar()
    try:
        hf.save_pretrained(folder)
    finally:
        transformers.utils.logging.enable_progress_bar()
    kind, module = type(hf), type(hf).__module__
    if not code and module.split(".")[0] in ("transformers", "transformers_modules"):
        raise NotThisForm("its class is not ours to leave out")
    if module.split(".")[0] == "transformers":
        auto_class = auto_class_of(facts)
        mapping = getattr(transformers, auto_class)._model_mapping
        found = mapping[type(hf.config)] if type(hf.config) in mapping else None
        suits = kind in found if isinstance(found, tuple) else kind is found
        return Form(f"{kind.__name__}, a class of transformers", auto_class if suits else kind.__name__)
    if module.split(".")[0] == "transformers_modules":  # code that came with pretrained weights: already saved
        return Form(f"{kind.__name__}, with the code that came with it", auto_class_of(facts), custom_code=True)
    return _add_edited_class(hf, facts, folder, code)


def _add_edited_class(hf: nn.Module, facts: ModelFacts, folder: Path, code: bool) -> Form:
    """Writes the code of a copied and edited class beside its weights.

    Its config gets a model_type of its own: under the original's, transformers would run the original class for
    whoever forgets trust_remote_code, and say nothing.
    """
    config_class, kind = type(hf.config), type(hf)
    model_type = f"liftoff_{config_class.model_type.removeprefix('liftoff_')}"
    source = f'''"""{kind.__name__}, an edited copy of a class of transformers: for AutoConfig and AutoModel."""

from {config_class.__module__} import {config_class.__name__} as BaseConfig
from {kind.__module__} import {kind.__name__} as Base


class {config_class.__name__}(BaseConfig):
    """The same, under a name that the original's code does not answer to."""

    model_type = "{model_type}"


class {kind.__name__}(Base):
    """The same, for that config."""

    config_class = {config_class.__name__}
'''
    path, auto_class = folder / "config.json", auto_class_of(facts)
    config = json.loads(path.read_text(encoding="utf-8")) | {"model_type": model_type}
    if not code:
        write_json(path, config)
        return Form(f"weights and config of {kind.__name__}, without its code", None)
    packages = _write_code(source, _roots_of(kind), folder)
    classes = {"AutoConfig": f"{MODELING}.{config_class.__name__}", auto_class: f"{MODELING}.{kind.__name__}"}
    write_json(path, config | {"architectures": [kind.__name__], "auto_map": classes})
    return Form(f"{kind.__name__}, with its own code", auto_class, custom_code=True, packages=packages)


def write_custom_code(
    dressed: nn.Module,
    architecture: nn.Module,
    arguments: dict[str, Any],
    dress: dict[str, Any],
    folder: Path,
    vocabulary: Vocabulary,
) -> Form:
    """A model that is no class of transformers, in the wrapper of models/hf_export_template.py.

    dressed: a LanguageModel or PlainModule; architecture: the module within; arguments, dress: of their constructors.
    """
    kind = type(architecture)
    source = TEMPLATE.read_text(encoding="utf-8")
    for old, used in ((DRESS, type(dressed)), (ARCHITECTURE, kind)):
        if "." in used.__qualname__:
            raise NotThisForm(f"{used.__qualname__} is defined inside of something; move it to the top of its file")
        alias = old.rpartition(" ")[2]
        assert old in source
        source = source.replace(old, f"from {used.__module__} import {used.__name__} as {alias}")
    facts = dressed.facts
    auto_class = auto_class_of(facts)
    wrapper = auto_class.replace("AutoModel", "Liftoff")  # LiftoffForMaskedLM, …
    packages = _write_code(source.replace(WRAPPER, wrapper), _roots_of(kind), folder)
    weights, tied = without_copies(dressed)
    save_file(
        {f"inner.{name}": weight for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    config = {
        "model_type": "liftoff",
        "architectures": [wrapper],
        "auto_map": {"AutoConfig": f"{MODELING}.LiftoffConfig", auto_class: f"{MODELING}.{wrapper}"},
        "architecture": arguments,
        "dress": dress,
        "tied": {f"inner.{name}": f"inner.{source}" for name, source in tied.items()},
        "tie_word_embeddings": bool(tied),
        "vocab_size": facts.vocab_size,
        "max_position_embeddings": facts.max_positions,
        "causal": facts.causal and not facts.encoder_decoder,
        "is_encoder_decoder": facts.encoder_decoder,
        "dtype": "float32",
        "use_cache": False,
    }
    try:
        write_json(folder / "config.json", config | vocabulary.of_config())
    except TypeError as problem:
        raise NotThisForm(f"its arguments cannot be written as JSON: {problem}") from None
    generation = vocabulary.of_generation(facts.vocab_size, cache=False)
    write_json(folder / "generation_config.json", generation)
    return Form(f"{kind.__name__}, with its own code", auto_class, custom_code=True, packages=packages)


def write_weights_only(
    dressed: nn.Module, architecture: nn.Module, arguments: dict[str, Any], folder: Path, vocabulary: Vocabulary
) -> Form:
    """Weights, and the config of a model whose code cannot go with them."""
    weights, tied = without_copies(dressed)
    save_file({f"inner.{name}": weight for name, weight in weights.items()}, folder / "model.safetensors")
    kind = type(architecture)
    config = {
        "model_type": "liftoff_weights",
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "architecture": arguments,
        "tied": {f"inner.{name}": f"inner.{source}" for name, source in tied.items()},
        "vocab_size": dressed.facts.vocab_size,
    }
    text = json.dumps(config | vocabulary.of_config(), indent=2, default=repr)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    return Form(f"weights and config of {kind.__name__}, without its code", None)


def without_copies(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """-> the state dict with each tied weight once, and {other name of a tied weight: the name it is kept under}"""
    kept: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    names: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    for name, weight in model.state_dict().items():
        place = (weight.data_ptr(), tuple(weight.shape), weight.stride())
        if weight.numel() and place in names:
            tied[name] = names[place]
        else:
            names[place] = name
            kept[name] = weight.detach().contiguous()
    return kept, tied


def _write_code(source: str, roots: list[Path], folder: Path) -> set[str]:
    """Writes the source, and all files of ours that it imports, flat. -> packages that they need"""
    try:
        code = flatten(f"models.{MODELING}", [*roots, TEMPLATE.parent.parent], source=source)
    except UserError as problem:
        raise NotThisForm(str(problem)) from None
    for name, text in code.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return code.packages


def _roots_of(kind: type) -> list[Path]:
    """The folder that the import path of a class starts from; none where its package is installed."""
    try:
        path = Path(inspect.getfile(kind)).resolve()
    except (TypeError, OSError):
        raise NotThisForm(f"the code of {kind.__name__} is in no file") from None
    if kind.__module__ == "__main__":
        raise NotThisForm(f"{kind.__name__} is defined in the script itself; move it to a file of models/")
    place = path.parent if path.name == "__init__.py" else path
    root = place.parents[kind.__module__.count(".")]
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")}
    return [] if root in installed else [root]
