"""Fetching from a Hub of our own, and the preflight: what is recorded stays, and what is missing is named."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_hub import FakeHub, serving
from small_data import small_tokenizer
from test_data_setup import digests, hub_directory

from configs.loading import load_config
from configs.pins import revision_of
from configs.schema import Config
from tests.conftest import RunScript
from tokenizer.tokenizer import Tokenizer
from tools.preflight import Found, fetched
from utils.hashing import sha256_file

NEW = {"arguments": {"width": 16, "depth": 1, "heads": 1}}
FETCH, PREFLIGHT = ["-m", "data_setup.fetch"], ["-m", "tools.preflight"]


def model_directory(folder: Path) -> Path:
    """A Llama in several files of weights with its tokenizer, as a repository holds it: with much that nobody reads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=320
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="25KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    small_tokenizer(folder)
    (folder / "onnx").mkdir()
    for name in ("pytorch_model.bin", "consolidated.safetensors", "onnx/model.onnx", "modeling_own.py", "README.md"):
        (folder / name).write_text("never read")
    return folder


class Place:
    """A Hub, and a machine that has nothing yet."""

    def __init__(self, folder: Path, hub: FakeHub) -> None:
        self.folder, self.hub = folder, hub
        self.model = model_directory(folder / "model")
        self.commits = {
            "dataset": hub.commit("datasets", "org/text", hub_directory(folder / "text", rows=100, validation=10)),
            "model": hub.commit("models", "org/tiny", self.model),
        }
        self.config = self.write("mine")
        self.record = folder / "data/org--text/fetched.json"
        self.cache = folder / "hf"
        self.env = {"HF_ENDPOINT": hub.address, "HF_HOME": str(self.cache), "HF_HUB_OFFLINE": "0"}

    def write(self, name: str, **sections: Any) -> Path:
        values = {
            "paths": {"data": str(self.folder / "data"), "runs": str(self.folder / "runs")},
            "dataset": {"source": "hub", "name": "org/text"},
            "tokenizer": {"path": "org/tiny"},
            "tokenize": {"num_workers": 0},
            "model": {"backbone": None, "huggingface": "AutoModelForCausalLM", "pretrained": "org/tiny"},
            "data": {"max_seq_len": 16},
            **sections,
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    def recorded(self) -> dict[str, Any]:
        return {entry["what"]: entry for entry in json.loads(self.record.read_text())["fetched"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with serving() as hub:
        yield Place(tmp_path_factory.mktemp("fetch"), hub)


def test_what_a_config_needs_is_fetched_recorded_and_enough(place: Place, run_script: RunScript) -> None:
    before = run_script([*PREFLIGHT, place.config], env=place.env)
    assert before.returncode == 2 and before.stdout.count("MISSING") == 3, before.stdout
    assert before.stdout.rstrip().endswith(f"python -m data_setup.fetch {place.config}    # where there is a network")

    done = run_script([*FETCH, place.config], env=place.env)
    assert done.returncode == 0, done.stderr
    recorded = place.recorded()
    assert {what: entry["commit"] for what, entry in recorded.items()} == {
        **place.commits,
        "tokenizer": place.commits["model"],
    }
    weights = {path.name for path in place.model.glob("model*.safetensors*")}
    others = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert set(recorded["model"]["files"]) == weights | others
    for entry in (recorded["model"], recorded["tokenizer"]):
        for name, file in entry["files"].items():
            assert file == {"bytes": (place.model / name).stat().st_size, "sha256": sha256_file(place.model / name)}

    calls = len(place.hub.calls)
    after = run_script([*PREFLIGHT, place.config], env=place.env)
    assert after.returncode == 0 and "MISSING" not in after.stdout, after.stdout
    assert "loaded from" in after.stdout and "first documents of train, validation, test" in after.stdout
    assert len(place.hub.calls) == calls


def test_later_stages_use_the_recorded_commits(place: Place, run_script: RunScript) -> None:
    """The Hub moves on, and so does this machine's cache: the stages stay with what was fetched until they are told."""
    from huggingface_hub import snapshot_download

    newer = place.folder / "newer"
    shutil.copytree(place.model, newer)
    small_tokenizer(newer, leave_out=("mask",))
    commit = place.hub.commit("models", "org/tiny", newer)
    snapshot_download("org/tiny", endpoint=place.hub.address, cache_dir=place.cache / "hub")

    again = run_script([*FETCH, place.config], env=place.env)
    assert again.returncode == 0 and place.recorded()["model"]["commit"] == place.commits["model"] != commit
    offline = {**place.env, "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    made = run_script(["tokenize_data.py", place.config], env=offline)
    assert made.returncode == 0, made.stderr
    manifest = json.loads((place.folder / "data/org--text/tokens/train/manifest.json").read_text())
    assert manifest["tokenizer"] == Tokenizer.load(place.model).fingerprint != Tokenizer.load(newer).fingerprint
    trained = run_script(["train.py", place.config, "trainer.max_steps=1", "logging.tensorboard=false"], env=offline)
    assert trained.returncode == 0, trained.stderr

    config = load_config(place.config)
    assert revision_of(config, "model") == place.commits["model"]
    assert revision_of(load_config(place.config, ["model.revision=main"]), "model") == "main"  # another was fetched
    updated = run_script([*FETCH, place.config, "--update"], env=place.env)
    assert updated.returncode == 0 and revision_of(config, "model") == revision_of(config, "tokenizer") == commit
    assert place.recorded()["dataset"]["commit"] == place.commits["dataset"]


def test_damage_and_what_the_hub_lacks_are_named(place: Place, run_script: RunScript) -> None:
    run_script([*FETCH, place.config], env=place.env)
    commit = place.recorded()["model"]["commit"]
    file = max((place.cache / f"hub/models--org--tiny/snapshots/{commit}").glob("model-*.safetensors"))
    blob = file.resolve()
    content = blob.read_bytes()
    try:
        blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        damaged = run_script([*FETCH, place.config], env=place.env)
        assert damaged.returncode == 2 and f"{file.name} is not what was fetched before" in damaged.stderr
        blob.write_bytes(content[:-8])
        shorter = run_script([*PREFLIGHT, place.config], env=place.env)
        assert shorter.returncode == 2 and f"org/tiny: {file.name} is missing or not whole" in shorter.stdout
        assert f"{file.name} is damaged" in shorter.stdout
    finally:
        blob.write_bytes(content)
    absent = run_script([*FETCH, place.config, "model.pretrained=org/none"], env=place.env)
    assert absent.returncode == 2 and absent.stderr.startswith("error: model org/none cannot be had from the Hub: ")
    assert absent.stderr.count("\n") == 1


def test_a_streamed_dataset_is_tokenised_from_what_was_fetched(place: Place, run_script: RunScript) -> None:
    """Its files alone are brought: none of another subset, no raw text. The shards are those of the Hub itself."""
    text = place.folder / "subsets"
    hub_directory(text, rows=600)
    shutil.copy(text / "data/train-00000-of-00002.parquet", text / "other.parquet")
    files = {"other": "other.parquet", "some": "data/train-*"}
    configs = [{"config_name": name, "data_files": [{"split": "train", "path": path}]} for name, path in files.items()]
    (text / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    commit = place.hub.commit("datasets", "org/subsets", text)
    dataset = {"source": "hub", "name": "org/subsets", "subset": "some", "streamed": True}
    config = place.write("streamed", dataset=dataset, tokenizer={"path": str(place.model)}, model=NEW)
    tokens = place.folder / "data/org--subsets--some/tokens"
    direct = run_script(["tokenize_data.py", config, f"paths.data={place.folder}/direct"], env=place.env)
    assert direct.returncode == 0, direct.stderr

    assert run_script([*FETCH, config], env=place.env).returncode == 0
    (entry, *_) = json.loads((tokens.parent / "fetched.json").read_text())["fetched"]
    assert entry["commit"] == commit
    assert set(entry["files"]) == {"README.md", *(f"data/train-0000{number}-of-00002.parquet" for number in (0, 1))}
    offline = {**place.env, "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    checked = run_script([*PREFLIGHT, config], env=offline)
    assert checked.returncode == 0, checked.stdout
    made = run_script(["tokenize_data.py", config], env=offline)
    assert made.returncode == 0, made.stderr
    assert not (tokens.parent / "raw").exists()
    straight = place.folder / "direct/org--subsets--some/tokens"
    for split in ("train", "validation", "test"):
        assert digests(tokens / split) == digests(straight / split)


CALLS = """
import urllib.request

def documents(split, address):
    yield "one"
    urllib.request.urlopen(address).read()
"""
GUARDED = """
import ctypes, runpy, sys
ctypes.CDLL = type("CDLL", (), {"__new__": lambda *_, **__: None})  # a system that grants no namespaces
sys.argv = ["preflight.py", *sys.argv[1:]]
sys.path.insert(0, ".")
runpy.run_module("tools.preflight", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("way", ["namespace", "guard"])
def test_what_calls_out_is_found(way: str, place: Place, run_script: RunScript) -> None:
    """Documents of a function that asks a server which would answer: nothing reaches it."""
    (place.folder / "calling_out.py").write_text(CALLS)
    config = place.write(
        "calling",
        dataset={"source": "calling_out.documents", "arguments": {"address": place.hub.address + "/calling"}},
        tokenizer={"path": str(place.model)},
        model=NEW,
    )
    env = {**place.env, "PYTHONPATH": str(place.folder)}
    command = PREFLIGHT if way == "namespace" else ["-c", GUARDED]
    ran = run_script([*command, config], env=env)
    assert ran.returncode == 2, ran.stderr
    if way == "guard" or subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0:
        assert ("namespace of its own" in ran.stdout) == (way == "namespace")
    assert "raw text      MISSING: URLError" in ran.stdout and ran.stdout.count("MISSING") == 1, ran.stdout
    assert not any("calling" in call for call in place.hub.calls)


def test_files_of_this_machine_are_recorded_and_nothing_is_missing(tmp_path: Path, run_script: RunScript) -> None:
    """A tokenizer that is to be trained is made without a network: that is no gap."""
    (tmp_path / "text.txt").write_text("a line\n" * 50)
    config = tmp_path / "local.yaml"
    dataset = {"source": "files", "path": str(tmp_path / "text.txt"), "text_unit": "line"}
    fractions = {"train": 0.8, "validation": 0.1, "test": 0.1}
    config.write_text(
        yaml.safe_dump({"paths": {"data": str(tmp_path / "data")}, "dataset": {**dataset, "fractions": fractions}})
    )
    done = run_script([*FETCH, config])
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads((tmp_path / "data/text/fetched.json").read_text())["fetched"]
    assert entry["files"] == {str(tmp_path / "text.txt"): {"bytes": 350}} and entry["commit"] is None
    checked = run_script([*PREFLIGHT, config])
    assert checked.returncode == 0 and "not trained yet: python -m tokenizer.train_hf_tokenizer" in checked.stdout
    os.remove(tmp_path / "text.txt")
    gone = run_script([*PREFLIGHT, config])
    assert gone.returncode == 2 and "MISSING: no file" in gone.stdout


def test_before_anything_is_fetched_no_record_is_named(tmp_path: Path) -> None:
    config = Config(
        paths={"data": str(tmp_path)}, dataset={"source": "hub", "name": "org/text"}, tokenizer={"path": "org/words"}
    )
    assert fetched(config, Found("mine.yaml")) == "not recorded, so whatever this machine has: dataset, tokenizer"
