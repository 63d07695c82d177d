"""A token corpus larger than memory is read as a small one is; token files are used in place."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import asdict
from pathlib import Path

import pytest

from lmapps.errors import DataError
from lmapps.text.corpus import Corpus, SplitCounts, build_corpus
from lmapps.text.tokenizer import Tokenizer
from lmapps.training.settings import TrainSettings
from lmapps.training.start import run_training

READ = """
import json, re, time
from pathlib import Path
from lmapps.text.batches import PackedBatches
from lmapps.text.corpus import Corpus
batches = PackedBatches(Corpus.load(Path(folder)).ids("train"), 1024, 8, 0)
batches.batch(0)
def memory():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1000
before = memory()
for number in range(1, 300):
    batches.batch(number * batches.batches_per_epoch // 300)
Path(folder, "grown").write_text(json.dumps(memory() - before))
"""


def sparse_corpus(folder: Path, size: int) -> Path:
    """Token files of which no byte lies on the disk."""
    folder.mkdir()
    counts = {name: SplitCounts(1, 2000, 4000) for name in ("train", "validation", "test")}
    counts["train"] = SplitCounts(1, size // 2, size)
    for name, count in counts.items():
        with (folder / f"{name}.bin").open("wb") as file:
            file.truncate(count.tokens * 2)
    manifest = {
        "key": "", "dtype": "uint16", "splits": {name: asdict(c) for name, c in counts.items()}
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own numbers")
def test_a_hundred_gigabytes_need_no_more_memory_than_a_hundred_megabytes(tmp_path: Path) -> None:
    forks = multiprocessing.get_context("forkserver")
    grown = {}
    for name, size in {"small": 10**8, "large": 10**11}.items():
        folder = sparse_corpus(tmp_path / name, size)
        process = forks.Process(target=exec, args=(READ, {"folder": str(folder)}))
        process.start()
        process.join(120)
        assert process.exitcode == 0
        grown[name] = json.loads((folder / "grown").read_text())
    assert grown["large"] < 2 * 10 and grown["large"] < grown["small"] + 5, f"megabytes: {grown}"


def test_token_files_are_trained_on_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The cat sat on the mat, and the dog sat on the cat. " * 200)
    tokenizer = Tokenizer.train([(tmp_path / "a.txt").read_text()], "bpe", 300)
    corpus = build_corpus([tmp_path / "a.txt"], tokenizer, tmp_path / "tokens")
    tokenizer.save(corpus.folder)
    values = {
        "data": [str(corpus.folder)], "steps": 2, "context": 32, "layers": 1, "width": 32,
        "batch_tokens": 64, "micro_batch_tokens": 64, "evaluations": 1, "mixed_precision": "no",
    }  # fmt: skip
    report = run_training(TrainSettings.from_values(values | {"out": str(tmp_path / "m")}))
    assert report["data"]["train"]["tokens"] == Corpus.load(corpus.folder).splits["train"].tokens
    assert not (tmp_path / "m" / "run" / "corpus").exists()
    Tokenizer.train(["some other text"], "bpe", 290).save(corpus.folder)
    again = values | {"out": str(tmp_path / "n"), "start_from": str(tmp_path / "m")}
    with pytest.raises(DataError, match="another vocabulary than"):
        run_training(TrainSettings.from_values(again))
