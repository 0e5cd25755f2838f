"""Documents that share a row: each gets the logits, the loss and the gradient that it gets alone, or it is refused."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs import contradictions
from configs.schema import Config
from corpus.packing import Windows
from corpus.tokenising import tokenise
from dataset import LanguageModelData
from models.build import build_model
from models.documents import check_documents
from models.hf_documents import Packed
from models.interface import ModelFacts, SpecialIds, TrainableModel
from objectives.causal import Causal
from objectives.facts import NO_DOCUMENT, VocabularyFacts
from objectives.masked import Masked
from objectives.seq2seq import Seq2seq
from tests.small_data import config_for, small_tokenizer, write_documents
from tokenizer.tokenizer import Tokenizer
from training.measures import input_tokens, model_inputs
from training.samples import readable
from utils.messages import UserError

TOKENS = 320
SPECIAL = SpecialIds(bos=0, eos=1, pad=2, mask=3)
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
GROUPED = SMALL | {"num_key_value_heads": 1, "head_dim": 16}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2}
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
LAYERS = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
BART = {"d_model": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2, **LAYERS}
OURS = {"width": 32, "depth": 2, "heads": 4, "kv_heads": 2}
CLASSES = {"causal": "AutoModelForCausalLM", "masked": "AutoModelForMaskedLM", "seq2seq": "AutoModelForSeq2SeqLM"}


def build(objective: str, model_type: str, **settings: Any) -> TrainableModel:
    """A small model with opinions: larger weights than new ones have."""
    arguments = settings.pop("arguments", {})
    if model_type == "ours":
        chosen = {"backbone": "models.transformer.Transformer", "arguments": OURS | arguments}
    else:
        chosen = {"huggingface": CLASSES[objective], "arguments": {"model_type": model_type} | arguments}
    settings = {"vocab_size": TOKENS, "special_ids": SPECIAL, "document_masking": True} | settings
    model = build_model(**chosen, **settings).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0 if weight.dim() > 1 else 1.0)
    return model


EXACT = {
    "ours": ("causal", "ours", {}),
    "llama": ("causal", "llama", SMALL),
    "llama, eager": ("causal", "llama", SMALL),
    "qwen3": ("causal", "qwen3", GROUPED),
    "gpt2": ("causal", "gpt2", GPT2),  # absolute positions
    "mistral": ("causal", "mistral", GROUPED | {"sliding_window": 4}),
    "llama4": ("causal", "llama4_text", GROUPED | {"attention_chunk_size": 4, "intermediate_size_mlp": 64}),
    "bert": ("masked", "bert", SMALL),
    "bert, eager": ("masked", "bert", SMALL),
    "roberta": ("masked", "roberta", SMALL),  # positions that begin after the pad id
    "modernbert": ("masked", "modernbert", SMALL | {"local_attention": 8, "num_hidden_layers": 4}),
    "t5": ("seq2seq", "t5", T5),
    "t5, eager": ("seq2seq", "t5", T5),
    "bart": ("seq2seq", "bart", BART),  # a learned table of positions
    "marian, eager": ("seq2seq", "marian", BART),  # a table of sines
}


def exact(name: str) -> tuple[str, TrainableModel]:
    objective, model_type, arguments = EXACT[name]
    attention = "eager" if name.endswith("eager") else None
    return objective, build(objective, model_type, arguments=arguments, attention=attention, window=48)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tokenizer]:
    """Shards of short documents of each kind."""
    folder = tmp_path_factory.mktemp("masking")
    tokenizer = small_tokenizer(folder / "tokenizer")
    for kind, fields in {
        "text": ("text",), "prompt_response": ("prompt", "response"), "pairs": ("source", "target")
    }.items():  # fmt: skip
        write_documents(folder / f"{kind}.jsonl", 120, fields, longest=7)
        tokenise(config_of(folder, kind), tokenizer)
    return folder, tokenizer


def config_of(folder: Path, kind: str, **sections: Any) -> Any:
    return config_for(
        folder, folder / f"{kind}.jsonl", dataset={"kind": kind},
        tokenize={"path": str(folder / "tokens" / kind), "shard_tokens": 900}, **sections,
    )  # fmt: skip


def data_of(
    prepared: tuple[Path, Tokenizer],
    kind: str,
    objective: str,
    facts: ModelFacts,
    micro: int | None = None,
    **data: Any,
) -> LanguageModelData:
    sections = {
        "data": {"max_seq_len": 48, "document_masking": True, **data},
        "objective": {"name": objective},
        "trainer": {"global_batch_size": 8, "micro_batch_size": micro},
    }
    made = LanguageModelData(config_of(prepared[0], kind, **sections), prepared[1], facts)
    made.trainer = SimpleNamespace(global_rank=0, world_size=1)
    return made


def pieces(documents: Tensor) -> list[tuple[int, int, int]]:
    """documents (B, T) -> (row, begin, end) of each."""
    found = []
    for row, numbers in enumerate(documents.tolist()):
        borders = [t for t in range(1, len(numbers)) if numbers[t] != numbers[t - 1]]
        for begin, end in zip([0, *borders], [*borders, len(numbers)], strict=True):
            if numbers[begin] != NO_DOCUMENT:
                found.append((row, begin, end))
    return found


def batch_of(prepared: tuple[Path, Tokenizer], objective: str, model: TrainableModel) -> dict[str, Tensor]:
    """The first rows of real shards, one of them not full."""
    kind = "pairs" if objective == "seq2seq" else "text"
    data = data_of(prepared, kind, objective, model.facts, packing="best_fit" if kind == "pairs" else "full")
    index = data.windows("train")
    return model_inputs(data.batch(index.gather(np.array([0, 1, len(index) - 1])), seed=0))


def spans_of(batch: dict[str, Tensor]) -> list[dict[str, tuple[int, int, int]]]:
    """Where each document lies in each of the batch's rows of ids."""
    spans = [{"input_ids": place} for place in pieces(batch["documents"])]
    if "decoder_documents" in batch:
        for span, place in zip(spans, pieces(batch["decoder_documents"]), strict=True):
            span["decoder_input_ids"] = place
    return spans


