"""gigatoken's ids are the tokenizer's own, or it is not used, or the difference is an error; and ends of tokens."""

import argparse
import gzip
import itertools
import json
import multiprocessing
import pickle
import random
import textwrap
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corpus.encoding import Encoder, Layout, Piece, in_columns
from tests.odd_texts import SPECIAL, texts
from tokenizer import byte_level, differing, fast_bpe
from tokenizer.batches import Texts
from tokenizer.tokenizer import Tokenizer
from utils import memory
from utils.compiled import why_not
from utils.messages import UserError

needs_gigatoken = pytest.mark.skipif(fast_bpe.installed() is None, reason="gigatoken is not installed")
Change = Callable[[dict[str, Any]], None]


def trained(pattern: str | None, added: list[str] | None = None, vocab_size: int = 3000) -> dict[str, Any]:
    """The description of a tokenizer of code and odd texts, cut by `pattern`. added: strings that it looks for."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Pipeline

    empty = json.loads(Pipeline(models.BPE()).to_str())
    pipeline = Pipeline.from_str(json.dumps({**empty, "pre_tokenizer": byte_level.pre_tokeniser(pattern)}))
    pipeline.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL[:6], initial_alphabet=alphabet, show_progress=False
    )
    sources = [Path(module.__file__).read_text() for module in (argparse, textwrap)]
    pipeline.train_from_iterator([*sources, *texts(2000, seed=9)], trainer)
    for string in added or []:
        pipeline.add_tokens([AddedToken(string, special=False, normalized=True)])
    return json.loads(pipeline.to_str())


def files_of(description: dict[str, Any]) -> dict[str, bytes]:
    return {"tokenizer.json": json.dumps(description).encode()}


def without_merges(description: dict[str, Any]) -> dict[str, Any]:
    """Tokens that no merge leads to, some of which are whole words; with ignore_merges these are found."""
    vocabulary = description["model"]["vocab"]
    for word in ("Redshirt", "Ġzq", "Ġ" * 9, "漢字", "123", "don"):
        vocabulary.setdefault(word, max(vocabulary.values()) + 1)
    return {**description, "model": {**description["model"], "ignore_merges": True, "vocab": vocabulary}}


def as_in_old_files(description: dict[str, Any]) -> dict[str, Any]:
    """Spelled as GPT-2's and RoBERTa's files are: merges as strings, settings left out, an unknown token."""
    left = {key: description["model"][key] for key in ("vocab", "continuing_subword_prefix", "end_of_word_suffix")}
    merges = [" ".join(merge) for merge in description["model"]["merges"]]
    model = {**left, "type": "BPE", "dropout": None, "unk_token": "<s>", "fuse_unk": True, "merges": merges}
    cut = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {**description, "model": model, "pre_tokenizer": cut}


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    """The tokenizer that `tokenizer.kind: byte_level_bpe` trains, but small."""
    return trained(None)


@pytest.fixture(scope="module")
def kinds(small: dict[str, Any]) -> dict[str, dict[str, bytes]]:
    """One tokenizer of each structure that is let through."""
    return {
        "gpt2 cuts": files_of(small),
        "gpt4 cuts": files_of(trained(byte_level.GPT4)),
        "qwen2 cuts, nfc": files_of({**trained(byte_level.QWEN2), "normalizer": {"type": "NFC"}}),
        "gpt4o cuts": files_of(trained(byte_level.GPT4O)),
        "ignore_merges": files_of(without_merges(trained(byte_level.GPT4))),
        "as in old files": files_of(as_in_old_files(small)),
        "looks for strings": files_of(trained(None, added=["  ", "   ", "é", "<tool>", "'s"])),
    }


def both(files: dict[str, bytes]) -> tuple[Tokenizer, Tokenizer]:
    """-> (with gigatoken, without)"""
    fast, own = Tokenizer(files), Tokenizer(files, gigatoken=False)
    assert fast.fast == "gigatoken 0.10.0" and own.fast == "tokenizers 0.23.3: gigatoken was not asked for"
    return fast, own


def check_same(fast: Tokenizer, own: Tokenizer, sample: list[str], batch: int = 1000) -> None:
    for low in range(0, len(sample), batch):
        some = sample[low : low + batch]
        given, expected = fast.encode_joined(some), own.encode_joined(some)
        assert given[0].dtype in (np.uint16, np.uint32) and expected[0].dtype == np.uint32
        assert given[1].dtype == expected[1].dtype == np.int64
        if not (np.array_equal(given[0], expected[0]) and np.array_equal(given[1], expected[1])):
            pairs = zip(some, fast.encode_batch(some), own.encode_batch(some), strict=True)
            pytest.fail(repr([text for text, a, b in pairs if a.tolist() != b.tolist()][:5]))


def real_documents(shared: Path) -> list[str]:
    """Paragraphs, lines and records of all that is among the test data."""
    data = shared / "data"
    files = ["tinyshakespeare/input.txt", "multi30k/train.de", "multi30k/train.en"]
    documents = gzip.open(data / "wikitext-2/train.txt.gz", "rt", encoding="utf-8").read().split("\n \n")
    documents += [one for file in files[1:] for one in (data / file).read_text(encoding="utf-8").split("\n")]
    documents += (data / files[0]).read_text().split("\n\n")
    for file in ("gsm8k/train.jsonl", "codealpaca/code_alpaca_2k.jsonl"):
        for line in (data / file).read_text(encoding="utf-8").splitlines():
            documents.append("\n".join(str(value) for value in json.loads(line).values()))
    return documents


KINDS = [
    "gpt2 cuts",
    "gpt4 cuts",
    "qwen2 cuts, nfc",
    "gpt4o cuts",
    "ignore_merges",
    "as in old files",
    "looks for strings",
]


@needs_gigatoken
@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_the_tokenizer_s_own(kinds: dict[str, dict[str, bytes]], kind: str) -> None:
    fast, own = both(kinds[kind])
    check_same(fast, own, texts(3000, seed=1))


@needs_gigatoken
def test_ids_of_real_documents_are_the_tokenizer_s_own(shared: Path, small: dict[str, Any]) -> None:
    documents = real_documents(shared)
    assert len(documents) > 70_000
    for files in (Tokenizer.load(shared / "data/gpt2").files, files_of(small)):
        check_same(*both(files), documents[::47])


@needs_gigatoken
@pytest.mark.proof
def test_ids_of_many_texts_are_the_tokenizer_s_own(shared: Path, kinds: dict[str, dict[str, bytes]]) -> None:
    documents, odd = real_documents(shared), texts(100_000, seed=2)
    for files in (Tokenizer.load(shared / "data/gpt2").files, *kinds.values()):
        fast, own = both(files)
        check_same(fast, own, odd)
        check_same(fast, own, documents[::5])
        # Of one long text `tokenizers` needs a hundred times as much memory as it has bytes.
        long = ["\n".join(odd)[:1_000_000], "".join(documents)[:2_000_000], "x" * 200_000, " " * 200_000]
        check_same(fast, own, long)


@needs_gigatoken
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_cut_where_every_tokenizer_cuts_it(
    kinds: dict[str, dict[str, bytes]], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Around code points that the two libraries see differently; before and after the cuts stands what could join."""
    monkeypatch.setattr(fast_bpe, "PIECE_BYTES", 1)
    fast, own = both(kinds[kind])
    chance = random.Random(0)
    ends = [
        "x",
        "}",
        "/",
        "9",
        "é",
        " ",
        "\r",
        "\n",
        "'",
        "//\n",
        "!\r",
        "\x01",
        "  \n ",
        fast_bpe.SEPARATOR.decode(),
        "",
    ]
    begins = ["a", "s", "ll", "The", "_", "9", " a", "\n", "\r\n", "\t", "é", "'s", "/", "", "'"]
    odd = ["\u088f's", "a\ua7cfb", "\U00016ebb", "plain", " ", "漢字"]
    documents = []
    for _ in range(1500):
        lines = [
            chance.choice(begins) + chance.choice(odd if chance.random() < 0.2 else odd[3:]) + chance.choice(ends)
            for _ in range(chance.randint(1, 40))
        ]
        documents.append("".join(line + chance.choice(["\n", "\n", " ", "  ", " \n ", "\n\n", ""]) for line in lines))
    engine = fast.engine._fast  # type: ignore[union-attr]
    cut = [engine._pieces(text.encode()) for text in documents]
    assert sum(len(pieces) > 2 for pieces in cut) > 200
    check_same(fast, own, documents)


