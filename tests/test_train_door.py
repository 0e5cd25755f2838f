"""train.py itself, on real shards: killed, continued, finished, restarted; by two processes as by one."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.places import REPOSITORY, shards_dir
from corpus.tokenising import tokenise
from tests.small_data import config_for, small_tokenizer, write_documents
from training import checkpoints
from utils.run_directory import read_metrics
from utils.yaml_writing import to_yaml

BY_THE_CLOCK = ("seconds", "tokens_per_second")


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty steps on short padded rows, in micro-batches."""
    folder = tmp_path_factory.mktemp("door")
    tokenizer = small_tokenizer(folder / "tokenizer")
    config = config_for(
        folder,
        write_documents(folder / "data.jsonl", 120),
        model={"arguments": {"width": 32, "depth": 1, "heads": 2}},
        data={"max_seq_len": 48, "packing": "truncate"},
        trainer={
            "max_steps": 20, "max_epochs": None, "global_batch_size": 8, "micro_batch_size": 2, "validate_every": 5,
            "precision": "32-true", "accelerator": "cpu",
        },
        checkpoints={"every": 3, "export": "none"},
        logging={"every": 1, "tensorboard": False},
    )  # fmt: skip
    tokenise(config, tokenizer)
    assert (shards_dir(config) / "train" / "manifest.json").exists()
    path = folder / "door.yaml"
    path.write_text(to_yaml(config.model_dump(exclude_unset=True)))
    return path


def command(config_file: Path, *more: str) -> list[str]:
    return [sys.executable, str(REPOSITORY / "train.py"), str(config_file), *more]


def run(config_file: Path, *more: str) -> str:
    done = subprocess.run(
        command(config_file, *more),
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def lines(config_file: Path, name: str) -> dict[tuple, dict]:
    found = read_metrics(config_file.parent / "runs" / name / "metrics.jsonl")
    return {
        (line["kind"], line["step"]): {key: value for key, value in line.items() if key not in BY_THE_CLOCK}
        for line in found
    }


@pytest.fixture(scope="module")
def undisturbed(config_file: Path) -> dict[tuple, dict]:
    said = run(config_file, "name=undisturbed", "checkpoints.export=best")
    assert "8 windows = 2 at once x 4 micro-batches x 1 devices" in said and "20 steps" in said
    assert "is trained" in said and "python inference.py" in said
    folder = config_file.parent / "runs" / "undisturbed"
    assert (folder / "finished.json").exists() and (folder / "model" / "config.json").exists()
    assert (folder / "pictures" / "curves.png").exists() and (folder / "samples.jsonl").exists()
    return lines(config_file, "undisturbed")


def test_a_finished_run_says_so_and_restarts_aside(config_file: Path, undisturbed: dict) -> None:
    assert "is finished" in run(config_file, "name=undisturbed", "checkpoints.export=best")
    run(config_file, "name=again")
    run(config_file, "name=again", "--restart")
    assert lines(config_file, "again") == undisturbed
    assert len(list((config_file.parent / "runs").glob("again.*"))) == 1


def test_killed_and_continued(config_file: Path, undisturbed: dict) -> None:
    process = subprocess.Popen(
        command(config_file, "name=killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    checkpoint = config_file.parent / "runs" / "killed" / "checkpoints"
    while not checkpoints.listed(checkpoint, "step"):
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert len(lines(config_file, "killed")) < len(undisturbed)
    assert "goes on after step" in run(config_file, "name=killed")
    assert lines(config_file, "killed") == undisturbed


def test_two_processes_equal_one_on_padded_data(config_file: Path, undisturbed: dict) -> None:
    """Real windows, of different widths on the two ranks; validation is divided over them too."""
    run(config_file, "name=two", "trainer.devices=2")
    two = lines(config_file, "two")
    assert two.keys() == undisturbed.keys()
    for key, line in undisturbed.items():
        for name, value in line.items():
            same = value == two[key][name] or abs(value - two[key][name]) <= 1e-5 * max(1, abs(value))
            assert same, (key, name, json.dumps([value, two[key][name]]))
