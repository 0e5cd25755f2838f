"""What stages say: tables, progress on a terminal and off one, pictures of lengths, and silence on other ranks."""

import io
import re
import time
from collections import Counter

import pytest
import torch
from rich.console import Console

from utils import messages
from utils.hashing import sha256_json
from utils.imports import accepts, check_arguments, import_object
from utils.messages import UserError, amount, duration, histogram, info, progress, size, table, warn


@pytest.fixture(autouse=True)
def first_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


def test_the_table_that_a_stage_ends_with(capsys: pytest.CaptureFixture[str]) -> None:
    long = "/a/path/[bold]/that/is/" + "long/" * 30
    table("tokenised [x]", [("tokens", "1,234"), ("where", long), ("shards", "a\nb")], ["python train.py x.yaml"])
    assert capsys.readouterr().out == (
        "\ntokenised [x]\n"
        "  tokens  1,234\n"
        f"  where   {long}\n"  # in one piece, so that it can be copied
        "  shards  a\n"
        "          b\n"
        "\nNext\n  python train.py x.yaml\n\n"
    )


def test_only_the_first_rank_speaks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    info("[red]a[/red]")
    warn("b")
    assert capsys.readouterr() == ("[red]a[/red]\n", "warning: b\n")
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        with monkeypatch.context() as patch:
            patch.setenv("SLURM_PROCID", "0")  # Lightning's own ranks inside of one Slurm task
            patch.setenv(name, "1")
            info("a")
            warn("b")
            table("c", [])
            with progress("d", 3) as meter:
                meter.advance(3)
                meter.show()
    assert capsys.readouterr() == ("", "")


def test_what_an_interrupted_run_had_done_took_no_time_of_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress("tokenising", 1000, "MB") as meter:
        meter.begin_at(800)
        now[0] = 10.0
        meter.advance(50)
        assert meter.line() == "tokenising: 850 of 1,000 MB (85%) in 10.0 s, 30.0 s left, 5 MB/s"


def test_progress_off_a_terminal_is_a_plain_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress("tokenising", 1000, "documents", plain_every_seconds=30) as meter:
        for _ in range(100):
            now[0] += 0.7
            meter.advance(10)
            meter.update("loss 3.2")
    assert capsys.readouterr().out.splitlines() == [
        "tokenising: 430 of 1,000 documents (43%), loss 3.2, in 30.1 s, 39.9 s left, 14.3 documents/s",
        "tokenising: 860 of 1,000 documents (86%), loss 3.2, in 1:00, 9.8 s left, 14.3 documents/s",
        "tokenising: 1,000 of 1,000 documents (100%), loss 3.2, in 1:10, 14.3 documents/s",
    ]


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100, soft_wrap=True, highlight=False)
    monkeypatch.setattr(messages, "console", terminal)
    with progress("reading [x]", 20, "documents") as meter:
        for _ in range(5):
            meter.advance(4)
            meter.show()
            meter.bar.refresh()  # type: ignore[attr-defined]
        info("a line in between")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "reading [x] ━━━━━━━━━━━━ 20 of 20 documents (100%)" in text
    # A bar is drawn over itself; only the line in between and the end begin new lines.
    assert text.count("\n") == 2


def test_amounts_are_read_at_a_glance() -> None:
    assert [duration(x) for x in (1.25, 59.96, 75, 4000)] == ["1.2 s", "1:00", "1:15", "1:06:40"]
    assert [amount(x) for x in (0, 950, 12345.6, 0.25, 14.285)] == ["0", "950", "12,346", "0.25", "14.3"]
    assert [size(x) for x in (0, 999, 12_345_678, 3e12)] == ["0 B", "999 B", "12.3 MB", "3.0 TB"]


def test_a_picture_of_lengths() -> None:
    assert histogram([1, 2, 2, 3, 3, 3, 3], width=4) == "1  1  █\n2  2  ██\n3  4  ████"
    assert histogram(Counter({5: 1, 70: 2, 900: 1}), "bytes", width=2).splitlines() == [
        "      4 to 7  1  █",
        "     8 to 15  0",
        "    16 to 31  0",
        "    32 to 63  0",
        "   64 to 127  2  ██",
        "  128 to 255  0",
        "  256 to 511  0",
        "512 to 1,023  1  █",
        "              4 in all, lengths in bytes",
    ]
    assert histogram([]) == "(nothing)"


@pytest.mark.parametrize(
    "lengths", [[0], [7] * 9, range(100), [0, 1, 10**6], [2**40, 1], [5, 39], [1, 8], range(1000, 9000)]
)
def test_every_length_is_in_the_picture_once(lengths: list[int]) -> None:
    lines = histogram(lengths).splitlines()
    counts = [int(re.match(r"\s*[\d,]+(?: to [\d,]+)?  +([\d,]+)", line)[1].replace(",", "")) for line in lines]
    assert sum(counts) == len(list(lengths))
    assert len(lines) <= 13


def test_code_by_its_import_path() -> None:
    assert import_object("torch.optim.AdamW") is torch.optim.AdamW
    for path, message in {
        "torch.optim.RMSprp": "^optimizer.name: torch.optim has no 'RMSprp'; did you mean 'RMSprop'?",
        "AdamW": "'AdamW' is no import path",
        "nothing.of.the.kind": "no module 'nothing' to import nothing.of.the.kind from",
    }.items():
        with pytest.raises(UserError, match=message):
            import_object(path, "optimizer.name")


def test_a_package_that_is_not_installed_is_named_and_a_bug_is_a_bug(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_it.py").write_text("import a_package_that_is_not_there.part\n")
    (tmp_path / "has_a_bug.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="needs_it needs the package 'a_package_that_is_not_there', which is not inst"):
        import_object("needs_it.Thing")
    with pytest.raises(ZeroDivisionError):
        import_object("has_a_bug.Thing")


def test_arguments_of_other_libraries_classes() -> None:
    check_arguments(torch.optim.AdamW, {"lr": 1, "betas": (0, 1)}, "optimizer", given=["params"])
    assert accepts(dict) is None
    for arguments, message in (
        ({"beta": 1}, "optimizer: AdamW takes no 'beta'; did you mean 'betas'?"),
        ({"params": 1}, "optimizer: AdamW gets 'params' from Liftoff itself; leave it out"),
    ):
        with pytest.raises(UserError) as error:
            check_arguments(torch.optim.AdamW, arguments, "optimizer", given=["params"])
        assert str(error.value) == message
    with pytest.raises(UserError, match="optimizer: AdamW needs 'params'"):
        check_arguments(torch.optim.AdamW, {}, "optimizer")


def test_hashes_do_not_depend_on_the_order_of_keys() -> None:
    assert sha256_json({"a": 1, "b": [1.5, None]}) == sha256_json({"b": [1.5, None], "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": "1"})
