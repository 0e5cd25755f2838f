"""Our decoding against that of transformers, against closed forms, and against itself in other batches."""

import math

import pytest
import torch
from torch import Tensor, nn

from models.decoding import (
    DecodingOptions,
    cut_at_stop,
    draw,
    generate,
    keep_top_k,
    keep_top_p,
    penalise_repetition,
    uniform,
)
from models.interface import ModelFacts

VOCABULARY = 61
EOS, START = 2, 1
PROMPTS = [[5, 9, 11, 30], [7, 3], [4, 8, 15, 16, 23, 42]]


class Recomputed(nn.Module):
    """A Hugging Face model behind the face that decoding needs: everything is computed again for each token."""

    def __init__(self, inner: nn.Module, start_id: int | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.facts = ModelFacts(encoder_decoder=start_id is not None, decoder_start_id=start_id)

    def stepper(self, prompt_ids: Tensor, prompt_mask: Tensor, max_new_tokens: int) -> "RecomputingStepper":
        return RecomputingStepper(self.inner, prompt_ids, prompt_mask, self.facts.decoder_start_id)


class RecomputingStepper:
    def __init__(self, inner: nn.Module, ids: Tensor, mask: Tensor, start_id: int | None) -> None:
        self.inner, self.ids, self.mask = inner, ids, mask
        self.decoder_ids = None
        if start_id is not None:  # an encoder counts its positions from the first column: rows filled on the right
            order = (1 - mask).argsort(dim=-1, stable=True)
            self.ids, self.mask = ids.gather(-1, order), mask.gather(-1, order)
            self.decoder_ids = torch.full((len(ids), 1), start_id)

    def start(self) -> Tensor:
        if self.decoder_ids is not None:
            return self.inner(self.ids, attention_mask=self.mask, decoder_input_ids=self.decoder_ids).logits[:, -1]
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
        return self.inner(self.ids, attention_mask=self.mask, position_ids=positions, use_cache=False).logits[:, -1]

    def advance(self, tokens: Tensor) -> Tensor:
        if self.decoder_ids is not None:
            self.decoder_ids = torch.cat([self.decoder_ids, tokens[:, None]], 1)
        else:
            self.ids = torch.cat([self.ids, tokens[:, None]], 1)
            self.mask = torch.cat([self.mask, torch.ones_like(tokens)[:, None]], 1)
        return self.start()

    def reorder(self, rows: Tensor) -> None:
        self.ids, self.mask = self.ids[rows], self.mask[rows]
        self.decoder_ids = None if self.decoder_ids is None else self.decoder_ids[rows]


def taught(model: nn.Module, steps: int, pairs: bool) -> nn.Module:
    """A random model repeats one token; a few seconds of training give it something to say, and an end to it."""
    chance = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        text = torch.randint(3, VOCABULARY, (32, 10), generator=chance)
        for place in range(1, 10):  # each token follows from the one before, with some chance
            follows = (text[:, place - 1] * 3) % (VOCABULARY - 3) + 3
            text[:, place] = torch.where(torch.rand(32, generator=chance) < 0.7, follows, text[:, place])
        if pairs:
            length = torch.randint(1, 7, (1,), generator=chance).item()
            target = torch.cat([text[:, :length], torch.full((32, 1), EOS)], 1)
            model(text[:, :length], labels=target).loss.backward()
        else:
            text = torch.where(torch.rand(32, 10, generator=chance) < 0.1, EOS, text)
            model(text, labels=text).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module")
def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    tokens = {"bos_token_id": 1, "eos_token_id": EOS, "pad_token_id": 0}
    config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, **heads, **tokens)
    return taught(LlamaForCausalLM(config), steps=100, pairs=False)


@pytest.fixture(scope="module")
def marian() -> nn.Module:
    from transformers import MarianConfig, MarianMTModel

    torch.manual_seed(4)
    one = {"layers": 1, "attention_heads": 2, "ffn_dim": 64}
    sizes = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in one.items()}
    tokens = {"pad_token_id": 0, "eos_token_id": EOS, "decoder_start_token_id": START, "forced_eos_token_id": None}
    config = MarianConfig(vocab_size=VOCABULARY, d_model=32, init_std=0.15, **tokens, **sizes)
    return taught(MarianMTModel(config), steps=150, pairs=True)


def padded(prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def theirs(model: nn.Module, prompt: list[int], **settings: object) -> list[int]:
    """New tokens of transformers' own generate for one prompt, without EOS and padding."""
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, **settings)
    new = out[0, 1 if model.config.is_encoder_decoder else len(prompt) :].tolist()
    return new[: new.index(EOS)] if EOS in new else new


