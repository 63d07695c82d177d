"""The config of recurrent checkpoints -> `transformers`; the first that is made brings the model.

What `transformers` has for models takes seconds to import, and serving or training ours needs none.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from lmapps.model.config import ModelConfig
from lmapps.model.folder import RECURRENT_TYPE


class RecurrentConfig(PreTrainedConfig):
    """`config.json` of a recurrent model; see `ModelConfig` for what the numbers mean."""

    model_type = RECURRENT_TYPE
    body: str = "rnn"
    vocab_size: int = 8192
    embed_size: int = 128
    hidden_size: int = 256
    num_hidden_layers: int = 1
    max_position_embeddings: int = 512
    dropout: float = 0.0
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        import lmapps.model.hub  # noqa: F401 - registers the class that this is the config of

        # A kind of layer that generate() knows to carry a state and no keys and values.
        self.layer_types = ["linear_attention"] * self.num_hidden_layers
        super().__post_init__(**kwargs)

    @property
    def model_config(self) -> ModelConfig:
        return ModelConfig(
            body=self.body,  # type: ignore[arg-type]
            vocab_size=self.vocab_size,
            embed_size=self.embed_size,
            hidden_size=self.hidden_size,
            num_layers=self.num_hidden_layers,
            context=self.max_position_embeddings,
            tie_embeddings=self.tie_word_embeddings,
            dropout=self.dropout,
        )


AutoConfig.register(RECURRENT_TYPE, RecurrentConfig, exist_ok=True)
