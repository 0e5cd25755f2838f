"""What each stage has noted of what it was made from -> one chain of hashes, with a mark at every link.

    raw text -> tokenizer -> token shards -> run -> checkpoint -> scores and texts

A link is right where the thing before it is still what it was made from. Nothing is changed, nothing is loaded.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs.places import REPOSITORY, mixture_sources, raw_dir, split_dir, tokenizer_dir, validation_names
from configs.schema import Config
from corpus.files import kind_of
from corpus.hub_rows import pinned
from corpus.parts import unchanged
from corpus.raw import is_streamed, raw_manifest
from corpus.shards import MANIFEST, SETTINGS, read_manifest
from corpus.sources import source_of, split_files
from corpus.verifying import verify
from tokenizer.tokenizer import Tokenizer
from tokenizer.trained import changes
from utils.files import read_json, shown, write_json
from utils.hashing import sha256_file, sha256_json
from utils.messages import UserError

LINEAGE = "lineage.json"  # of a run: what it is trained on
INPUT_SIZES = "hash of the input's sizes"  # in the settings of a split

Mark = Literal["✓", "✗", "?"]


@dataclass(frozen=True)
class Link:
    """One thing of the chain: ✓ it is of what stands before it, ✗ it is not, ? that cannot be told."""

    what: str
    where: str
    hash: str
    mark: Mark
    said: str


# ---- what stages note, and refuse -----------------------------------------------------------------------------------


def identity_of(manifest: dict[str, Any]) -> dict[str, str]:
    """The hashes of a split's shards, of what they were made from and by which tokenizer. manifest: of the split."""
    shards = sha256_json([entry["sha256"] for entry in manifest["shards"]])
    return {"shards": shards, "input": manifest["input"], "tokenizer": manifest["tokenizer"]}


def of_training(config: Config, fingerprint: str, documents: Any = None) -> dict[str, Any]:
    """What a run is trained on. fingerprint: of the tokenizer. documents: facts of those tokenised on the fly."""
    own = [f"{name}.train" for name in mixture_sources(config)] or ["train"]
    names = [*own, *validation_names(config)] if documents is None else []
    paths = {name: split_dir(config, name) / MANIFEST for name in names}
    splits = {name: identity_of(read_manifest(path)) for name, path in paths.items() if path.exists()}
    return {"tokenizer": fingerprint, "splits": splits, **({"documents": documents} if documents is not None else {})}


def check_run(run: Path, now: dict[str, Any]) -> None:
    """Raises UserError where a run would go on with other data or another tokenizer. now: what `of_training` says."""
    path = run / LINEAGE
    if not path.exists():
        return
    then = read_json(path)
    changed = ["the tokenizer"] if then["tokenizer"] != now["tokenizer"] else []
    changed += ["the documents"] if then.get("documents") != now.get("documents") else []
    names = [name for name in then["splits"] if name in now["splits"]]
    changed += [f"the shards of {name}" for name in names if then["splits"][name] != now["splits"][name]]
    if changed:
        raise UserError(
            f"{shown(run)} was trained with what is no longer the same: {', '.join(changed)}. Put it back, train under "
            "another name (name=...), or --restart, which moves this run aside"
        )


def write_run(run: Path, now: dict[str, Any]) -> None:
    """Notes what a run is trained on."""
    write_json(run / LINEAGE, now)


def of_export(checkpoint: Path, model: Path) -> dict[str, Any]:
    """Which weights an exported model has, and the hashes of its files."""
    files = {path.name: sha256_file(path) for path in sorted(model.iterdir()) if path.is_file()}
    return {"checkpoint": checkpoint.name, "weights": sha256_file(checkpoint / MANIFEST), "files": files}


def input_sizes(config: Config, split: str) -> str:
    """The hash of the sizes of all files that a split is read from, as `Source.sizes` makes it, but opening none.

    Raises UserError where they are not there, or there are none to look at."""
    if config.dataset.source == "files":
        paths = [path for group in split_files(config, split) for path in group]
    elif config.dataset.source in ("hub", "sample"):
        paths = [raw_dir(config) / entry["name"] for entry in raw_manifest(config)["splits"][split]["files"]]
    else:
        raise UserError(f"dataset.source={config.dataset.source} has no files")
    try:
        return sha256_json([[kind_of(path), path.stat().st_size] for path in paths])
    except OSError as problem:
        raise UserError(f"{problem.filename}: {problem.strerror}") from None


