"""A size and a body -> `ModelConfig`: every number that decides the shape of a model."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from lmapps.errors import SettingsError

Body = Literal["rnn", "gru", "lstm", "transformer"]
BODIES: tuple[Body, ...] = get_args(Body)
GATES: dict[Body, int] = {"rnn": 1, "gru": 3, "lstm": 4}
LIMIT = 2**40
"""No number of a model comes near it."""
LONGEST_CONTEXT = 2**24
"""Tokens: more than any model claims, and still a number of rows that can be asked for."""

# The one dial. Transformer: layers, width, query heads, key-value heads. The recurrent form has
# `recurrent_layers` and the width that gives about the same number of parameters.
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"layers": 4, "width": 128, "heads": 4, "kv_heads": 2, "recurrent_layers": 2},
    "small": {"layers": 8, "width": 288, "heads": 6, "kv_heads": 2, "recurrent_layers": 2},
    "base": {"layers": 12, "width": 480, "heads": 8, "kv_heads": 4, "recurrent_layers": 3},
    "large": {"layers": 14, "width": 768, "heads": 12, "kv_heads": 4, "recurrent_layers": 4},
}


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a `LanguageModel`. Raises `SettingsError` where the numbers do not fit."""

    body: Body = "rnn"
    vocab_size: int = 8192
    embed_size: int = 128
    hidden_size: int = 256
    num_layers: int = 1
    context: int = 512
    """The longest prompt and reply together, in tokens."""
    num_heads: int = 0
    """Transformer: query heads. 0 = one for each 64 of width."""
    num_kv_heads: int = 0
    """Transformer: key-value heads, each shared by a group of query heads. 0 = as many."""
    head_size: int = 0
    """Transformer: width of one head. 0 = hidden_size / num_heads."""
    intermediate_size: int = 0
    """Transformer: width inside the feed-forward layer. 0 = 8/3 of hidden_size, to a 32."""
    rope_theta: float = 10000.0
    """Transformer: base of the rotary positions."""
    norm_eps: float = 1e-5
    """Transformer: added to the mean square before its root in RMSNorm."""
    qk_norm: bool = False
    """Transformer: RMSNorm on queries and keys, head by head (the Qwen3 form)."""
    tie_embeddings: bool = False
    """The linear layer at the end shares the embedding's matrix."""
    dropout: float = 0.0
    """Share of activations zeroed in training, between layers."""

    def __post_init__(self) -> None:
        if self.body not in BODIES:
            raise SettingsError(f"model must be one of {', '.join(BODIES)}, got {self.body!r:.80}")
        self._check_numbers()
        if self.body == "transformer":
            self._fill_transformer()
        for name in ("vocab_size", "embed_size", "hidden_size", "num_layers", "context"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be a whole number above 0, got 0")
        if self.context > LONGEST_CONTEXT:
            raise SettingsError(f"context must be at most {LONGEST_CONTEXT:,}, got {self.context}")
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        needs_equal = self.tie_embeddings or self.body == "transformer"
        if needs_equal and self.embed_size != self.hidden_size:
            raise SettingsError(
                f"embed_size ({self.embed_size}) and hidden_size ({self.hidden_size}) must be "
                "equal in a transformer and where embeddings are tied"
            )

    def _check_numbers(self) -> None:
        """Before anything is reckoned: text times a number is a longer text."""
        for item in fields(self):
            value = getattr(self, item.name)
            if item.type == "bool" and not isinstance(value, bool):
                raise SettingsError(f"{item.name} must be true or false, got {value!r:.80}")
            if item.type not in ("int", "float"):
                continue
            kind = int if item.type == "int" else int | float
            if isinstance(value, bool) or not isinstance(value, kind) or not 0 <= value < LIMIT:
                whole = "whole " * (item.type == "int")
                raise SettingsError(
                    f"{item.name} must be a {whole}number from 0 to {LIMIT:,}, got {value!r:.80}"
                )

    def _fill_transformer(self) -> None:
        def fill(name: str, value: int) -> None:
            if not getattr(self, name):
                object.__setattr__(self, name, value)

        fill("num_heads", max(1, self.hidden_size // 64))
        fill("num_kv_heads", self.num_heads)
        fill("head_size", self.hidden_size // self.num_heads)
        fill("intermediate_size", -(-self.hidden_size * 8 // 3 // 32) * 32)
        if self.num_heads % self.num_kv_heads:
            raise SettingsError(
                f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads "
                f"({self.num_kv_heads})"
            )
        if self.head_size % 2:
            raise SettingsError(f"head_size must be even for rotary positions: {self.head_size}")

    @classmethod
    def from_size(
        cls,
        size: str,
        *,
        body: str = "transformer",
        vocab_size: int = 8192,
        context: int = 512,
        layers: int = 0,
        width: int = 0,
    ) -> ModelConfig:
        """The one dial: tiny (about 1M parameters beside the vocabulary's), small, base, large.

        `layers` and `width`, where not 0, replace the size's own; the recurrent form follows.
        """
        if size not in SIZES:
            raise SettingsError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
        if body not in BODIES:
            raise SettingsError(f"model must be one of {', '.join(BODIES)}, got {body!r}")
        dial = SIZES[size]
        transformer = cls(
            body="transformer",
            vocab_size=vocab_size,
            embed_size=width or dial["width"],
            hidden_size=width or dial["width"],
            num_layers=layers or dial["layers"],
            context=context,
            # An even number: two key-value heads are shared by them.
            num_heads=max(2, width // 128 * 2) if width else dial["heads"],
            num_kv_heads=2 if width else dial["kv_heads"],
            qk_norm=True,
            tie_embeddings=True,
        )
        if body == "transformer":
            return transformer
        return _recurrent_of_equal_size(transformer, body, dial["recurrent_layers"])

    @property
    def parameters(self) -> int:
        """How many numbers training adjusts."""
        embedding = self.vocab_size * self.embed_size
        head = 0 if self.tie_embeddings else self.vocab_size * self.hidden_size
        if self.body != "transformer":
            return embedding + head + self.vocab_size + self._recurrent_parameters()
        queries = self.num_heads * self.head_size
        keys = self.num_kv_heads * self.head_size
        attention = self.hidden_size * (2 * queries + 2 * keys)
        norms = 2 * self.hidden_size + (2 * self.head_size if self.qk_norm else 0)
        layer = attention + 3 * self.hidden_size * self.intermediate_size + norms
        return embedding + head + self.num_layers * layer + self.hidden_size

    def _recurrent_parameters(self) -> int:
        hidden, gates = self.hidden_size, GATES[self.body]
        inputs = self.embed_size + (self.num_layers - 1) * hidden
        return gates * hidden * (inputs + self.num_layers * (hidden + 2))

    @property
    def flops_per_token(self) -> int:
        """Multiply-adds times two for one token, forward and backward: 6 x parameters, and
        attention over half a context on average (Chowdhery et al., PaLM, appendix B)."""
        matrices = self.parameters
        if not self.tie_embeddings:
            matrices -= self.vocab_size * self.embed_size
        attention = 0
        if self.body == "transformer":
            attention = 6 * self.num_layers * self.num_heads * self.head_size * self.context
        return 6 * matrices + attention

    def changed(self, **values: Any) -> ModelConfig:
        """A copy with some values changed."""
        return replace(self, **values)


def _recurrent_of_equal_size(target: ModelConfig, body: Body, layers: int) -> ModelConfig:
    """The recurrent form (tied embeddings, width a multiple of 8) nearest in parameters."""

    def form(width: int) -> ModelConfig:
        return ModelConfig(
            body=body,
            vocab_size=target.vocab_size,
            embed_size=width,
            hidden_size=width,
            num_layers=layers,
            context=target.context,
            tie_embeddings=True,
        )

    widths = range(8, 8 * target.hidden_size, 8)
    return min(
        (form(width) for width in widths),
        key=lambda config: abs(config.parameters - target.parameters),
    )
