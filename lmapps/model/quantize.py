"""Weights in fp32 -> rounded to bf16, or to int8 with one scale a row: a quarter of the bytes.

Symmetric: row = scale x whole numbers from -127 to 127, scale = largest magnitude / 127 (as in
Dettmers et al., LLM.int8(), 2022, without its outliers). The embedding, norms and biases keep
their precision; a tied head is rounded where it is multiplied, not where ids are looked up.
Shape legend: O outputs (rows), N inputs.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from lmapps.model.language_model import LanguageModel


def quantize_rows(weight_ON: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 (O, N) and the scale of each row, fp32 (O, 1)."""
    weight_ON = weight_ON.float()
    scale_O1 = weight_ON.abs().amax(1, keepdim=True) / 127
    scale_O1 = torch.where(scale_O1 > 0, scale_O1, 1.0)
    return (weight_ON / scale_O1).round().to(torch.int8), scale_O1


def rounded(model: LanguageModel, weights: str) -> LanguageModel:
    """A copy: all of it in bf16, or in fp32 with matrices that are exactly int8 times a scale."""
    model = copy.deepcopy(model)
    if weights == "bfloat16":
        return model.to(torch.bfloat16)
    assert weights == "int8", weights
    model.head.weight = nn.Parameter(model.head.weight.detach().clone())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_matrix = parameter.dim() == 2 and not name.startswith("embedding.")
            if is_matrix:
                whole, scale = quantize_rows(parameter)
                parameter.copy_(whole * scale)
    return model
