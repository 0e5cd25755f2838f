"""A run's folder: begun, continued, refused, moved aside, killed; its environment; its measures."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.schema import Config
from utils import environment
from utils.files import atomic_folder, atomic_path, atomic_write, read_json, write_json
from utils.messages import UserError
from utils.run_directory import RunDirectory, read_metrics

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rank but the first, and no record of this machine, which is tested by itself."""
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("utils.run_directory.describe", lambda: ({"command": "python train.py"}, None))


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run that has trained one step."""
    run = RunDirectory(tmp_path / "run")
    run.open(Config(name="run"))
    run.metrics.write_text('{"kind": "train", "step": 1}\n')
    return run


def changed(**sections: dict[str, object]) -> Config:
    return Config.model_validate({"name": "run", **sections})


def test_a_run_begins_and_continues(run: RunDirectory) -> None:
    assert "# Every setting" in run.config.read_text()
    run.open(Config(name="run"))
    assert len(read_json(run.environment)["starts"]) == 2
    assert run.metrics.read_text() == '{"kind": "train", "step": 1}\n'
    assert not run.finished
    run.mark_finished(step=1)
    assert RunDirectory(run.path).finished


def test_what_trains_may_not_change(run: RunDirectory) -> None:
    other = changed(optimizer={"lr": 1e-5, "betas": [0.9, 0.95]}, trainer={"max_steps": 7, "max_epochs": None})
    with pytest.raises(UserError) as error:
        run.open(other)
    assert str(error.value) == (
        f"{run.path} is a run of another config: 4 settings that train have changed (optimizer.lr: 0.001 -> 1e-5; "
        "optimizer.betas: (not set) -> [0.9, 0.95]; trainer.max_steps: null -> 7; trainer.max_epochs: 1.0 -> null). "
        "Train it under another name (name=...), or --restart, which moves this run aside"
    )
    assert "lr: 0.001" in run.config.read_text()


def test_an_argument_that_is_left_out_is_a_change(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.open(changed(model={"arguments": {"width": 64}}))
    run.metrics.write_text("{}\n")
    with pytest.raises(UserError, match=r"model.arguments.width: 64 -> \(not set\)"):
        run.open(Config(name="run"))


def test_what_does_not_train_may_change_and_is_noted(run: RunDirectory) -> None:
    other = changed(trainer={"micro_batch_size": 8, "devices": 2}, generation={"seed": 3}, paths={"runs": "/elsewhere"})
    run.open(other)
    assert read_json(run.environment)["starts"][-1]["changed settings"] == {
        "paths.runs": ["runs", "/elsewhere"],
        "trainer.micro_batch_size": [None, 8],
        "trainer.devices": [1, 2],
        "generation.seed": [0, 3],
    }
    assert "micro_batch_size: 8" in run.config.read_text()


def test_before_the_first_step_anything_may_change(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.open(Config(name="run"))
    run.open(changed(optimizer={"lr": 1e-5}))
    assert "lr: 1e-5" in run.config.read_text()


def test_a_setting_that_a_newer_liftoff_brings_is_no_change(run: RunDirectory) -> None:
    text = run.config.read_text()
    assert "  decay_embeddings: false\n" in text
    run.config.write_text(text.replace("  decay_embeddings: false\n", ""))
    run.open(Config(name="run"))
    run.config.write_text(text.replace("  decay_embeddings: false\n", ""))
    with pytest.raises(UserError, match="optimizer.decay_embeddings: false -> true"):
        run.open(changed(optimizer={"decay_embeddings": True}))


def test_restart_moves_aside_and_deletes_nothing(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # twice within a second
        run.open(changed(optimizer={"lr": 1e-5}), restart=True)
        assert not run.begun and "lr: 1e-5" in run.config.read_text()
    moved = [path for path in run.path.parent.iterdir() if path != run.path]
    assert len(moved) == 2
    assert sum((path / "metrics.jsonl").exists() for path in moved) == 1
    assert "what was in" in capsys.readouterr().out


def test_a_requeued_job_does_not_restart(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    run.open(Config(name="run"), restart=True)
    assert run.begun


def test_other_ranks_check_and_write_nothing(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    before = {path: path.stat().st_mtime_ns for path in run.path.iterdir()}
    run.open(changed(generation={"seed": 3}))
    run.open(changed(optimizer={"lr": 1e-5}), restart=True)
    with pytest.raises(UserError, match="optimizer.lr"):
        run.open(changed(optimizer={"lr": 1e-5}))
    assert before == {path: path.stat().st_mtime_ns for path in run.path.iterdir()}
    RunDirectory(run.path.parent / "other").open(Config())
    assert not (run.path.parent / "other").exists()


HOLD = """
import sys, time
sys.path.insert(0, {repository!r})
from configs.schema import Config
from utils.run_directory import RunDirectory
RunDirectory({path!r}).open(Config(name="run"))
print("open", flush=True)
time.sleep(100)
"""


def test_two_processes_do_not_train_one_run_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    code = HOLD.format(repository=str(REPOSITORY), path=str(run.path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(UserError, match=f"is being trained by process {other.pid} on .*; wait for it, or stop it"):
            run.open(Config(name="run"))
        with pytest.raises(UserError, match="is being trained"):
            run.open(Config(name="run"), restart=True)
        other.send_signal(signal.SIGKILL)
    run.open(Config(name="run"))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file/run: not a directory; choose another folder"):
        RunDirectory(tmp_path / "file" / "run").open(Config())


# --- the environment --------------------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@x", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def test_the_patch_restores_the_code_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    git(here, "init", "-q")
    (here / "train.py").write_text("old\n")
    (here / ".gitignore").write_text("/runs/\n")
    git(here, "add", ".")
    git(here, "commit", "-qm", "x")
    (here / "train.py").write_text("new\n")
    (here / "mine.py").write_text("mine\n")
    (here / "data.bin").write_bytes(b"\0" * 1000)
    (here / "runs").mkdir()
    (here / "runs" / "x.py").write_text("")
    status = git(here, "status", "--porcelain")
    monkeypatch.setattr(environment, "REPOSITORY", here.resolve())
    record, patch = environment.describe()
    assert git(here, "status", "--porcelain") == status  # the index is untouched
    assert record["code"]["commit"] == git(here, "rev-parse", "HEAD").strip()
    there = tmp_path / "there"
    git(tmp_path, "clone", "-q", str(here), str(there))
    (tmp_path / record["code"]["patch"]).write_bytes(patch)
    git(there, "apply", str(tmp_path / record["code"]["patch"]))
    assert (there / "train.py").read_text() == "new\n"
    assert (there / "mine.py").read_text() == "mine\n"
    assert {path.name for path in there.iterdir()} == {".git", ".gitignore", "train.py", "mine.py"}


def test_no_repository_no_git_and_somebody_elses_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "REPOSITORY", tmp_path.resolve())
    assert environment.describe()[0]["code"] == {"commit": None}
    git(tmp_path, "init", "-q")
    (tmp_path / "inner").mkdir()
    assert environment.describe()[0]["code"] == {"commit": None}  # no commit yet
    monkeypatch.setattr(environment, "REPOSITORY", (tmp_path / "inner").resolve())
    assert environment.describe()[0]["code"] == {"commit": None}
    monkeypatch.setenv("PATH", "")
    record, patch = environment.describe()
    assert record["code"] == {"commit": None} and patch is None
    assert record["packages"]["torch"] and record["machine"]["cores"] >= 1


# --- measures ---------------------------------------------------------------------------------------------------------


def test_the_last_line_of_a_step_counts_and_torn_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    lines = [
        {"kind": "train", "step": 1, "loss": 3.0},
        {"kind": "train", "step": 2, "loss": 2.0},
        {"kind": "validation", "step": 2, "set": "a", "loss": 5.0},
        {"kind": "validation", "step": 2, "set": "b", "loss": 6.0},
        {"kind": "train", "step": 3, "loss": 1.0},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    text += '{"kind": "train", "st\n' + json.dumps({"kind": "train", "step": 2, "loss": 2.5}) + "\n"
    path.write_bytes(text.encode() + b'{"kind": "tr\xff')
    assert read_metrics(path) == [
        {"kind": "train", "step": 1, "loss": 3.0},
        {"kind": "train", "step": 2, "loss": 2.5},
        {"kind": "validation", "step": 2, "set": "a", "loss": 5.0},
        {"kind": "validation", "step": 2, "set": "b", "loss": 6.0},
        {"kind": "train", "step": 3, "loss": 1.0},
    ]


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.json"
    write_json(path, {"a": "ü"})
    assert read_json(path) == {"a": "ü"}
    with open(path) as reader:  # one who has it open goes on reading what it was
        write_json(path, {"a": "u"})
        assert json.load(reader) == {"a": "ü"}
    write_json(path, {"a": "ü"})
    with pytest.raises(ValueError, match="half"), atomic_write(path, "w") as file:
        file.write("half")
        raise ValueError("half")
    assert read_json(path) == {"a": "ü"}
    assert [item.name for item in path.parent.iterdir()] == ["x.json"]
    with pytest.raises(UserError, match="no file"):
        read_json(tmp_path / "none.json")
    path.write_text("{")
    with pytest.raises(UserError, match="is damaged: not JSON"):
        read_json(path)


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / "inner").mkdir()
            (temporary / "inner" / "x").write_text(text)
    with pytest.raises(ValueError, match="half"), atomic_folder(tmp_path / "folder") as temporary:
        raise ValueError("half")
    assert (tmp_path / "folder" / "inner" / "x").read_text() == "two"
    assert [item.name for item in tmp_path.iterdir()] == ["folder"]


WRITE = """
import sys, time
sys.path.insert(0, {repository!r})
from utils.files import atomic_write
with atomic_write({path!r}) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(100)
"""


def test_what_a_killed_process_leaves_is_removed_when_it_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "x[1].bin"
    code = WRITE.format(repository=str(REPOSITORY), path=str(path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "writing\n"
        with atomic_write(path) as file:  # while another is writing it: both are whole, the last one stays
            file.write(b"whole")
        assert len(list(tmp_path.iterdir())) == 2
        other.send_signal(signal.SIGKILL)
    assert path.read_bytes() == b"whole"
    old = tmp_path / ".x[1].bin.another-host-1.tmp"
    old.write_text("")
    os.utime(old, (time.time() - 90000,) * 2)
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"again")
    assert [item.name for item in tmp_path.iterdir()] == ["x[1].bin"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*x: no space left on device; free some space, or choose"):
        with atomic_path(tmp_path / "x") as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_bytes(b"x")
    with pytest.raises(UserError, match="no space left"):
        with atomic_path(tmp_path / "x"):  # as safetensors says it
            raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(FileNotFoundError):  # another file's trouble is not this one's
        with atomic_path(tmp_path / "x"):
            open(tmp_path / "none")
