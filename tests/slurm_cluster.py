"""A Slurm cluster of our own on this machine (slurm_lab of the shared folder), and jobs in it."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Starts one, or skips the test where that cannot be. -> the environment in which sbatch finds it"""
    start = Path(os.environ.get("LIFTOFF_SHARED", ROOT.parent / "shared")) / "slurm_lab/start"
    if not start.exists() or os.geteuid() != 0:
        pytest.skip("a test cluster needs slurm_lab in the shared folder, and root")
    # A short path: the daemons' sockets lie in it.
    state = Path("/tmp") / f"liftoff-slurm-{os.getpid()}"
    lab = [str(start), "--state", str(state), "--port", str(27400 + os.getpid() % 400), "--prefix", f"t{os.getpid()}n"]
    made = subprocess.run(lab, capture_output=True, text=True)
    found = re.search(r"SLURM_CONF=(\S+)", made.stdout)
    if made.returncode or not found:
        pytest.skip(f"the test cluster did not start: {made.stderr[-300:]}")
    try:
        yield {**os.environ, "SLURM_CONF": found[1].strip("'\"")}
    finally:
        subprocess.run([*lab[:1], "stop", "--purge", *lab[1:]], capture_output=True)


def submit(script: Path, *arguments: str, cwd: Path, environment: dict[str, str], seconds: int = 120) -> str:
    """Submits a job, waits for its end -> what it printed."""
    job = begin(script, *arguments, options=["--output=job-%j.out"], cwd=cwd, environment=environment)
    wait(job, environment, seconds, cwd / f"job-{job}.out")
    return (cwd / f"job-{job}.out").read_text()


def begin(script: Path, *arguments: str, options: list[str], cwd: Path, environment: dict[str, str]) -> str:
    """Submits a job -> its number."""
    answer = subprocess.run(
        ["sbatch", "--parsable", *options, str(script), *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


def wait(job: str, environment: dict[str, str], seconds: int = 120, output: Path | None = None) -> None:
    """Until all of a job has ended."""
    until = time.monotonic() + seconds
    while subprocess.run(["squeue", "-h", "-j", job], env=environment, capture_output=True, text=True).stdout.strip():
        said = output.read_text() if output is not None and output.exists() else ""
        assert time.monotonic() < until, f"job {job} is still there: {said}"
        time.sleep(0.2)
