"""Windows: every token scored exactly once, whatever the packing, the overlap and the edges; checked by brute force."""

import itertools
import pickle
from collections.abc import Iterator
from copy import copy
from pathlib import Path

import numpy as np
import pytest

from corpus.packing import Packing, Windows
from corpus.shards import ShardSet
from corpus.window_index import WindowIndex
from tests.small_shards import batch_of, documents_of, shards_of, spans_of
from utils.messages import UserError

BEGIN, END = 1, 2  # tokens of documents are 10 and more


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("edges", [(None, None), (BEGIN, None), (BEGIN, END), (None, END)])
@pytest.mark.parametrize("packing", ["full", "partial", "truncate"])
@pytest.mark.parametrize("with_spans", [False, True])
@pytest.mark.parametrize("masking", [False, True])
def test_every_token_is_scored_exactly_once(
    tmp_path: Path, packing: str, ahead: int, edges: tuple[int | None, int | None], with_spans: bool, masking: bool
) -> None:
    for seed, (length, overlap) in enumerate([(4, 0), (8, 3), (7, 2)]):
        rng = np.random.default_rng(seed)
        documents = documents_of(rng, 30, 25)
        spans = spans_of(rng, documents) if with_spans else None
        shards = shards_of(
            tmp_path / str(seed), batch_of(documents, spans), "prompt_response" if with_spans else "text"
        )
        how = Packing(length, ahead, packing, overlap, *edges, document_masking=masking)
        index = WindowIndex(shards, how)
        windows = index.gather(np.arange(len(index)))
        assert windows.tokens.shape == (len(index), length + ahead)

        streams = [[token for document in documents for token in document]] if packing == "full" else documents
        due = (
            {
                token
                for document, of_one in zip(documents, spans, strict=True)
                for a, b in of_one
                for token in document[a:b]
            }
            if spans
            else set(itertools.chain(*documents))
        )  # noqa: E501
        scorable = len(due)
        due -= {stream[0] for stream in streams if stream and ahead and edges[0] is None}
        if masking and ahead and packing == "full":
            due -= {document[0] for document in documents if document} - ({streams[0][0]} if edges[0] else set())
        if packing == "truncate":
            due &= {token for document in documents for token in document[: how.room]}
        scored = windows.tokens[windows.scored].tolist()
        assert sorted(scored) == sorted(due)
        assert index.counts.scored_tokens == len(due) and index.counts.unscored_tokens == scorable - len(due)
        assert index.counts.input_tokens == (windows.lengths - ahead).sum()
        if packing != "full":
            assert windows.scored.any(1).all()

        text = [
            row[(edges[0] is not None) : size - (edges[1] is not None)]
            for row, size in zip(windows.tokens, windows.lengths, strict=True)
        ]  # noqa: E501
        for row, size, part in zip(windows.tokens, windows.lengths, text, strict=True):
            assert edges[0] is None or row[0] == BEGIN
            assert edges[1] is None or row[size - 1] == END
            assert (row[size:] == 0).all()
            assert 0 < len(part) <= how.room and (np.diff(part) == 1).all()  # runs of one stream
        if masking:
            owner = {token: number for number, document in enumerate(documents) for token in document}
            for row, part in zip(windows.documents, text, strict=True):
                of_text = [owner[token] for token in part]
                numbers = [sorted(set(of_text)).index(number) for number in of_text]
                before, after = numbers[:1] * (edges[0] is not None), numbers[-1:] * len(row)
                assert row.tolist() == (before + numbers + after)[: len(row)]
        if packing == "full":  # neighbours share s tokens, nothing is lost between them
            for before, after in zip(text, text[1:], strict=False):
                assert (
                    len(before) == how.room and before[how.room - how.shared :].tolist() == after[: how.shared].tolist()
                )


def equal(one: Windows, other: Windows) -> bool:
    return all(
        values is None and others is None or np.array_equal(values, others)
        for values, others in zip(one, other, strict=True)
    )


PACKINGS = {
    "full": Packing(7),
    "full, overlap": Packing(7, overlap=2),
    "full, edges": Packing(7, 0, begin=BEGIN, end=END),
    "full, masking": Packing(7, begin=BEGIN, document_masking=True),
    "partial": Packing(7, packing="partial", overlap=1, end=END, document_masking=True),
    "truncate": Packing(7, packing="truncate", begin=BEGIN),
    "best_fit": Packing(7, packing="best_fit", document_masking=True),
    "pairs": Packing(7, 0, packing="truncate", pairs=True),
    "pairs, best_fit": Packing(7, 0, packing="best_fit", pairs=True, document_masking=True),
}


