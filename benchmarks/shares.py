"""What of a decoding step is not the model: sampling and detokenising, and all the rest.

    python benchmarks/shares.py --shapes 30M 10M

Streams of one engine, greedy and drawn by temperature and top-p. Random weights give nearly even
chances; at a temperature of 0.3 a nucleus has dozens of ids, as those of a trained model have.
Counted are the steps in which all streams get a token and no prompt is read; the model's part is
the call that turns states into logits. Sampling is from these to ids, detokenising from an id to
its text; the rest is to look who has cancelled or waits, and to tell those who read: each stream
has a reader, as in `serving.py`.
"""

from __future__ import annotations

import argparse
import queue
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import machine
import torch
from serving import SHAPES, config_of, write_model

PROMPT = 32
PARTS = ("model", "sampling", "detokenising")
WAYS = {"greedy": {"temperature": 0}, "drawn": {"temperature": 0.3, "top_p": 0.9, "seed": 1}}


class Clock:
    """Seconds of each step of a scheduler, and of its parts, where all streams decode."""

    def __init__(self, engine: Any, streams: int) -> None:
        self._scheduler, self._streams = engine._scheduler, streams
        self._tokenizer = engine.checkpoint.tokenizer
        self._spent = dict.fromkeys(PARTS, 0.0)
        self.steps = list[tuple[float, ...]]()
        """All of it, then each of `PARTS`."""

    @contextmanager
    def running(self) -> Iterator[None]:
        scheduler, tokenizer = self._scheduler, self._tokenizer
        usual = scheduler.step, scheduler.slots.decode, scheduler._draw
        scheduler.slots.decode = self._timed("model", usual[1])
        scheduler._draw = self._timed("sampling", usual[2])
        scheduler.step = partial(self._step, usual[0])
        stream = tokenizer.decode_stream
        tokenizer.decode_stream = lambda: SimpleNamespace(
            step=self._timed("detokenising", stream().step)
        )
        yield
        scheduler.step, scheduler.slots.decode, scheduler._draw = usual
        del tokenizer.decode_stream

    def _timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*values: Any) -> Any:
            begun = time.perf_counter()
            result = call(*values)
            self._spent[part] += time.perf_counter() - begun
            return result

        return timed

    def _step(self, step: Callable[[], None]) -> None:
        counts, rows = self._scheduler.counts, len(self._scheduler.slots.running)
        read, self._spent = counts.read_tokens, dict.fromkeys(PARTS, 0.0)
        begun = time.perf_counter()
        step()
        seconds = time.perf_counter() - begun
        if rows == self._streams and counts.read_tokens == read:
            self.steps.append((seconds, *self._spent.values()))


def measure(engine: Any, shape: str, streams: int, way: str, new: int) -> dict[str, float]:
    """Medians of a step and of its parts, in milliseconds."""
    from lmapps.decoding import Decoding

    decoding = Decoding(max_new_tokens=new, **WAYS[way])  # type: ignore[arg-type]
    prompts = torch.randint(300, config_of(shape).vocab_size, (streams, PROMPT)).tolist()
    deltas, ended = queue.SimpleQueue[Any](), 0
    clock = Clock(engine, streams)
    with clock.running():
        for prompt in prompts:
            engine.submit(prompt, decoding, deltas.put)
        while ended < streams:
            delta = deltas.get()
            assert delta.error is None, delta.error
            ended += delta.finish is not None
    medians = [1000 * machine.median(one) for one in zip(*clock.steps, strict=True)]
    return dict(zip(("step", *PARTS), medians, strict=True)) | {"steps": len(clock.steps)}


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
                step, model, *words = (
                    machine.median([one[part] for one in found]) for part in ("step", *PARTS)
                )
                rows.append([
                    f"{shape} {weights}", str(streams), way, f"{step:.2f}", f"{model:.2f}",
                    f"{sum(words) / step:.1%}", f"{1 - (model + sum(words)) / step:.1%}",
                ])  # fmt: skip
    header = ["", "streams", "", "step, ms", "model, ms", "sampling, detokenising", "the rest"]
    print(machine.table(header, rows))
    about = {"machine": machine.describe(args.threads), "settings": vars(args)}
    print(f"\nwritten to {machine.write('shares', about | {'taken': taken})}")


if __name__ == "__main__":
    main()
