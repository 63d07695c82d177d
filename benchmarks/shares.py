"""What of a decoding step is not the model: sampling, detokenising, and telling it to readers.

    python benchmarks/shares.py --shapes 30M 10M

Streams of one engine, greedy and drawn by temperature and top-p. Random weights give nearly even
chances; at a temperature of 0.3 a nucleus has dozens of ids, as those of a trained model have.
Counted are the steps in which all streams get a token and no prompt is read; the model's part is
the call that turns states into logits. Each stream has a reader, as in `serving.py`.
"""

from __future__ import annotations

import argparse
import queue
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import machine
import torch
from serving import SHAPES, config_of, write_model

PROMPT = 32
WAYS = {"greedy": {"temperature": 0}, "drawn": {"temperature": 0.3, "top_p": 0.9, "seed": 1}}


class Clock:
    """Seconds of each step of a scheduler, and of the model in it, where all streams decode."""

    def __init__(self, scheduler: Any, streams: int) -> None:
        self.scheduler, self.streams = scheduler, streams
        self.steps, self._model = list[tuple[float, float]](), 0.0
        self._decode, self._step = scheduler.slots.decode, scheduler.step
        scheduler.slots.decode, scheduler.step = self.decode, self.step

    def decode(self) -> Any:
        begun = time.perf_counter()
        logits = self._decode()
        self._model += time.perf_counter() - begun
        return logits

    def step(self) -> None:
        counts, rows = self.scheduler.counts, len(self.scheduler.slots.running)
        read, self._model = counts.read_tokens, 0.0
        begun = time.perf_counter()
        self._step()
        seconds = time.perf_counter() - begun
        if rows == self.streams and counts.read_tokens == read:
            self.steps.append((seconds, self._model))

    def close(self) -> None:
        self.scheduler.slots.decode, self.scheduler.step = self._decode, self._step


def measure(engine: Any, shape: str, streams: int, way: str, new: int) -> dict[str, float]:
    """Medians of a step and of the model's part of it, in milliseconds."""
    from lmapps.decoding import Decoding

    decoding = Decoding(max_new_tokens=new, **WAYS[way])  # type: ignore[arg-type]
    prompts = torch.randint(300, config_of(shape).vocab_size, (streams, PROMPT)).tolist()
    deltas, ended = queue.SimpleQueue[Any](), 0
    clock = Clock(engine._scheduler, streams)
    for prompt in prompts:
        engine.submit(prompt, decoding, deltas.put)
    while ended < streams:
        delta = deltas.get()
        assert delta.error is None, delta.error
        ended += delta.finish is not None
    clock.close()
    whole, model = (machine.median(one) for one in zip(*clock.steps, strict=True))
    return {"step ms": 1000 * whole, "model ms": 1000 * model, "steps": len(clock.steps)}


def loaded(shape: str) -> Any:
    """A model of random weights whose replies do not end by themselves."""
    from lmapps.model.checkpoint import Checkpoint

    with tempfile.TemporaryDirectory() as folder:
        write_model(shape, Path(folder))
        checkpoint = Checkpoint.load(Path(folder))
    checkpoint.tokenizer.end_ids = frozenset()
    return checkpoint


def main() -> None:
    from lmapps.engine.engine import Engine

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["30M", "10M"], choices=[*SHAPES])
    parser.add_argument("--weights", nargs="+", default=["float32", "int8"])
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--new", type=int, default=128, help="tokens of each stream")
    parser.add_argument("--rounds", type=int, default=3, help="counted ones")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    taken, rows = dict[str, Any](), list[list[str]]()
    cases = list(product(args.streams, WAYS))
    for shape, weights in product(args.shapes, args.weights):
        with Engine(loaded(shape), slots=max(args.streams), weights=weights) as engine:
            for streams, way in cases:
                rounds = range(args.rounds + 1)  # the first is not counted
                found = [measure(engine, shape, streams, way, args.new) for _ in rounds][1:]
                taken[f"{shape} {weights}, {streams}, {way}"] = found
                step, model = (
                    machine.median([one[part] for one in found]) for part in ("step ms", "model ms")
                )
                rows.append([
                    f"{shape} {weights}", str(streams), way, f"{step:.2f}", f"{model:.2f}",
                    f"{1 - model / step:.1%}",
                ])  # fmt: skip
    header = ["", "streams", "", "step, ms", "model, ms", "the rest"]
    print(machine.table(header, rows))
    about = {"machine": machine.describe(args.threads), "settings": vars(args)}
    print(f"\nwritten to {machine.write('shares', about | {'taken': taken})}")


if __name__ == "__main__":
    main()
