"""A plain GPT and its training loop in the style of nanoGPT: the yardstick of the benchmarks.

Learned positions, LayerNorm, GELU, one matrix for queries, keys and values, the whole logits in
one cross-entropy, fused AdamW under a warm-up and a cosine, bf16 autocast. Written for the
comparison; nothing in lmapps uses it. Shape legend: B rows, T positions, H width, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn


class GPT(nn.Module):
    """Ids (B, T) and targets (B, T) -> mean loss of the targets that are not -100."""

    def __init__(self, vocab: int, width: int, layers: int, heads: int, context: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab, width)
        self.places = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                deep = name.endswith(("attention_out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * layers) if deep else 0.02)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        logits = self.norm(x) @ self.tokens.weight.t()
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = (nn.LayerNorm(width, bias=False) for _ in range(2))
        self.attention_in = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, H = x.shape
        q, k, v = (
            part.view(B, T, self.heads, -1).transpose(1, 2)
            for part in self.attention_in(self.norm_1(x)).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention_out(mixed.transpose(1, 2).reshape(B, T, H))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


def train(
    model: nn.Module,
    batch: Callable[[int], Iterator[tuple[torch.Tensor, torch.Tensor]]],
    steps: int,
    learning_rate: float,
    device: str,
) -> list[float]:
    """`batch(step)` gives the micro-batches of a step. Returns the time at the end of each."""
    matrices = [weight for weight in model.parameters() if weight.ndim >= 2]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": 0.1},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    ends = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _cosine(step, steps)
        micro_batches = list(batch(step))
        for ids, targets in micro_batches:
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = model(ids.to(device), targets.to(device)) / len(micro_batches)
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()
        ends.append(time.perf_counter())
    return ends


def _cosine(step: int, steps: int) -> float:
    """A warm-up over 2% of the run, then a cosine to a tenth."""
    warmup = max(1, steps // 50)
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * share))
