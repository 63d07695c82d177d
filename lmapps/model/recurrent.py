"""Embedded tokens and hidden vectors -> outputs and new hidden vectors: RNN, GRU, LSTM.

The recurrence of the plain RNN (Elman, 1990):

    h_t = tanh(W_hh h_{t-1} + W_xh x_t + b)        y_t = W_hy h_t + b

The body computes h_t; W_hy is the linear layer of the `LanguageModel`. GRU: Cho et al., 2014;
LSTM: Hochreiter and Schmidhuber, 1997. Shape legend: B rows, T positions, E embedding width,
H hidden width, L layers.
"""

from __future__ import annotations

import torch
from torch import nn

from lmapps.model.config import ModelConfig
from lmapps.model.state import HiddenState, Reach

KINDS: dict[str, type[nn.RNN] | type[nn.GRU] | type[nn.LSTM]] = {
    "rnn": nn.RNN,
    "gru": nn.GRU,
    "lstm": nn.LSTM,
}


class RecurrentBody(nn.Module):
    """L recurrent layers, one on top of the other."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.recurrent = KINDS[config.body](
            config.embed_size,
            config.hidden_size,
            config.num_layers,
            batch_first=True,
            dropout=config.dropout if config.num_layers > 1 else 0.0,
        )

    def forward(
        self,
        x_BTE: torch.Tensor,
        state: HiddenState | None = None,
        *,
        reach: Reach | None = None,
    ) -> torch.Tensor:
        """Outputs of the last layer, (B, T, H). A state is read and written in place, but for its
        lengths where a `reach` stands for them."""
        if state is None:
            return self.recurrent(x_BTE)[0]
        parts = zip(*state.layers, strict=True)  # (hidden of each layer), (cell of each layer)
        before = tuple(torch.stack(part).to(x_BTE.dtype) for part in parts)
        h_BTH, after = self.recurrent(x_BTE, before if len(before) > 1 else before[0])
        after = after if isinstance(after, tuple) else (after,)
        for number, layer in enumerate(state.layers):
            for part, new_LBH in zip(layer, after, strict=True):
                part.copy_(new_LBH[number])
        if reach is None:
            state.lengths += x_BTE.shape[1]
        return h_BTH

    def new_state(self, batch: int, capacity: int) -> HiddenState:
        """Zero vectors for `batch` rows."""
        parts = 2 if self.config.body == "lstm" else 1
        weight: torch.Tensor = next(self.parameters())
        layers = [
            tuple(weight.new_zeros(batch, self.config.hidden_size) for _ in range(parts))
            for _ in range(self.config.num_layers)
        ]
        return HiddenState(layers, torch.zeros(batch, dtype=torch.int64), capacity)
