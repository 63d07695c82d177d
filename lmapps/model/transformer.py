"""Embedded tokens and a key-value cache -> outputs: a Transformer of the Llama family.

RMSNorm (Zhang and Sennrich, 2019), rotary positions (Su et al., 2021), grouped-query attention
(Ainslie et al., 2023), SwiGLU (Shazeer, 2020), and, where chosen, RMSNorm on queries and keys
(Henry et al., 2020; as Qwen3 does it). Names inside a layer are those of Hugging Face's Llama, so
that a checkpoint is read by both. Shape legend: B rows, T positions, S places in the cache,
N query heads, K key-value heads, D head width, H hidden width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from lmapps.model import fused
from lmapps.model.config import ModelConfig
from lmapps.model.state import KeyValueCache, Reach

Rotation = tuple[torch.Tensor, torch.Tensor]


class Positions:
    """Where the new tokens of each row stand, worked out once for all layers.

    mask         (B, 1, T, S): which tokens each one sees; None where it is all, or those before it
    places_BT    where keys and values are written, with a state
    span         so many places of the cache are read
    """

    def __init__(self, config: ModelConfig, places_BT: torch.Tensor) -> None:
        device = places_BT.device
        half = torch.arange(0, config.head_size, 2, dtype=torch.float32, device=device)
        frequencies = 1.0 / config.rope_theta ** (half / config.head_size)
        angles = places_BT[:, :, None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)[:, None]  # (B, 1, T, D)
        self.rotation: Rotation = (angles.cos(), angles.sin())
        self.mask: torch.Tensor | None = None
        self._bias: torch.Tensor | None = None
        self.places_BT = places_BT
        self.rows_B1 = places_BT[:, :1]
        self.span, self.aligned = 0, False

    @classmethod
    def of_text(
        cls, config: ModelConfig, T: int, device: torch.device, places_BT: torch.Tensor | None
    ) -> Positions:
        """Without a state: each row one text, or those that `places_BT` tells apart."""
        steps_T = torch.arange(T, device=device)
        if places_BT is None:
            return cls(config, steps_T[None])
        positions = cls(config, places_BT)
        texts_BT = (places_BT == 0).cumsum(1)
        own_BTS = texts_BT[:, :, None] == texts_BT[:, None, :]
        positions.mask = (own_BTS & (steps_T <= steps_T[:, None]))[:, None]
        return positions

    @classmethod
    def in_state(
        cls, config: ModelConfig, T: int, device: torch.device, state: KeyValueCache
    ) -> Positions:
        """After the tokens that each row has seen, as far as the longest row."""
        span = int(state.lengths.max()) + T
        assert span <= state.capacity, f"{span} tokens in a state of {state.capacity}"
        aligned = bool((state.lengths == state.lengths[0]).all())
        reach = Reach(state.lengths.to(device), span)
        positions = cls.within(config, T, reach)
        positions.aligned = aligned
        if T == 1 and aligned:
            positions.mask = None
        return positions

    @classmethod
    def within(cls, config: ModelConfig, T: int, reach: Reach) -> Positions:
        """The same with nothing that the host must know but the shapes."""
        device = reach.lengths_B.device
        positions = cls(config, reach.lengths_B[:, None] + torch.arange(T, device=device))
        keys_S = torch.arange(reach.span, device=device)
        positions.mask = (keys_S <= positions.places_BT[:, :, None])[:, None]
        positions.rows_B1 = torch.arange(len(reach.lengths_B), device=device)[:, None]
        positions.span = reach.span
        return positions

    def bias(self, tokens: int, dtype: torch.dtype) -> torch.Tensor:
        """The mask as numbers to add to scores, (1 or B, T, T)."""
        if self._bias is None:
            self._bias = fused.bias_of(self.mask, tokens, dtype)
        return self._bias


class RMSNorm(nn.RMSNorm):
    """Torch's; in training on a CPU with passes of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if fused.pays(x):
            return fused.rms_norm(x, self.weight, self.eps or 0.0)
        return super().forward(x)


