"""Packing best_fit: against the textbook's loop, and every window taken apart again."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from corpus.best_fit import best_fit
from corpus.packing import Packing, Windows
from corpus.window_index import WindowIndex, packing_shares
from tests.small_shards import batch_of, documents_of, shards_of, spans_of

BEGIN, END = 1, 2  # tokens of documents are 10 and more


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)


def textbook(sizes: list[int], room: int) -> list[int]:
    """Best fit decreasing by looking at every window. -> what is left in each, sorted"""
    left: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [(space, i) for i, space in enumerate(left) if space >= size]
        if fitting:
            left[min(fitting)[1]] -= size
        else:
            left.append(room - size)
    return sorted(left)


@pytest.mark.parametrize("seed", range(30))
def test_as_little_is_left_empty_as_by_the_textbook(seed: int) -> None:
    rng = np.random.default_rng(seed)
    room = int(rng.integers(1, 60))
    sizes = rng.integers(1, rng.integers(1, room + 1) + 1, 300)
    windows = best_fit(sizes, np.zeros_like(sizes), room, room)
    left = sorted(room - np.bincount(windows, sizes).astype(int))
    assert left == textbook(sizes.tolist(), room)
    # Numbered as their first documents come, so that reading in order is reading the shard in order.
    assert list(dict.fromkeys(windows.tolist())) == list(range(windows.max() + 1))


@pytest.mark.parametrize("seed", range(10))
def test_both_sides_of_pairs_fit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sources, targets = rng.integers(0, 21, 400), rng.integers(1, 31, 400)
    windows = best_fit(sources, targets, 20, 30)
    assert np.bincount(windows, sources).max() <= 20 and np.bincount(windows, targets).max() <= 30
    alike = np.stack([sources, sources])
    one, other = best_fit(*alike, 20, 20), best_fit(alike[0], 0 * alike[1], 20, 20)
    assert np.array_equal(one, other)  # sides of one length are as good as one side


def pieces_of(row: np.ndarray, owner: dict[int, int]) -> list[list[int]]:
    """The runs of one document each that text is made of."""
    return [list(part) for _, part in itertools.groupby(row.tolist(), key=owner.__getitem__)]


def text_of(windows: Windows, edges: tuple[int | None, int | None]) -> list[np.ndarray]:
    before, after = edges[0] is not None, edges[1] is not None
    assert not before or (windows.tokens[:, 0] == BEGIN).all()
    assert not after or (windows.tokens[np.arange(len(windows.tokens)), windows.lengths - 1] == END).all()
    return [row[before : n - after] for row, n in zip(windows.tokens, windows.lengths, strict=True)]


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("edges", [(None, None), (BEGIN, None), (BEGIN, END), (None, END)])
@pytest.mark.parametrize("with_spans", [False, True])
@pytest.mark.parametrize("masking", [False, True])
def test_documents_stay_whole_and_every_token_is_scored_once(
    tmp_path: Path, ahead: int, edges: tuple[int | None, int | None], with_spans: bool, masking: bool
) -> None:
    for seed, (length, longest, shard_tokens) in enumerate([(5, 12, 60), (12, 8, 60), (20, 45, 1000)]):
        rng = np.random.default_rng(seed)
        documents = documents_of(rng, 60, longest)
        spans = spans_of(rng, documents) if with_spans else [[[0, len(document)]] for document in documents]
        kind = "prompt_response" if with_spans else "text"
        tokens = batch_of(documents, spans if with_spans else None)
        shards = shards_of(tmp_path / f"{seed}", tokens, kind, shard_tokens)
        how = Packing(length, ahead, "best_fit", 0, *edges, document_masking=masking)
        index = WindowIndex(shards, how)
        order = rng.permutation(len(index))  # of several shards at once
        windows = index.gather(order)
        owner = {token: number for number, document in enumerate(documents) for token in document}
        due = [t for document, of_one in zip(documents, spans, strict=True) for a, b in of_one for t in document[a:b]]

        worth = set(due)
        if masking and ahead and edges[0] is None:
            worth -= {document[0] for document in documents if document}
        seen, scored, lost = [], windows.tokens[windows.scored].tolist(), set()
        for i, row in enumerate(text_of(windows, edges)):
            pieces = pieces_of(row, owner)
            numbers = [k for k, piece in enumerate(pieces) for _ in piece]
            for k, piece in enumerate(pieces):
                document = documents[owner[piece[0]]]
                at = document.index(piece[0])
                assert piece == document[at : at + len(piece)]
                if len(document) <= how.room:
                    assert piece == document  # never cut where it fits
                elif at + len(piece) < len(document):
                    assert len(piece) == how.room
                seen += piece[ahead if at else 0 :]
                assert worth & set(piece[ahead if at else 0 :])  # no place for what has nothing to say
                if not at and ahead and ((k == 0 and edges[0] is None) or (k > 0 and masking)):
                    lost.add(piece[0])
            if masking:
                first, last = [0] * (edges[0] is not None), [numbers[-1]] * len(windows.tokens[0])
                assert windows.documents[i].tolist() == (first + numbers + last)[: how.row]
        assert len(seen) == len(set(seen))
        assert sorted(scored) == sorted((set(due) & set(seen)) - lost) and windows.scored.any(1).all()
        never_seen = set(due) - set(seen)  # only what could not be scored anyway
        assert all(len(documents[owner[token]]) == 1 or documents[owner[token]][0] == token for token in never_seen)
        if not with_spans and not (ahead and (masking or edges[0] is None)):
            assert not never_seen
        assert (windows.documents is not None) == masking
        assert index.counts.scored_tokens == len(scored)
        assert index.counts.unscored_tokens == len(due) - len(scored)
        assert index.counts.input_tokens == (windows.lengths - ahead).sum()
        assert index.counts.too_long == sum(len(document) > how.room for document in documents)


@pytest.mark.parametrize("kind", ["pairs", "prompt_response"])
@pytest.mark.parametrize("masking", [False, True])
def test_pairs_share_windows_in_the_same_order(tmp_path: Path, kind: str, masking: bool) -> None:
    rng = np.random.default_rng(3)
    numbers = itertools.count(10)
    pairs = [[[next(numbers) for _ in range(n)] for n in rng.geometric(0.25, 2) - 1] for _ in range(120)]
    if kind == "pairs":
        tokens = batch_of([source for source, _ in pairs], targets=[target for _, target in pairs])
    else:
        spans = [[[len(source), len(source + target)]] if target else [] for source, target in pairs]
        tokens = batch_of([source + target for source, target in pairs], spans)
    shards = shards_of(tmp_path, tokens, kind, 300)
    length = 12  # the longest sides are cut
    how = Packing(length, 0, "best_fit", begin=BEGIN, pairs=True, document_masking=masking)
    index = WindowIndex(shards, how)
    windows = index.gather(rng.permutation(len(index)))
    of_token = {token: k for k, pair in enumerate(pairs) for side in pair for token in side}
    found = []
    for i in range(len(index)):
        source = windows.tokens[i, 1 : windows.lengths[i]]
        target = windows.target_tokens[i, : windows.target_lengths[i]]
        told = pieces_of(target, of_token)
        found += [of_token[piece[0]] for piece in told]
        read = pieces_of(source, of_token)
        if len(read):
            assert [of_token[piece[0]] for piece in read] == [of_token[piece[0]] for piece in told]
        for piece in read:
            assert piece == pairs[of_token[piece[0]]][0][: how.room]
        for piece in told:
            assert piece == pairs[of_token[piece[0]]][1][:length]
        if masking:
            numbers_read = [k for k, piece in enumerate(read) for _ in piece]
            assert windows.documents[i].tolist() == ([0] + numbers_read + [len(told) - 1] * length)[:length]
            numbers_told = [k for k, piece in enumerate(told) for _ in piece]
            assert windows.target_documents[i].tolist() == (numbers_told + [len(told) - 1] * length)[:length]
        narrow = windows.rows(slice(i, i + 1)).narrowed()
        assert narrow.tokens.tolist() == [windows.tokens[i, : len(source) + 1].tolist()]
        assert narrow.target_tokens.tolist() == [target.tolist()] and narrow.scored.shape == narrow.tokens.shape
        if masking:
            assert narrow.documents.tolist() == [windows.documents[i, : len(source) + 1].tolist()]
            assert narrow.target_documents.tolist() == [numbers_told]
    assert sorted(found) == [k for k, (_, target) in enumerate(pairs) if target]
    counts = index.counts
    assert counts.windows < 0.7 * len(found) and not windows.scored.any()
    assert counts.input_tokens == windows.lengths.sum() + windows.target_lengths.sum()
    assert counts.scored_tokens == windows.target_lengths.sum()
    assert counts.scored_tokens + counts.unscored_tokens == sum(len(target) for _, target in pairs)
    assert counts.too_long == sum(len(source) > how.room or len(target) > length for source, target in pairs)


def test_shares_of_padding_and_of_cut_documents(tmp_path: Path) -> None:
    documents = documents_of(np.random.default_rng(0), 200, 30, empty=False)
    shards = shards_of(tmp_path, batch_of(documents), shard_tokens=500)
    lengths = np.array([len(document) for document in documents])
    shares = {}
    for packing in ("full", "partial", "truncate", "best_fit"):
        index = WindowIndex(shards, Packing(15, packing=packing), keep=False)
        windows = index.gather(np.arange(len(index)))
        shares[packing] = packing_shares(index)
        assert shares[packing]["padding"] == pytest.approx(1 - (windows.lengths - 1).sum() / (15 * len(index)))
        rows = [set(row[:n].tolist()) for row, n in zip(windows.tokens, windows.lengths, strict=True)]
        whole = [any(row.issuperset(document) for row in rows) for document in documents if len(document) > 1]
        expected = (len(whole) - sum(whole)) / len(documents)
        assert shares[packing]["truncated"] == pytest.approx(expected)
        lost = lengths.sum() - windows.scored.sum()
        assert shares[packing]["unscored"] == pytest.approx(lost / lengths.sum())
    assert shares["best_fit"]["truncated"] == shares["partial"]["truncated"] < shares["full"]["truncated"]
    assert shares["best_fit"]["padding"] < shares["partial"]["padding"]
    assert not list(tmp_path.glob("*.windows-*"))  # nothing kept that nobody asked for


def test_a_few_thousand_real_documents(tmp_path: Path, shared: Path) -> None:
    text = (shared / "data" / "tinyshakespeare" / "input.txt").read_text()
    documents = [list(speech.encode()) for speech in text.split("\n\n") if speech]
    shards = shards_of(tmp_path, batch_of(documents), shard_tokens=300_000)
    index = WindowIndex(shards, Packing(512, packing="best_fit"))
    shares = packing_shares(index)
    assert len(documents) > 5000 and len(shards.shards) > 3
    assert shares["truncated"] == sum(len(document) > 513 for document in documents) / len(documents)
    windows = index.gather(np.arange(len(index)))
    # Every speech that fits can be read in one window.
    rows = [bytes(row[:n].astype(np.uint8)) for row, n in zip(windows.tokens, windows.lengths, strict=True)]
    assert sum(map(len, rows)) == sum(
        len(d) if len(d) <= 513 else len(d) + -(-(len(d) - 1) // 512) - 1 for d in documents
    )
    everything = b"\0".join(rows)
    assert all(bytes(document) in everything for document in documents if len(document) <= 513)
    assert shares["padding"] < 0.002
