"""The chunked loss against torch's own, and what it holds in memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.cross_entropy import nats_of_hidden, nats_of_logits

N, D, V = 50, 16, 300


def example(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    chance = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(shape, generator=chance) for shape in ((5, N // 5, D), (V, D), (V,)))
    targets = torch.randint(0, V, (5, N // 5), generator=chance)
    targets[torch.rand(targets.shape, generator=chance) < 0.3] = -100
    targets[0, 0] = (hidden[0, 0] @ weight.t() + bias).argmax()  # one that is right
    return (
        hidden.to(dtype).requires_grad_(),
        weight.to(dtype).requires_grad_(),
        bias.to(dtype).requires_grad_(),
        targets,
    )


def dense(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight, bias).flatten(0, 1), targets.flatten(), reduction="sum")


@pytest.mark.parametrize("chunk", [None, 1, 7, N, 1000])
@pytest.mark.parametrize("with_bias", [False, True])
def test_loss_and_gradients_are_those_of_the_dense_loss(chunk: int | None, with_bias: bool) -> None:
    hidden, weight, bias, targets = example()
    used = bias if with_bias else None
    inputs = [hidden, weight, *([bias] if with_bias else [])]
    loss = nats_of_hidden(hidden, weight, targets, used, chunk)
    expected = dense(hidden, weight, targets, used)
    torch.testing.assert_close(loss.nats, expected)
    assert loss.nats.dtype == torch.float32 and loss.tokens == (targets != -100).sum()
    assert loss.correct == (F.linear(hidden, weight, used).argmax(-1) == targets).sum() > 0
    # The upstream gradient is not 1: as in training, where nats are divided by the tokens of the global batch.
    ours = torch.autograd.grad(loss.nats * 0.37, inputs)
    theirs = torch.autograd.grad(expected * 0.37, inputs)
    for got, wanted in zip(ours, theirs, strict=True):
        assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_positions_that_are_not_asked_for_are_left_out_on_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU they are dropped beforehand; elsewhere, and when compiled, they are computed and do not count."""
    hidden, weight, bias, targets = example()
    dropped = nats_of_hidden(hidden, weight, targets, bias, 7)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    counted = nats_of_hidden(hidden, weight, targets, bias, 7)
    torch.testing.assert_close(counted.nats, dropped.nats)
    assert (counted.tokens, counted.correct) == (dropped.tokens, dropped.correct)
    ours = torch.autograd.grad(counted.nats, [hidden, weight, bias])
    theirs = torch.autograd.grad(dropped.nats, [hidden, weight, bias])
    for got, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, wanted)


def test_a_batch_without_targets_has_no_loss_and_no_gradient() -> None:
    hidden, weight, _, targets = example()
    loss = nats_of_hidden(hidden, weight, torch.full_like(targets, -100))
    loss.nats.backward()
    assert loss.nats == 0 and loss.tokens == 0 and not hidden.grad.any() and not weight.grad.any()


def test_under_bf16_autocast_products_are_rounded_and_sums_are_not() -> None:
    hidden, weight, _, targets = example()
    exact = dense(hidden, weight, targets, None)
    with torch.autocast("cpu", torch.bfloat16):
        loss = nats_of_hidden(hidden, weight, targets, chunk=7)
    expected = dense(hidden.bfloat16(), weight.bfloat16(), targets, None)  # rounds its sum to bf16
    assert loss.nats.dtype == torch.float32 and loss.nats.bfloat16().float() != loss.nats
    assert abs(loss.nats - exact) < 2e-3 * exact and abs(loss.nats - expected) < 1e-2 * exact
    ours, theirs = torch.autograd.grad(loss.nats, [hidden, weight]), torch.autograd.grad(exact, [hidden, weight])
    for got, wanted in zip(ours, theirs, strict=True):
        assert got.dtype == torch.float32
        assert (got - wanted).abs().max() < 0.02 * wanted.abs().max()


def test_sums_are_float32_where_lightning_sets_another_default() -> None:
    hidden, weight, _, targets = example()
    torch.set_default_dtype(torch.bfloat16)
    try:
        nats = nats_of_hidden(hidden, weight, targets).nats
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(nats, dense(hidden, weight, targets, None))


def test_bf16_weights_get_bf16_gradients_summed_in_float32() -> None:
    hidden, weight, _, targets = example(torch.bfloat16)
    exact_inputs = [hidden.detach().float().requires_grad_(), weight.detach().float().requires_grad_()]
    exact = dense(*exact_inputs, targets, None)
    loss = nats_of_hidden(hidden, weight, targets, chunk=3)
    assert loss.nats.dtype == torch.float32 and abs(loss.nats - exact) < 5e-3 * exact
    loss.nats.backward()
    for got, wanted in zip((hidden.grad, weight.grad), torch.autograd.grad(exact, exact_inputs), strict=True):
        assert got.dtype == torch.bfloat16
        assert (got - wanted).abs().max() < 0.02 * wanted.abs().max()


def test_without_gradients_none_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, bias, targets = example()
    expected = nats_of_hidden(hidden, weight, targets, bias)
    monkeypatch.setattr(Tensor, "scatter_add_", None)  # what the gradient begins with
    with torch.no_grad():
        loss = nats_of_hidden(hidden, weight, targets, bias)
    assert (loss.nats, loss.tokens, loss.correct) == (expected.nats, expected.tokens, expected.correct)


def test_from_logits_it_is_the_same() -> None:
    hidden, weight, bias, targets = example()
    one, other = nats_of_hidden(hidden, weight, targets, bias), nats_of_logits(F.linear(hidden, weight, bias), targets)
    torch.testing.assert_close(one.nats, other.nats)
    assert (one.tokens, one.correct) == (other.tokens, other.correct)


MEMORY = """
import re, sys, torch
import torch.nn.functional as F
from models.cross_entropy import nats_of_hidden
torch.set_num_threads(1)
hidden, weight = torch.randn(4096, 64, requires_grad=True), torch.randn(16384, 64, requires_grad=True)
targets = torch.randint(0, 16384, (4096,))
def step(rows):
    h = hidden[:rows]
    if sys.argv[1] == "dense":
        F.cross_entropy(h @ weight.t(), targets[:rows], reduction="sum").backward()
    else:
        nats_of_hidden(h, weight, targets[:rows]).nats.backward()
def peak():  # of this program; ru_maxrss has that of the process which started it in it
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
step(8)
before = peak()
step(4096)
print((peak() - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux only")
def test_memory_does_not_grow_with_the_positions(repo: Path) -> None:
    """All logits here are 256 MiB; torch holds them several times."""

    def peak(how: str) -> int:
        command = [sys.executable, "-c", MEMORY, how]
        return int(subprocess.run(command, cwd=repo, capture_output=True, text=True, check=True).stdout)

    chunked, whole = peak("chunked"), peak("dense")
    assert whole > 400, f"the dense loss held {whole} MiB: this test measures nothing"
    assert chunked < 250, f"{chunked} MiB"