# -- exactness --


@pytest.mark.parametrize("name", EXACT)
@torch.no_grad()
def test_a_document_in_a_row_of_several_gets_the_logits_that_it_gets_alone(
    prepared: tuple[Path, Tokenizer], name: str
) -> None:
    objective, model = exact(name)
    batch = batch_of(prepared, objective, model)
    assert batch["documents"].max() >= 3 and "attention_mask" not in batch
    logits = model.logits(batch)
    inner = getattr(model, "inner", None)
    for span in spans_of(batch):
        ids = {key: batch[key][row : row + 1, begin:end] for key, (row, begin, end) in span.items()}
        alone = model.logits(ids) if inner is None else inner(**ids).logits  # as anybody would call it
        row, begin, end = span.get("decoder_input_ids", span["input_ids"])
        assert (logits[row, begin:end] - alone[0]).abs().max() <= 1e-5 * alone.abs().max()


@pytest.mark.parametrize("name", EXACT)
@torch.no_grad()
def test_changing_a_document_moves_nothing_in_another(prepared: tuple[Path, Tokenizer], name: str) -> None:
    objective, model = exact(name)
    batch = batch_of(prepared, objective, model)
    logits, spans = model.logits(batch), spans_of(batch)
    for chosen in (0, 2, len(spans) - 1):
        changed = {key: tensor.clone() for key, tensor in batch.items()}
        for key, (row, begin, end) in spans[chosen].items():
            changed[key][row, begin:end] = 4 + (changed[key][row, begin:end] + 7) % 300
        moved = (model.logits(changed) - logits).abs().amax(-1)
        for number, span in enumerate(spans):
            row, begin, end = span.get("decoder_input_ids", span["input_ids"])
            assert (moved[row, begin:end].max() > 0) == (number == chosen)


@pytest.mark.parametrize("name", ["ours", "gpt2", "mistral", "bert", "t5", "bart"])
@torch.no_grad()
def test_documents_of_one_token_are_alone_as_well(name: str) -> None:
    objective, model = exact(name)
    documents = torch.tensor([[0, 1, 2, 2, 2, 3, -1, -1], [0, 0, 0, 0, 1, 2, 3, 3]])
    positions = torch.tensor([[0, 0, 0, 1, 2, 0, 0, 1], [0, 1, 2, 3, 0, 0, 0, 1]])
    ids = torch.arange(10, 26).view(2, 8)
    batch = {"input_ids": ids, "documents": documents, "position_ids": positions}
    if objective == "seq2seq":
        batch |= {f"decoder_{name}": tensor for name, tensor in batch.items()}
        batch["decoder_input_ids"] = ids + 20
    logits = model.logits(batch)
    for span in spans_of(batch):
        alone = model.logits({key: batch[key][row : row + 1, begin:end] for key, (row, begin, end) in span.items()})
        row, begin, end = span["input_ids"]
        assert (logits[row, begin:end] - alone[0]).abs().max() <= 1e-5 * alone.abs().max()


