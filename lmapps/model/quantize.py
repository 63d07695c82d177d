"""Weights in fp32 -> rounded to bf16, or to int8 with one scale a row, in memory and on disk.

Symmetric: row = scale x whole numbers from -127 to 127, scale = largest magnitude / 127 (as in
Dettmers et al., LLM.int8(), 2022, without its outliers). The embedding, norms and biases keep
their precision; a tied head is rounded where it is multiplied, not where ids are looked up.

On disk int8 is compressed-tensors' `pack-quantized`: four numbers, each plus 128, in an int32, the
first in its lowest bits. transformers and vLLM read it; the head and the embedding stay in bf16.
Shape legend: O outputs (rows), N inputs.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from lmapps.model.language_model import LanguageModel


def quantize_rows(weight_ON: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 (O, N) and the scale of each row, fp32 (O, 1)."""
    weight_ON = weight_ON.float()
    scale_O1 = weight_ON.abs().amax(1, keepdim=True) / 127
    scale_O1 = torch.where(scale_O1 > 0, scale_O1, 1.0)
    return (weight_ON / scale_O1).round().to(torch.int8), scale_O1


CONFIG: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
            "input_activations": None,
            "output_activations": None,
        }
    },
}
"""`quantization_config` of such a folder."""


def is_readable(config: dict[str, Any]) -> bool:
    """Whether a `quantization_config` describes what `unpack` reads."""
    groups = list(config.get("config_groups", {}).values())
    wanted = CONFIG["config_groups"]["group_0"]["weights"]
    return config.get("format") == "pack-quantized" and all(
        group.get("input_activations") is None
        and all((group.get("weights") or {}).get(key) == wanted[key] for key in wanted)
        for group in groups
    )


def pack(name: str, weight_ON: torch.Tensor) -> dict[str, torch.Tensor]:
    """The three tensors that stand for `name` (which ends in "weight") in a folder."""
    whole_ON, scale_O1 = quantize_rows(weight_ON)
    scale_O1 = scale_O1.to(torch.bfloat16)
    whole_ON = (weight_ON.float() / scale_O1.float()).round().clamp(-127, 127)  # of what is stored
    filled = nn.functional.pad(whole_ON + 128, (0, -weight_ON.shape[1] % 4)).to(torch.uint8)
    return {
        f"{name}_packed": filled.contiguous().view(torch.int32),
        f"{name}_scale": scale_O1,
        f"{name}_shape": torch.tensor(weight_ON.shape, dtype=torch.int64),
    }


def unpack(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors, each packed triple as one fp32 weight. Raises `ValueError`."""
    found = dict(tensors)
    for packed in [name for name in found if name.endswith("weight_packed")]:
        name = packed.removesuffix("_packed")
        parts = [found.pop(f"{name}_{part}", None) for part in ("packed", "scale", "shape")]
        words, scale_O1, shape = parts
        if words is None or scale_O1 is None or shape is None or words.dtype != torch.int32:
            raise ValueError(f"{name} lacks its scale or shape, or is not packed in int32")
        outputs, inputs = shape.tolist()
        if tuple(words.shape) != (outputs, -(-inputs // 4)) or scale_O1.numel() != outputs:
            raise ValueError(f"{name}: packed numbers and scales do not fit {outputs} x {inputs}")
        whole = words.contiguous().view(torch.uint8)[:, :inputs].float() - 128
        found[name] = whole * scale_O1.float().view(-1, 1)
    return found


class Int8Linear(nn.Module):
    """A linear layer whose weights are int8, with a scale for each row: a byte a weight."""

    whole_ON: torch.Tensor
    scale_O: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        whole_ON, scale_O1 = quantize_rows(linear.weight.detach())
        self.register_buffer("whole_ON", whole_ON)
        self.register_buffer("scale_O", scale_O1.flatten())
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As `nn.Linear`: (..., N) -> (..., O), in the precision of x."""
        y = nn.functional.linear(x, self.whole_ON.to(x.dtype)) * self.scale_O.to(x.dtype)
        return y if self.bias is None else y + self.bias


def rounded(model: LanguageModel, weights: str) -> LanguageModel:
    """A copy: all of it in bf16, or with the matrices in int8, which shares the rest with the
    model. A recurrent body's, which torch multiplies itself, stay fp32: whole numbers times a
    scale."""
    if weights == "bfloat16":
        return copy.deepcopy(model).to(torch.bfloat16)
    assert weights == "int8", weights
    model = copy.deepcopy(model, {id(part): part for part in model.parameters()})
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear):
                setattr(parent, name, Int8Linear(child))
            elif isinstance(child, nn.RNNBase):
                setattr(parent, name, _rounded_cells(child))
    return model


def _rounded_cells(recurrent: nn.RNNBase) -> nn.RNNBase:
    recurrent = copy.deepcopy(recurrent)
    with torch.no_grad():
        for name, parameter in recurrent.named_parameters():
            if name.startswith("weight_"):
                whole_ON, scale_O1 = quantize_rows(parameter)
                parameter.copy_(whole_ON * scale_O1)
    return recurrent


def release_matrices(model: LanguageModel) -> None:
    """Give back the memory of all matrices but the embedding, of a model that something else
    computes with: it can tell its shape afterwards, and compute nothing."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and not name.startswith("embedding."):
            parameter.data = parameter.data.new_empty(0)