# ---- the chain ------------------------------------------------------------------------------------------------------


def chain(
    folders: dict[str, Path], config: Config | None, tokenizer: Tokenizer | None, run: Path | None, deep: bool
) -> list[Link]:
    """The links of the splits in `folders`, and of a run.

    config: that made them; None: it is not known. tokenizer: that the config or the folder has, or none. deep: every
    file is read again and compared with its checksum; else those that are older than what was made from them, and as
    long as they were, are taken to be the same.
    """
    if config is not None:
        links = [*_raw(config, deep), _tokenizer(config, tokenizer)]
    else:  # what lies beside the folder of the splits
        data = next(iter(folders.values())).parent.parent
        links = [*_raw_folder(data / "raw", deep)] if (data / "raw" / "manifest.json").is_file() else []
        if tokenizer is not None:
            links.append(Link("tokenizer", shown(tokenizer.where), tokenizer.fingerprint, "✓", "the one of the shards"))
    manifests = {}
    for split, folder in folders.items():
        try:
            manifests[split] = read_manifest(folder / MANIFEST)
        except UserError as problem:
            if run is None or (folder / MANIFEST).exists():
                links.append(Link(f"shards, {split}", shown(folder), "", "✗", str(problem)))
    for split, manifest in manifests.items():
        links.append(_shards(split, folders[split], manifest, config, tokenizer, deep))
    if run is not None:
        identities = {split: identity_of(manifest) for split, manifest in manifests.items()}
        weights = {path.parent.name: sha256_file(path) for path in (run / "checkpoints").glob(f"*/{MANIFEST}")}
        links += [_run(run, identities, tokenizer), *_checkpoints(run, deep), *_export(run, weights, deep)]
        links += _results(run, identities, weights)
    return links


def _raw(config: Config, deep: bool) -> Iterator[Link]:
    if config.data.mixture is None and config.dataset.source == "files":
        yield from _raw_files(config)
    if config.data.mixture is not None or config.dataset.source not in ("hub", "sample"):
        return
    if is_streamed(config):
        yield _streamed(config)
        return
    folder = raw_dir(config)
    try:
        raw_manifest(config)
    except UserError as problem:
        mark: Mark = "✗" if (folder / "manifest.json").exists() else "?"
        yield Link("raw text", shown(folder), "", mark, str(problem))
        return
    yield from _raw_folder(folder, deep)


def _streamed(config: Config) -> Link:
    """A dataset that is read as it comes, and not stored."""
    name = str(config.dataset.name)
    try:
        found = pinned(config)
    except UserError as problem:
        return Link("raw text", name, "", "?", str(problem))
    read_at = f"commit {found['commit'][:12]}" if found["commit"] else "a directory, without a commit"
    return Link("raw text", name, sha256_json(found), "✓", f"not stored, read as it comes; {read_at}")


def _raw_folder(folder: Path, deep: bool) -> Iterator[Link]:
    """Raw text that was downloaded or made, with a manifest."""
    splits = read_json(folder / "manifest.json")["splits"]
    files = [entry for split in splits.values() for entry in split["files"]]
    wrong = [entry["name"] for entry in files if not _is_file(folder, entry, deep)]
    said = f"not what the manifest says: {', '.join(wrong)}" if wrong else f"{len(files):,} files"
    yield Link("raw text", shown(folder), sha256_json(splits), "✗" if wrong else "✓", said)


def _raw_files(config: Config) -> Iterator[Link]:
    """Files of the user's own, which nobody has noted: their sizes."""
    given = config.dataset.train_path or config.dataset.path
    if given is None:
        return
    try:
        files = [path for group in split_files(config, "train") for path in group]
        sizes = input_sizes(config, "train")
    except UserError as problem:
        yield Link("raw text", str(given), "", "?", str(problem))
        return
    more = f" and {len(files) - 1:,} more" if len(files) > 1 else ""
    yield Link("raw text", f"{shown(files[0])}{more}", sizes, "✓", "there (the hash is of the files' sizes)")


def _is_file(folder: Path, entry: dict[str, Any], deep: bool) -> bool:
    path = folder / entry["name"]
    if not path.is_file() or path.stat().st_size != entry["bytes"]:
        return False
    return not deep or sha256_file(path) == entry["sha256"]


