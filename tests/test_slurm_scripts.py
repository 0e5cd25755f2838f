"""The batch scripts: their syntax, their one shape, and that a copy runs unchanged from anywhere, also under Slurm."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from slurm_cluster import submit, wait

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "slurm").glob("run_*.sh"))
COMMANDS = {
    "run_download_dataset": "-m data_setup.download_dataset",
    "run_train_hf_tokenizer": "-m tokenizer.train_hf_tokenizer",
    "run_train_sp_tokenizer": "-m tokenizer.train_sp_tokenizer",
    "run_tokenize_data": "tokenize_data.py",
    "run_tokenize_array": "tokenize_data.py",
    "run_train": "train.py",
    "run_inference": "inference.py",
    "run_generation": "generation.py",
}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A repository with the batch scripts, in which `python` says where it is and what it was called with."""
    house = tmp_path / "a house"  # a space in a path is where shell scripts break
    shutil.copytree(ROOT / "slurm", house / "slurm", ignore=shutil.ignore_patterns("user_slurm"))
    (house / "slurm/user_slurm").mkdir()
    (house / "train.py").touch()
    bin_ = house / ".venv/bin"
    bin_.mkdir(parents=True)
    (bin_ / "activate").write_text(f'export PATH="{bin_}:$PATH"\n')
    (bin_ / "python").write_text(
        '#!/bin/sh\nprintf "in=%s\\n" "$PWD"\nfor a in "$@"; do printf "arg=%s\\n" "$a"; done\n'
    )
    (bin_ / "python").chmod(0o755)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.yaml").touch()
    return house


def test_every_stage_has_its_script() -> None:
    assert {path.stem for path in SCRIPTS} == COMMANDS.keys()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_of_one_piece(path: Path) -> None:
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    text = path.read_text()
    # From the marked block to the command all scripts are the same text.
    middle = text[text.index("# ---- Environment") : text.rindex("activate_environment\n")]
    first = SCRIPTS[0].read_text()
    assert middle == first[first.index("# ---- Environment") : first.rindex("activate_environment\n")]
    assert f"slurm/{path.name} " in text, "the usage line names another script"
    assert f"python {COMMANDS[path.stem]} " in text
    door = COMMANDS[path.stem].removeprefix("-m ")
    assert (ROOT / (door if door.endswith(".py") else door.replace(".", "/") + ".py")).exists()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_copy_runs_unchanged_from_any_directory(path: Path, house: Path) -> None:
    copy = Path(shutil.copy(path, house / "slurm/user_slurm"))
    elsewhere = house.parent / "elsewhere"
    plain = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    ran = subprocess.run(
        ["bash", copy, "mine.yaml", "name=a b"], cwd=elsewhere, env=plain, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[0] == f"in={house}"
    arguments = [line.removeprefix("arg=") for line in lines[1:]]
    parts = ["tokenize.parts=16"] if path.stem == "run_tokenize_array" else []
    assert arguments == [*COMMANDS[path.stem].split(), str(elsewhere / "mine.yaml"), *parts, "name=a b"]


def test_a_script_without_a_config_says_how_it_is_used(house: Path) -> None:
    ran = subprocess.run(["bash", house / "slurm/run_train.sh"], capture_output=True, text=True)
    assert ran.returncode == 2 and ran.stderr.startswith("usage: sbatch ") and len(ran.stderr.splitlines()) == 1


def test_a_script_outside_of_a_repository_says_so(tmp_path: Path) -> None:
    copy = shutil.copy(ROOT / "slurm/run_train.sh", tmp_path)
    ran = subprocess.run(["bash", copy, "mine.yaml"], capture_output=True, text=True)
    assert ran.returncode == 2 and "keep this script in slurm/" in ran.stderr


@pytest.mark.parametrize("stage", ["run_train", "run_tokenize_data"])
def test_slurm_runs_a_copy_from_any_directory(stage: str, house: Path, slurm: dict[str, str]) -> None:
    """Slurm runs its own copy of the script, from its spool: the repository must be found all the same."""
    copy = Path(shutil.copy(ROOT / f"slurm/{stage}.sh", house / "slurm/user_slurm"))
    elsewhere = house.parent / "elsewhere"
    printed = submit(copy, "mine.yaml", "name=a b", cwd=elsewhere, environment=slurm)
    assert f"in={house}\n" in printed, printed
    assert f"arg={elsewhere / 'mine.yaml'}\n" in printed
    assert printed.rstrip().endswith("arg=name=a b"), printed
    if stage == "run_train":
        assert "arg=trainer.devices=1\n" in printed


@pytest.mark.proof
def test_training_under_slurm_is_stopped_and_goes_on(tmp_path: Path, slurm: dict[str, str]) -> None:
    """Two tasks on one node, TERM (as before a time limit), the same line submitted again."""
    if not (ROOT / ".venv/bin/activate").exists():
        pytest.skip("the batch scripts activate .venv, and there is none")
    (tmp_path / "tiny.yaml").write_text(
        "dataset: {source: synthetic, max_documents: 200}\n"
        "tokenizer: {vocab_size: 300}\n"
        "data: {max_seq_len: 32}\n"
        "model: {arguments: {width: 16, depth: 1, heads: 1}}\n"
        f"paths: {{data: {tmp_path}/data, runs: {tmp_path}/runs}}\n"
        "trainer: {max_steps: 4000, global_batch_size: 2, validate_every: null, precision: 32-true}\n"
        "checkpoints: {every: null}\n"
        "logging: {every: 1, tensorboard: false}\n"
    )
    for stage in ("run_download_dataset", "run_train_hf_tokenizer", "run_tokenize_data"):
        submit(ROOT / f"slurm/{stage}.sh", "tiny.yaml", cwd=tmp_path, environment=slurm)
    train = [
        "sbatch",
        "--parsable",
        "--output=first.out",
        "--ntasks-per-node=2",
        ROOT / "slurm/run_train.sh",
        "tiny.yaml",
    ]
    job = subprocess.run(train, cwd=tmp_path, env=slurm, capture_output=True, text=True).stdout.strip()
    metrics = tmp_path / "runs/tiny/metrics.jsonl"
    until = time.monotonic() + 120
    while not metrics.exists() or metrics.read_text().count('"train"') < 50:
        assert time.monotonic() < until, (tmp_path / "first.out").read_text()
        time.sleep(0.2)
    subprocess.run(["scancel", "--signal=TERM", job], env=slurm, check=True)
    wait(job, slurm)
    assert "stopped by SIGTERM after step" in (tmp_path / "first.out").read_text()
    more = submit(ROOT / "slurm/run_train.sh", "tiny.yaml", cwd=tmp_path, environment=slurm, seconds=240)
    assert "goes on after step" in more
    assert (tmp_path / "runs/tiny/model/config.json").exists()
