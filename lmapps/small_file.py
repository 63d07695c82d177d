"""A file that somebody else may have written -> its text or its JSON, in bounded memory.

What lies in the folder of a checkpoint or a run is data, and may be anything: a text without end,
a pipe that nobody writes to, JSON that is nested for ever.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MOST = 16_000_000
"""Characters; as JSON they take some 500 MB at most."""
DEEPEST = 100
"""JSON within JSON. Python's own limit depends on who asks."""


def small_text(file: Path, most: int = MOST) -> str:
    """The text of a file. Raises `OSError`, and `ValueError` where it is longer or none."""
    if not stat.S_ISREG(file.stat().st_mode):  # to open a pipe may take for ever
        raise ValueError("it is no plain file")
    with file.open(encoding="utf-8") as stream:
        text = stream.read(most + 1)
    if len(text) > most:
        raise ValueError(f"it has more than {most:,} characters")
    return text


def small_json(file: Path, most: int = MOST) -> Any:
    """What a JSON file holds. Raises `OSError` and `ValueError`."""
    return parsed(small_text(file, most))


def small_object(file: Path, most: int = MOST) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none that can be read."""
    try:
        stored = small_json(file, most)
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def parsed(text: str | bytes) -> Any:
    """JSON that can be shown and written again. Raises `ValueError` for other: nested too deeply,
    or with halves of characters in it."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [value]
    for _ in range(DEEPEST):
        if not level:
            return value
        level = [part for each in level for part in _parts(each)]
    raise ValueError("it is nested too deeply")


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return (*value, *value.values())
    if isinstance(value, str):
        value.encode()  # a `ValueError` for half of a character
    return value if isinstance(value, list) else ()
