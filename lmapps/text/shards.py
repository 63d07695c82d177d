"""Many token corpora in one folder, near or far -> batches; a few shards lie on the disk at a time.

A shard is a corpus folder as `lmapps data --out` writes it; all of them were made with one
vocabulary. Each process reads shards of its own, one after the other: windows are shuffled within a
shard, shards within an epoch. A batch is a pure function of its number and of the number of
processes, so that a run resumes by its step.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from lmapps.errors import DataError, SettingsError
from lmapps.text.batches import Batch, hash_of, shifted, shuffled
from lmapps.text.corpus import MANIFEST, Corpus, Ids, is_corpus

FIRST = 0
"""The shard whose validation and test splits a run is scored on."""
FILES = (MANIFEST, "tokenizer.json", "train.bin", "validation.bin", "test.bin")


def are_shards(path: str) -> bool:
    """Whether this is a URL, or a folder of corpora."""
    if "://" in path:
        return True
    folder = Path(path)
    return folder.is_dir() and any(is_corpus(inner) for inner in folder.iterdir())


class Shards:
    """The corpora below a folder or URL. What is far is copied, a shard at a time, to a temporary
    folder, where the first one, the one in use and the next one stay.

    Raises `DataError` where there are none or they do not belong together, `SettingsError` where a
    package for this kind of URL is missing.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url, self.is_near = url, "://" not in url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
            found = self._files.glob(f"{self._root.rstrip('/')}/*/{MANIFEST}")
            manifests = [json.loads(self._files.cat_file(file)) for file in sorted(found)]
        except (ImportError, ValueError) as error:
            raise SettingsError(f"{url} cannot be opened: {error}") from None
        except OSError as error:
            raise DataError(f"{url} cannot be read: {error}") from None
        if not manifests:
            raise DataError(
                f"{url} holds no token corpora: each is a folder that `lmapps data --out` made"
            )
        self.folders = [file.rsplit("/", 1)[0] for file in sorted(found)]
        try:
            vocabularies = {str(manifest.get("tokenizer")) for manifest in manifests}
            self.tokens = [int(manifest["splits"]["train"]["tokens"]) for manifest in manifests]
            keys = "".join(manifest["key"] for manifest in manifests)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"a {MANIFEST} in {url} is not as `lmapps data --out` writes it: {error!r}"
            ) from None
        if len(vocabularies) > 1:
            raise DataError(
                f"the corpora in {url} were made with different vocabularies: make all of them "
                "with `lmapps data --checkpoint`, of one checkpoint"
            )
        self.key = hashlib.sha256(keys.encode()).hexdigest()
        self._here = tempfile.TemporaryDirectory(prefix="lmapps-shards-")
        self._thread = ThreadPoolExecutor(1)
        self._coming: dict[int, Future[Corpus]] = {}

    def corpus(self, number: int, then: int | None = None) -> Corpus:
        """A shard; with `then`, that one is on its way when this is there."""
        for other in [n for n in self._coming if n not in (FIRST, number, then)]:
            self._coming.pop(other).result()
            shutil.rmtree(self._place(other), ignore_errors=True)
        for wanted in (number, then):
            if wanted is not None and wanted not in self._coming:
                self._coming[wanted] = self._thread.submit(self._fetch, wanted)
        return self._coming[number].result()

    def _place(self, number: int) -> Path:
        return Path(self._here.name) / f"{number:06d}"

    def _fetch(self, number: int) -> Corpus:
        if self.is_near:
            return Corpus.load(Path(self.folders[number]))
        target = self._place(number)
        target.mkdir()
        try:
            for name in FILES:
                self._files.get_file(f"{self.folders[number]}/{name}", str(target / name))
        except OSError as error:
            raise DataError(f"shard {self.folders[number]} cannot be copied: {error}") from None
        return Corpus.load(target)


class ShardedBatches:
    """Windows of `context` tokens; micro-batch n belongs to process n modulo `processes`."""

    def __init__(self, shards: Shards, context: int, rows: int, seed: int, processes: int) -> None:
        self.shards, self.context, self.rows, self.seed = shards, context, rows, seed
        self.windows = [(tokens - 1) // context for tokens in shards.tokens]
        if min(self.windows) < 1:
            raise DataError(
                f"a shard in {shards.url} has fewer tokens than one context of {context}: put it "
                "together with others, or choose a smaller --context"
            )
        if len(self.windows) < processes:
            raise DataError(
                f"{shards.url} has {len(self.windows)} shards for {processes} processes, of which "
                "each reads its own: make more and smaller ones"
            )
        self.processes = processes
        self.tokens_per_batch = rows * context
        self.batches_per_epoch = max(1, sum(self.windows) // rows)
        self._turns = [_Turns(self.windows, part, processes, seed) for part in range(processes)]
        self._open: tuple[int, Ids] = (-1, np.zeros(0))

    def batch(self, number: int) -> Batch:
        turn, part = divmod(number, self.processes)
        places = range(turn * self.rows, (turn + 1) * self.rows)
        rows = [self._row(self._turns[part], place) for place in places]
        return shifted(np.stack(rows).astype(np.int64))

    def _row(self, turns: _Turns, place: int) -> Ids:
        epoch, shard, index, then = turns.find(place)
        if self._open[0] != shard:
            self._open = shard, self.shards.corpus(shard, then).ids("train")
        ids, windows = self._open[1], self.windows[shard]
        key = hash_of(self.seed, epoch, shard)
        shift = key % (len(ids) - windows * self.context)
        start = shift + shuffled(index, windows, key) * self.context
        return ids[start : start + self.context + 1]


class _Turns:
    """The shards of one process in the order in which it reads them, over all epochs."""

    def __init__(self, windows: Sequence[int], part: int, processes: int, seed: int) -> None:
        self.windows, self.part, self.processes, self.seed = windows, part, processes, seed
        self._turns: list[tuple[int, int]] = []
        """(epoch, shard)"""
        self._ends: list[int] = []
        """Windows up to and with each turn."""
        self._epoch = 0

    def find(self, place: int) -> tuple[int, int, int, int]:
        """(epoch, shard, window in it, the shard after it) of window number `place`."""
        while not self._ends or self._ends[-1] <= place:
            self._add_epoch()
        at = bisect.bisect_right(self._ends, place)
        if at + 1 == len(self._turns):
            self._add_epoch()
        epoch, shard = self._turns[at]
        return epoch, shard, place - (self._ends[at] - self.windows[shard]), self._turns[at + 1][1]

    def _add_epoch(self) -> None:
        order = np.random.default_rng([self.seed, self._epoch]).permutation(len(self.windows))
        for shard in order[self.part :: self.processes].tolist():
            self._turns.append((self._epoch, shard))
            self._ends.append((self._ends[-1] if self._ends else 0) + self.windows[shard])
        self._epoch += 1
