"""A long chat goes on -> how long until its first token, where what was said before is still known.

    python benchmarks/turns.py --rounds 5

A model of random weights has read a chat; then comes the same chat with 32 tokens more, and beside
it, in turn, another one of that length, of which nothing is known. The table says how many tokens
were read and how long it took until the first token. llama.cpp's server, where it is installed, has
a cache of its own for this and is asked the same.
"""

from __future__ import annotations

import argparse
import os
import queue
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import torch
from contestants import llama_server
from serving import RECURRENT, SHAPES, config_of, write_model

from lmapps.decoding import Decoding
from lmapps.engine.engine import Engine
from lmapps.model.checkpoint import Checkpoint

MORE = 32
Ask = Callable[[list[int]], int]
"""Read a prompt and give one token; how many tokens of the prompt were read for it."""


def lmapps(folder: Path) -> Ask:
    engine = Engine(Checkpoint.load(folder), slots=4)

    def ask(ids: list[int]) -> int:
        before, deltas = engine.counts.read_tokens, queue.SimpleQueue[Any]()
        engine.submit(ids, Decoding(temperature=0, max_new_tokens=1), deltas.put)
        while not (delta := deltas.get()).finish:
            pass
        if delta.error:
            raise delta.error
        return engine.counts.read_tokens - before

    return ask


def llama_cpp(folder: Path) -> Ask:
    server = llama_server(folder, "F32", torch.get_num_threads())

    def ask(ids: list[int]) -> int:
        body = {"prompt": ids, "n_predict": 1, "temperature": 0, "cache_prompt": True}
        answer = server.handle_completions(body)
        return int(answer["timings"]["prompt_n"])

    return ask


def measure(ask: Ask, length: int, vocab: int, rounds: int) -> dict[str, list[float]]:
    """Of a chat that goes on and of one that is new: tokens read, and milliseconds, each round."""
    rng = random.Random(length)

    def made(tokens: int) -> list[int]:
        return [rng.randrange(300, vocab) for _ in range(tokens)]

    taken: dict[str, list[float]] = {"read": [], "known": [], "new": []}
    for number in range(rounds + 1):
        chat = made(length)
        ask(chat)
        for kind, prompt in (("known", chat + made(MORE)), ("new", made(length + MORE))):
            begun = time.perf_counter()
            read = ask(prompt)
            if number:  # the first round warms up
                taken[kind].append(1000 * (time.perf_counter() - begun))
            if number and kind == "known":
                taken["read"].append(read)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shapes", nargs="+", default=["30M", *RECURRENT], choices=[*SHAPES, *RECURRENT]
    )
    parser.add_argument("--lengths", nargs="+", type=int, default=[128, 512, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows, found = [], {}
    for shape in args.shapes:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / shape.replace(" ", "-")
            write_model(shape, folder)
            for name, start in (("lmapps", lmapps), ("llama.cpp", llama_cpp)):
                if start is llama_cpp and shape in RECURRENT:
                    continue
                try:
                    ask = start(folder)
                except ImportError as error:
                    print(f"{name}: not measured ({error})")
                    continue
                for length in args.lengths:
                    taken = measure(ask, length, config_of(shape).vocab_size, args.rounds)
                    read, known, new = (machine.median(taken[kind]) for kind in taken)
                    found[f"{name}, {shape}, {length}"] = taken
                    rows.append([f"{name}, {shape}", length + MORE, f"{read:.0f}", f"{known:.1f}",
                                 f"{new:.1f}", f"{new / known:.1f}"])  # fmt: skip
    header = ["", "tokens of the chat", "read", "first token, ms", "of a new chat, ms", "times"]
    print(machine.table(header, rows))
    about = {"machine": machine.describe(args.threads), "settings": vars(args)}
    print(f"\nwritten to {machine.write('turns', about | {'measured': found})}")


if __name__ == "__main__":
    main()
