"""What a person brings to train on -> files in the data folder, which are kept and found again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from lmapps.errors import DataError, LmappsError, StorageError
from lmapps.paths import home
from lmapps.sentence import Sentence
from lmapps.text.corpus import is_corpus
from lmapps.text.sources import data_files, read_documents
from lmapps.text.storage import write_whole

LEAST = 1000
"""Characters; what is shorter leaves nothing to validate on."""
PASTED = "pasted.txt"


def data_folder() -> Path:
    """Where texts and records lie that people brought, and those that the operator put there."""
    return home() / "data"


def kept() -> list[str]:
    """What can be trained on, by its place in the data folder: files, folders, token corpora."""
    folder = data_folder()
    found = []
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if entry.name.startswith("."):
            continue
        try:
            if not is_corpus(entry):
                data_files([entry])
        except LmappsError:  # nothing in it that can be read
            continue
        found.append(entry.name)
    return found


def recipes() -> list[str]:
    """The names of the recipes in the data folder."""
    return sorted(file.name for file in data_folder().glob("*.toml"))


def place_of(name: str) -> Path:
    """A place in the data folder. Raises `DataError` for one outside; a link that the operator put
    there may lead out."""
    folder = data_folder()
    place = Path(os.path.normpath(folder / name.strip()))
    if folder not in place.parents:
        raise DataError(
            "{name!r} is outside the data folder: put it, or a link to it, in {folder}",
            name=name,
            folder=folder,
        )
    if not place.exists():
        raise DataError(
            "there is no {name!r} in the data folder {folder}", name=name, folder=folder
        )
    return place


def keep(name: str, pasted: str, uploaded: Sequence[Path]) -> Path | None:
    """Write what was pasted and copy what was uploaded into a new folder; None without either.

    Raises `DataError` for what cannot be read or is too short, before anything is written, and
    `StorageError` where there is no room.
    """
    if not (pasted.strip() or uploaded):
        return None
    for file in uploaded:
        if file.suffix == ".jsonl" or ".jsonl." in file.name:
            continue  # records, or texts in a field: their readers say what is wrong
        for _ in read_documents([file]):
            pass
    target = free(data_folder() / name)
    work = target.with_name(f".{target.name}.part")
    try:
        work.mkdir(parents=True)
        if pasted.strip():
            write_whole(work / PASTED, pasted.encode(errors="replace"))
        for file in uploaded:
            shutil.copyfile(file, free(work / file.name))
        os.replace(work, target)
    except OSError as error:
        shutil.rmtree(work, ignore_errors=True)
        raise StorageError(
            "cannot keep the text in {folder}: {error}; make room", folder=target, error=error
        ) from None
    return target


def check_enough(places: Sequence[Path]) -> int:
    """Bytes of text in files and folders, compressed ones as they lie there.

    Raises `DataError` where that is too little to learn from, or nothing can be read.
    """
    if not places:
        raise DataError(
            Sentence("no text to train on: write some, bring a file, or choose what is there")
        )
    size = sum(
        file.stat().st_size
        for place in places
        for file in ([place / "train.bin"] if is_corpus(place) else data_files([place]))
    )
    if size < LEAST:
        raise DataError(
            "there are {size} bytes of text, too few to learn from: give {least:,} at least, "
            "better a million",
            size=size,
            least=LEAST,
        )
    return size


def free(place: Path) -> Path:
    """The place, or one with a number that is not taken."""
    number, free = 2, place
    while free.exists():
        free = place.with_name(f"{place.stem}-{number}{place.suffix}")
        number += 1
    return free
