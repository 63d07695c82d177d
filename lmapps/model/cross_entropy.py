"""Hidden vectors, the linear layer and targets -> the summed loss, a chunk of rows at a time.

The logits of a batch are its largest tensor: rows x vocabulary. Here they exist for one chunk
only, and their gradient is taken on the spot, so that neither the forward nor the backward pass
holds them all (the idea of Wijmans et al., "Cut your losses", 2024, in plain torch).
Shape legend: R rows (positions of all sequences), H hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

CHUNK_ELEMENTS = 1 << 22
"""Logits in one chunk: 16 MB in fp32."""
GPU_CHUNKS = 16
"""A GPU takes chunks so many times as large: smaller products would not fill it."""


def chunk_rows(vocab_size: int, device: torch.device) -> int:
    """Rows of logits that are there at a time."""
    elements = CHUNK_ELEMENTS * (GPU_CHUNKS if device.type == "cuda" else 1)
    return max(1, elements // vocab_size)


def linear_cross_entropy(
    hidden_RH: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    targets_R: torch.Tensor,
) -> torch.Tensor:
    """Sum over rows of -log softmax(W h + b)[target]; targets of -100 do not count. fp32."""
    if torch.is_autocast_enabled(hidden_RH.device.type):
        dtype = torch.get_autocast_dtype(hidden_RH.device.type)
    else:
        dtype = hidden_RH.dtype
    function: Any = _LinearCrossEntropy.apply
    loss: torch.Tensor = function(hidden_RH, weight_VH, bias_V, targets_R, dtype)
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_RH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_R: torch.Tensor,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        weight, rows = weight_VH.to(dtype), chunk_rows(weight_VH.shape[0], hidden_RH.device)
        with_gradient = any(ctx.needs_input_grad)
        total = torch.zeros((), dtype=torch.float32, device=hidden_RH.device)
        d_hidden = torch.empty_like(hidden_RH) if with_gradient else None
        d_weight = torch.zeros_like(weight_VH, dtype=torch.float32) if with_gradient else None
        d_bias = torch.zeros_like(bias_V) if with_gradient and bias_V is not None else None
        for start in range(0, hidden_RH.shape[0], rows):
            piece = slice(start, start + rows)
            hidden, targets = hidden_RH[piece].to(dtype), targets_R[piece]
            logits = hidden @ weight.t()
            if bias_V is not None:
                logits = logits + bias_V
            counted, places = targets != -100, targets.clamp(min=0)[:, None]
            # By hand, since log_softmax, its exponentials and what makes gradients of them take
            # half as many passes again over what is the largest tensor of all.
            wide = torch.promote_types(dtype, torch.float32)
            highest = logits.amax(-1, keepdim=True).to(wide)
            chosen = logits.gather(-1, places) - highest
            weights = (logits - highest).exp_()
            sums = weights.sum(-1, keepdim=True)
            total += ((sums.log() - chosen)[:, 0] * counted).sum()
            if d_hidden is None or d_weight is None:
                continue
            d_logits = torch.mul(weights, counted[:, None] / sums, out=torch.empty_like(logits))
            d_logits.scatter_(-1, places, ((chosen.exp() / sums - 1) * counted[:, None]).to(dtype))
            if d_bias is not None:
                d_bias += d_logits.sum(0)
            d_hidden[piece] = d_logits @ weight
            d_weight += d_logits.t() @ hidden
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        d_hidden, d_weight, d_bias = ctx.saved_tensors
        scale = upstream[0]
        return (
            d_hidden * scale.to(d_hidden.dtype),
            d_weight * scale,
            None if d_bias is None else d_bias * scale,
            None,
            None,
        )
