"""Every setting of Liftoff, once: its name, its default, its unit and what it does.

Nothing heavy is imported here, so that a typo is answered before torch is loaded. `default_config.yaml` and
`config.schema.json` are generated from these classes (`make configs`), and a test holds them together.
Arguments of architectures, objectives, optimizers and schedules are not listed: they are the arguments of that
class or function, and are checked against its signature.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

# Marks a string as a place in the file system: $VARS in it expand, and it is relative to the repository.
Path = Annotated[str, "path"]
# Marks a string as the name of code: an import path, or (without dots) a file of the room named.
Code = Annotated[str, "code"]


def setting(default: Any, description: str, *, trains: bool = True, **constraints: Any) -> Any:
    """A key of the config.

    trains: whether a run whose value has changed is another run. Placement, evaluation and generation are not; a run
    can be continued with other values of those.
    """
    if isinstance(default, type) or isinstance(default, (dict, list)):
        make = default if isinstance(default, type) else lambda: type(default)(default)
        return Field(default_factory=make, description=description, json_schema_extra={"trains": trains}, **constraints)
    return Field(default, description=description, json_schema_extra={"trains": trains}, **constraints)


class Section(BaseModel):
    """A part of the config. Frozen: no function may quietly change a setting."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())
    # Of each group exactly one key may be set in one file; a later layer's choice replaces an earlier one's.
    one_of: ClassVar[tuple[tuple[str, ...], ...]] = ()