def _tokenizer(config: Config, tokenizer: Tokenizer | None) -> Link:
    path = config.tokenizer.path
    where = shown(tokenizer_dir(config)) if path is None else path
    if tokenizer is None:
        return Link("tokenizer", where, "", "?", "not at hand")
    if path is not None:
        return Link("tokenizer", where, tokenizer.fingerprint, "✓", "named by the config")
    differing = changes(config)
    if differing:
        return Link("tokenizer", where, tokenizer.fingerprint, "✗", f"made from something else: {'; '.join(differing)}")
    return Link("tokenizer", where, tokenizer.fingerprint, "✓", "trained on this text")


def _shards(
    split: str, folder: Path, manifest: dict[str, Any], config: Config | None, tokenizer: Tokenizer | None, deep: bool
) -> Link:
    said: dict[Mark, list[str]] = {"✗": [], "?": [], "✓": []}
    if deep:
        problems = verify(folder)
        said["✗" if problems else "✓"] += problems or ["every bit is as it was written"]
    elif not (folder / SETTINGS).exists() or sha256_json(read_json(folder / SETTINGS)) != manifest["settings"]:
        said["✗"].append(f"{SETTINGS} is not that of the manifest")
    if tokenizer is None:
        said["?"].append("the tokenizer is not at hand")
    elif manifest["tokenizer"] != tokenizer.fingerprint:
        said["✗"].append(f"made by another tokenizer ({manifest['tokenizer'][:12]})")
    else:
        said["✓"].append("made by this tokenizer")
    mark, text = _input(split, folder, manifest, config)
    said[mark].append(text)
    mark = next(mark for mark in said if said[mark])
    return Link(f"shards, {split}", shown(folder), identity_of(manifest)["shards"], mark, "; ".join(said[mark]))


def _input(split: str, folder: Path, manifest: dict[str, Any], config: Config | None) -> tuple[Mark, str]:
    """Whether a split's shards were made from the text that is there now."""
    short = manifest["input"][:12]
    if "imported" in manifest:
        return "✓", f"imported from {manifest['imported']['format']} (input {short})"
    if config is not None and config.data.mixture is not None:
        return "✓", f"input {short}, of a config of its own"
    if config is None:
        return _input_beside(split, folder, short)
    try:
        source = source_of(config, split)
        sizes = None if source is None else source.sizes()
    except UserError as problem:  # the raw text need not be there any more
        return "?", f"made from the input {short}; {problem}"
    if source is None:
        return "?", f"made from the input {short}; the config names no text for it"
    if read_json(folder / SETTINGS).get(INPUT_SIZES) != sizes:
        return "✗", f"made from another input ({short}): the files are of other sizes"
    try:
        unchanged(source, folder, manifest)
    except UserError:
        return "✗", f"made from another input ({short}): the files hold something else"
    return "✓", f"made from this text (input {short})"


def _input_beside(split: str, folder: Path, short: str) -> tuple[Mark, str]:
    """The same for raw text that lies beside the shards, by its sizes."""
    path = folder.parent.parent / "raw" / "manifest.json"
    entries = read_json(path)["splits"].get(split, {}).get("files") if path.is_file() else None
    if entries is None:
        return "?", f"made from the input {short}; --config names the text to compare it with"
    sizes = sha256_json([[kind_of(Path(entry["name"])), entry["bytes"]] for entry in entries])
    if read_json(folder / SETTINGS).get(INPUT_SIZES) != sizes:
        return "✗", f"made from another input ({short}): the files are of other sizes"
    return "✓", f"made from text of these sizes (input {short})"


def _run(run: Path, identities: dict[str, dict[str, str]], tokenizer: Tokenizer | None) -> Link:
    config = sha256_file(run / "config.yaml")
    if not (run / LINEAGE).exists():
        return Link("run", shown(run), config, "?", f"no {LINEAGE}: it has noted nothing of its data")
    then = read_json(run / LINEAGE)
    there = {name: noted for name, noted in then["splits"].items() if name in identities}
    wrong = [f"trained on other shards of {name}" for name, noted in there.items() if identities[name] != noted]
    if tokenizer is not None and tokenizer.fingerprint != then["tokenizer"]:
        wrong.append(f"trained with another tokenizer ({then['tokenizer'][:12]})")
    gone = [name for name in then["splits"] if name not in there]
    if wrong or gone:
        said = "; ".join(wrong) or f"the shards of {', '.join(gone)} are not at hand"
        return Link("run", shown(run), config, "✗" if wrong else "?", said)
    if not then["splits"]:
        return Link("run", shown(run), config, "✓", "trained on documents as they were read, without shards")
    what = ", ".join(then["splits"])
    return Link("run", shown(run), config, "✓", f"trained on these shards: {what}")


