"""Our Transformer against Hugging Face's Llama and Qwen3, and the properties of a decoder."""

import math

import pytest
import torch
from torch import Tensor

from models.language_model import LanguageModel
from models.llama_format import config_of, from_llama
from models.transformer import Transformer


def small(**arguments: object) -> Transformer:
    torch.manual_seed(0)
    return Transformer(128, **{"width": 64, "depth": 2, "heads": 4, "feedforward_width": 96, **arguments})


def tokens(rows: int = 3, length: int = 20) -> Tensor:
    return torch.randint(0, 128, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "arguments",
    [{}, {"kv_heads": 2}, {"kv_heads": 1, "head_width": 8, "rope_theta": 500.0}, {"kv_heads": 2, "qk_norm": True}],
    ids=["llama", "grouped", "wide_theta", "qwen3"],
)
def test_with_the_same_weights_it_is_hugging_faces(arguments: dict) -> None:
    from transformers import LlamaForCausalLM, Qwen3ForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    ours = LanguageModel(small(**arguments), 128, tie=False)
    values = config_of(ours.backbone, tied=False)
    kind = {"llama": LlamaForCausalLM, "qwen3": Qwen3ForCausalLM}[values["model_type"]]
    theirs = kind(CONFIG_MAPPING[values.pop("model_type")](**values))
    with torch.no_grad():
        for weight in theirs.parameters():  # norms too, so that none of them is 1
            torch.nn.init.normal_(weight, mean=1.0 if weight.dim() == 1 else 0.0, std=0.1)
    backbone, head, left = from_llama(theirs.state_dict())
    ours.backbone.load_state_dict(backbone)
    ours.head.load_state_dict({"weight": head})
    ids = tokens()
    logits, reference = ours.logits({"input_ids": ids}), theirs(ids).logits
    assert left == []
    assert (logits - reference).abs().max() <= 1e-5 * reference.abs().max()
    mask = torch.ones_like(ids)
    mask[0, :7] = mask[1, 12:] = 0
    logits = ours.logits({"input_ids": ids, "attention_mask": mask})
    reference = theirs(ids, attention_mask=mask).logits
    assert (logits - reference)[mask == 1].abs().max() <= 1e-5 * reference.abs().max()


@pytest.mark.parametrize("position", [0, 7, 19])
def test_a_position_sees_itself_and_all_before_and_nothing_after(position: int) -> None:
    model = small(kv_heads=2)
    seen = {}
    model.embedding.register_forward_hook(lambda module, inputs, output: seen.setdefault("embedded", output))
    hidden = model(tokens(1))
    (gradient,) = torch.autograd.grad(hidden[0, position].square().sum(), seen["embedded"])
    touched = gradient[0].abs().sum(-1) > 0
    assert touched[: position + 1].all() and not touched[position + 1 :].any()


@pytest.mark.parametrize("steps", [[20], [12, 1, 1, 1, 1, 1, 1, 1, 1], [5, 9, 6]], ids=["whole", "one_by_one", "parts"])
def test_reading_with_a_cache_is_reading_everything(steps: list[int]) -> None:
    model, ids = small(kv_heads=2), tokens()
    cache = model.new_cache(3, 20)
    with torch.no_grad():
        parts = [model(part, cache=cache) for part in ids.split(steps, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), rtol=0, atol=1e-5)


def test_padding_on_either_side_changes_nothing() -> None:
    model, ids = small(), tokens(1, 9)
    filler = torch.full((1, 4), 3)
    with torch.no_grad():
        alone = model(ids)
        none, some = torch.zeros(1, 9, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool)
        right = model(torch.cat((ids, filler), 1), padding=torch.cat((none, some), 1))[:, :9]
        positions = torch.cat((torch.zeros(1, 4, dtype=torch.long), torch.arange(9)[None]), 1)
        left = model(torch.cat((filler, ids), 1), positions=positions, padding=torch.cat((some, none), 1))[:, 4:]
    torch.testing.assert_close(right, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(left, alone, rtol=0, atol=1e-5)


def test_initial_weights_are_scaled_where_they_write_to_the_residual_stream() -> None:
    model = small(width=256, depth=8)
    spread = {name: weight.std().item() for name, weight in model.named_parameters() if weight.dim() == 2}
    for name, std in spread.items():
        wanted = 0.02 / math.sqrt(2 * 8) if name.endswith("to_output.weight") else 0.02
        assert std == pytest.approx(wanted, rel=0.05), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"width": 65}, "not divisible by heads"), ({"kv_heads": 3}, "kv_heads"), ({"head_width": 15}, "even width")],
)
def test_widths_that_do_not_fit_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**arguments)


def test_a_row_longer_than_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 20 tokens is longer than the model's max_seq_len=16"):
        small(max_seq_len=16)(tokens())
