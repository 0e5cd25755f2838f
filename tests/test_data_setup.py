"""Getting data: the sample corpus, a directory in the Hub's layout, kills on the way, and what the door says."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from configs.schema import Config
from corpus.documents import read_documents
from data_setup.sample_corpus import documents_of, split_of
from tests.conftest import RunScript
from utils.messages import UserError

DOOR = ["-m", "data_setup.download_dataset"]


def write_config(folder: Path, **dataset: object) -> Path:
    path = folder / "test.yaml"
    path.write_text(yaml.safe_dump({"paths": {"data": str(folder / "data")}, "dataset": dataset}))
    return path


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def hub_directory(folder: Path, rows: int = 1000, validation: int = 0) -> Path:
    """A dataset as it lies in a repository of the Hub: parquet files, and a card that names the splits."""
    import pyarrow
    import pyarrow.parquet

    (folder / "data").mkdir(parents=True)
    half = rows // 2
    texts = [f"document {i} " + "word " * (i % 7) for i in range(rows)]
    for number, part in enumerate((texts[:half], texts[half:])):
        pyarrow.parquet.write_table(pyarrow.table({"text": part}), folder / f"data/train-{number:05}-of-00002.parquet")
    files = [{"split": "train", "path": "data/train-*"}]
    if validation:
        table = pyarrow.table({"text": [f"held out {i}" for i in range(validation)]})
        pyarrow.parquet.write_table(table, folder / "data/validation-00000-of-00001.parquet")
        files.append({"split": "validation", "path": "data/validation-*"})
    card = yaml.safe_dump({"configs": [{"config_name": "default", "data_files": files}]})
    (folder / "README.md").write_text(f"---\n{card}---\n")
    return folder


def test_the_sample_corpus_is_the_same_every_time(tmp_path: Path, run_script: RunScript) -> None:
    path = write_config(tmp_path, source="sample", max_documents=60)
    first = run_script([*DOOR, path])
    assert first.returncode == 0, first.stderr
    raw = tmp_path / "data/sample/raw"
    before = digests(raw)
    assert set(before) == {"manifest.json", "train-00000.jsonl", "validation-00000.jsonl", "test-00000.jsonl"}
    for expected in (
        "60 documents",
        "Lengths of the documents",
        "text: ",
        "Python Software Foundation",
        "train_hf_tokenizer",
    ):
        assert expected in first.stdout
    second = run_script([*DOOR, path])
    assert "finished" in second.stdout and "nothing to do" in second.stdout and digests(raw) == before
    changed = run_script([*DOOR, path, "dataset.max_documents=50"])
    assert changed.returncode == 2 and "max_documents: 60 there, 50 in the config" in changed.stderr
    assert run_script([*DOOR, path, "--restart"]).returncode == 0
    assert digests(raw) == before and len(list(raw.parent.glob("raw.*"))) == 1
    modules = [
        {json.loads(line)["module"] for line in open(raw / f"{split}-00000.jsonl")} for split in ("train", "test")
    ]
    assert not modules[0] & modules[1]


def test_modules_are_cut_at_their_definitions() -> None:
    source = b'"""Doc."""\nimport x\n' + b"".join(
        b"\n# About f%d.\n@decorator\ndef f%d():\n    '''%s'''\n" % (i, i, b"x" * 900) for i in range(3)
    )
    pieces = list(documents_of(source))
    # The head is short, and goes together with the first definition.
    assert [piece.count("def f") for piece in pieces] == [1, 1, 1]
    assert pieces[0].startswith('"""Doc."""') and pieces[1].startswith("# About f1.\n@decorator\n")
    assert list(documents_of(b"\xff")) == [] and list(documents_of(b"print 'python 2'")) == []
    assert split_of(Config(), "ast.py") == split_of(Config(), "ast.py")


def test_no_raw_text_is_an_error_that_says_what_to_run(tmp_path: Path) -> None:
    given = Config(paths={"data": str(tmp_path)}, dataset={"source": "sample"})
    with pytest.raises(UserError, match="no raw text .*data_setup.download_dataset"):
        list(read_documents(given, "train"))


def test_a_hub_directory_is_read_and_cut(tmp_path: Path, run_script: RunScript) -> None:
    name = str(hub_directory(tmp_path / "hub", validation=30))
    path = write_config(tmp_path, source="hub", name=name, raw_path=str(tmp_path / "raw"))
    result = run_script([*DOOR, path])
    assert result.returncode == 0, result.stderr
    manifest = json.loads((tmp_path / "raw/manifest.json").read_text())
    counts = {split: entry["documents"] for split, entry in manifest["splits"].items()}
    # The Hub has no test split: it is cut from train, by 0.01 of 0.98 + 0.01.
    assert counts["validation"] == 30 and counts["train"] + counts["test"] == 1000 and 5 <= counts["test"] <= 16
    wrong = run_script([*DOOR, path, "dataset.splits={train: train, validation: dev}", "--restart"])
    assert wrong.returncode == 2 and "no split 'dev'; it has train, validation" in wrong.stderr
    capped = run_script([*DOOR, path, "dataset.max_documents=100", "dataset.max_bytes=700", "--restart"])
    assert capped.returncode == 0, capped.stderr
    lines = [json.loads(line)["text"] for line in (tmp_path / "raw/train-00000.jsonl").read_text().splitlines()]
    assert sum(map(len, lines)) <= 700 < sum(map(len, lines)) + 60
    absent = run_script([*DOOR, path, "dataset.name=/nowhere/at/all", "dataset.raw_path=" + str(tmp_path / "other")])
    assert absent.returncode == 2 and "cannot be had" in absent.stderr and absent.stderr.count("\n") == 1


# Runs the door with small rounds, and kills itself around the end of a round: before or after its progress is written.
KILLED = """
import os, signal, sys
import data_setup.hub as hub, data_setup.raw_text as raw_text
hub.ROUND_ROWS = 150
left = int(sys.argv[1])
write_json, add_round = raw_text.write_json, raw_text.RawFolder.add_round
def dying_write(path, value):
    global left
    left -= 1
    if left == 0: os.kill(os.getpid(), signal.SIGKILL)
    write_json(path, value)
    left -= 1
    if left == 0: os.kill(os.getpid(), signal.SIGKILL)
