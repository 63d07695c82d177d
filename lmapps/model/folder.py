"""A `ModelConfig` and weights <-> the files of a Hugging Face folder: `config.json`, safetensors.

A Transformer is stored as Llama, or as Qwen3 where queries and keys are normalised, so that
transformers, vLLM and others read it as it is, and their folders are read here. A recurrent model
has a type of its own, `lmapps_recurrent`, which `lmapps.model` registers with transformers.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lmapps.errors import CheckpointError, SettingsError, StorageError
from lmapps.model import quantize
from lmapps.model.config import GATES, ModelConfig
from lmapps.model.header import broken, check_weights
from lmapps.model.language_model import LanguageModel
from lmapps.small_file import small_json
from lmapps.text.storage import sync, write_whole

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
RECURRENT_TYPE = "lmapps_recurrent"

# Our module names and the ones Llama's classes use.
_NAMES = {
    "embedding.": "model.embed_tokens.",
    "body.layers.": "model.layers.",
    "body.norm.": "model.norm.",
    "head.": "lm_head.",
}


def save_model(
    model: LanguageModel, folder: Path, *, dtype: torch.dtype, bos_id: int, end_ids: list[int]
) -> None:
    """Write `config.json`, `generation_config.json` and `model.safetensors`.

    Each file is written beside its name and renamed, the weights last: a folder never holds
    half a file. `dtype` torch.int8 stores the matrices of a Transformer's layers packed (see
    quantize.py) and the rest in bf16. Raises `StorageError` where the disk is full or the folder
    cannot be written.
    """
    is_int8, dtype = dtype == torch.int8, torch.bfloat16 if dtype == torch.int8 else dtype
    if is_int8 and model.config.body != "transformer":
        raise SettingsError(
            f"int8 files hold a transformer, not a model of body {model.config.body}"
        )
    # Padding that also begins each prompt would be masked there by generate() in transformers,
    # unless it ends replies too.
    pad_id = bos_id if bos_id in end_ids else next(iter(end_ids), None)
    ids = {
        "bos_token_id": bos_id if bos_id >= 0 else None,  # Qwen's tokenizers have none
        "eos_token_id": end_ids,
        "pad_token_id": pad_id,
    }
    config = {**describe(model.config), **ids, "dtype": str(dtype).removeprefix("torch.")}
    tensors = {
        _renamed(name, model.config.body): tensor.detach().to("cpu", dtype).contiguous()
        for name, tensor in model.state_dict().items()
        if not (model.config.tie_embeddings and name == "head.weight")
    }
    if is_int8:
        config["quantization_config"] = quantize.CONFIG
        for name, tensor in model.body.named_parameters(prefix="model"):
            if tensor.dim() == 2:
                del tensors[name]
                tensors |= quantize.pack(name, tensor.detach().cpu())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())
        write_whole(folder / "generation_config.json", (json.dumps(ids, indent=2) + "\n").encode())
        temporary = folder / (WEIGHTS + ".part")
        save_file(tensors, temporary, metadata={"format": "pt"})
        shutil.copymode(folder / "config.json", temporary)  # save_file makes it private
        sync(temporary)
        os.replace(temporary, folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        (folder / (WEIGHTS + ".part")).unlink(missing_ok=True)
        raise StorageError(f"cannot write the checkpoint to {folder}: {error}") from None


def load_model(folder: Path, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A model from a folder of ours, or any Llama or Qwen3 folder, in evaluation mode.

    Raises `CheckpointError` with the reason where the folder is missing, broken, or of a kind
    that is not supported.
    """
    config = understand(read_json(folder, "config.json"), folder)
    try:
        files = _files(folder)
        check_weights(files, config)
        stored = quantize.unpack(dict(_tensors(files)))
    except (OSError, ValueError) as error:  # a name that is too long, for one
        raise CheckpointError(f"{folder}: {error}; copy it again, or export it anew") from None
    # Copied: a file that is written over while it is mapped into memory would end the process.
    stored = {name: part.to(dtype, copy=True) for name, part in stored.items()}
    tensors = {_renamed(name, config.body, back=True): part for name, part in stored.items()}
    return assemble(config, tensors, folder, dtype)


def assemble(
    config: ModelConfig,
    tensors: dict[str, torch.Tensor],
    source: Path,
    dtype: torch.dtype = torch.float32,
) -> LanguageModel:
    """A model of these weights, named as in `LanguageModel`, in evaluation mode.

    Raises `CheckpointError`, naming `source`, where some are missing, too many or of another shape.
    """
    with torch.device("meta"):
        model = LanguageModel(config)
    tensors.pop("head.weight" if config.tie_embeddings else "", None)
    expected = model.state_dict()
    if config.tie_embeddings:
        expected.pop("head.weight")
    for name, tensor in expected.items():
        if name not in tensors:
            raise CheckpointError(f"{source}: the weights lack {name}; the file is not whole")
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"{source}: {name} has shape {tuple(tensors[name].shape)}, its settings ask for "
                f"{tuple(tensor.shape)}"
            )
    extra = sorted(tensors.keys() - expected.keys())
    if extra:
        raise CheckpointError(f"{source}: the weights hold {extra[0]}, which this model has not")
    if config.tie_embeddings:
        tensors["head.weight"] = tensors["embedding.weight"]
    model.load_state_dict({n: t.to(dtype) for n, t in tensors.items()}, strict=True, assign=True)
    if config.tie_embeddings:
        model.head.weight = model.embedding.weight
    return model.eval()


