"""Token ids -> logits: an embedding layer, a recurrent or Transformer body, a linear layer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from lmapps.errors import SettingsError
from lmapps.model.config import ModelConfig
from lmapps.model.cross_entropy import linear_cross_entropy
from lmapps.model.recurrent import RecurrentBody
from lmapps.model.state import Reach, State
from lmapps.model.transformer import TransformerBody


class LanguageModel(nn.Module):
    """Predicts the next token at every position.

    `LanguageModel(vocab_size=50, embed_size=32, hidden_size=64, num_layers=1)` is the classic
    one, with a plain RNN; `body="gru"`, `"lstm"` or `"transformer"` changes the middle.
    `LanguageModel(config)` takes every number from a `ModelConfig`.
    """

    def __init__(self, config: ModelConfig | None = None, **shape: Any) -> None:
        super().__init__()
        if config is not None and shape:
            raise SettingsError("give LanguageModel a config or single numbers, not both")
        if config is None and shape.get("body") == "transformer":
            shape.setdefault("embed_size", shape.get("hidden_size", 256))
        self.config = config = config or ModelConfig(**shape)
        self.embedding = nn.Embedding(config.vocab_size, config.embed_size)
        is_transformer = config.body == "transformer"
        self.body = TransformerBody(config) if is_transformer else RecurrentBody(config)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=not is_transformer)
        self.apply(self._initialize)
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight

    def forward(
        self,
        ids_BT: torch.Tensor,
        targets_BT: torch.Tensor | None = None,
        places_BT: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits (B, T, V); with targets the loss instead: the sum over counted targets
        (those not -100), in fp32, without ever holding all logits.

        `places_BT` is for a Transformer's rows of several texts (see `TransformerBody`).
        """
        packed = {} if places_BT is None else {"places_BT": places_BT}
        # Without names for what is on the way, which would keep it in memory to the end.
        hidden = self.dropout(self.body(self.dropout(self.embedding(ids_BT)), **packed))
        if targets_BT is None:
            return self.head(hidden)
        return linear_cross_entropy(
            hidden.flatten(0, 1), self.head.weight, self.head.bias, targets_BT.flatten()
        )

    def new_state(self, batch: int, capacity: int | None = None) -> State:
        """An empty state for `batch` rows of at most `capacity` tokens."""
        return self.body.new_state(batch, capacity or self.config.context)

    def step(
        self,
        ids_BT: torch.Tensor,
        state: State,
        *,
        last_only: bool = True,
        reach: Reach | None = None,
    ) -> tuple[torch.Tensor, State]:
        """Go on from `state` by T tokens in each row.

        Returns the logits after the last token, (B, V), or after each, (B, T, V), and the state,
        which is updated in place. With a `reach` its lengths are left to the caller, and nothing
        is asked of the device: such a step can be captured.
        """
        hidden = self.body(self.embedding(ids_BT), state, reach=reach)
        return self.head(hidden[:, -1] if last_only else hidden), state

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    def _initialize(self, module: nn.Module) -> None:
        """Normal weights of 1/sqrt(inputs); each residual branch starts as zero (Zhang et al.,
        Fixup, 2019). Recurrent layers keep torch's own start."""
        config = self.config
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02 if config.tie_embeddings else 1.0)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        for name, child in module.named_children():
            if name in ("o_proj", "down_proj") and isinstance(child, nn.Linear):
                nn.init.zeros_(child.weight)
