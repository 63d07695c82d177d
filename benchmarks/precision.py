"""What a precision costs in quality: perplexity of held-out text through the decoding step.

    python benchmarks/precision.py TEXT.jsonl.xz ... --checkpoint default

Every token is predicted by the step that serves people (native where it is built), one token at a
time in 64 rows; agreement is the share of tokens for which the best candidate is fp32's.
"""

from __future__ import annotations

import argparse
import math

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--length", type=int, default=256)
    args = parser.parse_args()
    checkpoint = Checkpoint.load(find_checkpoint(args.checkpoint))
    ids_BT = windows(checkpoint, args.files, args.length)
    rows, first = [], None
    for weights in WEIGHTS:
        step = choose_step(checkpoint.model, weights)
        perplexity, best = measure(step, ids_BT, checkpoint.config.context)
        first = best if first is None else first
        agreement = float((best == first).float().mean())
        rows.append([step.name, f"{perplexity:.3f}", f"{agreement:.4f}"])
    print(machine.table(["step", "perplexity", "agreement with fp32"], rows))


if __name__ == "__main__":
    main()
