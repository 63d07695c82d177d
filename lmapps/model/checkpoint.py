"""A folder <-> a `Checkpoint`: model, tokenizer and chat template, which belong together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lmapps.errors import CheckpointError, StorageError
from lmapps.model.config import ModelConfig
from lmapps.model.folder import load_model, read_json, save_model
from lmapps.model.language_model import LanguageModel
from lmapps.text.template import DEFAULT, FILE, Template
from lmapps.text.tokenizer import Tokenizer


@dataclass
class Checkpoint:
    """What it takes to turn messages into a reply."""

    model: LanguageModel
    tokenizer: Tokenizer
    template: Template
    folder: Path | None = None

    @property
    def name(self) -> str:
        return self.folder.resolve().name if self.folder else "unnamed"

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Checkpoint:
        """Read a checkpoint folder, ours or any of the Llama or Qwen3 kind with a tokenizer.json.

        Raises `CheckpointError` with the reason where that is not possible.
        """
        folder = Path(folder).expanduser()
        model = load_model(folder, dtype)
        tokenizer = load_tokenizer(folder)
        if tokenizer.vocab_size > model.config.vocab_size:
            raise CheckpointError(
                f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model only "
                f"{model.config.vocab_size}: they do not belong together"
            )
        return cls(model.to(device), tokenizer, load_template(folder, tokenizer), folder)

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write everything into `folder`. Raises `StorageError` where that is not possible."""
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.tokenizer.save(folder, **self.template.tokens)
            self.template.save(folder)
        except OSError as error:
            raise StorageError(f"cannot write the checkpoint to {folder}: {error}") from None
        end_ids = sorted(self.tokenizer.end_ids, reverse=True)
        save_model(self.model, folder, dtype=dtype, bos_id=self.tokenizer.bos_id, end_ids=end_ids)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint, with the ids that begin a text and end a reply: those that
    its settings name, else our own tokens."""
    tokenizer = Tokenizer.load(folder)
    ids = read_json(folder, "config.json")
    if (folder / "generation_config.json").is_file():
        ids |= read_json(folder, "generation_config.json")
    end = ids.get("eos_token_id")
    named = frozenset(end if isinstance(end, list) else [end]) - {None}
    if named:
        tokenizer.end_ids = named
        tokenizer.bos_id = ids["bos_token_id"] if ids.get("bos_token_id") is not None else -1
    if not tokenizer.end_ids:
        raise CheckpointError(f"{folder}: no eos_token_id in config.json, so no reply could end")
    return tokenizer


def load_template(folder: Path, tokenizer: Tokenizer) -> Template:
    """The chat template of a checkpoint: its own file, else tokenizer_config.json, else ours."""
    file = folder / "tokenizer_config.json"
    settings: dict[str, Any] = {}
    if file.is_file():
        settings = read_json(folder, "tokenizer_config.json")
    source = settings.get("chat_template")
    if (folder / FILE).is_file():
        source = (folder / FILE).read_text(encoding="utf-8")
    tokens = {name: settings.get(name) or "" for name in ("bos_token", "eos_token")}
    words = {
        name: value["content"] if isinstance(value, dict) else value
        for name, value in tokens.items()
    }
    return Template(tokenizer, source or DEFAULT, **(words if settings else {}))