def describe(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` of a model."""
    shared = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "max_position_embeddings": config.context,
        "tie_word_embeddings": config.tie_embeddings,
    }
    if config.body != "transformer":
        return {
            "architectures": ["RecurrentForCausalLM"],
            "model_type": RECURRENT_TYPE,
            "body": config.body,
            "embed_size": config.embed_size,
            "dropout": config.dropout,
            **shared,
        }
    family = "Qwen3" if config.qk_norm else "Llama"
    return {
        "architectures": [f"{family}ForCausalLM"],
        "model_type": family.lower(),
        **shared,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "attention_dropout": 0.0,
    }


def understand(stored: dict[str, Any], folder: Path) -> ModelConfig:
    """The `ModelConfig` of a `config.json`; `CheckpointError` where it asks for what we lack."""
    kind = stored.get("model_type")
    known = ("llama", "qwen3", RECURRENT_TYPE)
    if kind not in known:
        raise CheckpointError(
            f"{folder}: models of type {kind!r:.80} are not supported; give one of type "
            f"{', '.join(known)}"
        )
    try:
        shared = {
            "vocab_size": stored["vocab_size"],
            "hidden_size": stored["hidden_size"],
            "num_layers": stored["num_hidden_layers"],
            "context": stored["max_position_embeddings"],
            "tie_embeddings": stored.get("tie_word_embeddings") or False,
        }
        if kind == RECURRENT_TYPE:
            body, embed = stored["body"], stored["embed_size"]
            dropout = stored.get("dropout", 0.0)
            return ModelConfig(body=body, embed_size=embed, dropout=dropout, **shared)
        _refuse_unsupported(stored, folder)
        heads = stored["num_attention_heads"]
        return ModelConfig(
            body="transformer",
            embed_size=stored["hidden_size"],
            num_heads=heads,
            num_kv_heads=stored.get("num_key_value_heads") or heads,
            head_size=stored.get("head_dim") or stored["hidden_size"] // heads,
            intermediate_size=stored["intermediate_size"],
            rope_theta=_rope(stored).get("rope_theta", stored.get("rope_theta", 10000.0)),
            norm_eps=stored.get("rms_norm_eps", 1e-6),
            qk_norm=kind == "qwen3",
            **shared,
        )
    except KeyError as error:
        raise CheckpointError(f"{folder}/config.json lacks {error.args[0]!r}") from None
    except (SettingsError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise CheckpointError(f"{folder}/config.json has a value that is none: {error}") from None


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """One JSON file of a checkpoint. Raises `CheckpointError` where it is missing or broken."""
    file = folder / name
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no checkpoint folder {folder}; train one with `lmapps train --out {folder}`"
        )
    try:
        stored = small_json(file)
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is not a checkpoint: it has no {name}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from None
    if not isinstance(stored, dict):
        raise CheckpointError(f"{file} must hold a JSON object")
    return stored


def _rope(stored: dict[str, Any]) -> dict[str, Any]:
    return stored.get("rope_parameters") or stored.get("rope_scaling") or {}


def _refuse_unsupported(stored: dict[str, Any], folder: Path) -> None:
    rope_type = _rope(stored).get("rope_type", _rope(stored).get("type", "default"))
    wanted = {
        "rope_type": (rope_type, "default"),
        "hidden_act": (stored.get("hidden_act", "silu"), "silu"),
        "attention_bias": (bool(stored.get("attention_bias")), False),
        "mlp_bias": (bool(stored.get("mlp_bias")), False),
        "use_sliding_window": (bool(stored.get("use_sliding_window")), False),
    }
    quantization = stored.get("quantization_config")
    if quantization and not quantize.is_readable(quantization):
        raise CheckpointError(
            f"{folder}: quantization_config has format {quantization.get('format')!r:.80}; only "
            "int8 weights, one scale a row, as compressed-tensors' 'pack-quantized' are read"
        )
    for name, (value, supported) in wanted.items():
        if value != supported:
            raise CheckpointError(
                f"{folder}: {name} = {value!r:.80} is not supported, only {supported!r}"
            )


def _files(folder: Path) -> list[Path]:
    """One weights file, or the shards that an index names."""
    shards = [WEIGHTS]
    if (folder / INDEX).is_file():
        places = read_json(folder, INDEX).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise CheckpointError(f"{folder / INDEX} has no weight_map, which names the shards")
        shards = sorted({f"{shard!s:.200}" for shard in places.values()})
    for shard in shards:
        if (folder / shard).parent != folder or not (folder / shard).is_file():
            raise CheckpointError(f"{folder} has no {shard}: only safetensors weights are loaded")
    return [folder / shard for shard in shards]


def _tensors(files: list[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    for file in files:
        try:
            yield from load_file(file).items()
        except (SafetensorError, OSError) as error:
            raise broken(file, str(error)) from None


def _renamed(name: str, body: str, *, back: bool = False) -> str:
    """A weight of ours as Llama's classes call it, or the other way."""
    for names in _NAMES.items() if body not in GATES else ():
        before, after = reversed(names) if back else names
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name
