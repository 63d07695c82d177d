"""Serving speed on the CPU: lmapps and its peers with the same weights and prompts, in turns.

    pip install -e '.[bench]'
    python benchmarks/serving.py --rounds 5

A random Llama model of each shape is written once; each contestant loads it in a process of its
own and they take turns (the first round is not counted). Streams: 128 new tokens each after
prompts of 32, tokens/s over the whole time. Prefill: prompt tokens/s to the first token. A peer
that is not installed is left out and named.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
import torch
from contestants import CONTESTANTS, start

from lmapps.model.config import ModelConfig

SHAPES = {  # width, layers, heads, key-value heads, vocabulary
    "10M": (256, 10, 4, 2, 8192),
    "30M": (384, 12, 6, 2, 16384),
    "125M": (768, 12, 12, 4, 32768),
}
TASKS = {  # streams, tokens of each prompt, new tokens of each
    "1 stream": (1, 32, 128),
    "8 streams": (8, 32, 128),
    "32 streams": (32, 32, 128),
    "prefill 128": (1, 128, 1),
    "prefill 1024": (1, 1024, 1),
}


def write_model(shape: str, folder: Path) -> int:
    """A Llama folder with random weights and a made-up vocabulary; its parameters."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as RawTokenizer

    from lmapps.model.checkpoint import Checkpoint
    from lmapps.model.language_model import LanguageModel
    from lmapps.text.template import Template
    from lmapps.text.tokenizer import CONTROL_TOKENS, Tokenizer

    width, layers, heads, kv_heads, vocab = SHAPES[shape]
    config = ModelConfig(
        body="transformer", vocab_size=vocab, embed_size=width, hidden_size=width,
        num_layers=layers, num_heads=heads, num_kv_heads=kv_heads, context=1536,
        tie_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LanguageModel(config).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.05)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*CONTROL_TOKENS, *letters, "Ġw", *(f"Ġword{n}" for n in range(vocab))][:vocab]
    one_merge = [("Ġ", "w")]  # llama.cpp takes no vocabulary without any
    raw = RawTokenizer(models.BPE({word: n for n, word in enumerate(words)}, one_merge))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(word, special=True) for word in CONTROL_TOKENS])
    tokenizer = Tokenizer(raw)
    Checkpoint(model, tokenizer, Template(tokenizer)).save(folder)
    return config.parameters


def work(contestant: str, folder: Path, threads: int) -> None:
    """A contestant's process: one task a line on the standard input, seconds on the output."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the engines print is no answer
    try:
        run = start(contestant, folder, threads)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), file=out, flush=True)
        return
    run([list(range(10, 26))], 2)
    print(json.dumps({}), file=out, flush=True)
    for line in sys.stdin:
        prompts, tokens = json.loads(line)
        begin = time.perf_counter()
        run(prompts, tokens)
        print(json.dumps(time.perf_counter() - begin), file=out, flush=True)


class Contestant:
    """The other end of `work`."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        words = [sys.executable, __file__, "--work", name, str(folder), "--threads", str(threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env=environment,
        )  # fmt: skip
        self.missing = self._answer().get("missing")

    def seconds(self, prompts: list[list[int]], tokens: int) -> float:
        assert self.process.stdin
        print(json.dumps([prompts, tokens]), file=self.process.stdin, flush=True)
        return float(self._answer())

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(30)

    def _answer(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"missing": "its process ended"}


def measure_shape(
    shape: str, names: list[str], rounds: int, threads: int
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Parameters; tokens/s of each task, contestant and counted round; and who is missing."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / shape
        parameters = write_model(shape, folder)
        running = {name: Contestant(name, folder, threads) for name in names}
        missing = {name: c.missing for name, c in running.items() if c.missing}
        able = [name for name in names if name not in missing]
        taken: dict[str, Any] = {}
        torch.manual_seed(1)
        for task, (streams, length, new) in TASKS.items():
            counted = streams * (new if new > 1 else length)

            def speed(
                name: str, size: tuple[int, int] = (streams, length), new: int = new,
                counted: int = counted,
            ) -> dict[str, float]:  # fmt: skip
                prompts = torch.randint(300, SHAPES[shape][4], size).tolist()
                return {"tokens/s": counted / running[name].seconds(prompts, new)}

            rates = machine.alternate(able, rounds + 1, speed)
            taken[task] = {n: [r["tokens/s"] for r in rates[n][1:]] for n in able}
            print(f"{shape}, {task}: done, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        for contestant in running.values():
            contestant.close()
    return parameters, taken, missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS)
    parser.add_argument("--rounds", type=int, default=5, help="counted ones")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="serving", help="of the JSON file in results/")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work(args.work[0], Path(args.work[1]), args.threads)
    result: dict[str, Any] = {
        "machine": machine.describe(args.threads), "command": " ".join(sys.argv), "shapes": {},
        "load_before": os.getloadavg(),
    }  # fmt: skip
    for shape in args.shapes:
        parameters, taken, missing = measure_shape(
            shape, args.contestants, args.rounds, args.threads
        )
        result["shapes"][shape] = {"parameters": parameters, "tokens/s": taken, "missing": missing}
        print(f"\n{shape} ({parameters / 1e6:.1f}M parameters), tokens/s\n")
        names = next(iter(taken.values()))
        rows = [[name, *(_shown(taken[task][name]) for task in TASKS)] for name in names]
        print(machine.table(["", *TASKS], rows))
        for name, reason in missing.items():
            print(f"{name}: not measured ({reason})")
        result["load_after"] = os.getloadavg()
        file = machine.write(args.name, result)  # after each shape: what is measured is kept
    print(f"\n{json.dumps(result['machine'])}\n{file}", flush=True)


def _shown(rates: list[float]) -> str:
    """Median, and lowest and highest as shares of it."""
    return f"{machine.median(rates):.0f} ({machine.spread(rates)})"


if __name__ == "__main__":
    main()