@pytest.fixture(scope="module")
def many_and_one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[ShardSet, ShardSet]]:
    """The same documents of each kind in hundreds of shards, and in one."""
    made = {}
    for kind in ("text", "prompt_response", "pairs"):
        rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp(kind)
        documents = documents_of(rng, 500, 17)
        spans = spans_of(rng, documents) if kind == "prompt_response" else None
        targets = [[9000 + i for i in document[: rng.integers(0, 18)]] for document in documents]
        tokens = batch_of(documents, spans, targets if kind == "pairs" else None)
        made[kind] = shards_of(folder / "many", tokens, kind, 20), shards_of(folder / "one", tokens, kind, 10**6)
        assert len(made[kind][0].shards) > 200 and len(made[kind][1].shards) == 1
    return made


@pytest.mark.parametrize(
    "kind, name",
    [
        (kind, name)
        for name, how in PACKINGS.items()
        for kind in (["pairs", "prompt_response"] if how.pairs else ["text", "prompt_response"])
    ],
)
def test_hundreds_of_shards_are_read_like_one(
    many_and_one: dict[str, tuple[ShardSet, ShardSet]], kind: str, name: str
) -> None:
    how = PACKINGS[name]
    many, one = (WindowIndex(shards, how, keep=False) for shards in many_and_one[kind])
    order = np.random.default_rng(0).permutation(len(many))
    windows = many.gather(order)
    if how.packing != "best_fit":  # which puts together the documents of one shard
        assert many.counts == one.counts and equal(windows, one.gather(order))
    # However many are read at once, in another process too.
    again = pickle.loads(pickle.dumps(many))
    for i in range(0, len(order), 50):
        assert equal(again.gather(order[i : i + 50]), windows.rows(slice(i, i + 50)))
    assert len(many.gather(order[:0]).tokens) == 0


@pytest.mark.parametrize("name", [name for name in PACKINGS if name.startswith("full")])
@pytest.mark.parametrize("shard_tokens", [20, 10**6])
def test_the_short_way_reads_the_same(tmp_path: Path, name: str, shard_tokens: int) -> None:
    documents = documents_of(np.random.default_rng(1), 100, 25)
    index = WindowIndex(shards_of(tmp_path, batch_of(documents), shard_tokens=shard_tokens), PACKINGS[name])
    by_short, longer = [], copy(index)
    longer._whole = None
    for number in range(len(index)):
        by_short.append(index._whole is not None and index._whole.gather(np.array([number])) is not None)
        assert equal(index.gather([number]), longer.gather([number]))
    assert equal(index.gather(range(len(index))), longer.gather(range(len(index))))
    how, ends = index.packing, index.shards.first_token[1:]
    for number, is_short in enumerate(by_short):
        first, last = number * how.stride, number * how.stride + how.room - 1
        lies_in_one = last < ends[-1] and (ends <= first).sum() == (ends <= last).sum()
        is_like_others = number > 0 or not how.overlap
        assert is_short == (lies_in_one and is_like_others and not how.document_masking)


def test_shards_without_documents(tmp_path: Path) -> None:
    for name, how in PACKINGS.items():
        tokens = batch_of([], targets=[] if how.pairs else None)
        shards = shards_of(tmp_path / name, tokens, "pairs" if how.pairs else "text")
        assert len(WindowIndex(shards, how)) == 0
        full = batch_of([[10, 11, 12], [13, 14]], targets=[[15], [16]] if how.pairs else None)
        shards = shards_of(tmp_path / name, full, shards.kind, part=1, before=shards)
        index = WindowIndex(shards, how)
        assert index.gather(np.arange(len(index))).tokens.max() == 14


def test_the_windows_of_eight_tokens_by_eye(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, batch_of([[10, 11, 12, 13, 14], [15, 16, 17]]))
    windows = WindowIndex(shards, Packing(3)).gather(np.arange(3))
    assert windows.tokens.tolist() == [[10, 11, 12, 13], [13, 14, 15, 16], [16, 17, 0, 0]]
    assert windows.scored.astype(int).tolist() == [[0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 0, 0]]
    assert windows.lengths.tolist() == [4, 4, 2]
    windows = WindowIndex(shards, Packing(3, packing="partial", begin=BEGIN, overlap=1)).gather(np.arange(3))
    assert windows.tokens.tolist() == [[1, 10, 11, 12], [1, 12, 13, 14], [1, 15, 16, 17]]
    assert windows.scored.astype(int).tolist() == [[0, 1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1]]


