"""Show: a window as it is, its marks, the counts of a shard set; from the folder alone."""

import re
import shutil
from io import StringIO
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from rich.console import Console

from corpus.packing import Packing
from corpus.picture import Row, between, picture, positions
from corpus.shards import ShardSet
from corpus.statistics import Frequencies, first_shards, frequencies, lengths_of, waste_of
from corpus.tokenising import tokenise
from corpus.window_index import WindowIndex, packing_shares
from tests.conftest import RunScript
from tests.doors import door
from tests.small_data import config_for, small_tokenizer, write_documents
from tokenizer.tokenizer import Tokenizer
from tools.show import frequent

LETTERS = "abcdefghijklmnopqrstuvwxyz\x1b"


def letters(ids: list[int]) -> str:
    return "".join(LETTERS[i] for i in ids)


def row(**more: object) -> Row:
    values = {"ids": np.arange(8), "length": 6, "scored": np.ones(8, bool), "documents": np.zeros(8, np.int64)}
    return Row(**{**values, **more})


def test_marks_say_what_colours_say() -> None:
    assert picture(row(), letters).plain == "abcdef⋯ 2 places"
    assert picture(row(length=8, documents=np.array([0, 0, 0, 1, 1, 1, 2, 2])), letters).plain == "abc‖def‖gh"
    scored = np.array([0, 0, 1, 1, 0, 1, 0, 0], bool)
    assert picture(row(scored=scored), letters).plain == "‹ab›cd‹e›f⋯ 2 places"
    seen = np.array([0, 25, 2, 25, 4, 5, 6, 7])
    assert picture(row(seen=seen, scored=scored), letters).plain == "‹a›[z → b]c[z → d]‹e›f⋯ 2 places"
    assert picture(row(ids=np.array([26] * 6 + [0, 0])), letters).plain.startswith(
        "␛" * 6
    )  # no escapes for the terminal
    assert picture(row(length=0), letters).plain == "⋯ 8 places"
    coloured = StringIO()
    two = row(documents=np.array([0, 0, 1, 1, 1, 1, 1, 1]))
    Console(file=coloured, force_terminal=True, color_system="standard").print(picture(two, letters))
    assert coloured.getvalue().startswith("\x1b[32mab\x1b[0m") and "\x1b[36mcdef" in coloured.getvalue()
    lines = positions(row(), np.arange(8), np.array([1, 2, -100, 4, 5, 6, 7, 8]), letters, 3)
    assert [line for _, line in lines] == ["document 0   'a' (0) → 'b' (1)", "document 0   'b' (1) → 'c' (2)",
                                           "document 0   'c' (2) → —"]  # fmt: skip


def test_spaces_that_decoding_drops_are_kept() -> None:
    def decode(ids: list[int]) -> str:  # as SentencePiece does it
        return "".join(f" {letters([i])}" for i in ids)[1:]

    assert between([0, 1, 2, 3], 2, 4, decode) == " c d" and between([0, 1], 0, 2, decode) == "a b"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    tokenizer = small_tokenizer(folder / "tokenizer")
    path = write_documents(folder / "data.jsonl", 300)
    tokenise(config_for(folder, path, dataset={"test_path": None}, tokenize={"shard_tokens": 2000}), tokenizer)
    return folder


