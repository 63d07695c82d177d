"""A layer's cheap operations with forward and backward passes of their own, for a CPU in training.

Eager torch reads and writes memory for every sign of a formula, and autograd keeps what stood in
between: on a CPU that took as long as the matrix products. Here each operation keeps its inputs,
and takes as few passes as torch's own calls allow. A compiler does better, so it sees the plain
forms; so does whoever needs no gradient. The numbers are those of the plain forms, up to rounding.
Shape legend: B rows, T positions, N query heads, K key-value heads, D head width, H hidden width.
"""

from __future__ import annotations

from typing import Any

import torch

SCORES = 1 << 21
"""So many scores of attention are there at a time: of bf16 4 MB, which a core's cache takes."""
LONGEST = 512
"""Longer texts are left to torch's own attention, which then is the faster one."""
_LAID = torch.contiguous_format


def pays(x: torch.Tensor) -> bool:
    """Whether the operations here are the faster ones for what is computed from `x`."""
    return (
        x.device.type == "cpu"
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and x.dtype in (torch.float32, torch.bfloat16, torch.float64)
    )


def compute_dtype(x: torch.Tensor) -> torch.dtype:
    """What a linear layer multiplies in."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def rms_norm(x: torch.Tensor, weight_H: torch.Tensor, epsilon: float) -> torch.Tensor:
    """RMSNorm over the last dimension, in what the linear layers behind it multiply in: so it is
    rounded once, and not by each of them."""
    function: Any = _RMSNorm.apply
    normed: torch.Tensor = function(x, weight_H, epsilon, compute_dtype(x))
    return normed


def turned(
    x_BTND: torch.Tensor,
    weight_D: torch.Tensor | None,
    epsilon: float,
    rotation: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Queries or keys, RMSNorm where there is a weight, turned by their positions' angles,
    (B, N, T, D); rotation: cosines and sines, (1 or B, 1, T, D)."""
    function: Any = _Turned.apply
    cos_BTND, sin_BTND = (part.transpose(1, 2) for part in rotation)
    out: torch.Tensor = function(x_BTND, weight_D, epsilon, cos_BTND, sin_BTND)
    return out


def attention(
    q_BNTD: torch.Tensor, k_BKTD: torch.Tensor, v_BKTD: torch.Tensor, bias_BTT: torch.Tensor
) -> torch.Tensor:
    """softmax(q k / sqrt(D) + bias) v, (B, N, T, D); the bias, (1 or B, T, T), is minus infinity
    where a token is not seen. Scores are rounded to the dtype of q, as each probability is."""
    function: Any = _Attention.apply
    out: torch.Tensor = function(*(x.contiguous() for x in (q_BNTD, k_BKTD, v_BKTD)), bias_BTT)
    return out


def bias_of(mask: torch.Tensor | None, tokens: int, dtype: torch.dtype) -> torch.Tensor:
    """The bias for a mask (B, 1, T, T) that is true where a token is seen; None = those before."""
    if mask is None:
        return torch.full((1, tokens, tokens), float("-inf"), dtype=dtype).triu_(1)
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, float("-inf"))[:, 0]


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _inverse_rms(x: torch.Tensor, epsilon: float) -> torch.Tensor:
    """(..., 1); one pass."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()


def _norm_backward(
    d_out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of x * scale * weight, scale = 1 / rms(x), for x and the weight."""
    width = x.shape[-1]
    product = (d_out * x).reshape(-1, width)
    d_weight = torch.mv(product.t(), scale.reshape(-1))
    along = torch.mv(product, weight).reshape(scale.shape).mul_(scale.pow(3)).div_(width)
    d_x = (d_out * weight).mul_(scale).addcmul_(x, along, value=-1)
    return d_x, d_weight


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float, dtype: torch.dtype
    ) -> torch.Tensor:
        wide = _wide(x)
        scale = _inverse_rms(wide, epsilon)
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        d_x, d_weight = _norm_backward(_wide(upstream[0]), _wide(x), _wide(weight), scale)
        return d_x.to(x.dtype), d_weight.to(weight.dtype), None, None


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        epsilon: float,
        cos: torch.Tensor,
        sin: torch.Tensor,
    ) -> torch.Tensor:
        wide, scale = _wide(x), None
        if weight is not None:
            scale = _inverse_rms(wide, epsilon)
            wide = (wide * scale).mul_(weight)
        ctx.save_for_backward(x, weight, scale, cos, sin)
        out_BNTD = torch.empty_like(x.transpose(1, 2), memory_format=_LAID)
        return out_BNTD.copy_(_turn(wide, cos, sin, 1).transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, scale, cos, sin = ctx.saved_tensors
        d_out = torch.empty(x.shape, dtype=cos.dtype).copy_(upstream[0].transpose(1, 2))
        d_x, d_weight = _turn(d_out, cos, sin, -1), None
        if weight is not None:
            d_x, d_weight = _norm_backward(d_x, _wide(x), _wide(weight), scale)
            d_weight = d_weight.to(weight.dtype)
        return d_x.to(x.dtype), d_weight, None, None, None


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, way: int) -> torch.Tensor:
    """Each pair (i, i + D/2) by its angle, or, where `way` is -1, back by it."""
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-way)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:], value=way)
    return out


