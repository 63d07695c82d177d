"""A `Checkpoint` <-> llama.cpp's single file, GGUF: Llama's and Qwen3's form, byte-level BPE.

Numbers that were quantized are read as fp32 (dequantized); bf16, fp32 and Q8_0 are written. Where
Llama's folders turn the two halves of a head by the rotary positions, llama.cpp turns neighbours:
rows of the query and key matrices change places. Qwen3's do not. Needs the `gguf` package, which
is llama.cpp's own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lmapps.errors import CheckpointError, SettingsError, StorageError
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.config import ModelConfig
from lmapps.model.folder import assemble
from lmapps.model.gguf_header import numbers_in
from lmapps.model.gguf_vocabulary import read_vocabulary, write_vocabulary
from lmapps.model.header import check_size
from lmapps.text.storage import sync
from lmapps.text.template import DEFAULT, Template

KINDS = {"float32": "F32", "bfloat16": "BF16", "int8": "Q8_0"}
"""Our words for a precision -> GGUF's. Q8_0 has a scale for each 32 numbers of a row."""
_MARKS = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")

# Our module names and GGUF's; between them stands the number of the layer.
_WHOLE = {"embedding": "token_embd", "body.norm": "output_norm", "head": "output"}
_LAYER = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def read_gguf(file: Path) -> Checkpoint:
    """Weights (fp32), tokenizer and chat template of a GGUF file.

    Raises `CheckpointError` where it is broken, or of a kind that is not supported.
    """
    from gguf import GGUFReader
    from gguf.quants import dequantize

    numbers = numbers_in(file)
    try:
        reader = GGUFReader(file)
        stored = {name: field.contents() for name, field in reader.fields.items()}
        config = _config(stored, {tensor.name for tensor in reader.tensors}, file)
        check_size(config, numbers, file)
        tokenizer, words = read_vocabulary(stored, file)
        tensors = {}
        for tensor in reader.tensors:
            name = _our_name(tensor.name)
            data = dequantize(tensor.data, tensor.tensor_type)
            tensors[name] = torch.from_numpy(_turned(data, name, config, to_gguf=False))
    except KeyError as error:
        raise CheckpointError(f"{file} lacks {error.args[0]}") from None
    except CheckpointError:
        raise
    except Exception as error:  # the reader of a broken file raises whatever it comes to
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise CheckpointError(f"{file} cannot be read ({told})") from None
    model = assemble(config, tensors, file)
    source = stored.get("tokenizer.chat_template") or DEFAULT
    return Checkpoint(model, tokenizer, Template(tokenizer, source, **words))


