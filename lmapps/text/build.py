"""A data recipe -> `train.jsonl`, `validation.jsonl`, `test.jsonl` and a manifest in a folder.

Cleaning, and all that is worked out for each document by itself, is done side by side (`parts.py`).
Here one process passes over the parts in order: it only looks up whether a document was there
before, and writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lmapps.errors import DataError, StorageError
from lmapps.text.cleaning import Signature, bands
from lmapps.text.parts import Marked, make_parts, read_part
from lmapps.text.recipe import DataRecipe
from lmapps.text.sources import hash_of_files
from lmapps.text.storage import write_whole

SPLITS = ("train", "validation", "test")


def build_data(recipe: DataRecipe, folder: Path, processes: int = 0) -> dict[str, Any]:
    """Build what the recipe says and return its manifest.

    Raises `DataError` where nothing is left, `StorageError` where the disk is full.
    """
    parts = folder / "parts"
    try:
        parts.mkdir(parents=True, exist_ok=True)
        made = make_parts(recipe, parts, processes)
        manifest = _write_splits(recipe, made, folder)
        write_whole(folder / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
        shutil.rmtree(parts)
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {error}; make room and try again") from None
    return manifest


class Seen:
    """The documents so far, by what makes two of them the same."""

    def __init__(self, exact: bool, near: float) -> None:
        self.exact, self.near = exact, near
        self._keys: set[bytes] = set()
        self._bands: dict[bytes, int] = {}
        self._signatures: list[Signature] = []

    def repeats(self, document: Marked) -> str:
        """`duplicate`, `near duplicate`, or '' for a new one, which is remembered."""
        if self.exact:
            if document.key in self._keys:
                return "duplicate"
            self._keys.add(document.key)
        own = document.signature
        if own is not None:
            keys = bands(own)
            for number in {self._bands[key] for key in keys if key in self._bands}:
                if np.mean(own == self._signatures[number]) >= self.near:
                    return "near duplicate"
            self._signatures.append(own)
            for key in keys:
                self._bands.setdefault(key, len(self._signatures) - 1)
        return ""


def _write_splits(recipe: DataRecipe, parts: list[list[Path]], folder: Path) -> dict[str, Any]:
    from tqdm import tqdm

    seen = Seen(recipe.duplicates.exact, recipe.duplicates.near)
    report: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    work = {split: folder / f"{split}.jsonl.part" for split in SPLITS}
    outs = {split: file.open("w", encoding="utf-8") for split, file in work.items()}
    try:
        for source, own in zip(recipe.sources, parts, strict=True):
            tally: Counter[str] = Counter()
            documents = (document for part in own for document in read_part(part, tally))
            for document in tqdm(documents, unit=" documents", desc=f"write {source.name}"):
                tally["read"] += 1
                reason = reason_to_drop(document, seen, recipe, tally)
                if reason:
                    tally[reason] += 1
                    continue
                split = split_of(document.key, recipe)
                tally[split] += 1
                times = repeats_of(document.key, source.weight) if split == "train" else 1
                record = {"text": document.text, "source": source.name}
                outs[split].write((json.dumps(record, ensure_ascii=False) + "\n") * times)
                counts[split] += times
            report[source.name] = {"weight": source.weight, **tally}
    finally:
        for out in outs.values():
            out.close()
    if not counts["train"]:
        for file in work.values():
            file.unlink()
        raise DataError(f"the recipe leaves no document to train on: {report}")
    for split, file in work.items():
        os.replace(file, folder / f"{split}.jsonl")
    written = {
        split: {"documents": counts[split], "sha256": hash_of_files([folder / f"{split}.jsonl"])}
        for split in SPLITS
    }
    return {
        "splits": written,
        "sources": report,
        "clean": asdict(recipe.clean),
        "duplicates": asdict(recipe.duplicates),
        "split": asdict(recipe.split),
        "files": dict(_inputs(recipe, parts)),
        "held_out": {str(file): hash_of_files([file]) for file in recipe.held_out.files},
    }


def reason_to_drop(document: Marked, seen: Seen, recipe: DataRecipe, tally: Counter[str]) -> str:
    """Why a document is left out, as the tally names it; '' where it stays. Overlap is counted."""
    reason = seen.repeats(document)
    if not reason and document.overlaps:
        tally["overlapping held-out text"] += 1
        reason = "dropped for overlap" if recipe.held_out.drop else ""
    return reason


def _inputs(recipe: DataRecipe, parts: list[list[Path]]) -> Iterator[tuple[str, str]]:
    """What was read, with a hash of it: of a data set, of its texts under the recipe's rules."""
    for source, own in zip(recipe.sources, parts, strict=True):
        for file in source.files:
            yield str(file), hash_of_files([file])
        if source.dataset is not None:
            names = "".join(part.stem for part in own)
            yield str(source.dataset), hashlib.sha256(names.encode()).hexdigest()


def split_of(key: bytes, recipe: DataRecipe) -> str:
    """Drawn by the hash of the text: the same document is on the same side in every build."""
    place = int.from_bytes(key[:8]) / 2**64
    if place < recipe.split.test:
        return "test"
    return "validation" if place < recipe.split.test + recipe.split.validation else "train"


def repeats_of(key: bytes, weight: float) -> int:
    """The weight as a whole number of times, the rest of it drawn by the hash of the text."""
    whole = int(weight)
    return whole + (int.from_bytes(key[8:]) / 2**64 < weight - whole)
