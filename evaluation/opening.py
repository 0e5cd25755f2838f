"""What to evaluate, as a config names it -> the model, its tokenizer, and where and at which step it was found.

    best | last of the config's run  ·  a run's folder  ·  a checkpoint  ·  a Hugging Face directory

Weights are read from safetensors; nothing that is opened can run code, unless it is a directory that Liftoff itself has
exported below paths.runs, or model.trust_remote_code says so.
"""

from dataclasses import dataclass
from pathlib import Path

from configs import places
from configs.loading import load_config
from configs.pins import revision_of
from configs.schema import Config
from models.build import build_model
from models.interface import SpecialIds, TrainableModel
from tokenizer.tokenizer import Tokenizer
from training import checkpoints
from utils.files import read_json, shown
from utils.hashing import sha256_file, sha256_json
from utils.messages import UserError


@dataclass(frozen=True)
class Place:
    """Where a model lies."""

    path: Path  # a checkpoint or a Hugging Face directory
    run: Path | None  # of the checkpoint

    def identity(self) -> str:
        """Changes when the files do."""
        if self.run is not None:
            return sha256_file(self.path / "manifest.json")
        files = [path for path in sorted(self.path.iterdir()) if path.is_file()]
        return sha256_json([[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files])


@dataclass(frozen=True)
class Opened:
    """A model that is ready to be used."""

    model: TrainableModel
    tokenizer: Tokenizer
    config: Config  # what it was trained with; of a Hugging Face directory the config at hand
    where: Path  # checkpoint or directory
    step: int | None  # None: not known


def find_model(config: Config, which: str) -> Place:
    """which: best | last of the config's run, or the path of a run, a checkpoint or a Hugging Face directory.

    Raises UserError where there is none, or a checkpoint is not whole.
    """
    if which in ("best", "last"):
        return find_in_run(places.run_dir(config), which)
    path = places.REPOSITORY / which
    if (path / "state.json").exists() or checkpoints.NAME.fullmatch(path.name):
        checkpoints.check_named(path)
        return in_its_run(path, path.parent.parent)
    if (path / "checkpoints").is_dir():
        return find_in_run(path, "best" if checkpoints.listed(path / "checkpoints", "best") else "last")
    if (path / "config.json").exists():
        return Place(path, None)
    if not path.exists():
        raise UserError(f"checkpoint: '{which}' is neither best, nor last, nor a path: there is no {shown(path)}")
    raise UserError(
        f"checkpoint: {shown(path)} is no run (checkpoints/), no checkpoint (state.json) and no Hugging Face directory "
        "(config.json)"
    )


def find_in_run(run: Path, which: str) -> Place:
    """which: best | last."""
    if not (run / "config.yaml").exists():
        raise UserError(f"no run at {shown(run)}; train it first: python train.py CONFIG")
    return in_its_run(checkpoints.find(run / "checkpoints", which), run)


def in_its_run(path: Path, run: Path) -> Place:
    """A checkpoint needs its run's config: that says what to build."""
    if not (run / "config.yaml").exists():
        raise UserError(f"{shown(path)} lies in no run: there is no {shown(run / 'config.yaml')} to build its model by")
    return Place(path, run)


def open_model(place: Place, config: Config) -> Opened:
    """Raises UserError where the weights do not fit the model, or the tokenizer is gone."""
    if place.run is None:
        return open_directory(place.path, config)
    trained = load_config(place.run / "config.yaml")
    state = checkpoints.read_state(place.path)
    tokenizer = tokenizer_of(place.run, trained, state["facts"].get("tokenizer"))
    model = built(trained, tokenizer)
    checkpoints.load_weights(model, place.path)
    return Opened(model.eval(), tokenizer, trained, place.path, state["step"])


def tokenizer_of(run: Path, config: Config, fingerprint: str | None) -> Tokenizer:
    """The one that the run's config names; where that is gone or another one, the copy beside the exported model.

    fingerprint: of that which the run was trained with. Raises UserError where there is none like it.
    """
    try:
        named = Tokenizer.configured(config)
    except UserError:
        if not (run / "model").is_dir():
            raise
        return Tokenizer.load(run / "model")
    if fingerprint in (None, named.fingerprint):
        return named
    if (run / "model").is_dir() and (kept := Tokenizer.load(run / "model")).fingerprint == fingerprint:
        return kept
    raise UserError(
        f"{shown(run)} was trained with another tokenizer (fingerprint {fingerprint[:12]}) than {named.where} is now "
        f"({named.fingerprint[:12]}); put it back, or train again"
    )


def built(config: Config, tokenizer: Tokenizer) -> TrainableModel:
    """The config's model, as training builds it, but neither compiled nor made to save memory."""
    settings = config.model.model_dump() | {"compile": False, "activation_checkpointing": False}
    settings["revision"] = revision_of(config, "model")
    if settings["huggingface"] is None:
        settings["pretrained"] = None  # where it came from may be gone; a Hugging Face config is still read from there
    return build_model(
        **settings, vocab_size=tokenizer.vocab_size, special_ids=special_ids(tokenizer), seed=config.seed
    )


def special_ids(tokenizer: Tokenizer) -> SpecialIds:
    """Those that a model's config should know."""
    names = ("bos", "eos", "pad", "unk", "mask", "cls", "sep")
    return SpecialIds(**{name: getattr(tokenizer, f"{name}_id") for name in names})


def open_directory(path: Path, config: Config) -> Opened:
    """A Hugging Face directory: its own class, with its own tokenizer, else the config's."""
    tokenizer = Tokenizer.load(path) if has_tokenizer(path) else Tokenizer.configured(config)
    about = read_json(path / "config.json")
    trusted = config.model.trust_remote_code or is_own_export(path, config)
    model = build_model(
        vocab_size=tokenizer.vocab_size,
        huggingface=class_of(about, path, trusted),
        pretrained=str(path),
        attention=config.model.attention,
        trust_remote_code=trusted,
        special_ids=special_ids(tokenizer),
    )
    return Opened(model.eval(), tokenizer, config, path, None)


def has_tokenizer(path: Path) -> bool:
    """Whether a directory holds a tokenizer in one of the usual forms."""
    names = ("tokenizer.json", "vocab.json", "vocab.txt")
    return any((path / name).exists() for name in names) or any(path.glob("*.model"))


def is_own_export(path: Path, config: Config) -> bool:
    """runs/<name>/model, and nothing but that."""
    resolved, runs = path.resolve(), (places.REPOSITORY / config.paths.runs).resolve()
    return resolved.is_relative_to(runs) and resolved.name == "model" and (resolved.parent / "config.yaml").exists()


def class_of(about: dict, path: Path, trusted: bool) -> str:
    """The class that a config.json names; of custom code the auto class."""
    autos = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForMaskedLM")
    found = [name for name in autos if name in about.get("auto_map", {})]
    if found and not trusted:
        raise UserError(
            f"{shown(path)} brings its own code; if you trust it, set model.trust_remote_code=true (only what Liftoff "
            "has exported below paths.runs is trusted by itself)"
        )
    classes = about.get("architectures") or []
    if not found and len(classes) != 1:
        raise UserError(f"{shown(path / 'config.json')} names no class in 'architectures', so its kind cannot be told")
    return found[0] if found else classes[0]
