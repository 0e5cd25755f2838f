"""What all tests share: where the repository and the test data are, and running a script as a user does."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_cluster import cluster

# transformers copies custom code there; two test sessions at once must not write over each other's.
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="liftoff-tests-modules-")
REPOSITORY = Path(__file__).resolve().parent.parent
# What a shell or a batch system may have set, and would change what a script does.
_UNWANTED = (
    "DEBUG",
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "GROUP_RANK",
    "WORLD_SIZE",
    "MASTER_",
    "SLURM_",
    "WANDB_",
    "HF_",
)

RunScript = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def repo() -> Path:
    """The repository's root."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of test data: LIFTOFF_SHARED, by default ../shared."""
    folder = Path(os.environ.get("LIFTOFF_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no test data in {folder} (set LIFTOFF_SHARED)")
    return folder


@pytest.fixture(scope="session")
def run_script() -> RunScript:
    """run_script(["train.py", config, ...], env={...}) runs it with this Python in the repository's root.

    ["-m", "tokenizer.train_hf_tokenizer", ...] runs a module. The environment is this one without what would change a
    run, offline, one thread; `env` comes on top, `wrap` may change the command. Its output is text, and nothing is
    raised for its exit code.
    """

    def run(
        arguments: list[str | os.PathLike[str]],
        env: dict[str, str] | None = None,
        timeout: float = 300,
        cwd: Path = REPOSITORY,
        wrap: Callable[[list[str]], list[str]] = list,
    ) -> "subprocess.CompletedProcess[str]":
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_UNWANTED)}
        environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, *map(os.fspath, arguments)]
        return subprocess.run(
            wrap(command),
            cwd=cwd,
            env={**environment, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict[str, str]]:
    """A Slurm cluster of our own -> the environment in which sbatch finds it. Skips where there can be none."""
    with cluster() as environment:
        yield environment
