"""This machine's processors -> where models are served, how precisely, and in how much memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from lmapps.machine import memory_limit, total_memory

if TYPE_CHECKING:
    import torch

AUTO = "auto"
"""The precision that is usual where a model is served."""
SHARE_OF_GPUS = 0.9
"""What models may take of GPUs; the rest is for steps on their way, and for the driver."""
SHARE_OF_MEMORY = 0.5


def serving_devices() -> tuple[str, ...]:
    """Every GPU, each with a copy of a model; else the processor that is there."""
    import torch

    if torch.cuda.is_available():
        return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    return ("mps" if torch.backends.mps.is_available() else "cpu",)


def current(device: torch.device) -> AbstractContextManager[object]:
    """Within it the device is this thread's own, where there are several GPUs."""
    import torch

    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def on_gpu(devices: Sequence[str]) -> bool:
    return devices[0].startswith("cuda")


def precision(weights: str, devices: Sequence[str]) -> str:
    """What `auto` means there: bfloat16 on GPUs, whose matrix units are made for it."""
    if weights != AUTO:
        return weights
    return "bfloat16" if on_gpu(devices) else "float32"


def memory_for_models(devices: Sequence[str]) -> float:
    """Bytes that all models may take together where nobody says: most of the GPUs, or half of
    what the machine, or the container around us, has."""
    if on_gpu(devices):
        import torch

        sizes = [torch.cuda.get_device_properties(device).total_memory for device in devices]
        return sum(sizes) * SHARE_OF_GPUS
    size = memory_limit() or total_memory()
    return float("inf") if size is None else size * SHARE_OF_MEMORY
