"""A model, its optimizers and a micro-batch -> the memory and time a run will take, beforehand.

What a forward and backward pass holds grows straight with its rows, once the logits fill a chunk
and weights no longer count for most: a quarter and a half of the rows are tried and measured,
tensor by tensor, and the line through both is followed.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lmapps.machine import free_memory
from lmapps.model.config import ModelConfig
from lmapps.model.cross_entropy import chunk_rows
from lmapps.model.language_model import LanguageModel
from lmapps.training.optimizer import build_optimizers
from lmapps.training.settings import TrainSettings

GAPS = {"lstm": 1.2}
GAPS_ELSE = 1.6
"""On the CPU the C library's allocator does not fill the gaps that freed tensors leave: a step
takes so many times what its tensors have (`benchmarks/forecast.py`). An LSTM is one call of few."""
BFLOAT16_BYTES = 110_000_000
"""What the first products in bf16 on a CPU make the process larger by: code and buffers of their
own, which no tensor tells of."""


@dataclass(frozen=True)
class Forecast:
    """Bytes at the peak of a step, by consumer, and seconds a step."""

    parts: Mapping[str, int]
    room: int | None
    """Bytes there are, those already taken by this process included; None where unknown."""
    seconds_per_step: float

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def largest(self) -> str:
        """What takes most, beside the process itself."""
        own = {name: size for name, size in self.parts.items() if name != "process"}
        return max(own, key=lambda name: own[name])

    @property
    def fits(self) -> bool:
        return self.room is None or self.total <= self.room

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / 1e6:,.0f}" for name, size in self.parts.items())
        room = f" of {self.room / 1e6:,.0f}" if self.room else ""
        return (
            f"forecast: {self.total / 1e6:,.0f} MB{room} ({parts}), "
            f"about {self.seconds_per_step:.2g} s a step"
        )


def forecast(
    model: LanguageModel,
    settings: TrainSettings,
    accelerator: Accelerator,
    rows: int,
    context: int,
    accumulation: int,
) -> Forecast:
    """Of one process. Runs two small passes; weights and random state are as before.

    With `--lora`, `model` is the one with adapters, beside the plain one.
    """
    model.to(accelerator.device).train()
    before = taken(accelerator.device)
    random = torch.get_rng_state()
    few, some = rows_to_try(model.config, rows, context, accelerator.device)
    low, _ = _pass(model, accelerator, few, context)
    high, seconds = _pass(model, accelerator, some, context)
    peak = high + max(0, high - low) * (rows - some) // max(1, some - few)
    torch.set_rng_state(random)
    if accelerator.device.type == "cpu":
        peak = round(peak * GAPS.get(model.config.body, GAPS_ELSE))
        before += BFLOAT16_BYTES if accelerator.mixed_precision == "bf16" else 0
    weights = _bytes(model.parameters())
    trained = _bytes(weight for weight in model.parameters() if weight.requires_grad)
    parts = {
        "process": before - weights,
        "weights": weights,
        "optimizer": _optimizer_bytes(model, settings),
        "activations and gradients": peak + (trained if accumulation > 1 else 0),
    }
    shares = accelerator.num_processes
    if settings.lora:
        plain = model.config.parameters * 4
        parts |= {"process": max(0, before - weights - plain), "whole copy": plain}
    if settings.shard:
        parts["optimizer"] //= shares
        parts["whole copy"] = weights
    elif shares > 1:
        parts["gradients on their way"] = trained  # DDP's buckets
    return Forecast(parts, room(accelerator.device), seconds * rows / some * accumulation)


def _bytes(weights: Iterable[torch.nn.Parameter]) -> int:
    return sum(weight.numel() * 4 for weight in weights)


def rows_to_try(
    config: ModelConfig, rows: int, context: int, device: torch.device
) -> tuple[int, int]:
    """A quarter and a half of the rows, or more where less does not fill a chunk of logits."""
    chunk = -(-chunk_rows(config.vocab_size, device) // context)
    few = min(rows, max(1, chunk, rows // 4))
    return few, min(rows, max(few + 1, rows // 2))


def taken(device: torch.device) -> int:
    """Bytes that this process has now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def room(device: torch.device) -> int | None:
    """Bytes that this process may have: of the GPU, or its share of what the machine and the cgroup
    leave to the processes of a launcher."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    there = free_memory()
    shares = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return None if there is None else there // shares + taken(device)


def _optimizer_bytes(model: LanguageModel, settings: TrainSettings) -> int:
    """Muon keeps one number for each of its weights, AdamW two."""
    total = 0
    for optimizer in build_optimizers(model, settings):
        numbers = 1 if isinstance(optimizer, torch.optim.Muon) else 2
        weights = (weight for group in optimizer.param_groups for weight in group["params"])
        total += sum(4 * numbers * weight.numel() for weight in weights)
    return total


def _pass(
    model: LanguageModel, accelerator: Accelerator, rows: int, context: int
) -> tuple[int, float]:
    """Forward and backward: peak bytes of the tensors made on the way, and seconds."""
    ids = torch.zeros(rows, context, dtype=torch.int64, device=accelerator.device)
    started = time.perf_counter()
    with _Peak() as peak:
        with accelerator.autocast():
            loss = model(ids, ids)
        loss.backward()
        del loss
    if accelerator.device.type == "cuda":
        torch.cuda.synchronize()
    model.zero_grad(set_to_none=True)
    return peak.bytes, time.perf_counter() - started


class _Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most bytes that tensors made inside had at one time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self._held = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._hold(tensor.untyped_storage())
        return made

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self._held += size
        self.bytes = max(self.bytes, self._held)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._held -= size