def test_none_holds_whole_documents_and_refuses_longer_ones(tmp_path: Path) -> None:
    documents = documents_of(np.random.default_rng(0), 20, 9)
    shards = shards_of(tmp_path, batch_of(documents))
    index = WindowIndex(shards, Packing(8, packing="none"))
    windows = index.gather(np.arange(len(index)))
    rows = [row[:size].tolist() for row, size in zip(windows.tokens, windows.lengths, strict=True)]
    assert rows == [document for document in documents if len(document) > 1]
    assert index.counts.left_out == sum(len(document) <= 1 for document in documents)
    long = sum(len(document) > 6 for document in documents)
    with pytest.raises(UserError, match=f"{long} of 20 documents .* do not fit .*max_seq_len=5.*longest has 9 tokens"):
        WindowIndex(shards, Packing(5, packing="none"))


@pytest.mark.parametrize("packing", ["none", "truncate"])
def test_pairs_keep_their_sides(tmp_path: Path, packing: str) -> None:
    rng = np.random.default_rng(0)
    sources, targets = documents_of(rng, 25, 8), documents_of(rng, 25, 8)
    shards = shards_of(tmp_path, batch_of(sources, targets=targets), "pairs")
    length = 8 if packing == "none" else 5
    index = WindowIndex(shards, Packing(length, 0, packing, pairs=True))
    windows = index.gather(np.arange(len(index)))
    assert windows.target_tokens is not None and windows.target_lengths is not None
    kept = [(source, target) for source, target in zip(sources, targets, strict=True) if target]
    assert len(kept) == len(index) and index.counts.left_out == 25 - len(kept)
    for i, (source, target) in enumerate(kept):
        assert windows.tokens[i, : windows.lengths[i]].tolist() == source[:length]
        assert windows.target_tokens[i, : windows.target_lengths[i]].tolist() == target[:length]
    assert index.counts.unscored_tokens == sum(max(0, len(target) - length) for target in targets)
    with pytest.raises(UserError, match="sources and targets"):
        Packing(8, 0, "full", pairs=True)
    windows = WindowIndex(shards, Packing(length, 0, packing, pairs=True, document_masking=True)).gather([0, 1, 2])
    assert not windows.documents.any() and windows.documents.shape == windows.tokens.shape
    assert not windows.target_documents.any() and windows.target_documents.shape == windows.target_tokens.shape


@pytest.mark.parametrize("shard_tokens", [2, 5, 100])
def test_prompts_and_responses_serve_as_pairs(tmp_path: Path, shard_tokens: int) -> None:
    documents = [[10, 11, 12, 13], [14, 15], [16, 17, 18]]
    shards = shards_of(tmp_path, batch_of(documents, [[[2, 4]], [], [[0, 3]]]), "prompt_response", shard_tokens)
    index = WindowIndex(shards, Packing(4, 0, "none", pairs=True))
    windows = index.gather(np.arange(len(index)))
    assert windows.lengths.tolist() == [2, 0] and windows.target_lengths.tolist() == [2, 3]
    assert windows.tokens[0, :2].tolist() == [10, 11] and windows.target_tokens[:, :3].tolist() == [
        [12, 13, 0],
        [16, 17, 18],
    ]


def test_the_index_is_kept_beside_the_shards_or_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = shards_of(tmp_path / "train", batch_of(documents_of(np.random.default_rng(0), 20, 9)))
    how = Packing(4, packing="partial")
    first = WindowIndex(shards, how)
    assert len(list((tmp_path / "train").glob("*.windows-*.safetensors"))) == len(shards.shards)
    monkeypatch.setattr("corpus.packing.make_index", lambda *_: pytest.fail("made again"))
    again = WindowIndex(shards, how)
    assert again.counts == first.counts
    assert np.array_equal(again.gather(np.arange(len(first))).tokens, first.gather(np.arange(len(first))).tokens)
    monkeypatch.undo()

    def refuse(path: Path, *rest: object) -> None:
        if path.parent == tmp_path / "train":
            raise UserError("cannot be written")
        written.append(path)

    written: list[Path] = []
    monkeypatch.setattr("corpus.packing.write_tensors", refuse)
    WindowIndex(shards, Packing(5, packing="partial"), fallback=tmp_path / "run")
    assert written and all(path.parent == tmp_path / "run" / "train" for path in written)


def test_an_overlap_without_room_is_refused() -> None:
    with pytest.raises(UserError, match="data.overlap=4 leaves no room .* at most 3"):
        Packing(4, overlap=4)
    assert Packing(4, overlap=3).stride == 1
