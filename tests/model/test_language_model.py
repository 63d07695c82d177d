"""The model itself: shapes of equal size, the recurrence of the article, the loss, one state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lmapps.errors import SettingsError
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.config import BODIES, SIZES, ModelConfig
from lmapps.model.cross_entropy import linear_cross_entropy
from lmapps.model.language_model import LanguageModel
from lmapps.model.transformer import attend


@pytest.mark.parametrize("size", SIZES)
def test_every_body_of_a_size_has_about_as_many_parameters(size: str) -> None:
    configs = [ModelConfig.from_size(size, body=body, vocab_size=8192) for body in BODIES]
    counts = [config.parameters for config in configs]
    assert max(counts) / min(counts) < 1.05, dict(zip(BODIES, counts, strict=True))


@pytest.mark.parametrize("width", [64, 160, 192, 320, 384])
def test_every_width_in_steps_of_32_has_heads_that_fit(width: int) -> None:
    config = ModelConfig.from_size("tiny", width=width)
    assert config.num_heads % config.num_kv_heads == 0
    assert config.num_heads * config.head_size == width


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("tied", [True, False])
def test_the_counted_parameters_are_those_of_the_model(body: str, tied: bool) -> None:
    config = ModelConfig(
        body=body, vocab_size=97, embed_size=64, hidden_size=64, num_layers=3, qk_norm=True,
        tie_embeddings=tied,
    )  # fmt: skip
    counted = sum(weight.numel() for weight in LanguageModel(config).parameters())
    assert counted == config.parameters


def test_the_plain_recurrence_is_the_one_of_the_article() -> None:
    torch.manual_seed(0)
    model = LanguageModel(vocab_size=11, embed_size=5, hidden_size=7, num_layers=1)
    recurrent = model.body.recurrent
    ids = torch.randint(11, (6,))
    h, outputs = torch.zeros(7), []
    for x in model.embedding(ids):
        bias = recurrent.bias_ih_l0 + recurrent.bias_hh_l0
        h = torch.tanh(recurrent.weight_hh_l0 @ h + recurrent.weight_ih_l0 @ x + bias)
        outputs.append(model.head.weight @ h + model.head.bias)
    torch.testing.assert_close(model(ids[None])[0], torch.stack(outputs))


@pytest.mark.parametrize("body", BODIES)
def test_the_classic_loop_learns_a_text_by_heart(body: str) -> None:
    torch.manual_seed(0)
    model = LanguageModel(vocab_size=12, embed_size=32, hidden_size=32, num_layers=1, body=body)
    ids = torch.randint(12, (4, 17))
    criterion, optimizer = nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        out = model(ids[:, :-1])
        loss = criterion(out.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.5 and losses[-1] < 0.7, losses[::20]


@pytest.mark.parametrize("body", BODIES)
def test_reading_in_pieces_through_a_state_gives_the_logits_of_the_whole(
    body: str, tiny_checkpoint: Callable[[str], Checkpoint]
) -> None:
    model = tiny_checkpoint(body).model
    ids = torch.randint(model.config.vocab_size, (3, 24))
    state, pieces = model.new_state(3), []
    with torch.inference_mode():
        for low, high in ((0, 10), (10, 11), (11, 24)):
            logits, state = model.step(ids[:, low:high], state, last_only=False)
            pieces.append(logits)
        whole = model(ids)
    assert state.lengths.tolist() == [24, 24, 24]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_the_chunked_loss_and_its_gradients_are_those_of_the_whole(
    bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmapps.model.cross_entropy.CHUNK_ELEMENTS", 100)  # 4 rows a chunk
    torch.manual_seed(0)
    hidden, weight, offset = torch.randn(10, 6), torch.randn(25, 6), torch.randn(25)
    targets = torch.randint(25, (10,))
    targets[3] = targets[9] = -100
    taken = [hidden, weight, *([offset] if bias else [])]
    for tensor in taken:
        tensor.requires_grad_()
    ours = linear_cross_entropy(hidden, weight, offset if bias else None, targets)
    plain = F.cross_entropy(
        F.linear(hidden, weight, offset if bias else None), targets, reduction="sum"
    )
    torch.testing.assert_close(ours, plain)
    for mine, theirs in zip(
        torch.autograd.grad(ours * 0.5, taken), torch.autograd.grad(plain * 0.5, taken), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("trained", ["hidden", "weight", "bias", "nothing", "all"])
def test_gradients_that_nobody_wants_are_not_computed(
    monkeypatch: pytest.MonkeyPatch, trained: str
) -> None:
    """As of a frozen head below an adapter, or where a model is scored."""
    torch.manual_seed(0)
    given = {"hidden": torch.randn(10, 6), "weight": torch.randn(25, 6), "bias": torch.randn(25)}
    for name, tensor in given.items():
        tensor.requires_grad_(trained in (name, "all", "nothing"))
    kept = list[Any]()
    keep = torch.autograd.function.FunctionCtx.save_for_backward
    monkeypatch.setattr(
        torch.autograd.function.FunctionCtx,
        "save_for_backward",
        lambda ctx, *tensors: (kept.extend(tensors), keep(ctx, *tensors)),
    )
    targets = torch.randint(25, (10,))
    with torch.set_grad_enabled(trained != "nothing"):
        loss = linear_cross_entropy(given["hidden"], given["weight"], given["bias"], targets)
        plain = F.cross_entropy(F.linear(*given.values()), targets, reduction="sum")
    torch.testing.assert_close(loss, plain)
    assert [part is not None for part in kept] == [trained in (n, "all") for n in given]
    if trained != "nothing":
        wanted = [tensor for tensor in given.values() if tensor.requires_grad]
        for mine, theirs in zip(
            torch.autograd.grad(loss, wanted), torch.autograd.grad(plain, wanted), strict=True
        ):
            torch.testing.assert_close(mine, theirs)


def test_body_and_head_have_their_gradients_scaled_by_the_same_number() -> None:
    """1 / 12,289 in bf16 would be 0.2% off, for the body alone."""
    hidden = torch.randn(10, 64, dtype=torch.bfloat16).requires_grad_()
    weight = torch.randn(25, 64, dtype=torch.bfloat16).requires_grad_()
    targets = torch.randint(25, (10,))
    whole, part = (
        torch.autograd.grad(linear_cross_entropy(hidden, weight, None, targets) / n, hidden)[0]
        for n in (1, 12_289)
    )
    ratio = (part.double() * 12_289).norm() / whole.double().norm()
    assert abs(float(ratio) - 1) < 5e-4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"body": "cnn"}, "got 'cnn'"),
        ({"vocab_size": 0}, "vocab_size must be a whole number above 0, got 0"),
        ({"body": "transformer", "embed_size": 8, "hidden_size": 16}, "must be equal"),
        ({"body": "transformer", "embed_size": 256, "num_heads": 4, "num_kv_heads": 3}, "multiple"),
        ({"dropout": 1.0}, "below 1, got 1.0"),
    ],
)
def test_a_shape_that_does_not_fit_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ModelConfig(**values)  # type: ignore[arg-type]


def test_a_cache_is_attended_to_by_kernels_that_lay_heads_behind_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a GPU's memory-efficient attention does: its output is no view of (B, N, T, D)."""
    q, k, v = torch.randn(2, 4, 1, 8), torch.randn(2, 2, 9, 8), torch.randn(2, 2, 9, 8)
    laid = torch.ops.aten._scaled_dot_product_efficient_attention(
        torch.empty(2, 2, 2, 8, device="meta"), *(x.to("meta") for x in (k, v)), None, False
    )[0].stride()
    expected = attend(q, k, v, None)
    plain: Any = F.scaled_dot_product_attention

    def as_on_a_gpu(*given: Any, **more: Any) -> torch.Tensor:
        out = plain(*given, **more)
        return torch.empty_strided(out.shape, laid).copy_(out)

    monkeypatch.setattr(F, "scaled_dot_product_attention", as_on_a_gpu)
    torch.testing.assert_close(attend(q, k, v, None), expected)