@pytest.mark.parametrize("packing", ["full", "best_fit"])
@pytest.mark.parametrize("name", ["ours", "gpt2"])
@torch.no_grad()
def test_responses_cost_in_packed_rows_what_they_cost_alone(
    prepared: tuple[Path, Tokenizer], name: str, packing: str
) -> None:
    _, model = exact(name)
    data = data_of(prepared, "prompt_response", "causal", model.facts, packing=packing, max_seq_len=60)
    nats = scored = alone = 0.0
    for loader in data.val_dataloader():
        for batch in loader:
            loss = model.loss(model_inputs(batch))
            nats, scored = nats + loss.nats.item(), scored + loss.tokens.item()
            for row, begin, end in pieces(batch["documents"]):
                ids, targets = batch["input_ids"][row, begin:end], batch["targets"][row, begin:end]
                own = F.cross_entropy(model.logits({"input_ids": ids[None]})[0], targets, reduction="sum")
                alone += own.item()
    counts = data.windows("validation").counts
    assert scored == counts.scored_tokens and nats == pytest.approx(alone, rel=1e-5)
    assert packing == "full" or counts.unscored_tokens == 0  # responses whole: their first tokens follow a prompt


@pytest.mark.parametrize("name", ["t5", "bart", "marian, eager"])
@torch.no_grad()
def test_an_empty_source_looks_at_no_other(tmp_path: Path, name: str) -> None:
    """Pairs cost in packed rows what they cost alone, one with nothing to translate among them."""
    tokenizer = small_tokenizer(tmp_path / "tokenizer")
    pairs = [("the cat", "a mat"), ("", "and two."), ("on a mat", "ran to"), ("dog", "")]
    lines = [json.dumps({"source": source, "target": target}) for source, target in pairs]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    _, model = exact(name)
    nats = []
    for packing in ("best_fit", "none"):
        config = config_for(
            tmp_path, tmp_path / "pairs.jsonl", dataset={"kind": "pairs"}, objective={"name": "seq2seq"},
            tokenize={"document_end": "none", "bad_documents": "skip"},
            data={"max_seq_len": 48, "packing": packing, "document_masking": packing == "best_fit"},
        )  # fmt: skip
        tokenise(config, tokenizer)
        batches = list(LanguageModelData(config, tokenizer, model.facts).val_dataloader()[0])
        assert packing == "none" or batches[0]["documents"].max() == 1
        losses = [model.loss(model_inputs(batch)) for batch in batches]
        nats.append((sum(loss.nats.item() for loss in losses), sum(loss.tokens.item() for loss in losses)))
    assert nats[0] == pytest.approx(nats[1], rel=1e-5)


@torch.no_grad()
def test_edges_of_windows_belong_to_the_first_and_the_last_document(prepared: tuple[Path, Tokenizer]) -> None:
    _, model = exact("bert")
    edges = {"window_bos": True, "window_eos": True, "packing": "best_fit"}
    data = data_of(prepared, "text", "masked", model.facts, **edges)
    batch = next(iter(data.train_dataloader()))[0]
    tokenizer = prepared[1]
    logits = model.logits(model_inputs(batch))
    for row in range(len(logits)):
        places = [place for place in pieces(batch["documents"]) if place[0] == row]
        (_, begin, end), (_, _, stop) = places[0], places[-1]
        assert batch["input_ids"][row, 0] == tokenizer.bos_id and batch["input_ids"][row, stop - 1] == tokenizer.eos_id
        alone = model.inner(batch["input_ids"][row : row + 1, begin:end]).logits
        assert (logits[row, begin:end] - alone[0]).abs().max() <= 1e-5 * alone.abs().max()


