"""Tokenising: the right tokens are scored; the same bytes come out whatever the workers, the parts and the kills."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from configs.schema import Config
from corpus import inputs, tasks
from corpus.shards import ShardSet
from corpus.tokenising import Made, prompts_and_references, tokenise
from corpus.verifying import verify
from tests.small_data import WORDS, config_for, small_tokenizer, write_documents
from tokenizer.tokenizer import Tokenizer
from utils.messages import UserError

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return small_tokenizer(tmp_path / "tokenizer")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def lines(path: Path, *records: dict) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def train_of(config: Config, tokenizer: Tokenizer) -> tuple[ShardSet, Made]:
    made = tokenise(config, tokenizer)[0]
    return ShardSet.open(config.tokenize.path, "train"), made


def test_text_ends_with_eos_and_is_measured(tmp_path: Path, tokenizer: Tokenizer) -> None:
    texts = ["the cat sat.", "über 東京\ntwo lines\n"]
    config = config_for(tmp_path, lines(tmp_path / "a.jsonl", *({"text": text} for text in texts)))
    shards, made = train_of(config, tokenizer)
    expected = [tokenizer.encode(text) + [tokenizer.eos_id] for text in texts]
    assert shards.shards[0].tokens.tolist() == sum(expected, [])
    assert shards.shards[0].offsets.tolist() == [0, len(expected[0]), len(expected[0]) + len(expected[1])]
    assert shards.shards[0].tokens.dtype == np.uint16
    sizes = {name: made.manifest[name] for name in ("documents", "bytes", "words", "lines")}
    assert sizes == {"documents": 2, "bytes": 12 + 23, "words": 7, "lines": 3}
    assert made.manifest["tokenizer"] == tokenizer.fingerprint
    assert made.manifest["largest_id"] == max(sum(expected, [])) < made.manifest["vocab_size"]


def test_document_end_and_prepend(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = lines(tmp_path / "a.jsonl", {"text": "cat"})
    config = config_for(tmp_path, path, tokenize={"document_end": "none", "prepend": "the "})
    assert train_of(config, tokenizer)[0].shards[0].tokens.tolist() == tokenizer.encode("the cat")
    with pytest.raises(UserError, match="document_end=eos, but the tokenizer has no EOS"):
        tokenise(config_for(tmp_path / "b", path), small_tokenizer(tmp_path / "bare", leave_out=("eos",)))


def scored_text(shards: ShardSet, tokenizer: Tokenizer) -> list[list[str]]:
    shard = shards.shards[0]
    found = []
    for d in range(shard.n_documents):
        ids = shard.tokens[shard.offsets[d] : shard.offsets[d + 1]]
        spans = shard.scored[shard.scored_offsets[d] : shard.scored_offsets[d + 1]]
        found.append([tokenizer.decode(ids[a:b], skip_special=False) for a, b in spans])
    return found


def test_responses_are_scored_and_prompts_not(tmp_path: Path, tokenizer: Tokenizer) -> None:
    records = [
        {"prompt": "the cat", "response": " sat on"},
        {"prompt": "", "response": "a mat"},
        {"prompt": "th", "response": "e dog"},
    ]
    config = config_for(
        tmp_path, lines(tmp_path / "a.jsonl", *records), dataset={"kind": "prompt_response"}, tokenize={"prepend": "Q "}
    )
    shards, made = train_of(config, tokenizer)
    # Encoded as one text: " a" and "he" are tokens across the border, and the response's.
    assert scored_text(shards, tokenizer) == [[" sat on<eos>"], [" a mat<eos>"], ["he dog<eos>"]]
    whole = [tokenizer.encode("Q " + record["prompt"] + record["response"]) for record in records]
    assert shards.shards[0].tokens.tolist() == sum((ids + [tokenizer.eos_id] for ids in whole), [])
    assert made.manifest["bytes"] == sum(len(record["response"]) for record in records)
    assert list(prompts_and_references(config, "train"))[0] == ("Q the cat", " sat on")


def test_a_separator_makes_prompt_and_response(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = lines(tmp_path / "a.jsonl", {"text": "cat = dog = mat"}, {"text": "no such thing"}, {"text": "one = two"})
    settings = {"dataset": {"kind": "prompt_response"}, "tokenize": {"separator": " = "}}
    with pytest.raises(UserError, match=r"a.jsonl:2: no separator ' = ' .*missing_separator=skip"):
        tokenise(config_for(tmp_path, path, **settings), tokenizer)
    settings["tokenize"]["missing_separator"] = "skip"
    # What ran into the first bad document left no shard, so the advice may simply be followed.
    config = config_for(tmp_path, path, **settings)
    shards, made = train_of(config, tokenizer)
    assert scored_text(shards, tokenizer) == [
        [" dog = mat<eos>"],
        [" two<eos>"],
    ]  # a space belongs to the word after it
    assert made.manifest["skipped"] == {"no separator": 1} and made.manifest["documents"] == 2
    assert made.bad.places["no separator"] == [f"{path}:2: no separator"]
    assert list(prompts_and_references(config, "train")) == [("cat = ", "dog = mat"), ("one = ", "two")]


def test_pairs_have_two_sides(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = lines(
        tmp_path / "a.jsonl", {"source": "the cat", "target": "a dog"}, {"source": "one", "target": "two three"}
    )
    shards, made = train_of(config_for(tmp_path, path, dataset={"kind": "pairs"}), tokenizer)
    shard, end = shards.shards[0], [tokenizer.eos_id]
    assert shard.tokens.tolist() == tokenizer.encode("the cat") + end + tokenizer.encode("one") + end
    assert shard.target_tokens.tolist() == tokenizer.encode("a dog") + end + tokenizer.encode("two three") + end
    assert made.manifest["scored_tokens"] == len(shard.target_tokens) and made.manifest["words"] == 4


def test_what_the_assistant_says_is_scored(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "chat_template.jinja").write_text(template)
    tokenizer = small_tokenizer(tmp_path / "tokenizer")
    turns = [("user", "cat"), ("assistant", "dog"), ("user", "mat"), ("assistant", "town")]
    path = lines(tmp_path / "a.jsonl", {"messages": [{"role": role, "content": content} for role, content in turns]})
    config = config_for(tmp_path, path, dataset={"kind": "messages"})
    shards, made = train_of(config, tokenizer)
    assert ["".join(part.split()) for part in scored_text(shards, tokenizer)[0]] == ["dog", "town<eos>"]
    assert made.manifest["words"] == 2
    assert list(prompts_and_references(config, "train"))[0][1] == "town"


def test_real_text_has_the_published_number_of_tokens(tmp_path: Path, shared: Path) -> None:
    """https://github.com/karpathy/nanoGPT: the first nine tenths of tinyshakespeare, and the last, as GPT-2 tokens."""
    text = (shared / "data" / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    for name, part in (("train", text[: len(text) * 9 // 10]), ("validation", text[len(text) * 9 // 10 :])):
        (tmp_path / f"{name}.txt").write_text(part, encoding="utf-8")
    paths = {"validation_path": str(tmp_path / "validation.txt"), "test_path": None}
    config = config_for(tmp_path, tmp_path / "train.txt", dataset=paths, tokenize={"document_end": "none"})
    made = tokenise(config, Tokenizer.load(shared / "data" / "gpt2"))
    assert [one.manifest["tokens"] for one in made] == [301_966, 36_059]
    assert sum(one.manifest["bytes"] for one in made) == len(text.encode())


@pytest.mark.parametrize("parts", [1, 3])
def test_the_bytes_do_not_depend_on_the_workers(
    tmp_path: Path, tokenizer: Tokenizer, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "UNIT_BYTES", 10_000)
    monkeypatch.setattr(tasks, "TASK_BYTES", 40_000)
    path = write_documents(tmp_path / "a.jsonl", 5000, ("prompt", "response"))
    folders = []
    for workers in (0, 2, 3):
        settings = {
            "shard_tokens": 20_000,
            "num_workers": workers,
            "parts": parts,
            "path": str(tmp_path / f"w{workers}"),
        }
        config = config_for(
            tmp_path,
            path,
            dataset={"kind": "prompt_response", "validation_path": None, "test_path": None},
            tokenize=settings,
        )
        tokenise(config, tokenizer)
        folders.append(contents(tmp_path / f"w{workers}"))
    assert len(folders[0]) > 6 and folders[0] == folders[1] == folders[2]
    manifest = json.loads(folders[0]["train/manifest.json"])
    assert manifest["documents"] == 5000 and {shard["part"] for shard in manifest["shards"]} == set(range(parts))


def test_a_second_run_has_nothing_to_do_and_other_settings_are_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write_documents(tmp_path / "a.jsonl", 30)
    tokenise(config_for(tmp_path, path), tokenizer)
    before = contents(tmp_path / "tokens")
    assert [made.seconds for made in tokenise(config_for(tmp_path, path), tokenizer)] == [0, 0, 0]
    with pytest.raises(UserError, match=r"tokenize.shard_tokens: 20000000 there, 50 in the config.*--restart"):
        tokenise(config_for(tmp_path, path, tokenize={"shard_tokens": 50}), tokenizer)
    with pytest.raises(UserError, match=r"settings \(dataset.caps: \[None, None\] there, \[5, None\] in the config\)"):
        tokenise(config_for(tmp_path, path, dataset={"max_documents": 5}), tokenizer)
    with pytest.raises(UserError, match="tokenizer's fingerprint"):
        tokenise(config_for(tmp_path, path), small_tokenizer(tmp_path / "other", leave_out=("mask",)))
    assert contents(tmp_path / "tokens") == before
    write_documents(path, 31)
    with pytest.raises(UserError, match="hash of the input"):
        tokenise(config_for(tmp_path, path), tokenizer)
    tokenise(config_for(tmp_path, path), tokenizer, restart=True)
    assert {folder.name.partition(".")[0] for folder in (tmp_path / "tokens").iterdir()} == {
        "train",
        "validation",
        "test",
    }
    aside = [folder for folder in (tmp_path / "tokens").iterdir() if folder.name.startswith("train.")]
    assert contents(aside[0])["manifest.json"] == before["train/manifest.json"]


def test_verify_names_what_is_wrong(tmp_path: Path, tokenizer: Tokenizer) -> None:
    config = config_for(tmp_path, write_documents(tmp_path / "a.jsonl", 300), tokenize={"shard_tokens": 1000})
    tokenise(config, tokenizer)
    folder = tmp_path / "tokens" / "train"
    assert verify(folder) == []
    shards = sorted(folder.glob("*.safetensors"))
    damaged = bytearray(shards[0].read_bytes())
    damaged[-1] ^= 1
    shards[0].write_bytes(damaged)
    shards[1].unlink()
    (folder / "part-00007-shard-00000.safetensors").write_bytes(b"")
    said = verify(folder)
    assert len(said) == 3
    assert shards[0].name in said[0] and "wrong" in said[0]
    assert shards[1].name in said[1] and "missing" in said[1]
    assert "part-00007-shard-00000.safetensors" in said[2] and "foreign" in said[2]


def test_no_document_and_nowhere_to_write(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="no document in the split 'train'"):
        tokenise(config_for(tmp_path, tmp_path / "empty.jsonl"), tokenizer)
    path = write_documents(tmp_path / "a.jsonl", 3)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        tokenise(config_for(tmp_path, path, tokenize={"path": str(tmp_path / "file" / "tokens")}), tokenizer)


SCRIPT = """
import resource, sys
sys.path.insert(0, {repository!r})
from pathlib import Path
from corpus import inputs, tasks
from corpus.tokenising import tokenise
from tests.small_data import WORDS, config_for
from tokenizer.tokenizer import Tokenizer
from utils.messages import UserError
if __name__ == "__main__":
    folder = Path({folder!r})
    inputs.UNIT_BYTES, tasks.TASK_BYTES = {unit}, 2 * {unit}  # so that little text is much work
    if {limit}:
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
    one = {{"validation_path": None, "test_path": None}}
    how = {{"shard_tokens": 3000, "num_workers": {workers}, "path": {out!r}}}
    try:
        config = config_for(folder, folder / "a.jsonl", dataset=one, tokenize=how)
        tokenise(config, Tokenizer.load(folder / "tokenizer"))
    except UserError as error:
        print(error)
        sys.exit(2)
"""


def start(folder: Path, out: Path, workers: int, limit: int = 0, unit: int = 8_000) -> subprocess.Popen:
    # A file, not -c: worker processes import the main module again.
    script = folder / f"stage-{workers}-{limit}.py"
    script.write_text(
        SCRIPT.format(
            repository=str(REPOSITORY), folder=str(folder), out=str(out), workers=workers, limit=limit, unit=unit
        )
    )
    return subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def killed_again_and_again(tmp_path: Path, kills: int, workers: int) -> int:
    """Tokenises with SIGKILLs at random moments, then to the end. -> how many of the kills struck"""
    small_tokenizer(tmp_path / "tokenizer")
    write_documents(tmp_path / "a.jsonl", 6000)
    whole = start(tmp_path, tmp_path / "whole", workers)
    assert whole.wait() == 0, whole.stdout.read()
    out, chance, struck = tmp_path / "out", random.Random(workers), 0
    n_files = len(contents(tmp_path / "whole"))
    for kill in range(kills):
        process = start(tmp_path, out, workers)
        wanted = (kill + 1) * n_files // (kills + 2)  # let it get a little further each time
        while process.poll() is None and len(list(out.rglob("*"))) <= wanted:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.02)
        struck += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    last = start(tmp_path, out, workers)
    assert last.wait() == 0, last.stdout.read()
    assert contents(out) == contents(tmp_path / "whole")
    return struck


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    assert killed_again_and_again(tmp_path, kills=3, workers=0) >= 2


@pytest.mark.proof
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_fifty_times_it_goes_on_to_the_same_bytes(tmp_path: Path, workers: int) -> None:
    assert killed_again_and_again(tmp_path, kills=50, workers=workers) >= 35


def test_worker_processes_end_with_their_parent(tmp_path: Path) -> None:
    small_tokenizer(tmp_path / "tokenizer")
    write_documents(tmp_path / "a.jsonl", 30_000, longest=300)  # some 25 MB: several tasks
    process = start(tmp_path, tmp_path / "out", workers=2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 30
    workers: list[str] = []
    while len(workers) < 2 and time.monotonic() < deadline and process.poll() is None:
        workers = children.read_text().split() if children.exists() else []
        time.sleep(0.01)
    assert len(workers) == 2
    time.sleep(0.1)
    # Each has a child that does its work.
    workers += [child for one in workers for child in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
    assert len(workers) == 4
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(os.path.exists(f"/proc/{worker}") for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(os.path.exists(f"/proc/{worker}") for worker in workers)


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    small_tokenizer(tmp_path / "tokenizer")
    write_documents(tmp_path / "a.jsonl", 2000)
    process = start(tmp_path, tmp_path / "out", workers=0, limit=4000)  # no file may grow beyond 4,000 bytes
    said = process.communicate()[0].strip()
    assert process.returncode == 2 and "cannot write" in said and "Traceback" not in said
    assert [path.name for path in (tmp_path / "out" / "train").iterdir()] == ["settings.json"]
    again = start(tmp_path, tmp_path / "out", workers=0)
    assert again.wait() == 0 and verify(tmp_path / "out" / "train") == []


ODD = [
    b'{"text": "good one"}',
    b'{"text": "' + b"b" * 3_000_000 + b'"}',  # longer than a document may be, and than the units
    b'{"text": "not \xff UTF-8"}',
    b'{"text": ""}',
    b"",
    b'{"text": "<eos><bos> <eos>"}',
    b'{"text": "\\u0000\\u0000 nul \\u0000"}',
    b"\x00" * 50_000,
    json.dumps({"text": " ".join(WORDS) * 2_000}).encode(),
    b'{"text": "last"}',
]


@pytest.mark.parametrize("workers", [0, 2])
def test_odd_documents_are_handled_as_the_config_says_and_counted(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(inputs, "UNIT_BYTES", 100_000)
    monkeypatch.setattr(tasks, "TASK_BYTES", 200_000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(ODD) + b"\n")
    own = {"validation_path": None, "test_path": None}
    how = {"max_document_bytes": 300_000, "num_workers": workers}
    with pytest.raises(
        UserError, match=r"a\.jsonl:2: too long \(tokenize.max_document_bytes is 300,000\); mend it, or skip"
    ):
        tokenise(config_for(tmp_path, path, dataset=own, tokenize=how), tokenizer)
    config = config_for(tmp_path, path, dataset=own, tokenize={**how, "bad_documents": "skip"})
    shards, made = train_of(config, tokenizer)
    texts = ["good one", "<eos><bos> <eos>", "\0\0 nul \0", " ".join(WORDS) * 2_000, "last"]
    assert shards.shards[0].tokens.tolist() == sum((tokenizer.encode(text) + [tokenizer.eos_id] for text in texts), [])
    # Special strings of a text stay text: one EOS a document, and no BOS.
    assert shards.shards[0].tokens.tolist().count(tokenizer.eos_id) == 5
    assert tokenizer.bos_id not in shards.shards[0].tokens
    assert made.manifest["skipped"] == {"not JSON": 1, "not UTF-8": 1, "too long": 1} and made.manifest["empty"] == 1
    places = {reason: found[0].partition(".jsonl:")[2].partition(":")[0] for reason, found in made.bad.places.items()}
    assert places == {"too long": "2", "not UTF-8": "3", "not JSON": "8"}
