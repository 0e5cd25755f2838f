"""What a stage has to say -> the terminal, or plain lines in a log file; silent on all ranks but the first.

`UserError` is what the user can mend: the front door prints it as one line. Anything else is a bug, with a traceback.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

# soft_wrap: a long path stays in one piece, so that it can be copied and searched for.
console = Console(soft_wrap=True, highlight=False, emoji=False)


class UserError(Exception):
    """Something that the user can cause and mend. The text: what is wrong, where, what to do."""


def is_first_rank() -> bool:
    """Whether this process is rank 0 of the run, by the environment of torchrun, Slurm and Lightning's launcher.

    Each of them numbers its own layer, and they can be nested (Lightning inside of one Slurm task): all must say 0.
    """
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") in ("0", "") for name in names)


def info(text: str) -> None:
    """A line for the user, on standard output."""
    if is_first_rank():
        console.print(escape(text))


def warn(text: str) -> None:
    """A line about something that is not right but does not stop the stage, on standard error."""
    if is_first_rank():
        sys.stdout.flush()
        print(f"warning: {text}", file=sys.stderr, flush=True)


def table(title: str, rows: list[tuple[str, str]], next_commands: list[str] | None = None) -> None:
    """What a stage ends with: what was made, where, how fast; and below it the commands to go on with."""
    if not is_first_rank():
        return
    width = max((len(name) for name, _ in rows), default=0)
    console.print(f"\n[bold]{escape(title)}[/bold]")
    for name, value in rows:
        first, *others = str(value).splitlines() or [""]
        console.print(f"  [cyan]{escape(name.ljust(width))}[/cyan]  {escape(first)}")
        for line in others:
            console.print(f"  {' ' * width}  {escape(line)}")
    if next_commands:
        console.print("\n[bold]Next[/bold]")
        for command in next_commands:
            console.print(f"  [green]{escape(command)}[/green]")
    console.print()


def duration(seconds: float) -> str:
    """1.25 -> "1.2 s", 75 -> "1:15", 4000 -> "1:06:40"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def amount(count: float) -> str:
    """A number that is read at a glance: 950 -> "950", 12345 -> "12,345", 0.25 -> "0.25"."""
    return f"{count:,.0f}" if count >= 100 or count == int(count) else f"{count:.3g}"


def size(n_bytes: float) -> str:
    """Bytes: 950 -> "950 B", 12345678 -> "12.3 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


class Meter:
    """Counts what is done, and says so from time to time. Made by `progress`."""

    def __init__(self, description: str, total: float | None, unit: str, every_seconds: float) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done: float = 0
        self.before: float = 0
        self.text = ""
        self.started = self.shown = time.monotonic()
        self.every_seconds = every_seconds

    def begin_at(self, done: float) -> None:
        """So many were done before, by a run that was interrupted; they took no time of this one."""
        self.done = self.before = done

    def advance(self, n: float = 1) -> None:
        """n more are done. Cheap: it shows nothing unless it is time to."""
        self.done += n
        self._show_when_due()

    def update(self, text: str, done: float | None = None) -> None:
        """What to say beside the count, such as the loss; and the count itself, where it is known better."""
        self.text = text
        if done is not None:
            self.done = done
        self._show_when_due()

    def line(self) -> str:
        """The state as one plain line."""
        seconds = max(time.monotonic() - self.started, 1e-9)
        speed = (self.done - self.before) / seconds
        unit = f" {self.unit}" if self.unit else ""
        if self.total:
            left = (self.total - self.done) / speed if speed else None
            counts = f"{amount(self.done)} of {amount(self.total)}{unit} ({self.done / self.total:.0%})"
            eta = "" if left is None or self.done >= self.total else f", {duration(left)} left"
        else:
            counts, eta = f"{amount(self.done)}{unit}", ""
        # What the stage has to say comes early: a narrow terminal cuts off the end.
        text = f", {self.text}," if self.text else ""
        return f"{self.description}: {counts}{text} in {duration(seconds)}{eta}, {amount(speed)}{unit}/s"

    def _show_when_due(self) -> None:
        now = time.monotonic()
        if now - self.shown >= self.every_seconds:
            self.shown = now
            self.show()

    def show(self) -> None:
        """Shows nothing: this is what the other ranks have."""


class _PlainMeter(Meter):
    def show(self) -> None:
        """A line of its own."""
        info(self.line())


class _RichMeter(Meter):
    def __init__(self, bar: Progress, description: str, total: float | None, unit: str) -> None:
        super().__init__(description, total, unit, every_seconds=0.1)
        self.bar = bar
        self.task = bar.add_task(escape(description), total=total, meter=self)

    def show(self) -> None:
        """Moves the bar."""
        self.bar.update(self.task, completed=self.done, total=self.total)


class _Counts(ProgressColumn):
    """The line of the meter, without its description, beside Rich's bar."""

    def render(self, task: Task) -> Text:
        """What Rich asks a column for."""
        meter: Meter = task.fields["meter"]
        return Text(meter.line().removeprefix(f"{meter.description}: "), overflow="ellipsis", no_wrap=True)


