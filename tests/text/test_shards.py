"""Many corpora as shards: each process reads its own, a few on the disk at a time, resumably."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lmapps.errors import DataError, SettingsError
from lmapps.text.corpus import MANIFEST, build_corpus
from lmapps.text.shards import ShardedBatches, Shards, are_shards
from lmapps.text.tokenizer import Tokenizer
from lmapps.training.prepare import prepare_text
from lmapps.training.run import Run
from lmapps.training.settings import TrainSettings
from lmapps.training.start import run_training

CONTEXT, ROWS = 16, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five corpora of one vocabulary and different lengths, on the disk."""
    base = tmp_path_factory.mktemp("shards")
    texts = ["".join(f"Line {n} of {part}. " for n in range(60 + 20 * part)) for part in range(5)]
    tokenizer = Tokenizer.train(texts, "bpe", 300)
    (base / "tokens").mkdir()
    for part, text in enumerate(texts):
        (base / f"{part}.txt").write_text(text)
        corpus = build_corpus([base / f"{part}.txt"], tokenizer, base / "tokens" / f"{part}")
        tokenizer.save(corpus.folder)
    return base / "tokens"


@pytest.fixture
def far(folder: Path) -> str:
    """The same in an object store."""
    fsspec.filesystem("memory").put(str(folder), "/bucket/tokens", recursive=True)
    return "memory://bucket/tokens"


def batches_of(url: str, processes: int) -> ShardedBatches:
    return ShardedBatches(Shards(url), CONTEXT, ROWS, seed=1, processes=processes)


def test_every_window_is_read_once_an_epoch_and_no_shard_by_two_processes(folder: Path) -> None:
    batches = batches_of(str(folder), 2)
    windows = Counter({n: count for n, count in enumerate(batches.windows)})
    for part in range(2):
        turns = batches._turns[part]
        seen: list[tuple[int, int, int]] = [turns.find(place)[:3] for place in range(400)]
        first = [(shard, window) for epoch, shard, window in seen if epoch == 0]
        assert len(set(first)) == len(first) and seen[len(first)][0] == 1
        for shard in {shard for shard, _ in first}:
            assert sum(own == shard for own, _ in first) == windows.pop(shard)
    assert not windows, "both together read all shards"
    orders = [[s for e, s in batches._turns[0]._turns if e == epoch] for epoch in range(3)]
    assert len({tuple(order) for order in orders}) > 1


def test_a_batch_is_the_same_from_near_and_far_and_after_a_restart(folder: Path, far: str) -> None:
    near = batches_of(str(folder), 2)
    numbers = list(range(40))
    expected = {number: near.batch(number).ids_BT for number in numbers}
    again = batches_of(far, 2)
    for number in reversed(numbers):
        assert torch.equal(again.batch(number).ids_BT, expected[number])
    whole = {n: near.shards.corpus(n).ids("train").tobytes() for n in range(5)}
    row = expected[7][0].numpy().astype(np.uint16).tobytes()
    assert sum(row in ids for ids in whole.values()) == 1, "a window lies in one shard"


def test_no_more_than_three_shards_lie_on_the_disk(far: str) -> None:
    batches = batches_of(far, 1)
    first = batches.shards.corpus(0)
    here = Path(batches.shards._here.name)
    most = 0
    for number in range(2 * batches.batches_per_epoch):
        batches.batch(number)
        most = max(most, len(list(here.iterdir())))
    assert most == 3 and len(first.ids("test")), "the first one stays, to be scored on"


def test_a_run_reads_shards_and_is_the_same_from_far(
    folder: Path, far: str, tmp_path: Path
) -> None:
    def run(name: str, data: str) -> dict[str, Any]:
        return run_training(
            TrainSettings(
                data=(data,), out=str(tmp_path / name), steps=6, context=CONTEXT, layers=1,
                width=32, batch_tokens=96, micro_batch_tokens=48, evaluations=1,
                mixed_precision="no",
            )
        )  # fmt: skip

    near = run("near", str(folder))
    assert near["scores"]["test"]["loss"] > 0 and near["data_sha256"] == Shards(far).key
    run("far", far)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("near", "far"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_cannot_be_read_as_shards_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    assert are_shards(str(folder)) and not are_shards(str(folder / "0"))
    with pytest.raises(DataError, match="5 shards for 6 processes"):
        batches_of(str(folder), 6)
    with pytest.raises(DataError, match="fewer tokens than one context of 4096"):
        ShardedBatches(Shards(str(folder)), 4096, 1, 0, 1)
    with pytest.raises(DataError, match="holds no token corpora"):
        Shards("memory://nothing/here")
    with pytest.raises(SettingsError, match="nowhere://x cannot be opened"):
        Shards("nowhere://x")
    shutil.copytree(folder, tmp_path / "mixed")
    other = Tokenizer.train(["Other words altogether."], "bpe", 270)
    build_corpus([folder.parent / "0.txt"], other, tmp_path / "mixed" / "other")
    with pytest.raises(DataError, match="different vocabularies"):
        Shards(str(tmp_path / "mixed"))


@pytest.mark.parametrize("place", [".", "0"])
@pytest.mark.parametrize("is_first", [True, False])
def test_nothing_that_is_given_beside_token_files_is_passed_over(
    folder: Path, tmp_path: Path, place: str, is_first: bool
) -> None:
    (tmp_path / "more.txt").write_text("More text.")
    data = [str(folder / place), str(tmp_path / "more.txt")]
    settings = TrainSettings(
        data=tuple(data if is_first else reversed(data)), out=str(tmp_path / "m"), steps=1
    )
    with pytest.raises(SettingsError, match=r"tokens.* holds token files, which .* alone: give no"):
        prepare_text(settings, Run(settings.out), 1)


@pytest.mark.parametrize("manifest", ["{}", "[]", '{"splits": {"train": {"tokens": "many"}}}'])
def test_a_manifest_that_is_none_is_refused_with_a_sentence(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / MANIFEST).write_text(manifest)
    with pytest.raises(DataError, match="is not as `lmapps data --out` writes it"):
        Shards(str(tmp_path))