raw_text.write_json = dying_write
sys.argv = ["download_dataset.py", *sys.argv[2:]]
from data_setup import download_dataset
from configs.command_line import run_stage
run_stage(download_dataset.main, "", {"restart": ""})
"""


def test_a_killed_download_goes_on(tmp_path: Path) -> None:
    name = str(hub_directory(tmp_path / "hub"))

    def run(folder: str, die_at: int) -> int:
        (tmp_path / folder).mkdir(exist_ok=True)
        path = write_config(tmp_path / folder, source="hub", name=name, raw_path=str(tmp_path / folder / "raw"))
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", KILLED, str(die_at), str(path)]
        return subprocess.run(command, env=environment, capture_output=True, timeout=120).returncode

    assert run("whole", 0) == 0
    for number in (1, 4, 3):  # between the files of a round and its progress, twice; and right after
        assert run("killed", number) == -signal.SIGKILL
        assert not (tmp_path / "killed/raw/manifest.json").exists()
    assert run("killed", 0) == 0
    assert digests(tmp_path / "killed/raw") == digests(tmp_path / "whole/raw")


def test_files_are_read_where_they_lie(tmp_path: Path, run_script: RunScript) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "good"}\n{"txt": "bad"}\n')
    path = write_config(tmp_path, source="files", train_path=str(tmp_path / "x.jsonl"))
    stopped = run_script([*DOOR, path])
    assert stopped.returncode == 2 and "x.jsonl:2: no such field" in stopped.stderr
    skipped = run_script([*DOOR, path, "tokenize.bad_documents=skip"])
    assert skipped.returncode == 0 and "1 documents" in skipped.stdout and "skipped, no such field  1" in skipped.stdout
    assert not (tmp_path / "data").exists()
