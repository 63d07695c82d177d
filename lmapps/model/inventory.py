"""A checkpoint folder -> what lies in it, read without its weights: shape, size, report, card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmapps.errors import CheckpointError
from lmapps.model.config import LIMIT
from lmapps.small_file import small_object

LARGEST_CARD = 100_000
"""Characters of a card that are read."""
WEIGHTS = ("*.safetensors", "*.gguf")


@dataclass(frozen=True)
class Stored:
    """One checkpoint on disk."""

    folder: Path
    bytes: int
    """What the checkpoint itself takes: the state to resume a run from does not count."""
    body: str = ""
    """rnn, gru, lstm or transformer; for a kind that only transformers reads, that kind."""
    parameters: int | None = None
    context: int | None = None
    vocabulary: int | None = None
    weights: str = ""
    """The number format on disk, as config.json says it."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """`report.json` of its training; empty where there is none."""
    card: str = ""
    """`README.md`, without its front matter."""
    problem: str = ""
    """Why it cannot be used, as a sentence."""


def stored_in(folder: Path) -> Stored:
    """Look into a folder. What is wrong with it is told in `problem`."""
    from lmapps.model.folder import read_json, understand

    size = sum(file.stat().st_size for file in folder.glob("*") if file.is_file())
    report, card = small_object(folder / "report.json"), _card(folder)
    try:
        stored = read_json(folder, "config.json")
    except CheckpointError as error:
        return Stored(folder, size, report=report, card=card, problem=str(error))
    weights = f"{stored.get('dtype') or stored.get('torch_dtype') or ''!s:.40}"
    if stored.get("quantization_config"):
        weights = "int8"
    problem = "" if any(map(list, map(folder.glob, WEIGHTS))) else f"{folder} has no weights"
    try:
        config = understand(stored, folder)
    except CheckpointError:  # not of our kinds: transformers may read it
        return Stored(
            folder, size, f"{stored.get('model_type', '')!s:.40}", None,
            _count(stored.get("max_position_embeddings")), _count(stored.get("vocab_size")),
            weights, report, card, problem,
        )  # fmt: skip
    return Stored(
        folder, size, config.body, config.parameters, config.context, config.vocab_size, weights,
        report, card, problem,
    )  # fmt: skip


def _count(value: Any) -> int | None:
    """A number that a model could have; None for anything else."""
    return value if type(value) is int and 0 < value < LIMIT else None


def _card(folder: Path) -> str:
    if not (folder / "README.md").is_file():
        return ""
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as stream:
            text = stream.read(LARGEST_CARD)
    except OSError:
        return ""
    if text.startswith("---\n") and "\n---\n" in text:  # what the Hub reads
        text = text.partition("\n---\n")[2]
    return text.strip()