SETTINGS = [
    {},
    {"repetition_penalty": 1.7},
    {"num_beams": 4},
    {"num_beams": 3, "length_penalty": 0.2},
    {"num_beams": 3, "length_penalty": 2.5},
    {"num_beams": 4, "repetition_penalty": 1.4},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("cached", [False, True], ids=["recomputed", "cached"])
@pytest.mark.parametrize("kind", ["llama", "marian"])
def test_a_padded_batch_gives_what_transformers_gives_for_each_prompt(
    kind: str, cached: bool, settings: dict, request: pytest.FixtureRequest
) -> None:
    from models.hf import HuggingFaceModel

    inner = request.getfixturevalue(kind)
    start = START if kind == "marian" else None
    model = HuggingFaceModel(inner, VOCABULARY) if cached else Recomputed(inner, start)
    options = DecodingOptions(max_new_tokens=12, **settings)
    ours = generate(model, *padded(PROMPTS), options, eos_id=EOS)
    expected = [theirs(inner, prompt, **settings) for prompt in PROMPTS]
    assert [text.ids for text in ours] == expected
    assert len({tuple(ids) for ids in expected}) > 1


def test_the_log_probability_is_that_of_the_whole_text(llama: nn.Module) -> None:
    for options in (DecodingOptions(max_new_tokens=12), DecodingOptions(max_new_tokens=12, num_beams=3)):
        for prompt, text in zip(
            PROMPTS, generate(Recomputed(llama), *padded(PROMPTS), options, eos_id=EOS), strict=True
        ):
            ids = text.ids + ([EOS] if text.reason == "eos" else [])
            nats = llama(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            expected = nats.gather(-1, torch.tensor(ids)[:, None]).sum().item()
            assert text.log_probability == pytest.approx(expected, abs=1e-4)


def test_filters_are_those_of_transformers() -> None:
    from transformers.generation.logits_process import (
        RepetitionPenaltyLogitsProcessor,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    torch.manual_seed(0)
    logits, ids = torch.randn(8, 50) * 3, torch.randint(50, (8, 6))
    assert torch.equal(keep_top_k(logits, 7), TopKLogitsWarper(7)(ids, logits))
    for p in (0.05, 0.5, 0.9):
        assert torch.equal(keep_top_p(logits, p), TopPLogitsWarper(p)(ids, logits))
    seen = torch.zeros(8, 50, dtype=torch.bool).scatter(-1, ids, True)
    assert torch.equal(penalise_repetition(logits, seen, 1.3), RepetitionPenaltyLogitsProcessor(1.3)(ids, logits))


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([0.1, 0.0, 0.4, 0.2, 0.3]).log()
    n = 20_000
    tokens = draw(logits.expand(n, -1), [uniform(0, row, 0, 0) for row in range(n)])
    shares = torch.bincount(tokens, minlength=5) / n
    assert shares[1] == 0
    assert torch.allclose(shares, logits.exp(), atol=4 * math.sqrt(0.25 / n))


def test_a_sample_depends_on_its_prompt_and_number_not_on_its_batch(llama: nn.Module) -> None:
    options = DecodingOptions(max_new_tokens=10, temperature=1.3, top_k=20, top_p=0.95)
    together = generate(Recomputed(llama), *padded(PROMPTS), options, eos_id=EOS, seed=7, samples=3)
    alone = [
        text.ids
        for number, prompt in enumerate(PROMPTS)
        for text in generate(
            Recomputed(llama), *padded([prompt]), options, eos_id=EOS, seed=7, samples=3, prompt_numbers=[number]
        )
    ]
    assert [text.ids for text in together] == alone
    assert len({tuple(ids) for ids in alone[:3]}) == 3  # samples of a prompt differ
    other = generate(Recomputed(llama), *padded(PROMPTS), options, eos_id=EOS, seed=8, samples=3)
    assert [text.ids for text in other] != alone


def test_ids_that_only_pad_the_vocabulary_are_never_chosen(llama: nn.Module) -> None:
    for options in (
        DecodingOptions(max_new_tokens=20, temperature=5.0),
        DecodingOptions(max_new_tokens=20),
        DecodingOptions(max_new_tokens=20, num_beams=4),
    ):
        free = generate(Recomputed(llama), *padded(PROMPTS), options, samples=2 if options.temperature else 1)
        limited = generate(
            Recomputed(llama), *padded(PROMPTS), options, vocab_limit=20, samples=2 if options.temperature else 1
        )
        assert max(max(text.ids) for text in free) >= 20
        assert max(max(text.ids) for text in limited) < 20


@pytest.mark.parametrize("beams", [1, 3])
def test_stopping(llama: nn.Module, beams: int) -> None:
    def decode(ids: list[int]) -> str:
        return "".join(f"{token:02d}" for token in ids)  # a stop string may begin in the middle of a token

    free = generate(Recomputed(llama), *padded(PROMPTS[:1]), DecodingOptions(max_new_tokens=8, num_beams=beams))[0]
    assert free.reason == "length" and len(free.ids) == 8
    string = decode(free.ids)[3:9]
    if beams == 1:
        options = DecodingOptions(max_new_tokens=8, stop_strings=[string])
        stopped = generate(Recomputed(llama), *padded(PROMPTS[:1]), options, decode=decode)[0]
        assert stopped.reason == "stop_string" and stopped.ids == free.ids[:5]
        assert cut_at_stop(decode(stopped.ids), [string]) == decode(free.ids)[: decode(free.ids).index(string)]
        options = DecodingOptions(max_new_tokens=8, stop_ids=[free.ids[3]])
        stopped = generate(Recomputed(llama), *padded(PROMPTS[:1]), options)[0]
        assert stopped.reason == "stop_id" and stopped.ids == free.ids[: free.ids.index(free.ids[3])]
    else:
        options = DecodingOptions(max_new_tokens=8, num_beams=beams, stop_strings=[string[:2], "5"])
        for text in generate(Recomputed(llama), *padded(PROMPTS), options, decode=decode, samples=beams):
            ended = any(stop in decode(text.ids) for stop in options.stop_strings)
            assert ended == (text.reason == "stop_string")


def test_a_prompt_gets_as_many_tokens_as_there_are_positions(llama: nn.Module) -> None:
    model = Recomputed(llama)
    model.facts = ModelFacts(max_positions=6)
    lengths = [len(text.ids) for text in generate(model, *padded(PROMPTS), DecodingOptions(max_new_tokens=4))]
    assert lengths == [3, 4, 1]
    with pytest.raises(ValueError, match="7 tokens leaves no room in 6 positions"):
        generate(model, *padded([[5] * 7]), DecodingOptions(max_new_tokens=4))


def test_contradicting_options_are_refused() -> None:
    with pytest.raises(ValueError, match="beams are searched"):
        DecodingOptions(num_beams=2, temperature=1.0)
