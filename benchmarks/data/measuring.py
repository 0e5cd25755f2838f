"""A command -> how long it took and how much memory it and its children had; figures -> a table and a file."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = REPOSITORY / "benchmarks" / "results"


class Measured(NamedTuple):
    """What a command cost."""

    seconds: float  # from its start to its end
    peak_mb: float  # of it and its children together; what they share is counted once
    output: str


def run(command: Sequence[str], environment: dict[str, str] | None = None, watched: bool = True) -> Measured:
    """Runs a command to its end. Exits where it fails. watched: for its memory, which takes time from it."""
    started = time.monotonic()
    process = subprocess.Popen(
        list(command), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    peak = 0.0
    while process.poll() is None:
        if watched:
            peak = max(peak, _memory(process.pid))
        time.sleep(0.01)
    seconds = time.monotonic() - started
    output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{output}")
    return Measured(seconds, peak / 1e6, output)


def _memory(pid: int) -> float:
    """Bytes of a process and its children: proportional set sizes, so that shared pages count once."""
    total = 0.0
    for one in [pid, *_children(pid)]:
        try:
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        except OSError:
            continue
    return total


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                found += [int(child), *_children(int(child))]
    except OSError:
        pass
    return found


def machine() -> str:
    """The kind of machine that figures are from."""
    model = platform.processor() or platform.machine()
    flags = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
        flags = ", AMX" if any("amx_bf16" in line for line in lines) else ", no AMX"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}{flags}, {cores} cores, Python {platform.python_version()}"


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table."""
    texts = [[str(cell) for cell in row] for row in [columns, *rows]]
    widths = [max(len(row[i]) for row in texts) for i in range(len(columns))]
    print(f"\n{title}")
    for row in texts:
        print(
            "  "
            + "  ".join(
                f"{c:<{w}}" if i == 0 else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True))
            )
        )
    print(flush=True)


def keep(name: str, figures: dict[str, Any]) -> None:
    """Writes benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({**figures, "machine": machine()}, indent=2) + "\n")
