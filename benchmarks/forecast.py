"""Forecast of memory and time against what a run takes, for several bodies and shapes.

    python benchmarks/forecast.py

Each run is a process of its own: the forecast is made as `lmapps train` makes it, then eight steps
are trained and saved by the real loop; the highest resident size of the process is read, and the
median time of a step but the first two. With the first six shapes the factors of the forecast were
found; the others are there to see how it does on shapes that it was not made for.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

import machine
import numpy as np
import torch

# body, width, layers, vocabulary, context, tokens in a pass, passes a step, precision
SHAPES: tuple[tuple[Any, ...], ...] = (
    ("transformer", 128, 4, 4096, 256, 4096, 2, "no"),
    ("transformer", 256, 6, 4096, 128, 2048, 2, "bf16"),
    ("transformer", 256, 6, 8192, 256, 4096, 1, "bf16"),
    ("gru", 256, 4, 4096, 128, 4096, 1, "no"),
    ("lstm", 256, 4, 4096, 128, 4096, 1, "bf16"),
    ("rnn", 256, 4, 4096, 128, 4096, 2, "bf16"),
    ("transformer", 384, 8, 16384, 512, 8192, 2, "bf16"),
    ("transformer", 512, 8, 8192, 1024, 4096, 2, "bf16"),
    ("transformer", 192, 12, 8192, 512, 4096, 1, "no"),
    ("gru", 512, 3, 16384, 256, 8192, 1, "bf16"),
    ("lstm", 384, 2, 8192, 512, 4096, 2, "no"),
    ("rnn", 384, 6, 8192, 256, 8192, 1, "bf16"),
)
STEPS, WARM = 8, 2


def measure(
    body: str, width: int, layers: int, vocab: int, context: int, micro: int, passes: int,
    precision: str,
) -> dict[str, float]:  # fmt: skip
    """Megabytes and seconds a step: forecast and measured, in this process."""
    from accelerate import Accelerator

    from lmapps.evaluation.language import LanguageScores
    from lmapps.memory import kept_memory
    from lmapps.model.checkpoint import Checkpoint
    from lmapps.model.config import ModelConfig
    from lmapps.model.language_model import LanguageModel
    from lmapps.text.batches import PackedBatches
    from lmapps.text.template import Template
    from lmapps.text.tokenizer import Tokenizer
    from lmapps.training import loop
    from lmapps.training.forecast import forecast
    from lmapps.training.observe import Observation
    from lmapps.training.run import Run
    from lmapps.training.settings import TrainSettings

    config = ModelConfig.from_size(
        "tiny", body=body, vocab_size=vocab, context=context, layers=layers, width=width
    )
    tokenizer = Tokenizer.train(["any text"], "bpe", 300)
    checkpoint = Checkpoint(LanguageModel(config), tokenizer, Template(tokenizer))
    ends: list[float] = []

    class Clock(loop.Meter):
        def after_step(self, *step: Any) -> Any:
            ends.append(time.perf_counter())
            return super().after_step(*step)

    loop.Meter = Clock  # type: ignore[misc]
    ids = np.random.default_rng(0).integers(0, vocab, 200_000)
    batches = PackedBatches(ids, context, micro // context, 0)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainSettings(
            data=("random",), out=folder, steps=STEPS, batch_tokens=micro * passes,
            micro_batch_tokens=micro, evaluations=1, saves=1,
        )  # fmt: skip
        run, accelerator = Run(folder), Accelerator(mixed_precision=precision)
        run.open(settings)
        rows = micro // context
        expected = forecast(checkpoint.model, settings, accelerator, rows, context, passes)
        scores = LanguageScores(1.0, 0.0, 1.0, None, 1)
        with kept_memory(accelerator.device):
            loop.train(
                checkpoint, batches, lambda _: scores, Observation, settings, run, accelerator
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {
        "parameters": config.parameters / 1e6, "forecast": expected.total / 1e6, "peak": peak,
        "forecast s": expected.seconds_per_step,
        "step s": machine.median([*np.diff(ends[WARM - 1 :])]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one is not None:
        print("\n" + json.dumps(measure(*SHAPES[args.one])))
        return
    rows, results = [], []
    for number, shape in enumerate(SHAPES):
        words = [sys.executable, __file__, "--one", str(number), "--threads", str(args.threads)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.strip().splitlines()[-1])
        results.append({"shape": shape, **found})
        cells = [f"{found[key]:,.0f}" for key in ("forecast", "peak")]
        cells += [f"{found['forecast'] / found['peak']:.2f}"]
        cells += [f"{found[key]:.2f}" for key in ("forecast s", "step s")]
        rows.append([*shape, f"{found['parameters']:.1f}M", *cells])
        print(cells, file=sys.stderr, flush=True)
    header = ["body", "width", "layers", "vocabulary", "context", "tokens a pass", "passes"]
    header += ["precision", "parameters", "forecast MB", "peak MB", "forecast / peak"]
    header += ["forecast s a step", "s a step"]
    print(machine.table(header, rows))
    result = {"machine": machine.describe(args.threads), "runs": results}
    print(f"\nwritten to {machine.write('forecast', result)}")


if __name__ == "__main__":
    main()
