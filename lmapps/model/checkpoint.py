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
from lmapps.small_file import small_text
from lmapps.text.rendering import MAX_SOURCE
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
        tokenizer.check_fits(model.config.vocab_size, folder)
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
    begin, end = ids.get("bos_token_id"), ids.get("eos_token_id")
    named = [number for number in (end if isinstance(end, list) else [end]) if number is not None]
    for number in (*named, *([] if begin is None else [begin])):
        if type(number) is not int or not 0 <= number < tokenizer.vocab_size:
            raise CheckpointError(
                f"{folder}: bos_token_id and eos_token_id must be ids of the tokenizer, 0 to "
                f"{tokenizer.vocab_size - 1}, got {number!r:.80}: correct generation_config.json, "
                "or else config.json"
            )
    if named:
        tokenizer.end_ids = frozenset(named)
        tokenizer.bos_id = -1 if begin is None else begin
    if not tokenizer.end_ids:
        raise CheckpointError(f"{folder}: no eos_token_id in config.json, so no reply could end")
    return tokenizer


def load_template(folder: Path, tokenizer: Tokenizer) -> Template:
    """The chat template of a checkpoint: its own file, else tokenizer_config.json, else ours."""
    file = folder / "tokenizer_config.json"
    settings: dict[str, Any] = {}
    if file.is_file():
        settings = read_json(folder, "tokenizer_config.json")
    source = _default_of(settings.get("chat_template"))
    try:
        if (folder / FILE).exists():
            source = small_text(folder / FILE, MAX_SOURCE)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / FILE} cannot be read: {error}") from None
    tokens = {name: settings.get(name) or "" for name in ("bos_token", "eos_token")}
    words: dict[str, Any] = {
        name: value.get("content") if isinstance(value, dict) else value
        for name, value in tokens.items()
    }
    for name, told in {"chat_template": source or "", **words}.items():
        if not isinstance(told, str):
            raise CheckpointError(f"{file}: {name} must be a text, got {told!r:.80}")
    return Template(tokenizer, source or DEFAULT, **(words if settings else {}))


def _default_of(template: Any) -> Any:
    """Of several templates, which older folders have in a list, the one for a plain chat."""
    several = template if isinstance(template, list) else []
    named = [one for one in several if isinstance(one, dict) and one.get("name") == "default"]
    return named[0].get("template") if named else template