@contextmanager
def progress(
    description: str,
    total: float | None = None,
    unit: str = "",
    plain_every_seconds: float = 30.0,
) -> Iterator[Meter]:
    """A bar on a terminal; off one, a plain line every so many seconds and one at the end; nothing on other ranks.

    total: how many there will be, where that is known. unit: of what, such as "documents".
    """
    if not is_first_rank():
        yield Meter(description, total, unit, every_seconds=float("inf"))
    elif console.is_terminal and not console.is_dumb_terminal:
        columns = (
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            _Counts(),
        )
        with Progress(*columns, console=console, expand=False) as bar:
            meter = _RichMeter(bar, description, total, unit)
            yield meter
            meter.total = meter.total or meter.done
            meter.show()
    else:
        plain = _PlainMeter(description, total, unit, plain_every_seconds)
        yield plain
        plain.show()


def histogram(lengths: Iterable[int] | Mapping[int, int], unit: str = "", width: int = 40, rows: int = 12) -> str:
    """A picture of how long things are, in text, one line a range; ranges double where lengths differ much.

    lengths: the lengths, or {length: how many have it} (which a stage can collect in constant memory).
    """
    counts = Counter(lengths)  # of a mapping: a copy
    counts = Counter({length: count for length, count in counts.items() if count})
    if not counts:
        return "(nothing)"
    bars = [(name, sum(counts[n] for n in counts if low <= n < high)) for name, low, high in _ranges(counts, rows)]
    largest = max(count for _, count in bars)
    names = max(len(name) for name, _ in bars)
    digits = max(len(f"{count:,}") for _, count in bars)
    lines = [f"{name:>{names}}  {count:>{digits},}  {_bar(count / largest, width)}".rstrip() for name, count in bars]
    return "\n".join([*lines, f"{'':>{names}}  {sum(counts.values()):,} in all, lengths in {unit}"] if unit else lines)


def _ranges(counts: Mapping[int, int], rows: int) -> list[tuple[str, int, int]]:
    """-> (name, lowest, first beyond) of each row."""
    low, high = min(counts), max(counts)
    if high < 8 * max(low, 1) or high < rows:
        step = -(-(high - low + 1) // rows)
        edges = list(range(low, high + 1, step)) + [low + step * (-(-(high - low + 1) // step))]
    else:
        edges = [0] if low == 0 else []
        edges += [2**power for power in range(max(low, 1).bit_length() - 1, high.bit_length() + 1)]
        if len(edges) - 1 > rows:  # very different lengths: the short ones share a row
            edges = [low, *edges[-rows:]]
    pairs = zip(edges, edges[1:], strict=False)
    return [(f"{a:,}" if b == a + 1 else f"{a:,} to {b - 1:,}", a, b) for a, b in pairs]


def _bar(share: float, width: int) -> str:
    """A bar of eighths of a character; never empty where there is anything at all."""
    eighths = max(round(share * width * 8), 1 if share else 0)
    full, rest = divmod(eighths, 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
