"""Settings and hardware -> where the numbers are kept, and in what precision they are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.optim import Optimizer

from configs import schema
from utils.messages import UserError


@dataclass(frozen=True)
class Hardware:
    """What a run computes on."""

    accelerator: str  # cpu | gpu
    devices: int  # on each node
    num_nodes: int
    precision: str  # never auto

    @property
    def ranks(self) -> int:
        """Processes in all, one for each device."""
        return self.devices * self.num_nodes

    @property
    def device_type(self) -> str:
        """As torch names it."""
        return "cuda" if self.accelerator == "gpu" else "cpu"

    def __str__(self) -> str:
        name = torch.cuda.get_device_name() if self.accelerator == "gpu" else f"CPU, {torch.get_num_threads()} threads"
        return f"{self.ranks} x {name}"


def hardware(trainer: schema.Trainer) -> Hardware:
    """Resolves every `auto`.

    Raises:
        UserError: no such device, or a precision that it has not
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if trainer.accelerator == "gpu" and not available:
        raise UserError("trainer.accelerator: gpu, but torch sees none; set cpu, or see docs/install.md")
    accelerator = "gpu" if available and trainer.accelerator != "cpu" else "cpu"
    devices = trainer.devices if trainer.devices != "auto" else max(1, available if accelerator == "gpu" else 1)
    if devices < 1:
        raise UserError(f"trainer.devices should be 1 or more, or auto; got {devices}")
    if accelerator == "gpu" and devices > available:
        raise UserError(f"trainer.devices={devices}, but torch sees {available}")
    return Hardware(accelerator, devices, trainer.num_nodes, _precision(trainer.precision, accelerator))


def _precision(wanted: str, accelerator: str) -> str:
    if wanted == "auto":
        return "bf16-mixed" if fast_at_bf16(accelerator) else "32-true"
    if wanted == "16-mixed" and accelerator == "cpu":
        raise UserError("trainer.precision: 16-mixed needs a GPU (on a CPU it would quietly be bf16); set bf16-mixed")
    return wanted


def fast_at_bf16(accelerator: str) -> bool:
    """Where float32 is the slower of the two. A CPU without AMX computes bf16 products several times slower."""
    if accelerator == "gpu":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


class LossScaling(MixedPrecision):
    """16-mixed for a step that unscales its gradients itself, as it must to clip them.

    Lightning would unscale a second time (an error), or, with a fused optimizer, clip what is still scaled.
    """

    def __init__(self, device_type: str = "cuda") -> None:
        super().__init__("16-mixed", device_type)

    def optimizer_step(self, optimizer: Optimizer, model: Any, closure: Any, **arguments: Any) -> Any:  # type: ignore[override]
        """Steps unless a gradient overflowed, and adapts the scale."""
        closure()
        self._after_closure(model, optimizer)
        done = self.scaler.step(optimizer, **arguments)
        self.scaler.update()
        return done
