"""What a precision costs in quality: perplexity of held-out text through the decoding step.

    python benchmarks/precision.py TEXT.jsonl.xz ... --checkpoints default default-gru

Every token is predicted by the step that serves people (native where it is built), one token at a
time in 64 rows; agreement is the share of tokens for which the best candidate is fp32's.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import machine
import numpy as np
import torch

from lmapps.model.checkpoint import Checkpoint
from lmapps.native import WEIGHTS
from lmapps.native.step import Step, choose_step
from lmapps.paths import find_checkpoint
from lmapps.text.sources import read_documents

ROWS = 64


def windows(checkpoint: Checkpoint, files: list[str], length: int) -> torch.Tensor:
    """64 stretches of `length` + 1 tokens, evenly spread over about 20,000 tokens of each file."""
    ids: list[int] = []
    for number, file in enumerate(files, start=1):
        for document in read_documents([file]):
            ids += [checkpoint.tokenizer.bos_id, *checkpoint.tokenizer.encode(document.text)]
            if len(ids) > number * 20_000:
                break
    starts = np.linspace(0, len(ids) - length - 2, ROWS).astype(int)
    return torch.tensor([ids[start : start + length + 1] for start in starts])


def measure(step: Step, ids_BT: torch.Tensor, capacity: int) -> tuple[float, torch.Tensor]:
    """Perplexity, and the best candidate at each place."""
    state, loss, best = step.new_state(ROWS, capacity), 0.0, []
    length = ids_BT.shape[1] - 1
    with torch.inference_mode():
        for t in range(length):
            logits = step(ids_BT[:, t : t + 1], state).float()
            loss += float(torch.nn.functional.cross_entropy(logits, ids_BT[:, t + 1])) / length
            best.append(logits.argmax(-1))
    return math.exp(loss), torch.stack(best)


def rows_of(name: str, files: list[str], length: int) -> list[dict[str, Any]]:
    """A row for each precision of one checkpoint."""
    checkpoint = Checkpoint.load(find_checkpoint(name))
    ids_BT = windows(checkpoint, files, length)
    rows: list[dict[str, Any]] = []
    first = torch.empty(0)
    for weights in WEIGHTS:
        step = choose_step(checkpoint.model, weights)
        perplexity, best = measure(step, ids_BT, checkpoint.config.context)
        first = best if not rows else first
        agreement = float((best == first).float().mean())
        rows.append(
            {"checkpoint": name, "step": step.name, "tokens": ROWS * length}
            | {"perplexity": perplexity, "agreement": agreement}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--checkpoints", nargs="+", default=["default", "default-gru"])
    parser.add_argument("--length", type=int, default=256)
    args = parser.parse_args()
    rows = [row for name in args.checkpoints for row in rows_of(name, args.files, args.length)]
    shown = [
        [r["checkpoint"], r["step"], f"{r['perplexity']:.3f}", f"{r['agreement']:.4f}"]
        for r in rows
    ]
    print(machine.table(["checkpoint", "step", "perplexity", "agreement with fp32"], shown))
    result = {"machine": machine.describe(torch.get_num_threads()), "rows": rows}
    print(f"written to {machine.write('precision', result)}")


if __name__ == "__main__":
    main()