@pytest.mark.parametrize("name", ["ours", "bert", "bart"])
def test_a_step_has_the_same_gradient_however_it_is_cut(prepared: tuple[Path, Tokenizer], name: str) -> None:
    objective, model = exact(name)
    kind = "pairs" if objective == "seq2seq" else "text"
    gradients, counts = [], []
    for micro in (8, 2):
        data = data_of(prepared, kind, objective, model.facts, micro=micro, packing="best_fit")
        losses = [model.loss(model_inputs(batch)) for batch in next(iter(data.train_dataloader()))]
        counts.append(sum(int(loss.tokens) for loss in losses))
        total = sum(loss.nats for loss in losses) / counts[-1]
        gradients.append(torch.autograd.grad(total, list(model.parameters()), allow_unused=True))
    assert len(losses) == 4 and counts[0] == counts[1] > 0
    for whole, cut in zip(*gradients, strict=True):
        assert whole is None and cut is None or (whole - cut).abs().max() <= 1e-5 * whole.abs().max() + 1e-9


@pytest.mark.parametrize("name", ["ours", "qwen3", "bert, eager", "t5", "bart"])
def test_bf16_runs(prepared: tuple[Path, Tokenizer], name: str) -> None:
    objective, model = exact(name)
    batch = batch_of(prepared, objective, model)
    whole = model.loss(batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(batch)
    loss.nats.backward()
    assert loss.nats.item() == pytest.approx(whole.nats.item(), rel=0.05)
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)


@pytest.mark.parametrize("name", ["ours", "llama", "bart"])
def test_a_compiled_model_is_compiled_once_whatever_documents_come(prepared: tuple[Path, Tokenizer], name: str) -> None:
    from torch._dynamo.testing import CompileCounter

    objective, model = exact(name)
    kind = "pairs" if objective == "seq2seq" else "text"
    data = data_of(prepared, kind, objective, model.facts, packing="best_fit", pad_to="max_seq_len")
    index = data.windows("train")
    batches = [model_inputs(data.batch(index.gather(np.array([n, n + 1])), seed=0)) for n in (0, 2, 4)]
    assert len({str(batch["documents"].tolist()) for batch in batches}) == 3
    wanted = [model.loss(batch).nats.item() for batch in batches]
    torch._dynamo.reset()
    counter = CompileCounter()
    model.compile(backend=counter)
    got = [model.loss(batches[0]).nats.item()]
    first = counter.frame_count
    got += [model.loss(batch).nats.item() for batch in batches[1:]]
    torch._dynamo.reset()
    assert got == pytest.approx(wanted, rel=1e-5)
    assert first > 0 and counter.frame_count == first


