"""Hidden states, the head's weights and targets -> nats, without ever holding the logits of all positions.

The logits of a chunk of positions are computed, used for loss *and* gradients, and dropped, so the backward pass has
nothing to compute again. Products are in the precision of autocast; log-softmax and all sums are in float32.

N positions   D width   V vocabulary
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.interface import Loss

IGNORED = -100
CHUNK_BYTES = 64 * 2**20  # of float32 logits held at once


def nats_of_logits(logits: Tensor, targets: Tensor) -> Loss:
    """logits: (…, V) in any dtype, targets: (…), -100 where nothing is asked."""
    scored = targets != IGNORED
    nats = F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return Loss(nats, scored.sum(), ((logits.detach().argmax(-1) == targets) & scored).sum())


def nats_of_hidden(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None, chunk: int | None = None
) -> Loss:
    """The same from hidden: (…, D) and the head's weight: (V, D), bias: (V,) or None.

    chunk: positions at a time; by default as many as give 64 MiB of float32 logits.
    """
    hidden, targets = hidden.flatten(0, -2), targets.flatten()
    if hidden.device.type == "cpu" and not torch.compiler.is_compiling():
        # On a GPU this would wait for the device; there the unscored positions are computed and not counted.
        scored = (targets != IGNORED).nonzero().squeeze(-1)
        if len(scored) < len(targets):
            hidden, targets = hidden.index_select(0, scored), targets.index_select(0, scored)
    chunk = max(1, CHUNK_BYTES // (4 * weight.shape[0])) if chunk is None else chunk
    # Inside of the function gradients are always off, and what it is told of them does not know of `no_grad`.
    nats, correct = ChunkedCrossEntropy.apply(hidden, weight, bias, targets, chunk, torch.is_grad_enabled())
    return Loss(nats, (targets != IGNORED).sum(), correct)


class ChunkedCrossEntropy(torch.autograd.Function):
    """(hidden (N, D), weight (V, D), bias, targets (N,), chunk, learning) -> nats (), correct ()"""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        chunk: int,
        learning: bool,
    ) -> tuple[Tensor, Tensor]:
        """Sums over chunks; the gradients for an upstream gradient of 1 are made on the way and kept."""
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        wants = [learning and needed for needed in ctx.needs_input_grad]
        nats = torch.zeros((), dtype=torch.float32, device=hidden.device)  # whatever the default dtype is
        correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if wants[0] else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants[1] else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wants[2] else None
        with torch.autocast(device, enabled=False):
            head = weight.to(dtype)
            for start in range(0, hidden.shape[0], chunk):
                part = slice(start, start + chunk)
                inputs, scored = hidden[part].to(dtype), targets[part] != IGNORED
                more, right, slope = nats_and_slope(inputs, head, bias, targets[part], scored, any(wants))
                nats += more
                correct += right
                if slope is None:
                    continue
                if grad_bias is not None:
                    grad_bias += scored.float() @ slope
                slope = slope.to(dtype)
                # What is not asked for is left out on the narrow side of each product, where it costs little.
                if grad_hidden is not None:
                    grad_hidden[part] = (slope @ head) * scored[:, None]
                if grad_weight is not None:
                    grad_weight += slope.t() @ (inputs * scored[:, None])
                del slope  # before the next chunk's logits are made
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        ctx.mark_non_differentiable(correct)
        return nats, correct

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """upstream: () -> gradients of the inputs, in their dtypes"""
        grads = [
            None if grad is None else (grad * upstream).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *grads, None, None, None


def nats_and_slope(
    inputs: Tensor, head: Tensor, bias: Tensor | None, targets: Tensor, scored: Tensor, wanted: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A chunk: inputs (n, D), head (V, D), targets, scored (n,) -> nats (), correct (), and if wanted the slope

    of nats over logits, (n, V) float32: probabilities, less 1 at the target. Rows that are not scored hold one, too.
    """
    index = targets.where(scored, 0)[:, None]
    logits = inputs @ head.t()
    if bias is not None:
        logits += bias.to(logits.dtype)
    log_probabilities = logits.log_softmax(-1, dtype=torch.float32)
    nats = -(log_probabilities.gather(1, index)[:, 0] * scored).sum()
    correct = ((log_probabilities.max(-1).indices == targets) & scored).sum()
    if not wanted:
        return nats, correct, None
    slope = log_probabilities.exp_()
    slope.scatter_add_(1, index, torch.full_like(index, -1, dtype=slope.dtype))
    return nats, correct, slope
