"""The peer: `datasets.map(batched=True)` with a tokenizer of transformers, as its documentation has it, to disk.

python benchmarks/data/peers/datasets_map.py CORPUS.jsonl TOKENIZER_DIRECTORY OUT WORKERS
"""

import sys

import datasets
from transformers import AutoTokenizer


def main(corpus: str, tokenizer_path: str, out: str, workers: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
    dataset = datasets.load_dataset("json", data_files=corpus, split="train", cache_dir=f"{out}/cache")
    tokenised = dataset.map(
        lambda batch: {"input_ids": tokenizer(batch["text"])["input_ids"]},
        batched=True, num_proc=workers, remove_columns=dataset.column_names,
    )  # fmt: skip
    tokenised.save_to_disk(f"{out}/tokens")
    print(sum(map(len, tokenised.with_format("numpy")["input_ids"])), "tokens")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
