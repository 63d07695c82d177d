"""A recipe's sources -> parts on disk: cleaned documents, and what tells each from others.

The sources are read here, one after the other, and handed out in parts of some megabytes to
processes that clean and mark them: a single large file keeps all cores busy too. A part is named by
what it is made of, and one that is there is not made again: a build that was stopped goes on.
"""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmapps.errors import DataError
from lmapps.machine import usable_cores
from lmapps.text.cleaning import OVERLAP, cleaned, exact_key, pieces, signature
from lmapps.text.hub import read_dataset
from lmapps.text.recipe import Clean, DataRecipe, Source, Splits
from lmapps.text.sources import Document, hash_of_files, read_documents
from lmapps.words import words_of

Runs = npt.NDArray[np.uint64]

PART_CHARACTERS = 4_000_000
"""Text in a part: a few seconds of work."""


@dataclass(frozen=True)
class Marks:
    """What is looked for in each document beside its cleanliness."""

    near: bool
    """Whether near duplicates will be looked for."""
    held_out: tuple[Path, ...]
    """Files whose overlap is looked for."""
    split: Splits
    """Tells which documents the recipe holds out itself."""


@dataclass(frozen=True)
class Job:
    """One part to be made."""

    texts: list[str]
    part: Path
    rules: Clean
    marks: Marks


@dataclass(frozen=True)
class Marked:
    """A document that stayed."""

    text: str
    key: bytes
    """The same for texts that differ in white space and capitals alone."""
    signature: npt.NDArray[np.uint32] | None
    overlaps: bool
    """Whether it has words of the held-out files."""
    runs: Runs
    """Runs of 13 words: all of a document that is held out, every 13th of one to train on, so that
    25 words in common are found."""


def make_parts(recipe: DataRecipe, folder: Path, processes: int = 0) -> list[list[Path]]:
    """The parts of each source, in order; those that are not there yet are made."""
    from tqdm import tqdm

    marks = Marks(recipe.duplicates.near > 0, recipe.held_out.files, recipe.split)
    rules = [asdict(recipe.clean), marks.near, hash_of_files(marks.held_out), asdict(marks.split)]
    key = json.dumps(rules)
    found: list[list[Path]] = [[] for _ in recipe.sources]
    begun: set[Path] = set()
    with tqdm(unit=" documents", desc="clean") as bar:

        def jobs() -> Iterator[Job]:
            for parts, source in zip(found, recipe.sources, strict=True):
                for texts in _chunks(source):
                    part = folder / part_name(key, texts)
                    parts.append(part)
                    bar.update(len(texts))
                    if part not in begun and not part.exists():
                        begun.add(part)
                        yield Job(texts, part, recipe.clean, marks)

        _make_all(jobs(), processes or usable_cores())
    return found


def documents_of(source: Source) -> Iterator[Document]:
    """Every document of a source, in order."""
    if source.dataset is not None:
        yield from read_dataset(source.dataset)
    for file in source.files:
        yield from read_documents([file])


def part_name(key: str, texts: Sequence[str]) -> str:
    """By the texts and by the rules: other ones make another part."""
    digest = hashlib.sha256(key.encode())
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()[:24] + ".jsonl"


def make_part(job: Job) -> None:
    """Clean and mark: a line a document that stays, the last line the count of the others, and the
    marks as arrays in a file beside it."""
    dropped: Counter[str] = Counter()
    held_out = held_out_pieces(job.marks.held_out)
    keys, signatures, overlaps, runs = [], [], [], []
    work = job.part.with_name(f"{job.part.name}.{os.getpid()}.part")
    with work.open("w", encoding="utf-8") as out:
        for text in job.texts:
            text, reason = cleaned(text, job.rules)
            if reason:
                dropped[reason] += 1
                continue
            keys.append(exact_key(text))
            words = comparable(text)
            if job.marks.near:
                signatures.append(signature(words))
            every = pieces(words, OVERLAP).tolist() if held_out else ()
            overlaps.append(not held_out.isdisjoint(every))
            is_trained_on = job.marks.split.of(keys[-1]) == "train"
            runs.append(pieces(words, OVERLAP, OVERLAP if is_trained_on else 1))
            out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        out.write(json.dumps({"dropped": dropped}) + "\n")
    marks = work.with_suffix(".npz")
    np.savez(
        marks, keys=np.array(keys, "S16"), signatures=signatures, overlaps=overlaps,
        runs=np.concatenate([*runs, np.zeros(0, np.uint64)]),
        ends=np.cumsum([0, *map(len, runs)]),
    )  # fmt: skip
    os.replace(marks, job.part.with_suffix(".npz"))
    os.replace(work, job.part)


def read_part(part: Path, tally: Counter[str]) -> Iterator[Marked]:
    """The documents of a part; how many were dropped, and why, is added to the tally."""
    with np.load(part.with_suffix(".npz")) as marks:
        keys, signatures, overlaps = (marks[name] for name in ("keys", "signatures", "overlaps"))
        runs, ends = marks["runs"], marks["ends"]
    with part.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines):
            record = json.loads(line)
            if "dropped" in record:
                tally.update(record["dropped"])
                return
            own = signatures[number] if len(signatures) else None
            key = keys[number].ljust(16, b"\0")  # numpy takes zeros off a text's end
            part_of = runs[ends[number] : ends[number + 1]]
            yield Marked(record["text"], key, own, bool(overlaps[number]), part_of)


def sharing(parts: Sequence[Path], asked: npt.NDArray[np.bool_], wanted: Runs) -> int:
    """How many of the documents of some parts, of those that are asked for, have a wanted run."""
    known = np.unique(wanted)
    count = at = 0
    for part in parts if len(known) else ():
        with np.load(part.with_suffix(".npz")) as marks:
            runs, ends = marks["runs"], marks["ends"]
        places = np.minimum(np.searchsorted(known, runs), len(known) - 1)
        found = np.logical_or.reduceat(known[places] == runs, ends[:-1])
        count += int(np.count_nonzero(found & asked[at : at + len(found)]))
        at += len(found)
    return count


@functools.cache
def held_out_pieces(files: tuple[Path, ...]) -> frozenset[int]:
    """Every run of 13 words of the held-out files; a text shorter than that as a whole."""
    found: set[int] = set()
    for file in files:
        for document in read_documents([file]):
            found.update(pieces(comparable(document.text), OVERLAP).tolist())
    return frozenset(found)


def comparable(text: str) -> list[str]:
    """Its words; a text without, such as `***`, is one."""
    return words_of(text) or [text]


def _chunks(source: Source) -> Iterator[list[str]]:
    texts: list[str] = []
    size = 0
    for document in documents_of(source):
        texts.append(document.text)
        size += len(document.text)
        if size >= PART_CHARACTERS:
            yield texts
            texts, size = [], 0
    if texts:
        yield texts


def _make_all(jobs: Iterable[Job], processes: int) -> None:
    if processes == 1:
        for job in jobs:
            make_part(job)
        return
    # Fresh processes: a fork of one with threads may hang.
    context: Any = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            running: deque[Future[None]] = deque()
            for job in jobs:
                running.append(pool.submit(make_part, job))
                if len(running) > 2 * processes:  # what is read waits in memory
                    running.popleft().result()
            for future in running:
                future.result()
    except BrokenProcessPool:
        raise DataError(
            f"one of the {processes} processes that read the data was killed, probably since "
            "memory ended: close other programs and start again, what was made is kept"
        ) from None
