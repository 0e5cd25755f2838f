"""Tokenising by many machines: what tasks of Slurm and HTCondor make is what one machine makes, byte for byte."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from slurm_cluster import begin, wait
from small_data import small_tokenizer, write_documents
from test_data_setup import digests

from tests.conftest import RunScript

ROOT = Path(__file__).parent.parent
SCRIPT, CONDOR = ROOT / "slurm/run_tokenize_array.sh", ROOT / "condor/tokenize_array.sub"
PARTS = 4


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer, a corpus of some units, and mine.yaml."""
    folder = tmp_path_factory.mktemp("array")
    small_tokenizer(folder / "tokenizer")
    (folder / "corpus").mkdir()
    for number in range(3):  # files of unequal sizes: parts are balanced by bytes
        write_documents(folder / f"corpus/{number}.jsonl", 8000 * (number + 1), seed=number, longest=60)
    (folder / "mine.yaml").write_text(
        yaml.safe_dump(
            {
                "paths": {"data": str(folder / "data")},
                "dataset": {"source": "files", "path": str(folder / "corpus")},
                "tokenizer": {"path": str(folder / "tokenizer")},
                "tokenize": {"shard_tokens": 100_000},
            }
        )
    )
    return folder


@pytest.fixture(scope="module")
def alone(place: Path, run_script: RunScript) -> dict[str, dict[str, str]]:
    """What one machine makes of it, in as many parts: by split, file -> sha256."""
    made = run_script(["tokenize_data.py", place / "mine.yaml", f"tokenize.parts={PARTS}", in_(place / "alone")])
    assert made.returncode == 0, made.stderr
    return bytes_of(place / "alone")


def in_(folder: Path) -> str:
    return f"tokenize.path={folder}"


def bytes_of(folder: Path) -> dict[str, dict[str, str]]:
    return {split.name: digests(split) for split in sorted(folder.iterdir())}


