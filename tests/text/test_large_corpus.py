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
from lmapps.training.scores import SCORED_TOKENS
from lmapps.training.settings import TrainSettings
from lmapps.training.start import run_training

# A process that has imported everything, and forks.
forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["lmapps.training.start"])
TRAIN = """
import json, os, re, sys, threading, time, torch
from pathlib import Path
sys.stdout = sys.stderr = open(os.devnull, "w")
torch.set_num_threads(1)
from lmapps.evaluation import baselines
from lmapps.training import prepare, scores
from lmapps.training.settings import TrainSettings
from lmapps.training.start import run_training
scores.SCORED_TOKENS = baselines.TRAINING_TOKENS = prepare.VALIDATION_TOKENS = scored
def own():  # not the files' pages, which the system takes back when it wants to
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1000
seen = [own()]
def look():
    while True:
        seen.append(own())
        time.sleep(0.005)
threading.Thread(target=look, daemon=True).start()
run_training(TrainSettings.from_values(settings))
Path(folder, "grown").write_text(json.dumps(max(seen) - seen[0]))
"""


def sparse_corpus(folder: Path, size: int) -> Path:
    """Token files of which no byte lies on the disk, as a recipe makes them that holds out 1%."""
    folder.mkdir()
    held_out = SplitCounts(1, size // 200, size // 100)
    counts = {"train": SplitCounts(1, size // 2, size), "validation": held_out, "test": held_out}
    for name, count in counts.items():
        with (folder / f"{name}.bin").open("wb") as file:
            file.truncate(count.tokens * 2)
    manifest = {
        "key": "", "dtype": "uint16", "splits": {name: asdict(c) for name, c in counts.items()}
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own numbers")
@pytest.mark.parametrize(
    ("small", "scored"),
    [(10**8, 10_000), pytest.param(10**9, SCORED_TOKENS, marks=pytest.mark.long)],
)
def test_a_hundred_gigabytes_need_no_more_memory_than_a_hundred_megabytes(
    tmp_path: Path, small: int, scored: int
) -> None:
    """All of `lmapps train`: its windows all over the text, validation, and the scores at the end:
    of fewer tokens than usual, or beside a corpus that has as many to score."""
    tokenizer = Tokenizer.train(["The cat sat on the mat."], "bpe", 300)
    grown = {}
    for name, size in {"small": small, "large": 10**11}.items():
        folder = sparse_corpus(tmp_path / name, size)
        tokenizer.save(folder)
        values = {
            "data": [str(folder)], "steps": 100, "context": 256, "layers": 1, "width": 32,
            "batch_tokens": 1024, "micro_batch_tokens": 1024, "evaluations": 1,
            "mixed_precision": "no", "out": str(tmp_path / f"{name} model"),
        }  # fmt: skip
        names = {"folder": str(folder), "settings": values, "scored": scored}
        process = forks.Process(target=exec, args=(TRAIN, names))
        process.start()
        process.join(300)
        assert process.exitcode == 0
        grown[name] = json.loads((folder / "grown").read_text())
    assert grown["large"] < grown["small"] + 20, f"megabytes: {grown}"


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
