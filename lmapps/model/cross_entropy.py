"""Hidden vectors, the linear layer and targets -> the summed loss, a chunk of rows at a time.

The logits of a batch are its largest tensor: rows x vocabulary. Here they exist for one chunk
only, and their gradient is taken on the spot, so that neither the forward nor the backward pass
holds them all (the idea of Wijmans et al., "Cut your losses", 2024, in plain torch).
Shape legend: R rows (positions of all sequences), H hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

from lmapps.model.fused import compute_dtype

CHUNK_ELEMENTS = 1 << 24
"""Logits in one chunk: 32 MB in bf16."""
PIECE_ELEMENTS = 1 << 21
"""Of these so many have their exponentials in fp32 at a time: 8 MB, near a CPU's cache."""
GPU_CHUNKS = 4
"""A GPU takes chunks so many times as large, in one piece: smaller products would not fill it."""


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
    function: Any = _LinearCrossEntropy.apply
    with_gradient = torch.is_grad_enabled()  # in the function itself it never is
    loss: torch.Tensor = function(
        hidden_RH, weight_VH, bias_V, targets_R, compute_dtype(hidden_RH), with_gradient
    )
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
        with_gradient: bool,
    ) -> torch.Tensor:
        weight, rows = weight_VH.to(dtype), chunk_rows(weight_VH.shape[0], hidden_RH.device)
        needs = ctx.needs_input_grad if with_gradient else (False,) * 3
        needs_hidden, needs_weight, needs_bias = needs[:3]
        with_gradient = needs_hidden or needs_weight or needs_bias
        total = torch.zeros((), dtype=torch.float32, device=hidden_RH.device)
        d_hidden = torch.empty_like(hidden_RH) if needs_hidden else None
        d_weight = torch.zeros_like(weight_VH, dtype=torch.float32) if needs_weight else None
        d_bias = torch.zeros_like(bias_V) if needs_bias and bias_V is not None else None
        for start in range(0, hidden_RH.shape[0], rows):
            chunk = slice(start, start + rows)
            hidden = hidden_RH[chunk].to(dtype)
            logits = hidden @ weight.t()
            total += _losses(logits, bias_V, targets_R[chunk], with_gradient)
            d_logits = logits  # where one was asked for
            if d_bias is not None:
                d_bias += d_logits.sum(0, dtype=d_bias.dtype)
            if d_hidden is not None:
                d_hidden[chunk] = d_logits @ weight
            if d_weight is not None:
                d_weight += d_logits.t() @ hidden
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scale = upstream[0]  # in fp32 for all three: a number makes no tensor of bf16 wider
        scaled = (None if part is None else part * scale for part in ctx.saved_tensors)
        return (*scaled, None, None, None)


def _losses(
    logits_RV: torch.Tensor,
    bias_V: torch.Tensor | None,
    targets_R: torch.Tensor,
    with_gradient: bool,
) -> torch.Tensor:
    """Their sum; and, where asked for, their gradients in the place of the logits.

    By hand, since log_softmax, its exponentials and what makes gradients of them take half as many
    passes again over what is the largest tensor of all.
    """
    total = torch.zeros((), dtype=torch.float32, device=logits_RV.device)
    wide = torch.promote_types(logits_RV.dtype, torch.float32)
    rows = len(logits_RV)
    if logits_RV.device.type == "cpu":
        rows = max(1, PIECE_ELEMENTS // logits_RV.shape[1])
    room = torch.empty(rows, logits_RV.shape[1], dtype=wide, device=logits_RV.device)
    for start in range(0, len(logits_RV), rows):
        logits, targets = logits_RV[start : start + rows], targets_R[start : start + rows]
        counted, places = (targets != -100)[:, None], targets.clamp(min=0)[:, None]
        weights = room[: len(logits)].copy_(logits)
        if bias_V is not None:
            weights += bias_V
        weights -= weights.amax(-1, keepdim=True)
        chosen = weights.gather(-1, places)
        sums = weights.exp_().sum(-1, keepdim=True)
        total += ((sums.log() - chosen) * counted).sum()
        if with_gradient:
            logits.copy_(weights.mul_(counted / sums))
            of_targets = (chosen.exp() / sums - 1) * counted
            logits.scatter_(-1, places, of_targets.to(logits.dtype))
    return total
