"""Where a model comes from, and how it will be opened -> the memory that it will take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmapps.engine.backends.source import Opening, Source, cached, native_config
from lmapps.engine.devices import on_gpu

if TYPE_CHECKING:
    from lmapps.model.config import ModelConfig


def foreseen_bytes(source: Source, opening: Opening) -> int:
    """As far as its files tell: weights, slots, kept states. Raises `CheckpointError`.

    Another server's model takes none. Of one of the Hub nothing is known before it is here.
    """
    from lmapps.engine.slots import most_prefix_bytes
    from lmapps.model.folder import read_json

    folder = cached(source) if source.is_hub else source.folder
    if folder is None or (source.is_hub and not (folder / "config.json").is_file()):
        return 0
    if config := native_config(folder):
        weights, state = _of_ours(config, opening)
        copies = len(opening.devices)
    else:
        weights, state = _of_theirs(folder, read_json(folder, "config.json"), opening)
        copies = 1
    return (weights + state + most_prefix_bytes(state)) * copies


def _of_ours(config: ModelConfig, opening: Opening) -> tuple[int, int]:
    """Bytes of weights and of all slots."""
    kept = config.hidden_size * config.num_layers
    if config.body == "transformer":
        kept = 2 * config.num_layers * config.num_kv_heads * config.head_size * config.context
    # Where there is another copy, the model that it is made from goes only afterwards.
    if on_gpu(opening.devices):
        in_int8 = 1 + 4 / config.hidden_size if config.body == "transformer" else 4  # and scales
        a_weight = {"bfloat16": 2, "float32": 4, "int8": 4 + in_int8}[opening.weights]
        number = 2 if opening.weights == "bfloat16" else 4
    else:
        number = 4
        a_weight = 4 + {"float32": 4, "bfloat16": 2, "int8": 1}[opening.weights]
    return round(config.parameters * a_weight), kept * number * (opening.slots + 1)


def _of_theirs(folder: Path, stored: dict[str, Any], opening: Opening) -> tuple[int, int]:
    """The same of a model that runs through transformers."""
    from lmapps.engine.backends.transformers import LONGEST_SERVED, TOKENS_COUNTED

    text = stored.get("text_config")
    told = {**stored, **text} if isinstance(text, dict) else stored

    def number(*names: str) -> int:
        """What the first of these is that there is; 0 where there is none."""
        return next((told[name] for name in names if isinstance(told.get(name), int)), 0)

    in_files = 2 if "16" in str(told.get("dtype", told.get("torch_dtype"))) else 4
    here = 2 if opening.weights == "bfloat16" else 4
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors")) * here // in_files
    layers, rows = number("num_hidden_layers", "n_layer", "num_layers"), opening.slots + 1
    wide = number("hidden_size", "n_embd", "d_model")
    heads = number("num_attention_heads", "n_head", "num_heads")
    context = number("max_position_embeddings", "n_positions") or LONGEST_SERVED
    tokens = min(rows * min(context, LONGEST_SERVED), TOKENS_COUNTED)
    head = number("head_dim") or wide // max(1, heads)
    keys = (number("num_key_value_heads") or heads) * head * tokens
    vectors = (number("intermediate_size") or 2 * wide) * rows if number("state_size") else 0
    states = vectors * (number("state_size") + number("conv_kernel"))
    return weights, layers * (2 * keys * here + 4 * states)  # states stay in float32
