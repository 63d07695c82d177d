"""A folder of any causal model that transformers knows -> what our engine serves, through theirs.

The engine schedules, samples, constrains, streams and cancels as it does for our own models; only
the step is theirs. Each row has a cache of its own, of whatever kind the model makes, so that
every architecture works. Rows whose caches are keys and values of every token are decoded together,
others one after the other. Shape legend: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from lmapps.engine.backends.cache_rows import CacheRows
from lmapps.errors import CheckpointError, LmappsError, SettingsError
from lmapps.model.folder import read_json
from lmapps.model.state import State
from lmapps.native.shapes import Shapes
from lmapps.text.template import Template
from lmapps.text.tokenizer import Tokenizer, bounded

LONGEST_SERVED = 8192
"""Models of today name contexts whose caches would fill any memory: ours is not longer."""
TOKENS_COUNTED = 4 * LONGEST_SERVED
"""Caches grow as needed: of all slots together so many tokens are counted as the model's memory,
and whoever would need more waits."""
PLAIN = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""The template of a model that has none: it was not trained to talk."""
GROWING = {"DynamicLayer", "DynamicSlidingWindowLayer"}
"""Layers of a cache that hold keys and values of every token, or of the last ones."""
_CACHE_NAMES = ("cache", "past_key_values", "cache_params")
"""What transformers calls a cache, the newest name first."""


@dataclass(frozen=True)
class ForeignShape:
    """What `ModelConfig` tells of ours, as far as the engine asks."""

    body: str
    parameters: int
    context: int


class ForeignModel:
    """A `PreTrainedModel`, as the engine sees one."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        text = inner.config.get_text_config()
        told = getattr(text, "max_position_embeddings", None) or LONGEST_SERVED
        count = sum(part.numel() for part in inner.parameters())
        self.config = ForeignShape(inner.config.model_type, count, min(told, LONGEST_SERVED))

    @property
    def device(self) -> torch.device:
        """Where ids go; the rest may be spread over several devices."""
        device: torch.device = self.inner.get_input_embeddings().weight.device
        return device

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        return iter(self.inner.parameters())


@dataclass
class ForeignCheckpoint:
    """A folder's model, tokenizer and chat template."""

    model: ForeignModel
    tokenizer: Tokenizer
    template: Template
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def config(self) -> ForeignShape:
        return self.model.config

    @cached_property
    def step(self) -> TransformersStep:
        return TransformersStep(self.model)


def load(folder: Path, device: str = "cpu", weights: str = "float32") -> ForeignCheckpoint:
    """Read a folder with transformers: safetensors only, and no code that comes with it.

    On a GPU a model that is too large for one is spread over all (Accelerate's device map). Raises
    `CheckpointError` with the reason where transformers cannot read it.
    """
    if weights == "int8":
        raise SettingsError(
            f"{folder} runs through transformers, in float32 or bfloat16: --weights int8 is for "
            "models of type llama, qwen3 and our own"
        )
    try:
        return _read(folder, device, weights)
    except LmappsError:
        raise
    except Exception as error:  # a folder from anywhere may break any line of theirs
        reason = " ".join(str(error).split())[:200] or repr(error)
        raise CheckpointError(f"{folder} cannot be read with transformers: {reason}") from None


def _read(folder: Path, device: str, weights: str) -> ForeignCheckpoint:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = str(read_json(folder, "config.json").get("model_type"))
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise CheckpointError(
            f"{folder}: models of type {kind!r} are not supported: transformers knows no causal "
            "model of it, or only with code of its own, which is never run"
        )
    for file in folder.glob("*.json"):
        bounded(file)
    options: dict[str, Any] = {"device_map": "auto"} if device.startswith("cuda") else {}
    theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, use_safetensors=True,
        dtype=getattr(torch, weights), output_loading_info=True, **options,
    )  # fmt: skip
    inner, found = loaded
    if missing := sorted(found["missing_keys"]):  # transformers would draw them at random
        raise CheckpointError(f"{folder}: the weights lack {missing[0]}; the file is not whole")
    inner.train(False)
    if not options:
        torch.nn.Module.to(inner, device)
    tokenizer = _tokenizer(folder, theirs, inner)
    tokenizer.check_fits(_known_ids(inner), folder)
    template = _template(theirs, tokenizer)
    return ForeignCheckpoint(ForeignModel(inner), tokenizer, template, folder)


