"""Learning per token: bits per byte on held-out text after the same number of training tokens.

    python benchmarks/learning.py --data texts/ --size tiny --tokens 4000000 --seeds 3 --tune 0.25

Every contestant has about the same number of parameters, the same vocabulary, the same windows of
text in the same order for a seed, and the same held-out text, of which all is scored. lmapps's
bodies are trained as `lmapps train` trains them; `gpt` is the nanoGPT-style model and loop of
`gpt.py`. `--tune SHARE` tries some learning rates for each contestant first, on the validation
text, with a seed that is not used again and that share of the tokens; without, each has its usual
one. The result is written after each round of all contestants, for one that is stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gpt
import machine
import torch

from lmapps.errors import LmappsError
from lmapps.evaluation.baselines import trigram_on
from lmapps.evaluation.language import window_batches
from lmapps.model.config import ModelConfig
from lmapps.text.batches import PackedBatches
from lmapps.text.corpus import Corpus, Split, build_corpus
from lmapps.text.sources import data_files
from lmapps.text.tokenizer import Tokenizer
from lmapps.training.prepare import train_tokenizer
from lmapps.training.settings import TrainSettings
from lmapps.training.start import run_training

CONTESTANTS = ("rnn", "gru", "lstm", "transformer", "transformer-adamw", "gpt")
USUAL_RATE = {"gpt": 1e-3}
TUNING_SEED = 1000


@dataclass(frozen=True)
class Task:
    """What every contestant is given."""

    corpus: Corpus
    size: str
    context: int
    tokens: int
    batch_tokens: int
    micro_tokens: int

    @property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.corpus.folder)

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def config(self) -> ModelConfig:
        """The Transformer that the others are made equal to."""
        return ModelConfig.from_size(self.size, vocab_size=self.vocab_size, context=self.context)


Score = dict[str, float]


def run_lmapps(task: Task, name: str, seed: int, rate: float) -> Score:
    """A run of `lmapps train`; the last weights are scored."""
    body, _, optimizer = name.partition("-")
    with tempfile.TemporaryDirectory() as folder:
        report = run_training(
            TrainSettings(
                data=(str(task.corpus.folder),), out=folder, model=body, size=task.size,
                context=task.context, tokens=task.tokens, batch_tokens=task.batch_tokens,
                micro_batch_tokens=task.micro_tokens, learning_rate=rate, seed=seed,
                optimizer=optimizer or "muon", evaluations=1, saves=1,
            )
        )  # fmt: skip
    scores = {split: report["scores"][split]["bits_per_byte"] for split in ("validation", "test")}
    return {**scores, "parameters": report["model"]["parameters"]}


def run_gpt(task: Task, seed: int, rate: float) -> Score:
    """The nanoGPT-style model on the same windows; the last weights are scored."""
    torch.manual_seed(seed)
    width, layers = gpt_shape(task)
    model = gpt.GPT(task.vocab_size, width, layers, width // 32, task.context)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    rows = task.micro_tokens // task.context
    batches = PackedBatches(task.corpus.ids("train"), task.context, rows, seed)
    passes = task.batch_tokens // batches.tokens_per_batch

    def batch(step: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for number in range(passes):
            made = batches.batch(step * passes + number)
            yield made.ids_BT, made.targets_BT

    gpt.train(model, batch, max(1, task.tokens // task.batch_tokens), rate, device)
    splits: tuple[Split, ...] = ("validation", "test")
    scores = {split: gpt_bits_per_byte(task, model, split, device) for split in splits}
    return {**scores, "parameters": sum(weight.numel() for weight in model.parameters())}


def gpt_shape(task: Task) -> tuple[int, int]:
    """Width and layers: as many layers, and the width with the nearest number of parameters."""
    target, layers = task.config.parameters, task.config.num_layers

    def parameters(width: int) -> int:
        inner = layers * (12 * width * width + 2 * width) + width
        return inner + (task.vocab_size + task.context) * width

    widths = range(32, 4096, 32)
    return min(widths, key=lambda width: abs(parameters(width) - target)), layers


@torch.inference_mode()
def gpt_bits_per_byte(task: Task, model: gpt.GPT, split: Split, device: str) -> float:
    """As `evaluate_corpus` counts it: windows that do not overlap, all of the split."""
    loss, count = 0.0, 0
    counts = task.corpus.splits[split]
    model.eval()
    for batch in window_batches(task.corpus.ids(split), task.context):
        mean = model(batch.ids_BT.to(device), batch.targets_BT.to(device))
        loss += float(mean) * batch.target_count
        count += batch.target_count
    return loss / count / math.log(2) / (counts.bytes / counts.tokens)


def run_one(task: Task, name: str, seed: int, rate: float) -> Score:
    return run_gpt(task, seed, rate) if name == "gpt" else run_lmapps(task, name, seed, rate)


def tuned_rate(
    task: Task, name: str, share: float, rates: Sequence[float]
) -> tuple[float, dict[str, float]]:
    """The learning rate with the best validation, and what each gave (infinity: it diverged).

    Where the best one is the lowest or highest tried, one beyond it is tried too.
    """
    tried: dict[float, float] = {}
    task = replace(task, tokens=int(task.tokens * share))
    rates, factor = list(rates), rates[-1] / rates[-2]
    while rates:
        rate = rates.pop(0)
        try:
            tried[rate] = run_one(task, name, TUNING_SEED, rate)["validation"]
        except LmappsError as error:  # a rate that diverges is a result
            print(f"{name} at {rate}: {error}")
            tried[rate] = math.inf
        best = min(tried, key=lambda rate: tried[rate])
        if not rates and best in (min(tried), max(tried)):
            rates = [best / factor if best == min(tried) else best * factor]
    return best, {f"{rate:.2g}": tried[rate] for rate in sorted(tried)}


def prepare_task(args: argparse.Namespace, folder: Path) -> Task:
    files = data_files(args.data)
    tokenizer = train_tokenizer(files, "bpe", args.vocab_size, folder)
    corpus = build_corpus(files, tokenizer, folder / "corpus")
    tokenizer.save(corpus.folder)
    return Task(corpus, args.size, args.context, args.tokens, args.batch_tokens, args.micro)


def compete(task: Task, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All contestants, seed by seed; the result so far after each round."""
    rates: dict[str, float] = {}
    known = {name: float(rate) for name, rate in (word.split("=") for word in args.known)}
    tuning: dict[str, Any] = {}
    for name in args.contestants:
        rates[name] = USUAL_RATE.get(name, TrainSettings(out="x").learning_rate)
        if name in known:
            rates[name] = known[name]
        elif args.tune:
            rates[name], tuning[name] = tuned_rate(task, name, args.tune, args.rates)
            print(f"{name}: {rates[name]} of {tuning[name]}", flush=True)
    runs: dict[str, list[Score]] = {name: [] for name in args.contestants}
    for seed in range(args.seeds):
        for name in args.contestants:
            runs[name].append(run_one(task, name, seed, rates[name]))
            print(f"seed {seed}, {name}: {runs[name][-1]}", flush=True)
        yield {"rates": rates, "tuning": tuning, "runs": runs}


