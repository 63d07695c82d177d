"""A model and settings -> optimizers, and the learning rate at each point of the run."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from lmapps.training.settings import TrainSettings


def build_optimizers(model: nn.Module, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the body and AdamW for the rest, or AdamW for all.

    Muon: Jordan et al., 2024, with the scaling of Liu et al., "Muon is scalable for LLM
    training", 2025, under which both take the same learning rate.
    """
    named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    use_muon = settings.optimizer == "muon" and not settings.lora  # adapters are of low rank
    matrices = [w for name, w in named.items() if use_muon and _is_inner_matrix(name, w)]
    chosen = {id(weight) for weight in matrices}
    rest = [weight for weight in named.values() if id(weight) not in chosen]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [
                {"params": [w for w in rest if w.ndim >= 2], "weight_decay": settings.weight_decay},
                {"params": [w for w in rest if w.ndim < 2], "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            betas=(0.9, 0.95),
            fused=True,
        )
    ]
    if matrices:
        optimizers.append(
            torch.optim.Muon(
                matrices,
                lr=settings.learning_rate,
                weight_decay=settings.weight_decay,
                momentum=0.95,
                nesterov=True,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return optimizers


def _is_inner_matrix(name: str, weight: nn.Parameter) -> bool:
    return name.startswith("body.") and weight.ndim == 2


def learning_rate_factor(progress: float, warmup: float, decay: float) -> float:
    """Share of the highest learning rate at `progress` (0 to 1) through the run.

    A straight rise, a plateau, a straight fall to zero (Hägele et al., "Scaling laws and
    compute-optimal training beyond fixed training durations", 2024).
    """
    if progress < warmup:
        return progress / warmup
    if progress > 1 - decay:
        return max(0.0, (1 - progress) / decay)
    return 1.0


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], value: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = value