def test_counts_are_those_of_all_tokens(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corpus.statistics.BLOCK", 100)
    shards = ShardSet.open(made / "tokens", "train")
    every = np.concatenate([shard.tokens for shard in shards.shards])
    found = frequencies(shards)
    assert found.tokens == len(every) and found.counts.tolist() == np.bincount(every, minlength=300).tolist()
    sample = frequencies(shards, most=1000)
    assert (
        800 <= sample.tokens <= 1200 and sample.counts.sum() == sample.tokens and (sample.counts <= found.counts).all()
    )
    lengths = np.concatenate([np.diff(shard.offsets) for shard in shards.shards])
    assert lengths_of(shards) == dict(zip(*np.unique(lengths, return_counts=True), strict=True))
    some = first_shards(shards, most=150)
    assert 0 < some.n_documents <= 150 and len(some.shards) < len(shards.shards)


def test_a_token_that_is_no_text_by_itself_is_named_as_in_the_vocabulary() -> None:
    class Pieces:
        def decode(self, ids: list[int], skip_special: bool) -> str:
            return {0: "", 1: "\ufffd", 2: "a"}[ids[0]]

        def token(self, index: int) -> str:
            return ("\u2581", "<0xC3>", "\u2581a")[index]

    counts = Frequencies(np.array([5, 3, 2, 0]), 10)
    assert frequent(counts, cast(Tokenizer, Pieces())) == "'\u2581' 50.0%   '<0xC3>' 30.0%   'a' 20.0%"


def test_waste_of_each_packing(made: Path) -> None:
    shards = ShardSet.open(made / "tokens", "train")
    before = sorted(path.name for path in shards.directory.iterdir())
    wastes = waste_of(shards, Packing(32))
    assert set(wastes) == {"full", "partial", "truncate", "best_fit"}  # some documents are longer than a window
    assert {*waste_of(shards, Packing(512))} == {*wastes, "none"}
    index = WindowIndex(shards, Packing(32, packing="truncate"), keep=False)
    assert wastes["truncate"][1:] == tuple(packing_shares(index).values())
    assert wastes["full"].padding < 0.01 < wastes["partial"].padding
    assert wastes["best_fit"].truncated < wastes["full"].truncated
    assert before == sorted(path.name for path in shards.directory.iterdir())  # nothing was written


def test_the_folder_is_enough(made: Path, run_script: RunScript) -> None:
    tokens = made / "tokens"
    shards, tokenizer = ShardSet.open(tokens, "train"), Tokenizer.load(made / "tokenizer")
    rows = WindowIndex(shards, Packing(24)).gather(np.arange(20)).tokens
    # One whose first token is not a part of a character: it is shown apart, as it is not scored.
    number = next(n for n in range(3, 20) if "\ufffd" not in tokenizer.decode(rows[n][:1]) + tokenizer.decode(rows[n]))
    done = run_script(["-m", "tools.show", tokens, "data.max_seq_len=24", "--window", str(number), "--positions"])
    assert done.returncode == 0, done.stderr
    assert f"300 documents, {shards.n_tokens:,} tokens of uint16" in done.stdout and "\x1b" not in done.stdout
    assert "300 in all, lengths in tokens" in done.stdout and "best_fit" in done.stdout
    window = rows[number]
    said = done.stdout.split(" filling\n")[1].split("\nposition by position")[0]
    assert re.sub("[‖‹›]", "", said).strip() == tokenizer.decode(window, skip_special=False).strip()
    assert said.count("‖") == np.count_nonzero(window[:-1] == tokenizer.eos_id)
    first = f"{tokenizer.decode([window[0]])!r} ({window[0]}) → {tokenizer.decode([window[1]])!r} ({window[1]})"
    assert f"0   document 0   {first}" in done.stdout
    assert "✓ shards, train" not in done.stdout and "? shards, train" in done.stdout  # no config: no text to compare


def test_without_a_tokenizer_ids_are_shown(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    copied = tmp_path / "copy" / "train"
    shutil.copytree(made / "tokens" / "train", copied)
    assert door("show", copied, "data.max_seq_len=8") == 0
    said = capsys.readouterr()
    assert "is not at hand: ids are shown" in said.err
    window = ShardSet.open(tmp_path / "copy", "train").shards[0].tokens[:9]
    assert " ".join(map(str, window[1:])) in re.sub("[‖‹›]", "", said.out)
    for arguments, match in {
        ("--tokenizer", str(tmp_path)): "no tokenizer in",
        ("--window", "999999"): "--window 999999: there are",
        ("--split", "dev"): "--split dev: there are train",
        ("data.packing=sideways",): "data.packing",
        ("model.nonsense=1",): "unknown setting 'model.nonsense'",
    }.items():
        assert door("show", copied, *arguments) == 2
        assert match in capsys.readouterr().err
    assert door("show") == 2 and "required: DIRECTORY; see --help" in capsys.readouterr().err
    assert door("show", tmp_path / "nothing") == 2
    assert "is neither a run (config.yaml) nor token shards (manifest.json)" in capsys.readouterr().err
