"""Operations with passes of their own: the numbers and gradients of the plain forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lmapps.model import fused
from lmapps.model.config import ModelConfig
from lmapps.model.language_model import LanguageModel
from lmapps.model.transformer import rotate

Places = torch.Tensor | None


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def same_with_gradients(
    ours: Callable[..., torch.Tensor], plain: Callable[..., torch.Tensor], *inputs: torch.Tensor
) -> None:
    """Values and gradients in float64, for a gradient that differs from place to place, and whose
    layout is not that of what it is the gradient of."""
    found, expected = ours(*inputs), plain(*inputs)
    upstream = torch.randn(expected.shape, dtype=expected.dtype)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)
    own, theirs = (torch.autograd.grad(out, inputs, upstream) for out in (found, expected))
    for mine, other in zip(own, theirs, strict=True):
        assert torch.allclose(mine, other, rtol=1e-8, atol=1e-10)


def test_rms_norm_is_torchs() -> None:
    def plain(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, weight.shape, weight, 1e-5)

    with torch.no_grad():
        weight, zero = torch.randn(10, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    weight = torch.cat((weight, zero)).requires_grad_()  # of 0 too there is a gradient
    same_with_gradients(lambda x, w: fused.rms_norm(x, w, 1e-5), plain, numbers(3, 5, 11), weight)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
def test_rms_norm_takes_any_layout(order: tuple[int, ...]) -> None:
    same_with_gradients(
        lambda x, w: fused.rms_norm(x.permute(order), w, 1e-5).transpose(0, 1),
        lambda x, w: F.rms_norm(x.permute(order), w.shape, w, 1e-5).transpose(0, 1),
        *(numbers(3, 5, 8), numbers(8)),
    )


@pytest.mark.parametrize("rows", [1, 3])
def test_turned_is_norm_and_rotation(rows: int) -> None:
    half = torch.randn(rows, 1, 5, 4, dtype=torch.float64)
    angles = torch.cat((half, half), -1)
    rotation = (angles.cos(), angles.sin())

    def plain(x: torch.Tensor, *weight: torch.Tensor) -> torch.Tensor:
        normed = F.rms_norm(x, (8,), weight[0], 1e-5) if weight else x
        return rotate(normed.transpose(1, 2), rotation)

    def ours(x: torch.Tensor, *weight: torch.Tensor) -> torch.Tensor:
        return fused.turned(x, weight[0] if weight else None, 1e-5, rotation)

    same_with_gradients(ours, plain, numbers(3, 5, 2, 8), numbers(8))
    same_with_gradients(ours, plain, numbers(3, 5, 2, 8))


@pytest.mark.parametrize("scores", [1, 150, 10**6])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1), (1, 1)])
@pytest.mark.parametrize("is_masked", [False, True])
def test_attention_is_torchs_whatever_is_looked_at_together(
    scores: int, heads: int, kv_heads: int, is_masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "SCORES", scores)
    mask = None
    if is_masked:  # of each row another one; each token sees itself
        mask = (torch.rand(3, 1, 7, 7) < 0.5).tril() | torch.eye(7, dtype=torch.bool)

    def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )

    def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return fused.attention(q, k, v, fused.bias_of(mask, 7, q.dtype))

    pair = numbers(3, kv_heads, 7, 8), numbers(3, 7, kv_heads, 8).transpose(1, 2)
    same_with_gradients(ours, plain, numbers(3, heads, 7, 8), *pair)


def gradients(
    model: LanguageModel, ids: torch.Tensor, places: Places, dtype: torch.dtype, is_fused: bool
) -> tuple[float, torch.Tensor]:
    """The loss, and the gradient of all weights as one vector."""
    model.zero_grad()
    with pytest.MonkeyPatch.context() as patch:
        if not is_fused:
            patch.setattr(fused, "pays", lambda _: False)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(ids, ids.roll(-1, 1), places)
        loss.backward()
    grads: list[Any] = [weight.grad for weight in model.parameters()]
    return loss.item(), torch.cat([grad.flatten().double() for grad in grads])


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_model_has_the_loss_and_the_gradients_of_the_plain_forms(
    qk_norm: bool, kv_heads: int, is_packed: bool
) -> None:
    config = ModelConfig(
        body="transformer", vocab_size=300, embed_size=64, hidden_size=64, num_layers=3,
        num_heads=4, num_kv_heads=kv_heads, context=64, qk_norm=qk_norm, tie_embeddings=True,
    )  # fmt: skip
    model = LanguageModel(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.15)
    ids = torch.randint(300, (3, 64))
    places = torch.cat((torch.arange(24), torch.arange(40))).expand(3, -1) if is_packed else None
    model.double()
    _, exact = gradients(model, ids, places, torch.float64, False)
    model.float()

    def away(dtype: torch.dtype, is_fused: bool) -> tuple[float, float]:
        loss, found = gradients(model, ids, places, dtype, is_fused)
        return loss, float((found - exact).norm() / exact.norm())

    loss, off = away(torch.float32, True)
    assert off < 5e-6 and loss == pytest.approx(away(torch.float32, False)[0], rel=1e-5)
    _, off = away(torch.bfloat16, True)
    assert off < 1.2 * away(torch.bfloat16, False)[1], "no coarser than torch's own"


def test_only_training_on_a_cpu_without_a_compiler_takes_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = torch.zeros(1)
    assert fused.pays(x) and not fused.pays(x.half()) and not fused.pays(x.to("meta"))
    with torch.no_grad():
        assert not fused.pays(x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not fused.pays(x)


def test_long_texts_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "LONGEST", 15)
    monkeypatch.setattr(fused, "attention", None)  # would fail
    model = LanguageModel(
        vocab_size=30, hidden_size=16, num_layers=1, num_heads=2, body="transformer"
    )
    model(torch.zeros(2, 16, dtype=torch.long), torch.zeros(2, 16, dtype=torch.long)).backward()
    with pytest.raises(TypeError):
        model(torch.zeros(2, 15, dtype=torch.long), torch.zeros(2, 15, dtype=torch.long))