def called(script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A script by hand, with what a batch system would set; nothing else of the environment but what finds programs."""
    plain = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | environment
    return subprocess.run(["bash", script, *arguments], cwd="/", env=plain, capture_output=True, text=True)


def lines_of(file: Path) -> tuple[dict[str, str], str]:
    """A submit file -> its settings, and what stands behind `queue`. Every line must be one or the other."""
    settings, queue = {}, ""
    for line in filter(None, (line.strip() for line in file.read_text().splitlines())):
        found = re.fullmatch(r"(\w+)\s*=\s*(.*)", line)
        if found:
            assert found[1] not in settings and not queue
            settings[found[1]] = found[2]
        elif not line.startswith("#"):
            assert line.startswith("queue ") and not queue, line
            queue = line.removeprefix("queue ")
    return settings, queue


def expanded(text: str, settings: dict[str, str]) -> str:
    while "$(" in text:
        text = re.sub(r"\$\((\w+)\)", lambda found: settings[found[1]], text)
    return text


def test_the_submit_file_is_one() -> None:
    settings, queue = lines_of(CONDOR)
    settings |= {"Cluster": "1", "Process": "5"}
    assert expanded(queue, settings) == "16"
    words = expanded(settings["arguments"], settings).split()
    assert words == ["configs/user_configs/mine.yaml", "16", "5", "tokenize.num_workers=16"]
    assert os.access(ROOT / settings["executable"], os.X_OK)
    assert expanded(settings["output"], settings) == "tokenize_array-1_5.out"


def test_htcondor_reads_the_submit_file_so_too() -> None:
    htcondor = pytest.importorskip("htcondor", reason="HTCondor's own reading of the file needs htcondor==24.0.24")
    jobs = list(htcondor.Submit(CONDOR.read_text()).jobs(count=16))
    assert [job["Args"].split()[2] for job in jobs] == [str(number) for number in range(16)]


@pytest.mark.skipif(not (ROOT / ".venv/bin/activate").exists(), reason="the batch scripts activate .venv")
def test_parts_of_any_batch_system_join_to_what_one_machine_makes(
    place: Path, alone: dict[str, dict[str, str]], run_script: RunScript
) -> None:
    """HTCondor's script, Slurm's and the plain command make parts of the same folder; one is lost on the way."""
    folder, config = place / "mixed", str(place / "mine.yaml")
    condor = ROOT / lines_of(CONDOR)[0]["executable"]
    last = called(condor, config, str(PARTS), "3", in_(folder), BATCH_SYSTEM="HTCondor", OMP_NUM_THREADS="1")
    assert last.returncode == 0, last.stderr
    slurm = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_ID": "7"}
    first = called(SCRIPT, config, f"tokenize.parts={PARTS}", in_(folder), **slurm)
    assert first.returncode == 0, first.stderr
    parts = [f"tokenize.parts={PARTS}", in_(folder)]
    assert run_script(["tokenize_data.py", config, *parts, "tokenize.part=2"]).returncode == 0

    missing = run_script(["tokenize_data.py", config, *parts, "--join"])
    assert missing.returncode == 2 and missing.stderr.startswith("error: part 1 of "), missing.stderr
    assert f"python tokenize_data.py CONFIG tokenize.parts={PARTS} tokenize.part=1" in missing.stderr
    assert not list(folder.glob("*/manifest.json"))
    whole = called(condor, config, str(PARTS), "1", in_(folder))
    assert whole.returncode == 0, whole.stderr
    assert bytes_of(folder) == alone

    # A shard that was damaged since: the join names it, and what it says mends it.
    (folder / "train/manifest.json").unlink()
    shard = folder / "train/part-00002-shard-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(content)
    damaged = run_script(["tokenize_data.py", config, *parts, "--join"])
    assert damaged.returncode == 2 and damaged.stderr.startswith("error: part 2 of "), damaged.stderr
    assert "remove part-00002.json and that file" in damaged.stderr and shard.name in damaged.stderr
    shard.unlink()
    (folder / "train/part-00002.json").unlink()
    assert run_script(["tokenize_data.py", config, *parts, "tokenize.part=2"]).returncode == 0
    assert bytes_of(folder) == alone


def test_the_array_line_says_how_many_parts(tmp_path: Path, slurm: dict[str, str]) -> None:
    """In one place: also where only some tasks are run again. The last task's job number is that of the array."""
    house = tmp_path / "a house"
    (house / "slurm").mkdir(parents=True)
    (house / ".venv/bin").mkdir(parents=True)
    (house / "train.py").touch()
    (house / ".venv/bin/activate").write_text(f'export PATH="{house}/.venv/bin:$PATH"\n')
    (house / ".venv/bin/python").write_text('#!/bin/sh\necho "$PWD: $*"\n')
    (house / ".venv/bin/python").chmod(0o755)
    copy = house / "slurm/mine.sh"
    copy.write_text(SCRIPT.read_text().replace("--array=0-15", "--array=0-2%2"))
    for options, tasks in (([], [0, 1, 2]), (["--array=1"], [1])):
        job = begin(copy, "c.yaml", "a=b", options=["--output=%A_%a.out", *options], cwd=tmp_path, environment=slurm)
        wait(job, slurm)
        for task in tasks:
            said = (tmp_path / f"{job}_{task}.out").read_text()
            more = f"tokenize.parts=3 tokenize.part={task} tokenize.num_workers=16 a=b"
            assert said == f"{house}: tokenize_data.py c.yaml {more}\n"
        assert len(list(tmp_path.glob(f"{job}_*.out"))) == len(tasks)


@pytest.mark.proof
def test_an_array_of_tasks_equals_one_machine_and_a_killed_one_is_run_again(
    place: Path, alone: dict[str, dict[str, str]], slurm: dict[str, str], run_script: RunScript
) -> None:
    if not (ROOT / ".venv/bin/activate").exists():
        pytest.skip("the batch scripts activate .venv, and there is none")

    def array(folder: Path, tasks: str) -> str:
        options = [f"--array={tasks}", "--cpus-per-task=1", f"--output={folder.name}-%A_%a.out"]
        arguments = ["mine.yaml", f"tokenize.parts={PARTS}", in_(folder)]
        return begin(SCRIPT, *arguments, options=options, cwd=place, environment=slurm)

    whole = place / "whole"
    wait(array(whole, f"0-{PARTS - 1}"), slurm)
    assert bytes_of(whole) == alone, [path.read_text() for path in place.glob("whole-*.out")]

    for attempt in range(20):  # a task that is too quick for the kill is no failure
        broken = place / f"broken{attempt}"
        job = array(broken, f"0-{PARTS - 1}")
        until = time.monotonic() + 60
        while not (broken / "train/part-00002-shard-00000.safetensors").exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        subprocess.run(["scancel", "--signal=KILL", "--full", f"{job}_2"], env=slurm)
        wait(job, slurm)
        if not (broken / "train/part-00002.json").exists():
            break
    assert not (broken / "train/part-00002.json").exists(), "task 2 was never killed in time"
    assert (broken / "train/part-00003.json").exists() and not list(broken.glob("*/manifest.json"))
    parts = [f"tokenize.parts={PARTS}", in_(broken)]
    named = run_script(["tokenize_data.py", place / "mine.yaml", *parts, "--join"])
    assert named.returncode == 2 and named.stderr.startswith("error: part 2 of ")
    wait(array(broken, "2"), slurm)
    assert bytes_of(broken) == alone