class TransformerBody(nn.Module):
    """Layers of attention and feed-forward, each around a residual stream, and a last norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Layer(config, n) for n in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.norm_eps)

    def forward(
        self,
        x_BTH: torch.Tensor,
        state: KeyValueCache | None = None,
        places_BT: torch.Tensor | None = None,
        reach: Reach | None = None,
    ) -> torch.Tensor:
        """Outputs (B, T, H). A state is read and written in place; with a `reach` its lengths are
        neither, so that the work depends on nothing but shapes.

        Without a state, `places_BT` says where each token stands in its own text; a 0 begins one
        that sees nothing of the text before it in the row.
        """
        T, device = x_BTH.shape[1], x_BTH.device
        if state is None:
            positions = Positions.of_text(self.config, T, device, places_BT)
        elif reach is None:
            positions = Positions.in_state(self.config, T, device, state)
        else:
            positions = Positions.within(self.config, T, reach)
        for layer in self.layers:
            x_BTH = layer(x_BTH, positions, state)
        if state is not None and reach is None:
            state.lengths += T
        return self.norm(x_BTH)

    def new_state(self, batch: int, capacity: int) -> KeyValueCache:
        """An empty cache of `capacity` tokens for each of `batch` rows."""
        config, weight = self.config, self.norm.weight
        shape = (batch, config.num_kv_heads, capacity, config.head_size)
        layers = [
            tuple(torch.zeros(shape, dtype=weight.dtype, device=weight.device) for _ in range(2))
            for _ in range(config.num_layers)
        ]
        return KeyValueCache(layers, torch.zeros(batch, dtype=torch.int64), capacity)


class Layer(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: ModelConfig, number: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.self_attn = Attention(config, number)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.mlp = SwiGLU(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x_BTH: torch.Tensor, positions: Positions, state: KeyValueCache | None
    ) -> torch.Tensor:
        attended = self.self_attn(self.input_layernorm(x_BTH), positions, state)
        x_BTH = x_BTH + self.dropout(attended)
        return x_BTH + self.dropout(self.mlp(self.post_attention_layernorm(x_BTH)))


class Attention(nn.Module):
    """Grouped-query attention: N query heads share K key-value heads."""

    def __init__(self, config: ModelConfig, number: int) -> None:
        super().__init__()
        self.number, self.head_size, self.norm_eps = number, config.head_size, config.norm_eps
        queries, keys = (
            heads * config.head_size for heads in (config.num_heads, config.num_kv_heads)
        )
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)
        self.grouped = config.num_heads != config.num_kv_heads
        self.q_norm = RMSNorm(config.head_size, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_size, config.norm_eps) if config.qk_norm else None

    def forward(
        self, x_BTH: torch.Tensor, positions: Positions, state: KeyValueCache | None
    ) -> torch.Tensor:
        B, T, _ = x_BTH.shape
        heads = (B, T, -1, self.head_size)
        q_BTND, k_BTKD = self.q_proj(x_BTH).view(heads), self.k_proj(x_BTH).view(heads)
        v_BKTD = self.v_proj(x_BTH).view(heads).transpose(1, 2)
        q_BNTD = self._turned(q_BTND, self.q_norm, positions)
        k_BKTD = self._turned(k_BTKD, self.k_norm, positions)
        if state is not None:
            k_BKTD, v_BKTD = self._remember(k_BKTD, v_BKTD, positions, state)
            out_BNTD = attend(q_BNTD.to(v_BKTD.dtype), k_BKTD, v_BKTD, positions.mask)
        elif T <= fused.LONGEST and fused.pays(x_BTH):
            out_BNTD = fused.attention(q_BNTD, k_BKTD, v_BKTD, positions.bias(T, q_BNTD.dtype))
        else:
            out_BNTD = F.scaled_dot_product_attention(
                q_BNTD.to(v_BKTD.dtype),
                k_BKTD.to(v_BKTD.dtype),
                v_BKTD,
                attn_mask=positions.mask,
                is_causal=positions.mask is None,
                enable_gqa=self.grouped,
            )
        return self.o_proj(out_BNTD.transpose(1, 2).reshape(B, T, -1))

    def _turned(
        self, x_BTND: torch.Tensor, norm: RMSNorm | None, positions: Positions
    ) -> torch.Tensor:
        """Queries or keys, (B, N, T, D)."""
        if fused.pays(x_BTND):
            weight = None if norm is None else norm.weight
            return fused.turned(x_BTND, weight, self.norm_eps, positions.rotation)
        x_BTND = x_BTND if norm is None else norm(x_BTND.float())
        return rotate(x_BTND.transpose(1, 2), positions.rotation)

    def _remember(
        self, k_BKTD: torch.Tensor, v_BKTD: torch.Tensor, positions: Positions, state: KeyValueCache
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values; return all of them up to the longest row."""
        keys, values = state.layers[self.number]
        span = positions.span
        for cache, new in ((keys, k_BKTD), (values, v_BKTD)):
            if positions.aligned:
                cache[:, :, span - new.shape[2] : span] = new
            else:
                cache[positions.rows_B1, :, positions.places_BT] = new.transpose(1, 2).to(
                    cache.dtype
                )
        return keys[:, :, :span], values[:, :, :span]


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_BTH: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_BTH)) * self.up_proj(x_BTH))


def attend(
    q_BNTD: torch.Tensor, k_BKSD: torch.Tensor, v_BKSD: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Attention to a cache, (B, N, T, D). The query heads of one key-value head stand as if they
    were tokens of one head: no key is repeated, and every kernel that takes a mask will do."""
    B, N, T, D = q_BNTD.shape
    K = k_BKSD.shape[1]
    if mask is not None and T > 1 and N != K:
        mask = mask.repeat(1, 1, N // K, 1)
    q_BKQD = q_BNTD.reshape(B, K, N // K * T, D)
    out_BKQD = F.scaled_dot_product_attention(q_BKQD, k_BKSD, v_BKSD, attn_mask=mask)
    return out_BKQD.reshape(B, N, T, D)  # no view: a GPU's kernels lay heads behind tokens


def rotate(x_BNTD: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Turn each pair (i, i + D/2) by its position's angle."""
    cos, sin = rotation
    first, second = x_BNTD.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x_BNTD * cos + turned * sin).to(x_BNTD.dtype)