class _Attention(torch.autograd.Function):
    """The probabilities of some heads of one row at a time, in both passes: nobody keeps them."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(q, k, v, bias)
        out_BTND, room = torch.empty_like(q.transpose(1, 2), memory_format=_LAID), _Scores(q, k)
        for row, keys, queries in room.pieces:
            p = room.probabilities(q[row, queries], k[row, keys], bias[row % len(bias)])
            out = torch.bmm(p, v[row, keys]).view(-1, *q.shape[2:])
            out_BTND[row, :, queries] = out.transpose(0, 1)
        return out_BTND.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, bias = ctx.saved_tensors
        d_out = upstream[0].contiguous()
        d_q, d_k, d_v = (torch.empty_like(x) for x in (q, k, v))
        room = _Scores(q, k)
        for row, keys, queries in room.pieces:
            own_q, own_k, own_v = q[row, queries], k[row, keys], v[row, keys]
            p = room.probabilities(own_q, own_k, bias[row % len(bias)])
            d_own = room.together(d_out[row, queries])
            torch.bmm(p.transpose(1, 2), d_own, out=d_v[row, keys])
            d_p = torch.bmm(d_own, own_v.transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_p, p, -1, p.dtype).mul_(room.scale)
            torch.bmm(d_scores, own_k, out=room.together(d_q[row, queries]))
            torch.bmm(d_scores.transpose(1, 2), room.together(own_q), out=d_k[row, keys])
        return d_q, d_k, d_v, None


class _Scores:
    """Which heads are looked at together. The query heads of one key-value head stand one behind
    the other, as if they were tokens of one head, (heads, group x T, D): no key is repeated."""

    def __init__(self, q_BNTD: torch.Tensor, k_BKTD: torch.Tensor) -> None:
        rows, queries, self.tokens, width = q_BNTD.shape
        heads = k_BKTD.shape[1]
        self.group, self.scale = queries // heads, width**-0.5
        some = max(1, min(heads, SCORES // (self.group * self.tokens**2)))
        self.pieces = [
            (row, slice(at, at + some), slice(at * self.group, (at + some) * self.group))
            for row in range(rows)
            for at in range(0, heads, some)
        ]

    def together(self, x_NTD: torch.Tensor) -> torch.Tensor:
        return x_NTD.view(-1, self.group * self.tokens, x_NTD.shape[-1])

    def probabilities(
        self, q_NTD: torch.Tensor, k_KTD: torch.Tensor, bias_TT: torch.Tensor
    ) -> torch.Tensor:
        scores = torch.bmm(self.together(q_NTD), k_KTD.transpose(1, 2)).mul_(self.scale)
        scores.view(-1, self.tokens, self.tokens).add_(bias_TT)
        return torch.softmax(scores, -1)