def table_rows(result: dict[str, Any]) -> Iterator[list[str]]:
    """One row a contestant: mean test bits per byte, spread, and the difference to `gpt`."""
    baseline = result["runs"].get("gpt")
    for name, runs in result["runs"].items():
        bits = [run["test"] for run in runs]
        spread = f"± {statistics.stdev(bits):.4f}" if len(bits) > 1 else ""
        against = ""
        if baseline:
            pairs = zip(runs, baseline, strict=True)
            against = f"{statistics.mean(a['test'] - b['test'] for a, b in pairs):+.4f}"
        parameters = f"{runs[0]['parameters'] / 1e6:.2f}M"
        rate = f"{result['rates'][name]:g}"
        yield [name, parameters, rate, f"{statistics.mean(bits):.4f}", spread, against]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", required=True, help="files or folders of text")
    parser.add_argument("--contestants", nargs="+", default=CONTESTANTS, choices=CONTESTANTS)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=4_000_000, help="trained on, by each")
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--micro", type=int, default=8192, help="tokens in one forward pass")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--tune", type=float, default=0, help="share of the tokens; 0 = usual rates"
    )
    parser.add_argument("--rates", type=float, nargs="+", default=(0.001, 0.002, 0.004, 0.008))
    parser.add_argument("--known", nargs="+", default=(), help="NAME=RATE, found before")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shared = {"machine": machine.describe(args.threads)}
    shared["task"] = {key: value for key, value in vars(args).items() if key != "data"}
    print(json.dumps(shared["machine"]))
    with tempfile.TemporaryDirectory() as folder:
        task = prepare_task(args, Path(folder))
        shared["trigram"] = trigram_on(task.corpus, task.tokenizer, "test")["bits_per_byte"]
        for result in compete(task, args):
            file = machine.write("learning", shared | result)
    print(table_of(shared | result))
    print(f"\nwritten to {file}")


def table_of(result: dict[str, Any]) -> str:
    """The contestants, and a trigram model that counts all of the training text."""
    header = ["", "parameters", "learning rate", "bits per byte", "over seeds", "against gpt"]
    trigram = ["trigram counts of all of the training text", "", "", f"{result['trigram']:.4f}"]
    return machine.table(header, [*table_rows(result), [*trigram, "", ""]])


if __name__ == "__main__":
    main()
