"""A folder elsewhere on this machine -> its checkpoint copied, without what lies beside it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from lmapps.errors import CheckpointError, SettingsError, StorageError
from lmapps.model.folder import read_json
from lmapps.pull.known import OnProgress, Progress

PIECE = 4 << 20
"""Bytes that are copied at once."""
SETTINGS = ("*.json", "*.jinja", "*.txt", "*.model", "*.md", "LICENSE*")
"""Shape, tokenizer, card, report: nothing that could run."""
LOG = Path("run", "log.jsonl")
"""The curves of its training. The rest of a run is what it would go on from."""
WEIGHTS = "*.safetensors"


def place(name: str) -> Path | None:
    """The folder that a name means; None for one that is no path."""
    return Path(name).expanduser() if name.startswith(("/", "./", "../", "~")) else None


def copy_folder(source: Path, folder: Path, on_progress: OnProgress) -> None:
    """Copy a checkpoint into a folder that is there.

    Raises `SettingsError` where there is no source, `CheckpointError` where it is none, and
    `StorageError` where the disk has no room.
    """
    if not source.is_dir():
        raise SettingsError(
            "there is no folder {folder} on the server's machine: check the path", folder=source
        )
    read_json(source, "config.json")
    files = list(_files(source))
    if not any(file.match(WEIGHTS) for file in files):
        raise CheckpointError(
            "{name} has no {file}: only safetensors are loaded", name=source, file=WEIGHTS
        )
    total = sum((source / file).stat().st_size for file in files)
    if shutil.disk_usage(folder).free < total:
        raise StorageError(
            "{name} has {size:.1f} GB, more than the disk has free", name=source, size=total / 1e9
        )
    done = 0
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        with (source / file).open("rb") as given, (folder / file).open("wb") as made:
            while piece := given.read(PIECE):
                made.write(piece)
                done += len(piece)
                on_progress(Progress("copying", done, total))


def _files(source: Path) -> Iterator[Path]:
    """What is copied, the weights last. Links are followed: the Hub's cache is made of them."""
    found = [file for each in (*SETTINGS, WEIGHTS) for file in sorted(source.glob(each))]
    for file in (source / LOG, *found):
        if file.is_file():
            yield file.relative_to(source)