@needs_gigatoken
def test_documents_do_not_run_into_each_other(small: dict[str, Any]) -> None:
    fast, own = both(files_of(small))
    border = fast_bpe.SEPARATOR.decode()
    hard = [
        "",
        " ",
        "don",
        "'t",
        "",
        "\n",
        "a ",
        " b",
        border,
        f"a{border}b",
        border[:-1],
        border[1:],
        "\x00",
        "",
        "é\u088f",
    ]
    check_same(fast, own, hard, batch=len(hard))
    check_same(fast, own, hard, batch=1)
    alone = [own.encode(text) for text in hard]
    ids, lengths = fast.encode_joined(hard, end=7)
    assert ids.tolist() == [i for one in alone for i in [*one, 7]] and lengths.tolist() == [
        len(one) + 1 for one in alone
    ]
    assert own.encode_joined(hard, end=7)[0].tolist() == ids.tolist()
    for tokenizer in (fast, own):
        assert [len(part) for part in tokenizer.encode_joined([])] == [0, 0]
        assert [part.tolist() for part in tokenizer.encode_joined([""], end=7)] == [[7], [1]]


REFUSED: dict[str, tuple[Change, str]] = {
    "another model": (lambda d: d["model"].update(type="WordPiece"), "model WordPiece"),
    "dropout": (lambda d: d["model"].update(dropout=0.1), "model.dropout=0.1"),
    "prefix": (lambda d: d["model"].update(continuing_subword_prefix="##"), "model.continuing_subword_prefix=##"),
    "suffix": (lambda d: d["model"].update(end_of_word_suffix="</w>"), "model.end_of_word_suffix=</w>"),
    "byte_fallback": (lambda d: d["model"].update(byte_fallback=True), "model.byte_fallback=True"),
    "a new setting": (lambda d: d["model"].update(cunning=True), "model.cunning=True"),
    "a new part": (lambda d: d.update(cunning=True), "cunning, which is not known"),
    "normalizer": (lambda d: d.update(normalizer={"type": "NFKC"}), "normalizer NFKC"),
    "normalizers": (
        lambda d: d.update(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}),
        "normalizer Sequence of NFC, Lowercase",
    ),
    "no cut": (lambda d: d.update(pre_tokenizer=None), "pre_tokenizer none"),
    "prefix space": (lambda d: d["pre_tokenizer"].update(add_prefix_space=True), "pre_tokenizer ByteLevel"),
    "no pattern": (lambda d: d["pre_tokenizer"].update(use_regex=False), "pre_tokenizer ByteLevel"),
    "a byte missing": (lambda d: d["model"]["vocab"].update(QQ=d["model"]["vocab"].pop("Ā")), "all 256 bytes"),
    "merge twice": (lambda d: d["model"]["merges"].append(d["model"]["merges"][0]), "merge that stands twice"),
    "one id twice": (lambda d: d["model"]["vocab"].update(QQ=300), "two tokens of one id"),
    "many strings": (
        lambda d: d.update(added_tokens=[{**d["added_tokens"][0], "id": 9000 + i, "special": False, "content": f"<{i}>"}
                                         for i in range(17)]),
        "looks for 17",
    ),
    "strings beyond ASCII, normalised": (
        lambda d: d.update(
            added_tokens=[{**d["added_tokens"][0], "id": 9000, "special": False, "content": "é"}],
            normalizer={"type": "NFC"},
        ),
        "beyond ASCII",
    ),
}  # fmt: skip
CUTS: dict[str, Change] = {
    "another pattern": lambda cuts: cuts[0]["pattern"].update(Regex=r"\s+"),
    "a string": lambda cuts: cuts[0].update(pattern={"String": " "}),
    "not isolated": lambda cuts: cuts[0].update(behavior="MergedWithNext"),
    "inverted": lambda cuts: cuts[0].update(invert=True),
    "gpt2's pattern again": lambda cuts: cuts[1].update(use_regex=True),
    "a prefix space": lambda cuts: cuts[1].update(add_prefix_space=True),
    "digits beside": lambda cuts: cuts.insert(0, {"type": "Digits", "individual_digits": True}),
    "punctuation beside": lambda cuts: cuts.insert(1, {"type": "Punctuation", "behavior": "Isolated"}),
    "no bytes": lambda cuts: cuts.pop(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_to_be_equal_is_refused_by_name(small: dict[str, Any], name: str) -> None:
    change, said = REFUSED[name]
    changed = json.loads(json.dumps(small))
    change(changed)
    added = [argparse.Namespace(**token) for token in changed["added_tokens"]]
    assert said in str(fast_bpe.obstacle(changed, added))


@pytest.mark.parametrize("name", CUTS)
def test_other_cuts_are_refused(name: str, small: dict[str, Any]) -> None:
    pre_tokeniser = byte_level.pre_tokeniser(byte_level.GPT4)
    assert byte_level.refusal({**small, "pre_tokenizer": pre_tokeniser}) is None
    CUTS[name](pre_tokeniser["pretokenizers"])
    assert str(byte_level.refusal({**small, "pre_tokenizer": pre_tokeniser})).startswith("pre_tokenizer Sequence of")


@pytest.mark.parametrize("name", ["normalizer", "merge twice", "prefix space"])
def test_what_is_refused_is_encoded_by_its_own_engine(small: dict[str, Any], name: str) -> None:
    changed = json.loads(json.dumps(small))
    REFUSED[name][0](changed)
    refused = Tokenizer(files_of(changed))
    assert refused.fast.startswith("tokenizers 0.23.3: gigatoken is for plain byte-level BPE")
    sample = texts(200)
    assert [ids.tolist() for ids in refused.encode_batch(sample)] == [refused.encode(text) for text in sample]


def test_without_gigatoken_all_works_and_one_line_says_so(
    kinds: dict[str, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = texts(300)
    monkeypatch.setattr(fast_bpe, "installed", lambda: None)
    for files in kinds.values():
        tokenizer = Tokenizer(files)
        assert "not installed; pip install -r requirements-fast.txt" in tokenizer.fast
        assert [ids.tolist() for ids in tokenizer.encode_batch(sample)] == [tokenizer.encode(text) for text in sample]
    monkeypatch.setattr(fast_bpe, "installed", lambda: "0.11.0")
    assert "gigatoken 0.11.0 was not compared with it, only 0.10.0 with" in Tokenizer(files_of(trained(None))).fast


BUILD = fast_bpe.FastBPE._build


class Corrupted:
    """gigatoken, but for one id that is wrong after a word."""

    def __init__(self, engine: Any, word: str) -> None:
        self.engine, self.word = engine, word

    def encode(self, text: bytes) -> np.ndarray:
        ids = self.engine.encode(text).copy()
        if self.word.encode() in text:
            before = len(self.engine.encode(text[: text.index(self.word.encode())]))
            ids[before] += 1
        return ids


def corrupt(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    def wrong(self: fast_bpe.FastBPE) -> None:
        BUILD(self)
        self._engine = Corrupted(self._engine, word)

    monkeypatch.setattr(fast_bpe.FastBPE, "_build", wrong)


@needs_gigatoken
def test_a_difference_is_caught_at_start(small: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    corrupt(monkeypatch, "漢字")  # in the fixed set
    with pytest.raises(fast_bpe.Difference, match="give different ids to a text of the fixed set, which has .*漢字"):
        _ = Tokenizer(files_of(small)).fast
    corrupt(monkeypatch, "Botchan")  # in the first documents alone
    tokenizer = Tokenizer(files_of(small))
    assert tokenizer.fast == "gigatoken 0.10.0"
    with pytest.raises(UserError, match=r"to document 2 of a batch, which has 'old Botchan'; pip uninstall") as caught:
        tokenizer.encode_joined(["one", "two", "old Botchan", "three"])
    assert pickle.loads(pickle.dumps(caught.value)).index == 2  # as it comes from a worker process


@needs_gigatoken
def test_a_difference_is_caught_while_running(small: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    corrupt(monkeypatch, "Botchan")
    sample = [f"text {i}" for i in range(5000)]
    chosen = fast_bpe._choice(Texts(sample))
    assert len(chosen) == 5 and chosen == fast_bpe._choice(Texts(sample))
    long = "a word " * 20_000
    for place, document in ((chosen[3], "old Botchan"), (chosen[2], "Botchan " * 20_000), (chosen[1], long)):
        tokenizer = Tokenizer(files_of(small))
        tokenizer.encode_joined(sample[:100])  # the first documents are behind it
        changed = [*sample[:place], document, *sample[place + 1 :]]
        monkeypatch.setattr(
            fast_bpe, "_choice", lambda utf8, chosen=chosen: chosen if len(utf8.sizes) == 5000 else range(0)
        )
        if document == long:
            tokenizer.encode_joined(changed)
            continue
        with pytest.raises(fast_bpe.Difference, match=f"document {place} of a batch"):
            tokenizer.encode_joined(changed)
        tokenizer.encode_joined([*sample[: place + 1], "old Botchan", *sample[place + 2 :]])  # not one that is compared


@needs_gigatoken
def test_a_difference_names_the_document_s_place(small: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    corrupt(monkeypatch, "Botchan")
    layout = Layout("prompt_response", "none", "=", "skip", "", "stop")
    documents = [Piece(line, {"text": text}, 1) for line, text in enumerate(["none", "a=b", "who=Botchan"])]
    with pytest.raises(UserError, match="^my.jsonl:2: gigatoken 0.10.0 and tokenizers"):
        Encoder(Tokenizer(files_of(small)), layout)(in_columns(documents), lambda address: f"my.jsonl:{address}")


def test_one_document_in_a_thousand_is_compared() -> None:
    for size in (1, 7, 300, 5000):
        chosen = sum(len(fast_bpe._choice(Texts([f"{size} {k}"] * size))) for k in range(40_000 // size))
        assert 15 <= chosen <= 70, size
    assert len(fast_bpe._choice(Texts([]))) == 0


def test_code_points_are_read_from_utf_8() -> None:
    codes = [0x800, 0xFFF, 0x1000, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x1F917, 0x3FFFF, 0x10FFFF]
    text = "".join(f"a{chr(code)}ü" for code in codes).encode() + b"."
    places = np.array([text.index(chr(code).encode()) for code in codes])
    assert differing.code_points(np.frombuffer(text, np.uint8), places).tolist() == codes


@needs_gigatoken
def test_a_wrong_table_is_caught(small: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sample = ["ten", "\u088f's", "\u0c5c1"]
    check_same(*both(files_of(small)), sample)
    monkeypatch.setattr(differing, "RANGES", differing.RANGES.replace("88f ", ""))
    with pytest.raises(fast_bpe.Difference, match="document 1 of a batch"):
        Tokenizer(files_of(small)).encode_joined(sample)


def test_the_versions_that_were_compared_are_those_that_are_installed(repo: Path) -> None:
    pins = f"{(repo / 'requirements.txt').read_text()}\n{(repo / 'requirements-fast.txt').read_text()}".splitlines()
    assert {f"tokenizers=={differing.VERSIONS[0]}", f"gigatoken=={differing.VERSIONS[1]}"} <= set(pins)


@needs_gigatoken
def test_the_table_is_right_around_its_edges() -> None:
    table = differing.table()
    edges = {code for code in np.flatnonzero(np.diff(table.astype(np.int8))).tolist()}
    near = sorted({code + step for code in edges for step in (-1, 0, 1, 2)})
    spread = [*range(0x80, 0x800), *range(0x800, 0x110000, 2003)]
    wanted = sorted(code for code in {*near, *spread} if code not in differing.SURROGATES)
    found = [code for some in differing.search(wanted) for code in some]
    assert found == [code for code in wanted if table[code]]


@needs_gigatoken
@pytest.mark.proof
def test_the_table_holds_every_code_point_that_differs() -> None:
    codes = sorted(differing.worth_looking_at())
    found = [code for some in differing.search(codes) for code in some]
    assert differing.ranges(found) == differing.RANGES


@pytest.mark.parametrize("is_compiled", [True, False])
def test_texts_with_code_points_of_the_table_are_found(is_compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_compiled:
        monkeypatch.setattr(differing, "compiled", lambda source: None)
    elif why_not(differing.SOURCE):
        pytest.skip(str(why_not(differing.SOURCE)))
    table = differing.table()
    finder = differing.Finder(table)
    codes = [code for code in (*range(0x40000), *range(0x40000, 0x110000, 997)) if code not in differing.SURROGATES]
    texts = [f"{'a' * (code % 70)}é{chr(code)}" for code in codes] + ["", "漢" * 50, "🤗" * 50]
    expected = [i for i, text in enumerate(texts) if table[list(map(ord, text))].any()]
    assert len(expected) > 4000
    assert finder.holding(Texts(texts)) == expected
    assert [i for i, text in enumerate(texts) if finder.in_text(text.encode())] == expected


def test_what_nfc_changes_is_seen() -> None:
    from tokenizers import normalizers

    nfc = normalizers.NFC()
    codes = [code for code in range(0x80, 0x110000) if code not in differing.SURROGATES]
    singly = {chr(code) for code in codes if nfc.normalize_str(chr(code)) != chr(code)}
    # Two that are not one yet, and marks in another order.
    parts = {unicodedata.normalize("NFD", character) for character in map(chr, codes)} - set(map(chr, codes))
    marks = [chr(code) for code in codes if unicodedata.combining(chr(code))]
    pairs = {a + b for a in marks[::7] for b in marks[::7]} | {f"{a}{b}" for a in "aeゝ한" for b in marks}
    changed = singly | {text for text in parts | pairs if nfc.normalize_str(text) != text}
    assert len(singly) > 1000 and len(changed) > 15_000
    assert not [text for text in changed if unicodedata.is_normalized("NFC", text)]


@needs_gigatoken
def test_the_memory_of_words_is_bounded(small: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    fast, own = both(files_of(small))
    engine = fast.engine._fast  # type: ignore[union-attr]
    built = []
    build = engine._build
    monkeypatch.setattr(engine, "_build", lambda: (built.append(engine._tokens), build()))
    sample = texts(1000)
    check_same(fast, own, sample)
    assert built == []
    monkeypatch.setattr(fast_bpe, "SETTLED", 1000)
    monkeypatch.setattr(memory, "private_bytes", lambda: next(occupied))
    occupied = itertools.count(0, memory.LOOKED_AFTER)
    monkeypatch.setattr(memory, "allocated_bytes", lambda: 10**12)
    check_same(fast, own, sample, batch=100)
    assert built == []  # memory that others take is no reason to build it again
    grows = itertools.count(10**12, fast_bpe.MOST_GROWTH // 2)
    monkeypatch.setattr(memory, "allocated_bytes", lambda: next(grows))
    check_same(fast, own, sample, batch=100)
    assert len(built) > 1
    built.clear()
    monkeypatch.setattr(memory, "allocated_bytes", lambda: None)
    engine._growth = memory.Growth()
    monkeypatch.setattr(fast_bpe, "MOST_TOKENS_UNMEASURED", 20_000)
    check_same(fast, own, [*sample] * 5, batch=100)
    assert len(built) > 1 and min(built[1:]) > 20_000


def encode_in_child(tokenizer: Tokenizer, sample: list[str], queue: Any) -> None:
    queue.put((tokenizer.fast, tokenizer.encode_joined(sample)[0].tolist()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_encode_as_their_parent(
    small: dict[str, Any], method: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    context: Any = multiprocessing.get_context(method)
    sample = texts(50)
    for gigatoken in (True, False):
        tokenizer = Tokenizer(files_of(small), gigatoken=gigatoken)
        expected = tokenizer.fast, tokenizer.encode_joined(sample)[0].tolist()
        queue = context.Queue()
        child = context.Process(target=encode_in_child, args=(tokenizer, sample, queue))
        child.start()
        assert queue.get(timeout=60) == expected
        child.join()
    assert capfd.readouterr().err == ""  # `tokenizers` warns of forks where it has threads


@pytest.mark.parametrize("gigatoken", [False, pytest.param(True, marks=needs_gigatoken)])
@pytest.mark.parametrize("kind", [*KINDS, "trimmed"])
def test_ends_are_those_of_the_library(
    kinds: dict[str, dict[str, bytes]], small: dict[str, Any], kind: str, gigatoken: bool
) -> None:
    trimmed = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    files = files_of({**small, "post_processor": trimmed}) if kind == "trimmed" else kinds[kind]
    tokenizer = Tokenizer(files, gigatoken=gigatoken)
    as_long = "\u0958" + 3 * "e\u0301"  # after NFC too, in bytes
    sample = ["", "漢字 🤗", "\u088f's", as_long, "e\u0301 \u0958 \u212b", "  two  é", *SPECIAL, *texts(700, seed=4)]
    split = 0
    for text, (ids, ends) in zip(sample, tokenizer.encode_with_offsets_batch(sample), strict=True):
        expected, offsets = tokenizer.encode_with_offsets(text)
        assert ids.tolist() == expected and ends.tolist() == [end for _, end in offsets], text
        assert ids.dtype == np.uint32 and ends.dtype == np.int64
        split += len(set(ends.tolist())) < len(ends)
    assert split > 100  # texts with tokens that are parts of one character
    assert tokenizer.encode_with_offsets_batch([]) == []
