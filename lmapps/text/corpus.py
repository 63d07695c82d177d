"""Documents and a tokenizer -> token files on disk, memory-mapped, with a manifest.

A corpus folder holds `train.bin`, `validation.bin` and `test.bin` (token ids, 2 bytes each below
65,536 tokens, else 4; every document begins with the end-of-text token) and `manifest.json`
(counts, hashes, and what it was made from). The manifest is written last: a folder without one
is not a corpus.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from lmapps.errors import DataError, StorageError
from lmapps.text.build import files_by_split
from lmapps.text.sources import Document, data_files, hash_of_files, read_documents
from lmapps.text.tokenizer import Tokenizer

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
MANIFEST = "manifest.json"

HELD_OUT = 0.01
"""Share of the tokens held out for validation, and as much again for the test."""
HELD_OUT_SMALL = 0.05
"""The same for a corpus of fewer than `FEW_DOCUMENTS`, where the end of the text is held out."""
FEW_DOCUMENTS = 200
HELD_OUT_MOST = 1_000_000
"""No more tokens than this are held out for each."""

Ids = npt.NDArray[Any]


def spread(ids: Ids, most: int | None, pieces: int = 64) -> Ids:
    """At most so many ids, in pieces from all over; None = all of them."""
    if most is None or len(ids) <= most:
        return ids
    starts = np.linspace(0, len(ids) - most // pieces, pieces).astype(np.int64)
    return np.concatenate([ids[start : start + most // pieces] for start in starts])


@dataclass(frozen=True)
class SplitCounts:
    """How large one split is."""

    documents: int
    tokens: int
    bytes: int
    """UTF-8 bytes of the text, for bits per byte."""


@dataclass(frozen=True)
class Corpus:
    """Token files that exist on disk."""

    folder: Path
    dtype: str
    splits: dict[Split, SplitCounts]
    key: str
    """Hash of the source files and the tokenizer: the same key means the same corpus."""

    def ids(self, split: Split) -> Ids:
        """The token ids of a split, memory-mapped, shape (tokens,).

        Only pages that are touched are read, without the pages around them: windows are drawn
        from all over the file, so that memory does not grow with it.
        """
        with (self.folder / f"{split}.bin").open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if split == "train" and hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(mapped, dtype=self.dtype)

    @classmethod
    def load(cls, folder: Path) -> Corpus:
        """Open a corpus folder. Raises `DataError` where the manifest is missing or broken."""
        try:
            stored = json.loads((folder / MANIFEST).read_text())
            splits = {name: SplitCounts(**stored["splits"][name]) for name in SPLITS}
            corpus = cls(folder, stored["dtype"], splits, stored["key"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder} is not a token corpus ({error}); build it again") from None
        width = np.dtype(corpus.dtype).itemsize
        for name in SPLITS:
            file = folder / f"{name}.bin"
            expected = splits[name].tokens * width
            if not file.is_file() or file.stat().st_size != expected:
                raise DataError(f"{file} is missing or cut short; delete {folder} to rebuild it")
        return corpus


def is_corpus(path: str | Path) -> bool:
    """Whether this is a folder of token files, as `lmapps data --out` writes it."""
    return (Path(path) / MANIFEST).is_file() and (Path(path) / "train.bin").is_file()


def build_corpus(paths: Sequence[str | Path], tokenizer: Tokenizer, folder: Path) -> Corpus:
    """Tokenize files and folders into `folder`, or open what was built there from the same input.

    The splits of a recipe are taken over, others are drawn here. Nothing half-written is left: the
    work is done beside `folder`, and moved into it at the end, the manifest last.
    """
    parts = files_by_split(data_files(paths))
    files = [file for part in parts.values() for file in part]
    key = corpus_key(parts, tokenizer)
    if (folder / MANIFEST).is_file() and Corpus.load(folder).key == key:
        return Corpus.load(folder)
    _refuse_what_is_not_ours(folder, files)
    if is_corpus(folder):
        why = "of other input or by an earlier lmapps"
        print(f"{folder} holds token files {why}: they are made anew", file=sys.stderr)
    work = folder.resolve()  # "." has no name
    work = work.with_name(work.name + ".building")
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir(parents=True)
        _write(parts, tokenizer, work, key)
        folder.mkdir(parents=True, exist_ok=True)  # one that is there stays: a shell may be in it
        (folder / MANIFEST).unlink(missing_ok=True)
        for name in (*(f"{split}.bin" for split in SPLITS), MANIFEST):
            os.replace(work / name, folder / name)
    except OSError as error:
        raise StorageError(f"cannot write the corpus to {folder}: {error}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Corpus.load(folder)


def _refuse_what_is_not_ours(folder: Path, files: Sequence[Path]) -> None:
    """Raises `DataError` where `folder`, which is replaced whole, holds something of a person's."""
    inside = [file for file in files if file.resolve().is_relative_to(folder.resolve())]
    if inside:
        raise DataError(f"{inside[0]} lies in {folder}, which would be replaced: choose another")
    is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_free and not is_corpus(folder):
        raise DataError(f"{folder} holds something else: choose an empty or a new folder")


def corpus_key(parts: Mapping[str, Sequence[Path]], tokenizer: Tokenizer) -> str:
    """A hash of everything that decides what the token files contain."""
    hashes = [hash_of_files(files) for files in parts.values()]
    return hashlib.sha256(
        "\n".join(["lmapps corpus 2", *hashes, tokenizer.raw.to_str()]).encode()
    ).hexdigest()