def _checkpoints(run: Path, deep: bool) -> Iterator[Link]:
    for kind in ("step", "best"):
        found = sorted((run / "checkpoints").glob(f"{kind}-*/{MANIFEST}"))
        if not found:
            continue
        path = found[-1]
        try:
            files, then = read_json(path)["files"], read_json(path.parent / "state.json").get("facts", {})
        except (UserError, KeyError) as problem:
            yield Link("checkpoint", shown(path.parent), "", "✗", str(problem))
            continue
        wrong = [name for name, entry in files.items() if not _is_file(path.parent, {"name": name, **entry}, deep)]
        said = f"damaged: {', '.join(wrong)}" if wrong else "its files are those of its manifest"
        mark: Mark = "✗" if wrong else "✓"
        noted = read_json(run / LINEAGE)["tokenizer"] if (run / LINEAGE).exists() else None
        if noted is not None and then.get("tokenizer", noted) != noted:
            mark, said = "✗", f"of another tokenizer ({then['tokenizer'][:12]})"
        yield Link("checkpoint", shown(path.parent), sha256_file(path), mark, said)


def _export(run: Path, weights: dict[str, str], deep: bool) -> Iterator[Link]:
    noted = read_json(run / "finished.json").get("model") if (run / "finished.json").exists() else None
    if noted is None:
        return
    model, files = run / "model", noted["files"]
    wrong = [name for name in files if not (model / name).is_file()]
    if deep and not wrong:
        wrong = [name for name, sha256 in files.items() if sha256_file(model / name) != sha256]
    mark, said = _of_weights(noted["checkpoint"], noted["weights"], weights)
    if wrong:
        mark, said = "✗", f"missing or changed: {', '.join(wrong)}"
    yield Link("model", shown(model), sha256_json(files), mark, said)


def _of_weights(checkpoint: str, hash_then: str, weights: dict[str, str]) -> tuple[Mark, str]:
    """weights: hashes of the checkpoints that are there, by name."""
    if checkpoint not in weights:
        return "?", f"of {checkpoint} ({hash_then[:12]}), which is no checkpoint here"
    if weights[checkpoint] != hash_then:
        return "✗", f"of other weights ({hash_then[:12]}) than {checkpoint} has now"
    return "✓", f"of {checkpoint}"


def _results(run: Path, identities: dict[str, dict[str, str]], weights: dict[str, str]) -> Iterator[Link]:
    kinds: dict[str, Callable[[dict[str, Any]], str]] = {"inference": _scores_said, "generation": _texts_said}
    for kind, of in kinds.items():
        for path in sorted((run / kind).glob("*/results.json")):
            results = read_json(path)
            noted = results.get("lineage")
            if noted is None:
                yield Link(kind, shown(path.parent), "", "?", "made before lineage was noted")
                continue
            mark, said = _of_weights(Path(results["checkpoint"]).name, noted["weights"], weights)
            said, split, prompts = f"{of(results)} {said}", results.get("split"), results.get("prompts")
            if "shards" in noted and split in identities and identities[split] != noted["shards"]:
                mark, said = "✗", f"scored on other shards of {split} ({noted['shards']['shards'][:12]})"
            if (
                prompts is not None
                and (file := REPOSITORY / prompts).is_file()
                and sha256_file(file) != noted["prompts"]
            ):
                mark, said = "✗", f"written from other prompts ({noted['prompts'][:12]}) than {prompts} has now"
            yield Link(kind, shown(path.parent), sha256_file(path), mark, said)


def _scores_said(results: dict[str, Any]) -> str:
    return f"loss {results['measures']['loss']:.4f} on these shards of {results['split']},"


def _texts_said(results: dict[str, Any]) -> str:
    return f"{results['texts']:,} texts"
