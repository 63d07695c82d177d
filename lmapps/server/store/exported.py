"""A conversation <-> files that a person downloads and brings back."""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lmapps.errors import InputError
from lmapps.server.store.conversation import Conversation

KEPT = 20
"""So many of the last exports are there; Gradio has copied one long before it goes."""
LARGEST = 20_000_000
"""Bytes of an exported conversation that is brought back."""


class Exports:
    """The files of the last exports, each in a folder of its own."""

    def __init__(self) -> None:
        self._folders: deque[TemporaryDirectory[str]] = deque()
        self._turn = threading.Lock()

    def write(self, whole: Conversation) -> list[str]:
        """Two files: as Markdown, and as JSON with every branch."""
        made = TemporaryDirectory(prefix="lmapps-export-", ignore_cleanup_errors=True)
        name = re.sub(r"[^\w-]+", "-", whole.title).strip("-")[:40] or "conversation"
        files = {f"{name}.md": whole.as_markdown()}
        files[f"{name}.json"] = json.dumps(whole.as_data(), ensure_ascii=False, indent=2)
        for file, content in files.items():
            Path(made.name, file).write_text(content, encoding="utf-8")
        with self._turn:
            self._folders.append(made)
            while len(self._folders) > KEPT:
                self._folders.popleft().cleanup()
        return [str(Path(made.name, file)) for file in files]


def read_export(file: Path) -> Any:
    """What is in a file that was exported as JSON. Raises `InputError` for another one."""
    if file.stat().st_size > LARGEST:
        raise InputError("the file is larger than {most:,} bytes", most=LARGEST)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise InputError(
            "{file} is not JSON: export a conversation first", file=file.name
        ) from None