class TransformersStep:
    """One step of a foreign model."""

    bytes = 0
    shapes = Shapes()
    threads = None

    def __init__(self, model: ForeignModel) -> None:
        self._model = model.inner
        names = inspect.signature(self._model.forward).parameters
        known = [name for name in _CACHE_NAMES if name in names]
        if not known:
            kind = model.config.body
            raise CheckpointError(f"models of type {kind!r} keep no cache, so cannot be served")
        self._cache_name = known[0]
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in names else {}
        self._takes_positions = "position_ids" in names
        self.name = f"transformers, {self._model.dtype}".replace("torch.", "")
        with torch.inference_mode():
            _, self._example = self._forward(torch.zeros(1, 1, dtype=torch.long), None)
        kinds = {type(layer).__name__ for layer in self._example.layers}
        self.divisible = kinds == {"DynamicLayer"}
        self.continues = kinds <= GROWING
        """Whether it can go on from a state by several tokens at once: a state space model of
        transformers starts afresh then, so that a prompt is read in one piece."""

    def new_state(self, batch: int, capacity: int) -> CacheRows:
        layers = self._example.layers
        growing = [layer for layer in layers if type(layer).__name__ in GROWING]
        tokens = min(batch * capacity, TOKENS_COUNTED) if growing else batch * capacity
        size = sum(
            part.nbytes * (tokens if layer in growing else batch)
            for layer in layers
            for part in _tensors(layer)
            if part.dim()  # else a count
        )
        return CacheRows(batch, capacity, self.divisible, self._model.config, size, tokens)

    def prepare(self, state: State, tokens: int) -> None:
        """Nothing is known of their shapes."""

    def __call__(self, ids_BT: torch.Tensor, state: State) -> torch.Tensor:
        """Logits (B, V) after T more tokens in each row."""
        assert isinstance(state, CacheRows)
        rows, tokens = ids_BT.shape
        if rows > 1 and tokens == 1 and self.divisible:
            return self._together(ids_BT, state)
        logits = []
        for row, ids_T in enumerate(ids_BT):
            # Before: where memory ends in its middle, some of the row's layers are further.
            state.lengths[row] += tokens
            cache = state.own(row, int(state.lengths[row]) - tokens)
            logits_1V, state[row] = self._forward(ids_T[None], cache)
            logits.append(logits_1V)
        return torch.cat(logits)

    def _together(self, ids_B1: torch.Tensor, state: CacheRows) -> torch.Tensor:
        """One token further in every row, in one pass: shorter rows are filled up at the left, as
        transformers' own `generate` does for several prompts."""
        lengths_B = state.lengths.clone()
        batch = state.joined(lengths_B)
        state.lengths += 1
        filled = int(lengths_B.max()) - lengths_B
        mask_BS = (torch.arange(int(lengths_B.max()) + 1) >= filled[:, None]).long()
        more = {"attention_mask": mask_BS}
        if self._takes_positions:
            more["position_ids"] = lengths_B[:, None]
        logits_BV, _ = self._forward(ids_B1, batch, **more)
        return logits_BV

    def _forward(
        self, ids_BT: torch.Tensor, cache: Any, **more: torch.Tensor
    ) -> tuple[torch.Tensor, Any]:
        device = self._model.get_input_embeddings().weight.device
        given = {name: part.to(device) for name, part in {"input_ids": ids_BT, **more}.items()}
        if cache is not None:
            given[self._cache_name] = cache
        outputs = self._model(**given, use_cache=True, **self._options)
        return outputs.logits[:, -1].float(), outputs[self._cache_name]


def _tensors(layer: Any) -> Iterator[torch.Tensor]:
    """Every tensor of one layer of a cache."""
    for value in vars(layer).values():
        parts = value.values() if isinstance(value, dict) else value
        for part in parts if isinstance(value, dict | list | tuple) else [value]:
            if isinstance(part, torch.Tensor):
                yield part


def _tokenizer(folder: Path, theirs: Any, inner: Any) -> Tokenizer:
    """Ours around the same vocabulary, with the ids that begin a text and end a reply."""
    from tokenizers import Tokenizer as RawTokenizer

    backend = getattr(theirs, "backend_tokenizer", None)
    if backend is None:
        raise CheckpointError(
            f"{folder}: its tokenizer cannot be written as tokenizer.json: convert it first"
        )
    tokenizer = Tokenizer(RawTokenizer.from_str(backend.to_str()))
    end = inner.generation_config.eos_token_id
    ends = [*(end if isinstance(end, list) else [end]), theirs.eos_token_id]
    named = [number for number in ends if number is not None]
    # Whoever trains a model anew often leaves there the id of the one whose settings they took.
    tokenizer.end_ids = frozenset(n for n in named if 0 <= n < tokenizer.vocab_size)
    if not tokenizer.end_ids:
        raise CheckpointError(
            f"{folder}: no eos_token_id in its files that its tokenizer has (0 to "
            f"{tokenizer.vocab_size - 1}), got {', '.join(map(str, named)) or 'none':.80}, so no "
            "reply could end: correct generation_config.json"
        )
    begins = list(theirs("a").input_ids)[:1]
    tokenizer.bos_id = begins[0] if begins == [theirs.bos_token_id] else -1
    return tokenizer


def _known_ids(inner: Any) -> int:
    """How many ids a model reads, and writes: of two numbers the smaller one."""
    tables = [inner.get_input_embeddings(), inner.get_output_embeddings()]
    return min(len(table.weight) for table in tables if hasattr(table, "weight"))


def _template(theirs: Any, tokenizer: Tokenizer) -> Template:
    source = theirs.chat_template
    source = source.get("default") if isinstance(source, dict) else source
    return Template(
        tokenizer, source or PLAIN,
        bos_token=theirs.bos_token or "", eos_token=theirs.eos_token or "",
    )  # fmt: skip