def write_gguf(
    checkpoint: Checkpoint,
    file: Path,
    weights: str = "bfloat16",
    about: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint as one GGUF file, whole or not at all.

    `about` may hold `name` and `license`. Raises `SettingsError` for a recurrent model or a
    tokenizer of words or characters, `StorageError` where the disk is full.
    """
    config = checkpoint.config
    if config.body != "transformer":
        raise SettingsError(f"a GGUF file holds a transformer, not a model of body {config.body}")
    temporary = file.with_name(file.name + ".part")
    try:
        _write(temporary, checkpoint, weights, about or {})
        sync(temporary)
        os.replace(temporary, file)
    except OSError as error:
        raise StorageError(f"cannot write {file}: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _write(file: Path, checkpoint: Checkpoint, weights: str, about: Mapping[str, str]) -> None:
    import gguf

    config = checkpoint.config
    writer = gguf.GGUFWriter(file, "qwen3" if config.qk_norm else "llama")
    writer.add_name(about.get("name", checkpoint.name))
    if about.get("license"):
        writer.add_license(about["license"])
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_size)
    writer.add_value_length(config.head_size)
    writer.add_rope_dimension_count(config.head_size)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab_size)
    words = checkpoint.template.tokens
    write_vocabulary(writer, checkpoint.tokenizer, words, config.vocab_size)
    writer.add_chat_template(_MARKS.sub("", checkpoint.template.source))
    wanted, kinds = KINDS[weights], gguf.GGMLQuantizationType
    for name, tensor in checkpoint.model.state_dict().items():
        if config.tie_embeddings and name == "head.weight":
            continue
        data = _turned(tensor.float().cpu().numpy(), name, config, to_gguf=True)
        kind = kinds[wanted] if data.ndim == 2 else kinds.F32
        if kind == kinds.Q8_0 and data.shape[1] % 32:  # its blocks are of 32 numbers
            kind = kinds.BF16
        writer.add_tensor(_their_name(name), gguf.quants.quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _config(stored: Mapping[str, Any], names: set[str], file: Path) -> ModelConfig:
    """The shape that a file's own fields describe."""
    kind = stored["general.architecture"]
    if kind not in ("llama", "qwen3"):
        raise CheckpointError(
            f"{file}: models of type {kind!r} are not supported; give one of type llama or qwen3"
        )

    def value(name: str, *default: Any) -> Any:
        found = stored.get(f"{kind}.{name}", *default)
        if found is None:
            raise KeyError(f"{kind}.{name}")
        return found

    width, heads = value("embedding_length"), value("attention.head_count")
    head_size = value("attention.key_length", width // heads)
    if stored.get(f"{kind}.rope.scaling.type", "none") != "none":
        raise CheckpointError(f"{file}: scaled rotary positions are not supported")
    if value("rope.dimension_count", head_size) != head_size:
        raise CheckpointError(f"{file}: rotary positions on a part of each head are not supported")
    return ModelConfig(
        body="transformer",
        vocab_size=len(stored["tokenizer.ggml.tokens"]),
        embed_size=width,
        hidden_size=width,
        num_layers=value("block_count"),
        context=value("context_length"),
        num_heads=heads,
        num_kv_heads=value("attention.head_count_kv", heads),
        head_size=head_size,
        intermediate_size=value("feed_forward_length"),
        rope_theta=float(value("rope.freq_base", 10000.0)),
        norm_eps=float(f"{value('attention.layer_norm_rms_epsilon'):.6g}"),  # stored in fp32
        qk_norm=kind == "qwen3",
        tie_embeddings="output.weight" not in names,
    )


def _turned(
    data: npt.NDArray[Any], name: str, config: ModelConfig, *, to_gguf: bool
) -> npt.NDArray[np.float32]:
    """A tensor with its rows in the other order, where the two formats differ in it."""
    part = name.rsplit(".", 2)[-2]
    if config.qk_norm or part not in ("q_proj", "k_proj"):
        return np.array(data, dtype=np.float32)  # a copy: a file that is read is not written in
    heads = config.num_heads if part == "q_proj" else config.num_kv_heads
    halves = (2, config.head_size // 2) if to_gguf else (config.head_size // 2, 2)
    split = data.reshape(heads, *halves, data.shape[1]).swapaxes(1, 2)
    return np.array(split, dtype=np.float32).reshape(data.shape)


def _their_name(name: str) -> str:
    part = name.removesuffix(".weight")
    if part in _WHOLE:
        return f"{_WHOLE[part]}.weight"
    layer, inner = part.removeprefix("body.layers.").split(".", 1)
    return f"blk.{layer}.{_LAYER[inner]}.weight"


def _our_name(name: str) -> str:
    """Raises `KeyError` for a tensor that no model of ours has."""
    part = name.removesuffix(".weight")
    for ours, theirs in _WHOLE.items():
        if part == theirs:
            return f"{ours}.weight"
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)", part)
    inner = next((ours for ours, theirs in _LAYER.items() if match and theirs == match[2]), None)
    if match is None or inner is None:
        raise ValueError(f"its tensor {name} belongs to no model that is supported")
    return f"body.layers.{match[1]}.{inner}.weight"
