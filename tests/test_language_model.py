"""Head, loss, generation, save and load around any backbone."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.language_model import LanguageModel
from models.transformer import Transformer

ARGUMENTS = {"width": 32, "depth": 2, "heads": 2}


class Recurrent(nn.Module):
    """A backbone that names nothing but tokens."""

    def __init__(self, vocab_size: int, width: int = 16) -> None:
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(vocab_size, width)
        self.recurrence = nn.GRU(width, width, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.recurrence(self.embedding(tokens))[0]


def transformer(tie: bool = True, **arguments: object) -> LanguageModel:
    torch.manual_seed(0)
    arguments = ARGUMENTS | arguments
    return LanguageModel(Transformer(128, **arguments), 128, tie, tokens=100, arguments=arguments)


def batch(rows: int = 3, length: int = 12) -> dict[str, Tensor]:
    ids = torch.randint(0, 100, (rows, length + 1), generator=torch.Generator().manual_seed(1))
    targets = ids[:, 1:].clone()
    targets[0, :5] = -100
    return {"input_ids": ids[:, :-1], "targets": targets}


def dense_loss(model: LanguageModel, inputs: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(model.logits(inputs).flatten(0, 1), inputs["targets"].flatten(), reduction="sum")


@pytest.mark.parametrize("tie", [True, False])
def test_loss_and_gradients_are_those_of_the_logits(tie: bool) -> None:
    model, inputs = transformer(tie), batch()
    names = [name for name, _ in model.named_parameters()]
    assert ("head.weight" in names) is not tie
    ours, theirs = model.loss(inputs).nats, dense_loss(model, inputs)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(nats, list(model.parameters())) for nats in (ours, theirs)]
    for name, got, wanted in zip(names, *gradients, strict=True):
        assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max(), name


def test_a_tied_head_and_the_embedding_are_one_tensor() -> None:
    model = transformer()
    model.loss(batch()).nats.backward()
    gradient = model.backbone.embedding.weight.grad
    unread = 127  # never an input, but the softmax pushes it down
    assert model.head_weight is model.backbone.embedding.weight
    assert gradient[unread].abs().sum() > 0


@pytest.mark.parametrize("tie", [True, False])
def test_what_is_saved_is_loaded(tie: bool, tmp_path: Path) -> None:
    model, inputs = transformer(tie), batch()
    model.save(tmp_path / "model")
    loaded = LanguageModel.load(tmp_path / "model")
    assert torch.equal(loaded.logits(inputs), model.logits(inputs))
    assert (loaded.tokens, loaded.facts) == (model.tokens, model.facts)


def test_weights_of_another_model_are_refused_by_name(tmp_path: Path) -> None:
    transformer(False).save(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"width": 32', '"width": 64'))
    with pytest.raises(ValueError, match=r"backbone\.embedding\.weight of shape \(128, 32\) for \(128, 64\)"):
        LanguageModel.load(tmp_path)
    (tmp_path / "config.json").write_text(text.replace('"depth": 2', '"depth": 1'))
    with pytest.raises(ValueError, match=r"backbone\.blocks\.1\..*, which the model does not have"):
        LanguageModel.load(tmp_path)
    (tmp_path / "config.json").write_text(text.replace('"depth": 2', '"depth": 3'))
    with pytest.raises(ValueError, match=r"no backbone\.blocks\.2\."):
        LanguageModel.load(tmp_path)


def test_a_backbone_gets_only_what_it_names() -> None:
    model, inputs = LanguageModel(Recurrent(128), 128, tokens=100), batch()
    assert not model.facts.takes_attention_mask and model.facts.max_positions is None
    torch.testing.assert_close(model.loss(inputs).nats, dense_loss(model, inputs))
    with pytest.raises(ValueError, match="attention_mask.*Recurrent.forward takes no `padding`"):
        model.loss(inputs | {"attention_mask": torch.ones(3, 12)})
    with pytest.raises(ValueError, match="position_ids.*takes no `positions`"):
        model.loss(inputs | {"position_ids": torch.arange(12).expand(3, 12)})
    with pytest.raises(ValueError, match="decoder_input_ids, which a backbone does not take"):
        model.loss(inputs | {"decoder_input_ids": inputs["input_ids"]})


def test_what_a_backbone_must_have_is_said() -> None:
    with pytest.raises(ValueError, match="Linear needs an attribute `width`"):
        LanguageModel(nn.Linear(2, 2), 128)
    backbone = Recurrent(128)
    backbone.table = backbone.__dict__["_modules"].pop("embedding")
    with pytest.raises(ValueError, match="no `embedding` to tie the head to"):
        LanguageModel(backbone, 128)


@pytest.mark.parametrize("backbone", ["transformer", "recurrent"])
def test_generating_with_and_without_a_cache_is_the_same_and_knows_no_padded_ids(backbone: str) -> None:
    model = transformer() if backbone == "transformer" else LanguageModel(Recurrent(128), 128, tokens=100)
    with torch.no_grad():
        model.head_weight[100:] = model.head_weight[:28] * 3  # the padded rows would often win
    prompts = batch()["input_ids"]
    for one in model.generate(prompts, max_new_tokens=8):
        ids = prompts[:1]
        assert len(one.ids) == 8 and max(one.ids) < 100
        for token in one.ids:
            chosen = model.logits({"input_ids": ids})[0, -1, :100].argmax().item()
            assert chosen == token
            ids = torch.cat((ids, torch.tensor([[token]])), dim=1)
        prompts = prompts[1:]


@pytest.mark.proof
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_compiled_it_is_the_same_in_one_graph_and_under_the_same_names(precision: str) -> None:
    model, compiled, inputs = transformer(), transformer(), batch()
    torch._dynamo.reset()
    compiled.compile(fullgraph=True)
    assert compiled.state_dict().keys() == model.state_dict().keys()
    bf16 = precision == "bfloat16"
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        one, other = model.loss(inputs).nats, compiled.loss(inputs).nats
    torch.testing.assert_close(one, other, rtol=1e-2 if bf16 else 1e-5, atol=0)
    gradients = [torch.autograd.grad(nats, list(m.parameters())) for nats, m in ((one, model), (other, compiled))]
    for got, wanted in zip(*gradients, strict=True):
        assert (got - wanted).abs().max() <= (5e-2 if bf16 else 1e-5) * wanted.abs().max()
