"""A model in training -> the same, its forward and backward pass compiled by `torch.compile`.

Only the call with targets is compiled. Evaluation and the engine use the model's parts, in shapes
of their own, and stay as they are; names of weights and what is saved do not change.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator

from lmapps.errors import SettingsError
from lmapps.model.language_model import LanguageModel
from lmapps.training.settings import TrainSettings

BACKEND = "inductor"


def compile_training(
    prepared: Any, model: LanguageModel, settings: TrainSettings, accelerator: Accelerator
) -> None:
    """In place, where the settings ask for it, or leave it to us and it pays."""
    if is_compiled(settings, model.config.body):
        accelerator.unwrap_model(prepared).compile(backend=BACKEND)


def is_compiled(settings: TrainSettings, body: str) -> bool:
    """As the settings say; `auto` is a transformer on a GPU that the compiler knows. On a CPU the
    first step takes a minute longer. Raises `SettingsError` for what cannot be compiled."""
    if settings.compile == "no":
        return False
    if settings.compile == "auto":
        is_possible = body == "transformer" and not settings.shard and torch.cuda.is_available()
        return is_possible and _knows_gpu()
    if body != "transformer":
        raise SettingsError(
            f"--compile yes is for transformers; a {body} is one call of its own: leave it out"
        )
    if settings.shard:
        raise SettingsError("give one of --compile yes and --shard")
    return True


def _knows_gpu() -> bool:
    from torch.utils._triton import has_triton

    return bool(has_triton())
