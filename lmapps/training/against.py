"""A fine-tuned run and the checkpoint before it -> their scores on rows that training left out."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from lmapps.errors import SettingsError, StorageError
from lmapps.small_file import small_json
from lmapps.text.storage import write_whole
from lmapps.training.look import Look
from lmapps.training.runs import program
from lmapps.training.settings import TrainSettings

KEPT = "compared.json"
HELD_OUT = "held_out.jsonl"
"""The rows beside a file to train on that were kept apart from it."""
EXAMPLES = 50
SECONDS = 1800

Table = tuple[list[str], list[list[str]]]
"""Header and rows."""


def can_compare(look: Look) -> bool:
    """Whether there is a checkpoint before it, and a plugin that scores both."""
    return look.has_weights and not look.is_live and bool(look.settings.get("apps"))


def compared(look: Look) -> Table | None:
    """What `compare` found before."""
    try:
        header, rows = small_json(look.folder / "run" / KEPT)
    except (OSError, ValueError, TypeError):
        return None
    are_rows = isinstance(rows, list) and all(map(_is_row, (header, *rows)))
    return (header, rows) if are_rows and {len(header)} >= set(map(len, rows)) else None


def _is_row(cells: Any) -> bool:
    """Checkpoint, subject and scores, as text."""
    return isinstance(cells, list) and len(cells) > 2 and all(isinstance(c, str) for c in cells)


def compare(look: Look) -> Table:
    """Score both, in a process of its own, and keep the table in the run's folder.

    Raises `SettingsError` with the reason where that is not possible.
    """
    settings = TrainSettings.from_values(dict(look.settings))
    before, after = settings.start_from, str(look.folder)
    words = program("evaluate", before, after, *_rows(settings), "--limit", str(EXAMPLES))
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    try:
        done = subprocess.run(
            [*words, "--json"], capture_output=True, text=True, timeout=SECONDS, env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SettingsError(
            "scoring took more than {minutes} minutes", minutes=SECONDS // 60
        ) from None
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2].removeprefix("lmapps: ")
        raise SettingsError("the two cannot be compared: {reason}", reason=reason)
    header, rows = _table(json.loads(done.stdout))
    try:
        write_whole(look.folder / "run" / KEPT, json.dumps([header, rows]).encode())
    except OSError as error:
        raise StorageError(
            "the scores cannot be kept in {folder}: {error}", folder=look.folder, error=error
        ) from None
    return header, rows


def _rows(settings: TrainSettings) -> list[str]:
    """What to score on: the rows kept apart where every file has some, else those that training
    leaves out by itself."""
    data = settings.data
    apart = [entry.rpartition("/")[0] + "/" + HELD_OUT for entry in data]
    have_all = bool(data) and all(Path(entry.partition("=")[2]).is_file() for entry in apart)
    words = ["--apps", ",".join(settings.apps)]
    if data:
        words += ["--data", *(apart if have_all else data)]
    return words if have_all else [*words, "--held-out"]


def _table(results: dict[str, Any]) -> Table:
    from lmapps.training.compare import compare_table  # brings accelerate

    header, rows = compare_table({Path(place).name: scores for place, scores in results.items()})
    return header, rows