def _write(
    parts: Mapping[str, Sequence[Path]], tokenizer: Tokenizer, folder: Path, key: str
) -> None:
    dtype = "uint16" if tokenizer.vocab_size <= 65536 else "uint32"
    if len(parts) == 1:
        counts = _draw_splits(read_documents(parts["train"]), tokenizer, folder, dtype)
    else:
        counts = {}
        for name in SPLITS:
            documents = read_documents(parts[name])
            lengths, sizes, _ = _tokenize(documents, tokenizer, folder / f"{name}.bin", dtype)
            counts[name] = SplitCounts(len(lengths), int(lengths.sum()), int(sizes.sum()))
    manifest = {
        "key": key,
        "dtype": dtype,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": hashlib.sha256(tokenizer.raw.to_str().encode()).hexdigest(),
        "splits": {name: asdict(count) for name, count in counts.items()},
        "files": [str(file) for files in parts.values() for file in files],
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _draw_splits(
    documents: Iterable[Document], tokenizer: Tokenizer, folder: Path, dtype: str
) -> dict[Split, SplitCounts]:
    whole = folder / "all.bin"
    lengths, sizes, hashes = _tokenize(documents, tokenizer, whole, dtype)
    ids = np.memmap(whole, dtype=dtype, mode="r")
    if len(ids) < 3:
        raise DataError("there is too little text to train on: give at least a few sentences")
    spans = _split_documents(lengths, sizes, hashes) or _split_stream(len(ids), int(sizes.sum()))
    counts = {}
    for name, (ranges, size) in spans.items():
        tokens = 0
        with (folder / f"{name}.bin").open("wb") as out:
            for low, high in ranges:
                ids[low:high].tofile(out)
                tokens += high - low
        counts[name] = SplitCounts(len(ranges), tokens, size)
    del ids
    whole.unlink()
    return counts


def _tokenize(
    documents: Iterable[Document], tokenizer: Tokenizer, file: Path, dtype: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    """Write all ids to one file; return tokens, bytes and a hash of the text of each document.

    One thread encodes a batch while this one reads the next and writes the one before.
    """
    lengths: list[npt.NDArray[np.int64]] = []
    sizes: list[int] = []
    hashes: list[bytes] = []
    with file.open("wb") as out, ThreadPoolExecutor(1) as thread:

        def write(encoded: Future[tuple[Ids, npt.NDArray[np.int64]]]) -> None:
            ids, counts = encoded.result()
            ids.tofile(out)
            lengths.append(counts)

        before = None
        for batch in batches_of(documents):
            encoding = thread.submit(tokenizer.encode_documents, batch, dtype)
            for text in map(str.encode, batch):
                sizes.append(len(text))
                hashes.append(hashlib.blake2b(text, digest_size=8).digest())
            if before is not None:
                write(before)
            before = encoding
        if before is not None:
            write(before)
    return (
        np.concatenate([*lengths, np.zeros(0, np.int64)]),
        np.array(sizes, dtype=np.int64),
        np.frombuffer(b"".join(hashes), dtype=np.uint64),
    )


def batches_of(documents: Iterable[Document], characters: int = 2_000_000) -> Iterator[list[str]]:
    """Texts in groups of about so many characters, so that memory stays bounded."""
    batch: list[str] = []
    size = 0
    for document in documents:
        batch.append(document.text)
        size += len(document.text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


Spans = dict[Split, tuple[list[tuple[int, int]], int]]


def _split_documents(
    lengths: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], hashes: npt.NDArray[np.uint64]
) -> Spans | None:
    """Whole documents drawn (seed 0) for test and validation, all copies of one to the same side;
    None where there are too few."""
    _, first_seen, kind = np.unique(hashes, return_index=True, return_inverse=True)
    kinds = len(first_seen)
    if len(lengths) < FEW_DOCUMENTS or kinds < len(SPLITS):
        return None
    group = np.argsort(np.argsort(first_seen))[kind]
    tokens = np.bincount(group, lengths)
    share = min(HELD_OUT_MOST, int(lengths.sum() * HELD_OUT))
    order = np.random.default_rng(0).permutation(kinds)
    order = order[np.argsort(tokens[order] > share, kind="stable")]  # the longest are trained on
    filled = np.cumsum(tokens[order])
    first, second = (int(np.searchsorted(filled, limit)) + 1 for limit in (share, 2 * share))
    first = min(first, kinds - 2)
    second = min(max(second, first + 1), kinds - 1)
    chosen = {"test": order[:first], "validation": order[first:second], "train": order[second:]}
    ends = np.cumsum(lengths)
    spans: Spans = {}
    for name in SPLITS:
        numbers = np.flatnonzero(np.isin(group, chosen[name]))
        ranges = [(int(ends[n] - lengths[n]), int(ends[n])) for n in numbers]
        spans[name] = (ranges, int(sizes[numbers].sum()))
    return spans


def _split_stream(tokens: int, size: int) -> Spans:
    """The last part of one long text for the test, the part before it for validation."""
    share = max(1, int(tokens * HELD_OUT_SMALL))
    cuts = {
        "train": (0, tokens - 2 * share),
        "validation": (tokens - 2 * share, tokens - share),
        "test": (tokens - share, tokens),
    }
    return {
        name: ([cuts[name]], round(size * (cuts[name][1] - cuts[name][0]) / tokens))
        for name in SPLITS
    }
