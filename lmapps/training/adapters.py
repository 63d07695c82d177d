"""A checkpoint -> the same model with low-rank adapters to train, and their sum as plain weights.

LoRA: Hu et al., 2021, by the package `peft` (extra `lora`). W x becomes W x + (alpha / r) B A x, W
being fixed; B starts as zero, so that training starts from the model as it was. Saved weights are
W + (alpha / r) B A: nobody who loads them needs to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lmapps.errors import SettingsError
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.language_model import LanguageModel
from lmapps.training.settings import TrainSettings

ADAPTED = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""All matrices of a Transformer's layers (Dettmers et al., QLoRA, 2023, section 4)."""
ALPHA = 2
"""Times the rank."""


def add_adapters(settings: TrainSettings) -> LanguageModel:
    """The model of `start_from` with fixed weights and adapters in its layers.

    Raises `SettingsError` for a recurrent model, or where peft is not installed.
    """
    model = Checkpoint.load(settings.start_from).model
    if model.config.body != "transformer":
        raise SettingsError(
            f"--lora adapts the layers of a transformer, {settings.start_from} is a "
            f"{model.config.body}: leave it out to train all weights"
        )
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise SettingsError("--lora needs peft: pip install 'lmapps[lora]'") from None
    torch.manual_seed(settings.seed)
    config = LoraConfig(
        r=settings.lora,
        lora_alpha=ALPHA * settings.lora,
        lora_dropout=settings.dropout,
        target_modules=ADAPTED,
    )
    adapted: Any = inject_adapter_in_model(config, model)
    return adapted


def merge_adapters(adapted: torch.nn.Module, whole: Mapping[str, torch.Tensor]) -> None:
    """Write W + (alpha / r) B A of each adapted matrix into the plain weights of that name."""
    for name, layer in adapted.named_modules():
        if hasattr(layer, "get_delta_weight"):
            target = whole[name.removeprefix("module.") + ".weight"]
            target.copy_(layer.base_layer.weight + layer.get_delta_weight("default"))


def adapters_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The adapters' own weights, which resuming needs; empty where there are none."""
    return {
        name.removeprefix("module."): weight.detach()
        for name, weight in model.named_parameters()
        if ".lora_" in name
    }