class Named(Section):
    """Code by its name, and beside the name its arguments."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())

    @property
    def arguments(self) -> dict[str, Any]:
        """The keys that are not settings of Liftoff: what the named code is called with."""
        return dict(self.model_extra or {})


class Paths(Section):
    """Where things lie. Relative to the repository; $VARS expand, also from a git-ignored .env file."""

    data: Path = setting("data", "raw text, tokenizers and token shards", trains=False)
    runs: Path = setting("runs", "everything that runs leave behind", trains=False)


class Dataset(Section):
    """Where documents come from, and what in them is read."""

    one_of = (("path", "train_path"),)

    source: Code = setting(
        "sample",
        "hub | files | sample (Python's own standard library, made offline) | synthetic (no files at all), or the "
        "import path of a function `f(split, **arguments)` that yields documents",
    )
    arguments: dict[str, Any] = setting(dict, "of that function, or of the synthetic source")
    name: str | None = setting(
        None, "of the dataset on the Hub (or a directory in the Hub's layout); else only of its folder under paths.data"
    )
    subset: str | None = setting(None, "of the Hub dataset (its configuration)")
    revision: str | None = setting(None, "commit, tag or branch of the Hub dataset to pin")
    splits: dict[Literal["train", "validation", "test"], str] = setting(
        {"train": "train", "validation": "validation", "test": "test"},
        "our splits <- the Hub's. A split that the Hub lacks is cut from train by `fractions`",
    )
    path: Path | list[Path] | None = setting(
        None,
        "files: a file, folder or glob, cut into splits by `fractions`; [source, target] for two line-parallel files",
    )
    train_path: Path | list[Path] | None = setting(None, "files: the training split, in place of `path`")
    validation_path: Path | list[Path] | dict[str, Path | list[Path]] | None = setting(
        None, "files: the validation split, or several by name: {name: path}"
    )
    test_path: Path | list[Path] | None = setting(None, "files: the test split")
    fractions: dict[Literal["train", "validation", "test"], float] = setting(
        {"train": 0.98, "validation": 0.01, "test": 0.01}, "of the documents of `path`, by split; they sum to 1"
    )
    kind: Literal["text", "prompt_response", "messages", "pairs"] = setting(
        "text", "text | prompt_response (the prompt is not scored) | messages (a chat) | pairs (source and target)"
    )
    fields: dict[str, str] = setting(
        dict,
        "of a document <- a field of the data, or a template such as '{instruction}\\n{input}'. By default the names "
        "are the same: text; prompt, response; messages; source, target",
    )
    text_unit: Literal["file", "line", "paragraph"] = setting("file", "what is one document in .txt files")
    streamed: bool = setting(False, "hub: documents are tokenised as they come from the Hub; no raw text is stored")
    max_documents: int | None = setting(None, "at most so many documents of each split", gt=0)
    max_bytes: int | None = setting(None, "at most so many bytes of text of each split", gt=0)
    raw_path: Path | None = setting(None, "folder of the raw text; by default under paths.data, by name", trains=False)


class SpecialTokens(Section):
    """Strings of the special tokens. Null: the tokenizer has none of that kind."""

    bos: str | None = setting("<bos>", "begins a text")
    eos: str | None = setting("<eos>", "ends a text")
    pad: str | None = setting("<pad>", "fills a row")
    unk: str | None = setting("<unk>", "stands for what is not in the vocabulary")
    mask: str | None = setting(None, "hides a token from a masked language model")
    cls: str | None = setting(None, "begins a row of a masked language model")
    sep: str | None = setting(None, "ends a row of a masked language model")
    extra: list[str] = setting(list, "any others")


class Tokenizer(Section):
    """Which tokenizer, and how one is trained."""

    path: str | None = setting(
        None,
        "a directory, a tokenizer.json, a SentencePiece .model, or a name on the Hub; by default the one trained here",
    )
    revision: str | None = setting(None, "commit, tag or branch of the Hub's tokenizer to pin")
    kind: Literal["byte_level_bpe", "bpe", "wordpiece", "unigram", "char", "word"] = setting(
        "byte_level_bpe",
        "what is trained: byte_level_bpe | bpe | wordpiece | unigram by train_hf_tokenizer; unigram | bpe | char | "
        "word by train_sp_tokenizer",
    )
    retrain: str | None = setting(
        None, "a pretrained tokenizer whose pipeline is trained anew on this corpus (train_hf_tokenizer)"
    )
    vocab_size: int = setting(8192, "tokens, special ones included", gt=1)
    special_tokens: SpecialTokens = setting(SpecialTokens, "their strings")
    normalisation: Literal["identity", "nfc", "nfkc", "nfkc_lowercase"] = setting(
        "identity", "of the text, before all else"
    )
    pre_tokenisation: Literal["gpt2", "gpt4", "whitespace", "bert", "metaspace"] | None = setting(
        None,
        "what a token never crosses; by default gpt2 for byte_level_bpe, bert for wordpiece, metaspace for the others",
    )
    byte_fallback: bool = setting(True, "SentencePiece: unseen characters become bytes, not <unk>")
    character_coverage: float = setting(0.9995, "SentencePiece: share of the characters that get a piece", gt=0, le=1)
    training_bytes: int = setting(100_000_000, "bytes of text that a tokenizer is trained on, at most", gt=0)


class Tokenize(Section):
    """Documents to token shards."""

    path: Path | None = setting(None, "folder of the shards; by default under paths.data, by name", trains=False)
    document_end: Literal["eos", "none"] = setting("eos", "what ends every document, response, source and target")
    separator: str | None = setting(
        None,
        "makes text into prompt and response: the prompt ends with this string (kind: prompt_response, field text)",
    )
    missing_separator: Literal["skip", "stop"] = setting(
        "stop", "a document without it is skipped and counted, or an error"
    )
    prepend: str = setting("", "put before every document, prompt or source")
    parts: int = setting(1, "the input is cut into so many parts, each with its own shards", gt=0)
    part: int | None = setting(
        None, "make only this part, counted from 0 (a task of an array); the last one joins them", ge=0, trains=False
    )
    max_tokens: int | None = setting(None, "at most so many tokens of each split, both sides of pairs counted", gt=0)
    shard_tokens: int = setting(20_000_000, "tokens in a shard, at most (a document never crosses shards)", gt=0)
    bad_documents: Literal["skip", "stop"] = setting(
        "stop", "not UTF-8, not JSON, no such field, too long: skipped and counted, or an error"
    )
    max_document_bytes: int = setting(8_000_000, "a longer document is a bad one", gt=0)
    num_workers: int | None = setting(
        None, "processes; by default one for each CPU core. The shards do not depend on it", ge=0, trains=False
    )


class Data(Section):
    """Token shards to batches."""

    tokens: Literal["shards", "on_the_fly"] = setting(
        "shards",
        "shards: of tokenize_data.py | on_the_fly: documents are tokenised while training reads them, to try something "
        "quickly (the length of the run is then max_steps or max_tokens)",
    )
    shuffle_buffer: int = setting(
        1000, "on_the_fly: documents that a worker reads together, and whose windows it mixes", gt=0
    )
    max_seq_len: int = setting(256, "tokens in a window", gt=0)
    packing: Literal["full", "partial", "truncate", "none", "best_fit"] = setting(
        "full",
        "full: all documents run together | partial: each is cut by itself | truncate: the first window of each | "
        "none: one a window, longer ones refused | best_fit: whole documents put together so that little is left empty",
    )
    overlap: int = setting(0, "tokens that a window repeats of the one before; they are scored once", ge=0)
    pad_to: Literal["longest", "max_seq_len"] = setting("longest", "width of a batch")
    padding_side: Literal["right", "left"] = setting("right", "where rows are filled")
    window_bos: bool = setting(False, "each window begins with BOS (or the model's CLS)")
    window_eos: bool = setting(False, "each window ends with EOS (or the model's SEP)")
    document_masking: bool = setting(
        False,
        "attention and positions restart at each document in a window, and nothing is predicted across a boundary",
    )
    seed: int | None = setting(None, "of the order of the data; by default `seed`")
    shuffle: bool = setting(True, "windows in a random order; false: as they lie")
    mixture: dict[str, float] | None = setting(
        None,
        "train on several corpora by weight: {name of a dataset (its folder under paths.data), or path of a folder of "
        "shards: weight}, each tokenised by a config of its own. Every 10,000 windows hold each by its weight",
    )
    num_workers: int = setting(0, "processes that load; ready tokens are fastest without", ge=0, trains=False)


class Model(Section):
    """What is trained, from the start or from pretrained weights."""

    one_of = (("backbone", "huggingface", "module"),)

    backbone: Code | None = setting(
        "models.transformer.Transformer",
        "import path of an nn.Module: tokens -> hidden states; head, loss and generation are put around it",
    )
    huggingface: Code | None = setting(
        None,
        "a class of transformers (AutoModelForCausalLM, …), or the import path of a copied and edited one",
    )
    module: Code | None = setting(None, "import path of any nn.Module that returns logits and/or a loss")
    arguments: dict[str, Any] = setting(
        dict, "of the backbone or module; for huggingface: values of its config (model_type for an auto class)"
    )
    pretrained: str | None = setting(
        None, "start from these weights: a directory (a run's model/ too) or a name on the Hub"
    )
    revision: str | None = setting(None, "commit, tag or branch of the Hub's model to pin")
    trust_remote_code: bool = setting(False, "run Python code that comes with the pretrained model")
    tie_embeddings: bool = setting(True, "backbone: the head is the embedding")
    attention: Literal["sdpa", "eager", "flex_attention", "flash_attention_2", "flash_attention_3"] | None = setting(
        None, "huggingface: the implementation; by default sdpa where the model has it, else eager"
    )
    loss: Literal["auto", "own"] = setting(
        "auto", "auto: from the logits, exact over padding and ranks | own: the model's own mean, times its count"
    )
    compile: bool = setting(False, "torch.compile: a slow start, then 1.3 to 1.8 times as fast")
    activation_checkpointing: bool = setting(
        False, "recompute activations in the backward pass: less memory, about a third slower"
    )


class Objective(Named):
    """What is predicted."""

    name: Code = setting("causal", "causal | masked | seq2seq, or an import path; its arguments beside it")


class Optimizer(Named):
    """How weights are changed. Its other arguments (betas, eps, …) stand beside these."""

    name: Code = setting("torch.optim.AdamW", "import path of any torch.optim.Optimizer")
    lr: float = setting(1e-3, "learning rate at its highest", gt=0)
    weight_decay: float = setting(0.1, "of matrices; never of biases, norms and other vectors", ge=0)
    decay_embeddings: bool = setting(False, "decay embeddings too")


class Schedule(Named):
    """How the learning rate changes: a fraction of optimizer.lr at each step."""

    one_of = (("warmup_steps", "warmup_ratio"),)

    name: Code = setting("cosine", "cosine | linear | constant, or an import path")
    warmup_steps: int | None = setting(None, "steps of linear warm-up", ge=0)
    warmup_ratio: float | None = setting(0.02, "the same as a share of all steps", ge=0, le=1)


class EarlyStopping(Section):
    """When a run ends before its length."""

    patience: int | None = setting(None, "stop after so many validations without an improvement", gt=0)
    min_delta: float = setting(0.0, "a smaller improvement is none", ge=0)


class Trainer(Section):
    """How long, how large, on what. A step is one update of the weights; all intervals are in steps."""

    one_of = (("max_steps", "max_epochs", "max_tokens"),)

    max_steps: int | None = setting(None, "length of the run in steps", gt=0)
    max_epochs: float | None = setting(1.0, "the same in passes over the training windows", gt=0)
    max_tokens: int | None = setting(None, "the same in unpadded input tokens", gt=0)
    max_time: str | None = setting(
        None, "stop earlier after DD:HH:MM:SS of training (the schedule does not change)", trains=False
    )
    global_batch_size: int = setting(32, "windows in a step, over all devices", gt=0)
    micro_batch_size: int | None = setting(
        None, "windows that a device computes at once; by default its whole share of the step", gt=0, trains=False
    )
    precision: Literal["auto", "32-true", "bf16-mixed", "bf16-true", "16-mixed"] = setting(
        "auto", "auto: bf16-mixed where the hardware is fast at it (on a CPU only with AMX), else 32-true"
    )
    clip: float | None = setting(1.0, "largest norm of the gradient", gt=0)
    validate_every: int | None = setting(
        500, "steps between validations (one more at the end); null: only at the end", gt=0
    )
    validate_at_start: bool = setting(True, "validate before the first step")
    validation_windows: int | None = setting(
        None, "validate on so many windows of each set, evenly spaced; null: on all", gt=0
    )
    early_stopping: EarlyStopping = setting(EarlyStopping, "on checkpoints.monitor")
    accelerator: Literal["auto", "cpu", "gpu"] = setting("auto", "cpu | gpu", trains=False)
    devices: int | Literal["auto"] = setting(1, "on each node", trains=False)
    num_nodes: int = setting(1, "machines", gt=0, trains=False)
    lightning: dict[str, Any] = setting(dict, "any other argument of pytorch_lightning.Trainer", trains=False)
    callbacks: list[Any] = setting(
        list, "Lightning callbacks: an import path, or {name: import path, and its arguments}", trains=False
    )


class Checkpoints(Section):
    """What a run keeps, and how often it writes."""

    every: int | None = setting(500, "steps between checkpoints (one more at the end)", gt=0, trains=False)
    every_minutes: float | None = setting(None, "and minutes between them", gt=0, trains=False)
    keep_last: int = setting(1, "newest checkpoints kept", gt=0, trains=False)
    monitor: str | None = setting(
        None,
        "what best means: a validation metric, lower is better; by default the loss of the first set",
        trains=False,
    )
    export: Literal["best", "last", "none"] = setting(
        "best", "weights that end up in runs/<name>/model as a Hugging Face directory", trains=False
    )


class Logging(Section):
    """Who is told what, and how often."""

    every: int = setting(10, "steps between lines of metrics.jsonl", gt=0, trains=False)
    plain_every_seconds: float = setting(
        30.0, "between lines of training's progress where there is no terminal", gt=0, trains=False
    )
    samples: int = setting(2, "predictions written at each validation", ge=0, trains=False)
    tensorboard: bool = setting(True, "write TensorBoard files into the run folder", trains=False)
    wandb: dict[str, Any] | None = setting(None, "arguments of wandb.init; null: Weights & Biases is off", trains=False)


class Decoding(Section):
    """How the next token is chosen, and when to stop."""

    max_new_tokens: int = setting(64, "at most", gt=0, trains=False)
    temperature: float = setting(0.0, "0: greedy; else logits are divided by it and sampled", ge=0, trains=False)
    top_k: int | None = setting(None, "sample among the k most likely", gt=0, trains=False)
    top_p: float | None = setting(
        None, "sample among the most likely that together have this probability", gt=0, le=1, trains=False
    )
    repetition_penalty: float = setting(
        1.0, "logits of tokens already there are divided (negative: multiplied) by it", gt=0, trains=False
    )
    num_beams: int = setting(1, "beam search with so many beams (temperature 0)", gt=0, trains=False)
    length_penalty: float = setting(1.0, "beams are ranked by log-probability / length ** this", trains=False)
    stop_strings: list[str] = setting(list, "text that ends a sample; it is cut off", trains=False)
    stop_ids: list[int] = setting(list, "tokens that end a sample, besides EOS", trains=False)


class Inference(Section):
    """Scoring a run on a test set."""

    checkpoint: str = setting(
        "best", "best | last of the run, or the path of a checkpoint, a run or a Hugging Face directory", trains=False
    )
    split: str = setting("test", "which split (or the name of a validation set)", trains=False)
    batch_size: int = setting(32, "windows or prompts at once", gt=0, trains=False)
    max_samples: int | None = setting(None, "score only so many, from the start", gt=0, trains=False)
    generate: bool | None = setting(
        None, "also generate and score text; by default for prompt_response, messages and pairs", trains=False
    )
    metrics: list[Any] = setting(
        ["bleu", "chrf", "exact_match"],
        "of generated text: bleu | chrf | exact_match, the import path of f(predictions, references) -> number or of a "
        "torchmetrics class, or {name: import path, and its arguments}",
        trains=False,
    )
    decoding: Decoding = setting(Decoding, "how text is generated", trains=False)


class Generation(Section):
    """Writing text from a prompts file."""

    checkpoint: str = setting(
        "best", "best | last of the run, or the path of a checkpoint, a run or a Hugging Face directory", trains=False
    )
    prompts_path: Path | None = setting(None, ".txt: a prompt a line; .jsonl: an object a line", trains=False)
    prompt: str = setting(
        "prompt", "jsonl: the field of the prompt, or a template such as '{question}\\n'", trains=False
    )
    batch_size: int = setting(16, "prompts at once", gt=0, trains=False)
    samples_per_prompt: int = setting(1, "texts for each prompt", gt=0, trains=False)
    seed: int = setting(0, "of the sampling", trains=False)
    self_check: bool = setting(
        True, "check on a few prompts that a batch gives what each prompt gives alone; else go one by one", trains=False
    )
    decoding: Decoding = setting(Decoding, "how text is generated", trains=False)


class Config(Section):
    """Liftoff's settings. A user config states only what differs from these."""

    name: str | None = setting(None, "of the run; by default the config file's name without .yaml", trains=False)
    seed: int = setting(0, "of all chance: initial weights, order, masks, dropout")
    paths: Paths = setting(Paths, "where things lie", trains=False)
    dataset: Dataset = setting(Dataset, "where documents come from")
    tokenizer: Tokenizer = setting(Tokenizer, "which tokenizer, and how one is trained")
    tokenize: Tokenize = setting(Tokenize, "documents to token shards")
    data: Data = setting(Data, "token shards to batches")
    model: Model = setting(Model, "what is trained")
    objective: Objective = setting(Objective, "what is predicted")
    optimizer: Optimizer = setting(Optimizer, "how weights are changed")
    schedule: Schedule = setting(Schedule, "how the learning rate changes")
    trainer: Trainer = setting(Trainer, "how long, how large, on what")
    checkpoints: Checkpoints = setting(Checkpoints, "what is kept")
    logging: Logging = setting(Logging, "who is told what")
    inference: Inference = setting(Inference, "scoring")
    generation: Generation = setting(Generation, "writing")

    # How the config came to be: where each key was stated, and paths as they were written. Not compared.
    _origins: dict[tuple[str | int, ...], str] = PrivateAttr(default_factory=dict)
    _written: dict[tuple[str | int, ...], str] = PrivateAttr(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.model_dump() == other.model_dump()

    def resolved(self) -> dict[str, Any]:
        """Every setting, to be written and read again: paths as the user wrote them, so that a $VARIABLE stays one."""
        values = self.model_dump()
        for key, written in self._written.items():
            inner: Any = values
            for part in key[:-1]:
                inner = inner[part]
            inner[key[-1]] = written
        return values

    @classmethod
    def completed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Settings as an older Liftoff wrote them, with those that it did not have at their defaults."""
        return _completed(cls, values)

    @classmethod
    def trains(cls, key: tuple[str | int, ...]) -> bool:
        """Whether a run with another value of this key is another run."""
        section: type[BaseModel] = cls
        for part in key:
            field = section.model_fields.get(str(part))
            if field is None:
                return True  # an argument of the code that the section names
            if not field.json_schema_extra["trains"]:  # type: ignore[index,call-overload]
                return False
            if not (isinstance(field.annotation, type) and issubclass(field.annotation, Section)):
                return True
            section = field.annotation
        return True


def _completed(section: type[Section], values: dict[str, Any]) -> dict[str, Any]:
    defaults = section().model_dump()
    complete = {**defaults, **values}
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section) and isinstance(values.get(name), dict):
            complete[name] = _completed(inner, values[name])
    return complete