@torch.no_grad()
def test_flash_attention_is_given_all_rows_as_one(
    prepared: tuple[Path, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks for documents only in a batch of one row. What computes here is sdpa."""
    objective, model = exact("llama")
    batch = batch_of(prepared, objective, model)
    logits, loss = model.logits(batch), model.loss(batch)
    monkeypatch.setattr("models.hf_documents.Packed.attention", "flash_attention_2")
    assert {tuple(tensor.shape) for tensor in model.inputs(batch).values()} == {(1, batch["input_ids"].numel())}
    torch.testing.assert_close(model.logits(batch), logits)
    torch.testing.assert_close(model.loss(batch), loss)


def test_a_model_whose_attention_needs_a_gpu_is_tried_with_sdpa(monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = exact("qwen3")
    model.inner.set_attn_implementation("flex_attention")
    used, given = set(), Packed.inputs

    def inputs(self: Packed, *arguments: Any) -> dict[str, Any]:
        used.add(self.attention)
        return given(self, *arguments)

    monkeypatch.setattr(Packed, "inputs", inputs)
    check_documents(model)
    assert used == {"sdpa"}
    assert model.inner.config._attn_implementation == "flex_attention"


# -- what batches are --


def test_positions_restart_and_what_fills_a_row_is_no_document(prepared: tuple[Path, Tokenizer]) -> None:
    facts = ModelFacts(vocab_size=TOKENS)
    data = data_of(prepared, "text", "causal", facts, packing="best_fit")
    eos = prepared[1].eos_id
    batches = list(data.val_dataloader()[0])
    for batch in batches:
        assert set(batch) == {"input_ids", "targets", "documents", "position_ids", "places"}
        for row, begin, end in pieces(batch["documents"]):
            assert batch["position_ids"][row, begin:end].tolist() == list(range(end - begin))
            said = batch["targets"][row, begin:end]
            ids = batch["input_ids"][row, begin:end]
            # Nothing is predicted across a boundary: of a whole document, the last thing said is its end.
            assert said[:-1].tolist() == ids[1:].tolist() and (ids[:-1] != eos).all()
            assert said[-1] in (eos, -100)
        filled = batch["documents"] == NO_DOCUMENT
        assert (batch["targets"][filled] == -100).all() and (batch["input_ids"][filled] == prepared[1].pad_id).all()
    counts = data.windows("validation").counts
    assert sum(int((batch["targets"] != -100).sum()) for batch in batches) == counts.scored_tokens
    assert sum(int(input_tokens(batch)) for batch in batches) == counts.input_tokens
    assert "data.packing=best_fit and data.document_masking" in data.text_counts("validation").why_not
    sample = readable(batches[-1], batches[-1]["targets"].clamp(min=0), prepared[1])[-1]
    assert "<pad>" not in sample["input"] and "<eos>" in sample["input"]


def windows(documents: list[list[int]], tokens: list[list[int]], **more: Any) -> Windows:
    lengths = np.array([len(row) for row in tokens])
    rows = np.zeros((len(tokens), len(documents[0])), np.int64)
    for row, ids in zip(rows, tokens, strict=True):
        row[: len(ids)] = ids
    scored = np.arange(rows.shape[1]) < lengths[:, None]
    places = np.arange(len(tokens), dtype=np.uint64)
    return Windows(rows, lengths, scored, places, documents=np.array(documents), **more)


def test_objectives_say_which_documents_their_rows_hold() -> None:
    facts = VocabularyFacts(100, pad_id=2, mask_id=3, special_ids=(0, 1, 2, 3), decoder_start_id=7)
    two = windows([[0, 0, 1, 1, 1, 1]], [[11, 12, 13, 14, 15]])
    assert Causal(facts)(two, 0)["documents"].tolist() == [[0, 0, 1, 1, -1]]
    assert Masked(facts)(two, 0)["documents"].tolist() == [[0, 0, 1, 1, 1, -1]]
    pairs = two._replace(
        target_tokens=np.array([[21, 22, 23, 24, 0]]), target_lengths=np.array([4]),
        target_documents=np.array([[0, 1, 1, 1, 1]]),
    )  # fmt: skip
    batch = Seq2seq(facts)(pairs, 0)
    assert batch["documents"].tolist() == [[0, 0, 1, 1, 1, -1]]
    assert batch["decoder_documents"].tolist() == [[0, 1, 1, 1, -1]]
    assert batch["decoder_input_ids"].tolist() == [[7, 7, 22, 23, 2]]  # each begins with the start id
    assert batch["targets"].tolist() == [[21, 22, 23, 24, -100]]


def test_a_word_ends_where_its_document_ends() -> None:
    """Tokens from 50 on begin words; the second document of each row begins in the middle of one."""
    starts = np.arange(100) >= 50
    facts = VocabularyFacts(100, mask_id=3, special_ids=(3,), starts_word=lambda: starts)
    rows = [[60, 11, 12, 13, 14, 15]] * 400
    apart = windows([[0, 0, 0, 1, 1, 1]] * 400, rows)
    masked = Masked(facts, rate=0.5, whole_words=True)
    asked = masked(apart, 0)["targets"] != -100
    assert (asked[:, :3] == asked[:, :1]).all() and (asked[:, 3:] == asked[:, 3:4]).all()
    assert 0.35 < (asked[:, 0] != asked[:, 3]).mean() < 0.65
    together = masked(apart._replace(documents=None), 0)["targets"] != -100
    assert (together == together[:, :1]).all()


class Silent(Causal):
    """An objective that says nothing of documents."""

    def __call__(self, windows: Windows, seed: int) -> dict[str, np.ndarray]:
        return super().__call__(windows._replace(documents=None), seed)


def test_an_objective_that_says_nothing_of_documents_is_refused(prepared: tuple[Path, Tokenizer]) -> None:
    data = data_of(prepared, "text", "tests.test_document_masking.Silent", ModelFacts(vocab_size=TOKENS))
    with pytest.raises(UserError, match="Silent does not say which document"):
        next(iter(data.train_dataloader()))


# -- what is refused --


@pytest.mark.parametrize(
    ("objective", "model_type", "arguments", "says"),
    [
        ("causal", "mamba", {"hidden_size": 32, "num_hidden_layers": 1}, "MambaForCausalLM takes no position_ids"),
        ("causal", "bloom", {"hidden_size": 32, "n_layer": 1, "n_head": 2}, "BloomForCausalLM takes no position_ids"),
        # Take position_ids, and make no mask of them.
        (
            "causal",
            "opt",
            {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 64},
            "OPTForCausalLM lets documents in a row see each other",
        ),
        ("causal", "gpt_oss", GROUPED | {"num_local_experts": 4}, "GptOssForCausalLM lets documents in a row see"),
        # Attention beside layers that are none.
        (
            "causal",
            "lfm2",
            SMALL | {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]},
            "Lfm2ForCausalLM (lets documents|says something else)",
        ),
        ("masked", "deberta-v2", SMALL, "cannot be had with DebertaV2ForMaskedLM"),
        ("masked", "big_bird", SMALL, "BigBirdForMaskedLM: it sees blocks"),
        ("seq2seq", "led", BART | {"attention_window": 8}, "cannot be had with LEDForConditionalGeneration"),
    ],
)  # fmt: skip
def test_models_of_transformers_that_cannot_are_refused_by_name(
    objective: str, model_type: str, arguments: dict, says: str
) -> None:
    with pytest.raises(UserError, match=f"^model: data.document_masking.*{says}"):
        build(objective, model_type, arguments=arguments)
    assert build(objective, model_type, arguments=arguments, document_masking=False)


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"data": {"padding_side": "left"}}, "fills rows on the right"),
        ({"model": {"backbone": None, "huggingface": "AutoModelForMaskedLM", "attention": "flex_attention"},
          "objective": {"name": "masked"}}, "needs model.attention: sdpa | eager"),
    ],
)  # fmt: skip
def test_keys_that_contradict_it_are_told_before_anything_is_loaded(sections: dict, says: str) -> None:
    def told(masking: bool) -> bool:
        data = {**sections.get("data", {}), "document_masking": masking}
        return any(says in problem for _, problem in contradictions.find(Config(**{**sections, "data": data})))

    assert told(True) and not told(False)


class Mean(nn.Module):
    """Says of each position the mean of those before it; `apart`: of its own document."""

    def __init__(self, vocab_size: int, apart: bool = True, restart: bool = True, scale: float = 1.0) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(vocab_size, 16), nn.Embedding(64, 16)
        self.to_logits = nn.Linear(16, vocab_size, bias=False)
        self.apart, self.restart = apart, restart
        with torch.no_grad():
            self.to_logits.weight.mul_(scale)

    def forward(self, input_ids: Tensor, documents: Tensor | None = None, position_ids: Tensor | None = None) -> Tensor:
        places = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        x = self.embedding(input_ids)
        x = x + self.places(position_ids if self.restart and position_ids is not None else places)
        sees = torch.ones(input_ids.shape[1], input_ids.shape[1]).tril().expand(len(x), -1, -1)
        if self.apart and documents is not None:
            sees = sees * (documents[:, :, None] == documents[:, None, :])
        return self.to_logits((sees / sees.sum(-1, keepdim=True)) @ x)


class Blind(Mean):
    """Takes neither."""

    def forward(self, input_ids: Tensor) -> Tensor:
        return super().forward(input_ids)


class Mixer(nn.Module):
    """A backbone without `documents`."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.width, self.embedding = 16, nn.Embedding(vocab_size, 16)

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        return self.embedding(tokens).cumsum(1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"module": "Blind"}, "Blind.forward takes neither `documents` nor `position_ids`"),
        ({"module": "Mean", "arguments": {"apart": False}}, "Mean lets documents in a row see each other"),
        # New weights of zero hide it; it would show after the first step.
        ({"module": "Mean", "arguments": {"apart": False, "scale": 0.0}}, "Mean lets documents in a row see"),
        ({"module": "Mean", "arguments": {"restart": False}}, "Mean says something else .* do positions restart"),
        ({"backbone": "Mixer"}, "Mixer.forward takes no `documents`"),
    ],
)  # fmt: skip
def test_models_of_ones_own_are_tried_as_well(settings: dict, says: str) -> None:
    settings = {key: f"{__name__}.{value}" if key != "arguments" else value for key, value in settings.items()}
    with pytest.raises(UserError, match=says):
        build_model(vocab_size=TOKENS, document_masking=True, **settings)
    build_model(vocab_size=TOKENS, **settings)


def test_a_module_that_keeps_documents_apart_is_taken_and_left_as_it_was() -> None:
    before = torch.random.get_rng_state()
    model = build_model(module=f"{__name__}.Mean", arguments={"scale": 0.0}, vocab_size=TOKENS, document_masking=True)
    assert not model.inner.to_logits.weight.any() and model.training
    assert torch.equal(torch.random.get_rng_state(), before)
