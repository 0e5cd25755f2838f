"""The ceiling: documents that are in memory already, through the library alone, in so many processes.

    python benchmarks/data/peers/bare_encoder.py CORPUS.jsonl TOKENIZER gigatoken|tokenizers|sentencepiece WORKERS

Prints the seconds of encoding (no reading, no writing, no start) and the bytes of text. Ids are counted, no more.
"""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH = 1 << 20  # characters at once


def encoder(engine: str, path: Path) -> Callable[[list[str]], int]:
    """Texts -> how many ids."""
    if engine == "gigatoken":
        import gigatoken

        encode = gigatoken.Tokenizer.from_json((path / "tokenizer.json").read_bytes()).backend.encode_batch
        return lambda texts: len(encode(texts, parallel=False).layout.content.data)
    if engine == "tokenizers":
        from tokenizers import Tokenizer

        pipeline = Tokenizer.from_file(str(path / "tokenizer.json"))
        return lambda texts: sum(len(e.ids) for e in pipeline.encode_batch_fast(texts, add_special_tokens=False))
    import sentencepiece

    processor: Any = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return lambda texts: sum(map(len, processor.encode(texts, return_type="numpy", num_threads=1)))


def work(texts: list[str], engine: str, path: Path, barrier: Any, seconds: Any) -> None:
    encode = encoder(engine, path)
    batches: list[list[str]] = [[]]
    size = 0
    for text in texts:
        if size > BATCH:
            batches.append([])
            size = 0
        batches[-1].append(text)
        size += len(text)
    encode(["warm"])
    barrier.wait()
    started = time.monotonic()
    for batch in batches:
        encode(batch)
    seconds.put(time.monotonic() - started)


def main(corpus: str, path: str, engine: str, workers: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with open(corpus, encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    context = multiprocessing.get_context("fork")
    barrier, seconds = context.Barrier(workers), context.Queue()
    share = [texts[i::workers] for i in range(workers)]
    processes = [context.Process(target=work, args=(mine, engine, Path(path), barrier, seconds)) for mine in share]
    for process in processes:
        process.start()
    slowest = max(seconds.get() for _ in processes)
    for process in processes:
        process.join()
    print(f"{slowest:.4f} {sum(len(text.encode()) for text in texts)}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
