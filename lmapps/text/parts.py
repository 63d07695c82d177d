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
from lmapps.text.cleaning import OVERLAP, cleaned, exact_key, pieces, signature
from lmapps.text.hub import read_dataset
from lmapps.text.recipe import Clean, DataRecipe, Source
from lmapps.text.sources import Document, hash_of_files, read_documents
from lmapps.words import words_of

PART_CHARACTERS = 4_000_000
"""Text in a part: a few seconds of work."""


@dataclass(frozen=True)
class Marks:
    """What is looked for in each document beside its cleanliness."""

    near: bool
    """Whether near duplicates will be looked for."""
    held_out: tuple[Path, ...]
    """Files whose overlap is looked for."""


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
    """The same for texts with the same words."""
    signature: npt.NDArray[np.uint32] | None
    overlaps: bool


def make_parts(recipe: DataRecipe, folder: Path, processes: int = 0) -> list[list[Path]]:
    """The parts of each source, in order; those that are not there yet are made."""
    from tqdm import tqdm

    marks = Marks(recipe.duplicates.near > 0, recipe.held_out.files)
    key = json.dumps([asdict(recipe.clean), marks.near, hash_of_files(marks.held_out)])
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

        _make_all(jobs(), processes or os.cpu_count() or 1)
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
    keys, signatures, overlaps = [], [], []
    work = job.part.with_name(f"{job.part.name}.{os.getpid()}.part")
    with work.open("w", encoding="utf-8") as out:
        for text in job.texts:
            text, reason = cleaned(text, job.rules)
            if reason:
                dropped[reason] += 1
                continue
            words = words_of(text)
            keys.append(exact_key(words))
            if job.marks.near:
                signatures.append(signature(words))
            runs = pieces(words, OVERLAP).tolist() if held_out else ()
            overlaps.append(not held_out.isdisjoint(runs))
            out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        out.write(json.dumps({"dropped": dropped}) + "\n")
    marks = work.with_suffix(".npz")
    np.savez(marks, keys=np.array(keys, "S16"), signatures=signatures, overlaps=overlaps)
    os.replace(marks, job.part.with_suffix(".npz"))
    os.replace(work, job.part)


def read_part(part: Path, tally: Counter[str]) -> Iterator[Marked]:
    """The documents of a part; how many were dropped, and why, is added to the tally."""
    with np.load(part.with_suffix(".npz")) as marks:
        keys, signatures, overlaps = (marks[name] for name in ("keys", "signatures", "overlaps"))
    with part.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines):
            record = json.loads(line)
            if "dropped" in record:
                tally.update(record["dropped"])
                return
            own = signatures[number] if len(signatures) else None
            key = keys[number].ljust(16, b"\0")  # numpy takes zeros off a text's end
            yield Marked(record["text"], key, own, bool(overlaps[number]))


@functools.cache
def held_out_pieces(files: tuple[Path, ...]) -> frozenset[int]:
    """Every run of 13 words of the held-out files; a text shorter than that as a whole."""
    found: set[int] = set()
    for file in files:
        for document in read_documents([file]):
            found.update(pieces(words_of(document.text), OVERLAP).tolist())
    return frozenset(found)


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
