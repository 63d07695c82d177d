"""A data recipe -> `train.jsonl`, `validation.jsonl`, `test.jsonl` and a manifest in a folder.

Files are read and cleaned side by side, one part a file; a part that is there is not made again,
so that a build that was stopped goes on. Deduplication then passes over the parts in order.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lmapps.errors import DataError, StorageError
from lmapps.text.cleaning import (
    OVERLAP,
    Signature,
    bands,
    cleaned,
    exact_key,
    pieces,
    signature,
    words_of,
)
from lmapps.text.recipe import Clean, DataRecipe, Source
from lmapps.text.sources import hash_of_files, read_documents
from lmapps.text.storage import write_whole

SPLITS = ("train", "validation", "test")


def build_data(recipe: DataRecipe, folder: Path, processes: int = 0) -> dict[str, Any]:
    """Build what the recipe says and return its manifest.

    Raises `DataError` where nothing is left, `StorageError` where the disk is full.
    """
    parts = folder / "parts"
    try:
        parts.mkdir(parents=True, exist_ok=True)
        jobs = [
            (file, parts / part_name(file, recipe.clean), recipe.clean)
            for source in recipe.sources
            for file in source.files
        ]
        _make_parts([job for job in jobs if not job[1].exists()], processes)
        names = {file: part for file, part, _ in jobs}
        manifest = _write_splits(recipe, names, folder)
        write_whole(folder / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
        shutil.rmtree(parts)
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {error}; make room and try again") from None
    return manifest


def part_name(file: Path, rules: Clean) -> str:
    """By the content of the file and the rules: another of either is another part."""
    key = json.dumps([str(file), hash_of_files([file]), asdict(rules)])
    return hashlib.sha256(key.encode()).hexdigest()[:24] + ".jsonl"


def make_part(job: tuple[Path, Path, Clean]) -> None:
    """Clean one file: a line a document that stays, the last line the count of the others."""
    file, part, rules = job
    dropped: Counter[str] = Counter()
    work = part.with_name(f"{part.name}.{os.getpid()}.part")
    with work.open("w", encoding="utf-8") as out:
        for document in read_documents([file]):
            text, reason = cleaned(document.text, rules)
            if reason:
                dropped[reason] += 1
            else:
                out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        out.write(json.dumps({"dropped": dropped}) + "\n")
    os.replace(work, part)


def _make_parts(jobs: list[tuple[Path, Path, Clean]], processes: int) -> None:
    from tqdm import tqdm

    count = min(processes or os.cpu_count() or 1, len(jobs))
    if count <= 1:
        for job in tqdm(jobs, unit="file", disable=not jobs):
            make_part(job)
        return
    # Fresh processes: a fork of one with threads may hang.
    with multiprocessing.get_context("spawn").Pool(count) as pool:
        for _ in tqdm(pool.imap_unordered(make_part, jobs), total=len(jobs), unit="file"):
            pass


class Seen:
    """The documents so far, by what makes two of them the same."""

    def __init__(self, exact: bool, near: float) -> None:
        self.exact, self.near = exact, near
        self._keys: set[bytes] = set()
        self._bands: dict[bytes, int] = {}
        self._signatures: list[Signature] = []

    def repeats(self, text: str) -> str:
        """`duplicate`, `near duplicate`, or '' for a new one, which is remembered."""
        if self.exact:
            key = exact_key(text)
            if key in self._keys:
                return "duplicate"
            self._keys.add(key)
        if self.near:
            own = signature(words_of(text))
            keys = bands(own)
            for number in {self._bands[key] for key in keys if key in self._bands}:
                if np.mean(own == self._signatures[number]) >= self.near:
                    return "near duplicate"
            self._signatures.append(own)
            for key in keys:
                self._bands.setdefault(key, len(self._signatures) - 1)
        return ""


def _write_splits(recipe: DataRecipe, parts: dict[Path, Path], folder: Path) -> dict[str, Any]:
    held_out = held_out_pieces(recipe)
    seen = Seen(recipe.duplicates.exact, recipe.duplicates.near)
    report: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    work = {split: folder / f"{split}.jsonl.part" for split in SPLITS}
    outs = {split: file.open("w", encoding="utf-8") for split, file in work.items()}
    try:
        for source in recipe.sources:
            tally: Counter[str] = Counter()
            for text in _texts(source, parts, tally):
                reason = seen.repeats(text)
                if not reason and overlaps(text, held_out):
                    tally["overlapping held-out text"] += 1
                    reason = "dropped for overlap" if recipe.held_out.drop else ""
                if reason:
                    tally[reason] += 1
                    continue
                split = split_of(text, recipe)
                tally[split] += 1
                times = repeats_of(text, source.weight) if split == "train" else 1
                line = json.dumps({"text": text, "source": source.name}, ensure_ascii=False)
                outs[split].write((line + "\n") * times)
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
    inputs = {str(file): hash_of_files([file]) for file in parts}
    return {
        "splits": written,
        "sources": report,
        "clean": asdict(recipe.clean),
        "duplicates": asdict(recipe.duplicates),
        "split": asdict(recipe.split),
        "files": inputs,
        "held_out": {str(file): hash_of_files([file]) for file in recipe.held_out.files},
    }


def _texts(source: Source, parts: dict[Path, Path], tally: Counter[str]) -> Iterator[str]:
    for file in source.files:
        with parts[file].open(encoding="utf-8", newline="\n") as lines:
            for line in lines:
                record = json.loads(line)
                tally.update(record.get("dropped", {}))
                if "text" in record:
                    tally["read"] += 1
                    yield record["text"]


def split_of(text: str, recipe: DataRecipe) -> str:
    """Drawn by the hash of the text: the same document is on the same side in every build."""
    place = int.from_bytes(exact_key(text)[:8]) / 2**64
    if place < recipe.split.test:
        return "test"
    return "validation" if place < recipe.split.test + recipe.split.validation else "train"


def repeats_of(text: str, weight: float) -> int:
    """The weight as a whole number of times, the rest of it drawn by the hash of the text."""
    whole = int(weight)
    return whole + (int.from_bytes(exact_key(text)[8:]) / 2**64 < weight - whole)


def held_out_pieces(recipe: DataRecipe) -> set[int]:
    """Every run of 13 words of the held-out files; a text shorter than that as a whole."""
    found: set[int] = set()
    for file in recipe.held_out.files:
        for document in read_documents([file]):
            found.update(pieces(words_of(document.text), OVERLAP).tolist())
    return found


def overlaps(text: str, held_out: set[int]) -> bool:
    return bool(held_out) and not held_out.isdisjoint(pieces(words_of(text), OVERLAP).tolist())
