"""Tokenizing speed: files -> token corpus, as `lmapps data --out`, against `tokenizers` alone.

    python benchmarks/tokenizing.py --data texts/ --rounds 5

Both use the same vocabulary, learned from the first megabytes, and the same number of threads, and
take turns, each in a process of its own. `tokenizers` gets texts that are in memory already, in
batches of the same size, and its result is thrown away: what is left is reading JSON, splitting and
writing files, which lmapps does beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import machine

from lmapps.text.corpus import batches_of, build_corpus
from lmapps.text.sources import read_documents
from lmapps.text.tokenizer import Tokenizer

CONTESTANTS = ("tokenizers", "lmapps")
LEARNED_FROM = 3000
"""Documents."""


def run_tokenizers(data: Path, folder: Path) -> Callable[[], object]:
    raw = Tokenizer.load(folder).raw
    batches = list(batches_of(read_documents([data])))

    def encode() -> None:
        for batch in batches:
            raw.encode_batch_fast(batch, add_special_tokens=False)

    return encode


def run_lmapps(data: Path, folder: Path) -> Callable[[], object]:
    tokenizer = Tokenizer.load(folder)
    return lambda: build_corpus([data], tokenizer, folder / "corpus")


def run_one(name: str, data: Path, folder: Path) -> dict[str, float]:
    """Megabytes of text a second, in this process."""
    work = (run_lmapps if name == "lmapps" else run_tokenizers)(data, folder)
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    return {"mb_per_second": int((folder / "bytes").read_text()) / 1e6 / seconds}


def measure(name: str, folder: Path, threads: int) -> dict[str, float]:
    """`run_one` in a process of its own, with nothing left of an earlier one."""
    words = [sys.executable, __file__, "--one", name, "--data", str(folder / "data.jsonl")]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    with tempfile.TemporaryDirectory(dir=folder) as own:
        for file in ("tokenizer.json", "bytes"):
            (Path(own) / file).symlink_to(folder / file)
        done = subprocess.run(
            [*words, "--folder", own], capture_output=True, text=True, env=environment
        )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout)
    print(f"{name}: {result}", file=sys.stderr, flush=True)
    return result


def prepare(paths: list[str], megabytes: float, folder: Path) -> None:
    """One plain .jsonl file of about so much text, its size in bytes, and a vocabulary."""
    size = 0
    with (folder / "data.jsonl").open("w") as out:
        for document in read_documents(paths):
            out.write(json.dumps({"text": document.text}, ensure_ascii=False) + "\n")
            size += len(document.text.encode())
            if size >= megabytes * 1e6:
                break
    (folder / "bytes").write_text(str(size))
    texts = (document.text for document in read_documents([folder / "data.jsonl"]))
    Tokenizer.train(islice(texts, LEARNED_FROM), "bpe", 8192).save(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", required=True, help="files or folders of text")
    parser.add_argument("--megabytes", type=float, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run_one(args.one, Path(args.data[0]), args.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(args.data, args.megabytes, folder)
        runs = machine.alternate(
            CONTESTANTS, args.rounds, lambda name: measure(name, folder, args.threads)
        )
    speeds = {name: [run["mb_per_second"] for run in taken] for name, taken in runs.items()}
    shares = [a / b for a, b in zip(speeds["lmapps"], speeds["tokenizers"], strict=True)]
    rows = [
        [name, f"{machine.median(taken):.2f}", machine.spread(taken)]
        for name, taken in speeds.items()
    ]
    print(machine.table(["", "MB/s", "spread"], rows))
    print(f"\nlmapps is {machine.median(shares):.2f} x as fast as tokenizers alone")
    result = {"machine": machine.describe(args.threads), "runs": runs, "shares": shares}
    print(f"written to {machine.write('tokenizing', result)}")


if __name__ == "__main__":
    main()
