"""The vocabulary in a GGUF file <-> our `Tokenizer`: byte-level BPE, cut as GPT-2 or SmolLM do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as RawTokenizer

from lmapps.errors import CheckpointError, SettingsError
from lmapps.text.tokenizer import Tokenizer

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # kinds of token
SMOLLM = "smollm"
"""llama.cpp's name for GPT-2's way of cutting with each digit alone: also ours."""
GPT2 = "gpt-2"


def read_vocabulary(stored: Mapping[str, Any], file: Path) -> tuple[Tokenizer, dict[str, str]]:
    """The tokenizer of a GGUF file's fields, and its `bos_token` and `eos_token` as text.

    Raises `CheckpointError` for another kind of tokenizer: cut in another way than in training,
    a text would have other ids.
    """
    kind, way = stored["tokenizer.ggml.model"], stored.get("tokenizer.ggml.pre", GPT2)
    if kind != "gpt2" or way not in (SMOLLM, GPT2):
        raise CheckpointError(
            f"{file}: tokenizers of kind {kind!r}, {way!r} are not supported; give one of kind "
            f"'gpt2', {SMOLLM!r} or {GPT2!r}"
        )
    names: list[str] = stored["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in stored["tokenizer.ggml.merges"]]
    raw = RawTokenizer(models.BPE({name: number for number, name in enumerate(names)}, merges))
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    raw.pre_tokenizer = pre_tokenizers.Sequence([digits, cut]) if way == SMOLLM else cut
    raw.decoder = decoders.ByteLevel()
    kinds = stored["tokenizer.ggml.token_type"]
    for name, kind in zip(names, kinds, strict=True):
        if kind in (CONTROL, USER_DEFINED):
            raw.add_tokens([AddedToken(name, special=kind == CONTROL, normalized=False)])
    words = {
        f"{word}_token": names[number] if (number := _id(stored, word)) is not None else ""
        for word in ("bos", "eos")
    }
    bos, eos = _id(stored, "bos"), _id(stored, "eos")
    if bos is not None and stored.get("tokenizer.ggml.add_bos_token", False):
        raw.post_processor = processors.TemplateProcessing(
            single=f"{names[bos]} $A", special_tokens=[(names[bos], bos)]
        )
    if eos is None:
        raise CheckpointError(f"{file} has no tokenizer.ggml.eos_token_id, so no reply could end")
    tokenizer = Tokenizer(raw)
    tokenizer.bos_id = -1 if bos is None else bos
    tokenizer.end_ids = frozenset({eos, _id(stored, "eot") or eos})
    return tokenizer, words


def write_vocabulary(
    writer: Any, tokenizer: Tokenizer, words: Mapping[str, str], size: int
) -> None:
    """Add a tokenizer to a `gguf.GGUFWriter`, filled up to the model's `size`.

    Raises `SettingsError` for a tokenizer of words or characters, or one that cuts in a way that
    llama.cpp is not known to have.
    """
    raw = tokenizer.raw
    described = json.loads(raw.to_str())
    added = raw.get_added_tokens_decoder()
    names = [raw.id_to_token(number) or f"[PAD{number}]" for number in range(size)]
    kinds = [NORMAL] * tokenizer.vocab_size + [UNUSED] * (size - tokenizer.vocab_size)
    for number, token in added.items():
        kinds[number] = CONTROL if token.special else USER_DEFINED
    merges = described["model"].get("merges", [])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_way(described))
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    bos = raw.token_to_id(words["bos_token"]) if words["bos_token"] else None
    if bos is not None:
        writer.add_bos_token_id(bos)
    writer.add_eos_token_id(raw.token_to_id(words["eos_token"]))
    writer.add_add_bos_token(bos is not None and raw.encode("x").ids[:1] == [bos])


def _way(described: Mapping[str, Any]) -> str:
    """llama.cpp's name for how a tokenizer.json cuts text before its merges."""
    step = described["pre_tokenizer"] or {}
    steps = step.get("pretokenizers", [step])
    kinds = [part.get("type") for part in steps]
    is_plain = described["model"]["type"] == "BPE" and not described["normalizer"]
    last = steps[-1]
    is_plain = is_plain and not last.get("add_prefix_space") and last.get("use_regex", True)
    if is_plain and kinds == ["ByteLevel"]:
        return GPT2
    if is_plain and kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return SMOLLM
    raise SettingsError(
        "a GGUF file holds a byte-level BPE tokenizer, with each digit alone or as GPT-2's; this "
        f"one is of kind {described['model']['type']}, cut by {', '.join(map(str, kinds))}"
    )


def _id(stored: Mapping[str, Any], word: str) -> int | None:
    return stored.get(f"tokenizer.ggml.{word}_token_id")
