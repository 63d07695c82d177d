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
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from lmapps.errors import DataError, StorageError
from lmapps.small_file import small_object
from lmapps.text.cleaning import Signature, bands
from lmapps.text.parts import Marked, make_parts, read_part, sharing
from lmapps.text.recipe import DataRecipe
from lmapps.text.sources import sha256_of
from lmapps.text.storage import write_whole

SPLITS = ("train", "validation", "test")
MANIFEST = "manifest.json"
WORK = ".parts"
"""The folder in the folder, where all is made before it takes its place."""


def build_data(recipe: DataRecipe, folder: Path, processes: int = 0) -> dict[str, Any]:
    """Build what the recipe says and return its manifest.

    Raises `DataError` where nothing is left or a person's file would be replaced, `StorageError`
    where the disk is full.
    """
    _refuse_what_is_not_ours(recipe, folder)
    work = folder / WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
        made = make_parts(recipe, work, processes)
        manifest = _write_splits(recipe, made, work)
        write_whole(work / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
        for file in _outputs(work):
            os.replace(file, folder / file.name)
        shutil.rmtree(work)
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {error}; make room and try again") from None
    return manifest


def is_built(folder: Path) -> bool:
    """Whether what lies here was made by a recipe."""
    return {"splits", "sources"} <= small_object(folder / MANIFEST, most=10**9).keys()


def files_by_split(files: Sequence[Path]) -> dict[str, list[Path]]:
    """`train` alone, with all files; all three where a recipe's `train.jsonl` is among them, whose
    `validation.jsonl` and `test.jsonl` are held out, given or not. Where one of those is empty the
    other is held out of everything."""
    found: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for file in files:
        if file.name == "train.jsonl" and is_built(file.parent):
            for split in SPLITS[1:]:
                held_out = file.with_name(f"{split}.jsonl")
                if held_out.is_file() and held_out.stat().st_size:
                    found[split].append(held_out)
    held = {file.resolve() for split in SPLITS[1:] for file in found[split]}
    found["train"] = [file for file in files if file.resolve() not in held]
    return found if found["validation"] and found["test"] else {"train": found["train"]}


def _outputs(folder: Path) -> list[Path]:
    return [*(folder / f"{split}.jsonl" for split in SPLITS), folder / MANIFEST]


def _refuse_what_is_not_ours(recipe: DataRecipe, folder: Path) -> None:
    """Raises `DataError` where a file of a person's would be replaced."""
    replaced = {file.resolve() for file in _outputs(folder)}
    work = (folder / WORK).resolve()
    for file in (*chain(*(source.files for source in recipe.sources)), *recipe.held_out.files):
        if file.resolve() in replaced or file.resolve().is_relative_to(work):
            raise DataError(
                f"the recipe reads {file}, which would be replaced: choose another folder than "
                f"{folder}"
            )
    there = [file for file in _outputs(folder) if file.exists()]
    if there and not (is_built(folder) or is_built(folder / WORK)):
        raise DataError(
            f"{there[0]} was made by no recipe and would be replaced: choose another folder than "
            f"{folder}"
        )


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
    """The splits in `folder`, and the manifest that tells of them."""
    from tqdm import tqdm

    seen = Seen(recipe.duplicates.exact, recipe.duplicates.near)
    report: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    trained_on: list[list[bool]] = []
    held_out = [np.zeros(0, np.uint64)]
    outs = {split: (folder / f"{split}.jsonl").open("w", encoding="utf-8") for split in SPLITS}
    try:
        for source, own in zip(recipe.sources, parts, strict=True):
            tally: Counter[str] = Counter()
            trained_on.append([])
            documents = (document for part in own for document in read_part(part, tally))
            for document in tqdm(documents, unit=" documents", desc=f"write {source.name}"):
                tally["read"] += 1
                reason = reason_to_drop(document, seen, recipe, tally)
                split = recipe.split.of(document.key)
                trained_on[-1].append(not reason and split == "train")
                tally[reason or split] += 1
                if reason:
                    continue
                if split != "train":
                    held_out.append(document.runs.copy())  # a view keeps all of its part
                times = repeats_of(document.key, source.weight) if split == "train" else 1
                record = {"text": document.text, "source": source.name}
                outs[split].write((json.dumps(record, ensure_ascii=False) + "\n") * times)
                counts[split] += times
            report[source.name] = {"weight": source.weight, **tally}
    finally:
        for out in outs.values():
            out.close()
    if not counts["train"]:
        raise DataError(f"the recipe leaves no document to train on: {report}")
    wanted = np.concatenate(held_out)
    for source, own, asked in zip(recipe.sources, parts, trained_on, strict=True):
        found = sharing(own, np.array(asked, bool), wanted)
        report[source.name]["overlapping validation or test"] = found
    written = {
        split: {"documents": counts[split], "sha256": sha256_of(folder / f"{split}.jsonl")}
        for split in SPLITS
    }
    return {
        "splits": written,
        "sources": report,
        "clean": asdict(recipe.clean),
        "duplicates": asdict(recipe.duplicates),
        "split": asdict(recipe.split),
        "files": dict(_inputs(recipe, parts)),
        "held_out": {str(file): sha256_of(file) for file in recipe.held_out.files},
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
            yield str(file), sha256_of(file)
        if source.dataset is not None:
            names = "".join(part.stem for part in own)
            yield str(source.dataset), hashlib.sha256(names.encode()).hexdigest()


def repeats_of(key: bytes, weight: float) -> int:
    """The weight as a whole number of times, the rest of it drawn by the hash of the text."""
    whole = int(weight)
    return whole + (int.from_bytes(key[8:]) / 2**64 < weight - whole)
