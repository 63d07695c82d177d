"""Bytes -> a file that is there whole or not at all, also after a power cut."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def write_whole(file: Path, content: bytes) -> None:
    """Write beside the name, wait for the disk, rename. On an `OSError` the old file is kept."""
    temporary = file.with_name(file.name + ".part")
    try:
        temporary.write_bytes(content)
        sync(temporary)
        os.replace(temporary, file)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def sync(file: Path) -> None:
    """Wait until a file's content is on the disk."""
    with file.open("r+b") as stream:  # Windows syncs only what it may write
        os.fsync(stream.fileno())
