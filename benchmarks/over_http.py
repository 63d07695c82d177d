"""What HTTP costs: many streams of /v1/completions, beside the same engine without them.

    python benchmarks/over_http.py --shapes 30M 10M

One engine writes replies of one length for many at once: for readers in its own process, and, in
turn with them, for clients that read /v1/completions as server-sent events. Every reply has its own
prompt. Clients have machines of their own: one core of this one is theirs, and the engine has the
others, with and without HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import machine
import torch
from page import PEOPLES, SERVERS, client, serving
from serving import SHAPES, config_of, write_model

PROMPT = 32
Prompts = list[list[int]]


async def without_http(engine: Any, prompts: Prompts, new: int) -> None:
    """Readers in the engine's own process."""
    from lmapps.decoding import Decoding

    decoding = Decoding(temperature=0, max_new_tokens=new)

    async def one(number: int, prompt: list[int]) -> None:
        count = 0
        async with aclosing(engine.stream(prompt, decoding, f"reader {number}")) as deltas:
            async for delta in deltas:
                count += delta.tokens
        assert count == new, count

    await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(prompts)))


async def with_http(url: str, prompts: Prompts, new: int) -> None:
    """Clients, each with a connection and an address of its own."""

    async def one(number: int, prompt: list[int]) -> None:
        body = {"prompt": prompt, "max_tokens": new, "temperature": 0, "stream": True,
                "stream_options": {"include_usage": True}}  # fmt: skip
        last = ""
        async with (
            client(url, f"127.0.1.{number + 1}") as http,
            http.stream("POST", "/v1/completions", json=body) as response,
        ):
            response.raise_for_status()
            async for line in response.aiter_lines():
                last = line if line.startswith("data: {") else last
        assert json.loads(last[6:])["usage"]["completion_tokens"] == new, last

    await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(prompts)))


def as_clients(url: str, new: str) -> None:
    """Ask as often as prompts are told, and say how many seconds it took."""
    for line in sys.stdin:
        begun = time.perf_counter()
        asyncio.run(with_http(url, json.loads(line), int(new)))
        print(time.perf_counter() - begun, flush=True)


def measure(shape: str, args: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of all streams together, by round."""
    with tempfile.TemporaryDirectory() as home:
        write_model(shape, Path(home))
        rates: dict[str, list[float]] = {"in process": [], "HTTP": []}
        slots = args.streams + 8
        with serving(home, slots, Path(home), args.weights) as (url, engine, _):
            command = [sys.executable, __file__, "--as-clients", url, str(args.new)]
            pipe = subprocess.PIPE
            clients = subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe)
            os.sched_setaffinity(clients.pid, PEOPLES)
            assert clients.stdin and clients.stdout
            made = random.Random(0)
            for _ in range(args.rounds + 1):  # the first round warms both up
                asked = [new_prompts(made, shape, args.streams) for _ in range(2)]
                begun = time.perf_counter()
                asyncio.run(without_http(engine, asked[0], args.new))
                alone = time.perf_counter() - begun
                print(json.dumps(asked[1]), file=clients.stdin, flush=True)
                for name, seconds in (("in process", alone), ("HTTP", clients.stdout.readline())):
                    rates[name].append(args.streams * args.new / float(seconds))
            clients.stdin.close()
            assert clients.wait(60) == 0
    return {name: found[1:] for name, found in rates.items()}


def new_prompts(made: random.Random, shape: str, count: int) -> Prompts:
    vocab = config_of(shape).vocab_size
    return [[made.randrange(10, vocab) for _ in range(PROMPT)] for _ in range(count)]


def main() -> None:
    if sys.argv[1:2] == ["--as-clients"]:
        as_clients(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["30M", "10M"], choices=[*SHAPES])
    parser.add_argument("--weights", default="int8")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--new", type=int, default=256, help="tokens of each reply")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    os.sched_setaffinity(0, SERVERS)
    torch.set_num_threads(len(SERVERS))
    measured, rows = {}, []
    for shape in args.shapes:
        measured[shape] = rates = measure(shape, args)
        shares = [h / p for h, p in zip(rates["HTTP"], rates["in process"], strict=True)]
        rows.append([
            f"{shape} {args.weights}", *(f"{machine.median(rate):.0f}" for rate in rates.values()),
            f"{machine.median(shares):.2f} ({min(shares):.2f}-{max(shares):.2f})",
        ])  # fmt: skip
        print(f"{shape}: {rows[-1]}", file=sys.stderr)
    print(machine.table([f"{args.streams} streams", "in process", "HTTP", "share"], rows))
    about = {"machine": machine.describe(len(SERVERS)), "settings": vars(args)}
    print(f"\nwritten to {machine.write('over_http', about | {'tokens_per_s': measured})}")


if __name__ == "__main__":
    main()
