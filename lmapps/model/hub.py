"""Recurrent checkpoints -> `transformers`: the model whose config `hub_config` registers.

Transformer checkpoints need none of this: they are Llama or Qwen3 folders.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from lmapps.model.hub_config import RecurrentConfig
from lmapps.model.recurrent import RecurrentBody
from lmapps.model.state import HiddenState


class RecurrentCache(DynamicCache):
    """A hidden state in the place where generate() keeps keys and values."""

    is_compileable = False

    def __init__(self, state: HiddenState) -> None:
        super().__init__()
        self.state = state
        self.seen = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.seen

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Follow the beams that are kept."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        rows = torch.arange(len(self.state.lengths)).repeat_interleave(repeats)
        self.batch_select_indices(rows)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        layers = [tuple(part[indices] for part in layer) for layer in self.state.layers]
        lengths = self.state.lengths[indices.cpu()]
        self.state = HiddenState(layers, lengths, self.state.capacity)


class RecurrentForCausalLM(PreTrainedModel, GenerationMixin):
    """Embedding, recurrent layers, linear layer, under the interface of transformers.

    Shape legend: B rows, T positions, E embedding width, V vocabulary.
    """

    config_class = RecurrentConfig
    _is_stateful = True
    _tied_weights_keys = {"head.weight": "embedding.weight"}  # noqa: RUF012
    _no_split_modules = ["RecurrentBody"]  # noqa: RUF012

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        shape = config.model_config
        self.embedding: nn.Module = nn.Embedding(shape.vocab_size, shape.embed_size)
        self.body = RecurrentBody(shape)
        self.head = nn.Linear(shape.hidden_size, shape.vocab_size)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # generate() must not make a cache: forward makes a RecurrentCache

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embedding = value

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.head = value

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        cache: RecurrentCache | None = None,
        past_key_values: RecurrentCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, T, V), the loss where labels are given, and the state to go on from.

        `past_key_values` is what transformers called `cache` before 5.24.
        """
        x_BTE = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        T = x_BTE.shape[1]
        cache = cache if cache is not None else past_key_values
        if cache is None and use_cache is not False and not self.training:
            cache = RecurrentCache(self.body.new_state(len(x_BTE), self.body.config.context))
        padding = attention_mask is not None and not bool(attention_mask[:, -T:].all())
        if padding:
            assert attention_mask is not None
            hidden, cache = self._masked(x_BTE, attention_mask[:, -T:].bool(), cache)
        else:
            hidden = self.body(x_BTE, cache.state if cache is not None else None)
        if cache is not None:
            cache.seen += T
        is_count = isinstance(logits_to_keep, int)  # else the places to keep
        kept = slice(-logits_to_keep, None) if is_count else logits_to_keep
        logits = self.head(hidden[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config.vocab_size)
        return CausalLMOutputWithPast(loss, logits, cache)  # the third was past_key_values

    def _masked(
        self, x_BTE: torch.Tensor, mask_BT: torch.Tensor, cache: RecurrentCache | None
    ) -> tuple[torch.Tensor, RecurrentCache]:
        """One token after another; a row's state stands still where its token is padding."""
        if cache is None:
            cache = RecurrentCache(self.body.new_state(len(x_BTE), self.body.config.context))
        outputs = []
        for t in range(x_BTE.shape[1]):
            before = [tuple(part.clone() for part in layer) for layer in cache.state.layers]
            outputs.append(self.body(x_BTE[:, t : t + 1], cache.state))
            padded_B1 = ~mask_BT[:, t : t + 1]
            for layer, old in zip(cache.state.layers, before, strict=True):
                for part, part_before in zip(layer, old, strict=True):
                    part.copy_(torch.where(padded_B1, part_before, part))
        return torch.cat(outputs, dim=1), cache


AutoModelForCausalLM.register(RecurrentConfig, RecurrentForCausalLM, exist_ok=True)
