"""A model directory + token ids -> its logits, computed as anybody would: by plain transformers, without Liftoff.

    python -P export_check.py DIRECTORY QUESTIONS.json ANSWERS

`training/export.py` runs this in a fresh process, away from the repository, offline. QUESTIONS: {"auto_class": name,
"batch": {name: rows of ids}, "texts": [...], "generate": bool}. Writes ANSWERS.safetensors (logits, float32) and
ANSWERS.json: {"ids": [...] for each text or null, "tokenizer_error": ..., "first": first token generated, or null}.
"""

import json
import sys


def main(directory: str, questions_path: str, answers_path: str) -> None:
    """Loads, computes, writes."""
    import torch
    import transformers
    from safetensors.torch import save_file

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with open(questions_path, encoding="utf-8") as file:
        questions = json.load(file)
    with open(f"{directory}/config.json", encoding="utf-8") as file:
        custom = {"trust_remote_code": True} if "auto_map" in json.load(file) else {}
    kind = getattr(transformers, questions["auto_class"])
    model, info = kind.from_pretrained(directory, dtype=torch.float32, output_loading_info=True, **custom)
    wrong = {what: sorted(map(str, names)) for what, names in info.items() if names}
    if wrong:
        raise SystemExit(f"weights do not fit the class: {wrong}")
    model.eval()
    batch = {name: torch.tensor(rows) for name, rows in questions["batch"].items()}
    answers = {"ids": None, "tokenizer_error": None, "first": None}
    with torch.no_grad():
        logits = model(**batch).logits
        if questions["generate"]:
            # The rows may hold padding; without a mask of its own `generate` would guess one, and look away from it.
            everything = torch.ones_like(batch["input_ids"])
            written = model.generate(**batch, attention_mask=everything, max_new_tokens=1, do_sample=False)
            answers["first"] = written[:, -1].tolist()
    save_file({"logits": logits.float().contiguous()}, f"{answers_path}.safetensors")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        answers["ids"] = [tokenizer.encode(text, add_special_tokens=False) for text in questions["texts"]]
    except Exception as error:  # whatever it is: it is told to the user, and the model is complete without it
        answers["tokenizer_error"] = f"{type(error).__name__}: {error}"
    with open(f"{answers_path}.json", "w", encoding="utf-8") as file:
        json.dump(answers, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
