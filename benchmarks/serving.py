"""Serving speed on the CPU: lmapps and its peers with the same weights and prompts, in turns.

    pip install -e '.[bench]'
    python benchmarks/serving.py --rounds 5
    python benchmarks/serving.py --rounds 1 --new 32      # a look at everything

A random model of each shape, Llama's or a recurrent one, is written once; each contestant loads it
in a process of its own and they take turns (the first round is not counted). Streams: 128 new
tokens each after prompts of 32, tokens/s over the whole time. Prefill: prompt tokens/s to the first
token, whose time stands beside it. Peak memory is that of the process, and of the server that it
started. The share of the bandwidth is what one stream reads of weights, of what this machine's
memory gives to the same number of threads; weights that fit the caches may be above it. A peer that
is not installed, or does not know the body, is left out and named.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
import torch
from contestants import BYTES, CONTESTANTS, CannotServe, start

from lmapps.model.config import Body, ModelConfig

CONTEXT = 1536


def transformer(
    width: int, layers: int, heads: int, kv_heads: int, vocab: int, **others: Any
) -> ModelConfig:
    return ModelConfig(
        body="transformer", vocab_size=vocab, embed_size=width, hidden_size=width,
        num_layers=layers, num_heads=heads, num_kv_heads=kv_heads, context=CONTEXT,
        tie_embeddings=True, **others,
    )  # fmt: skip


def recurrent(body: Body, width: int, layers: int, vocab: int) -> ModelConfig:
    return ModelConfig(
        body=body, vocab_size=vocab, embed_size=width, hidden_size=width, num_layers=layers,
        context=CONTEXT,
    )  # fmt: skip


SHAPES = {
    "10M": transformer(256, 10, 4, 2, 8192),
    "30M": transformer(384, 12, 6, 2, 16384),
    "125M": transformer(768, 12, 12, 4, 32768),
    "SmolLM2": transformer(576, 30, 9, 3, 49152),
    "Qwen3-0.6B": transformer(
        1024, 28, 16, 8, 151936, head_size=128, intermediate_size=3072, qk_norm=True
    ),
}
RECURRENT = {
    "10M rnn": recurrent("rnn", 448, 7, 8192),
    "10M gru": recurrent("gru", 384, 3, 8192),
    "10M lstm": recurrent("lstm", 384, 2, 8192),
    "30M rnn": recurrent("rnn", 576, 12, 16384),
    "30M gru": recurrent("gru", 512, 6, 16384),
    "30M lstm": recurrent("lstm", 512, 4, 16384),
    "125M rnn": recurrent("rnn", 1024, 16, 32768),
    "125M gru": recurrent("gru", 1024, 6, 32768),
    "125M lstm": recurrent("lstm", 1024, 4, 32768),
}
TASKS = {  # streams, tokens of each prompt, new tokens of each
    "1 stream": (1, 32, 128),
    "8 streams": (8, 32, 128),
    "32 streams": (32, 32, 128),
    "prefill 128": (1, 128, 1),
    "prefill 1024": (1, 1024, 1),
}


def config_of(shape: str) -> ModelConfig:
    return SHAPES[shape] if shape in SHAPES else RECURRENT[shape]


def read_weights(config: ModelConfig) -> int:
    """How many weights one token needs; of an embedding that is no head it needs one row."""
    looked_up = 0 if config.tie_embeddings else config.vocab_size * config.embed_size
    return config.parameters - looked_up


def write_model(shape: str, folder: Path) -> int:
    """A folder with random weights and a made-up vocabulary; its parameters."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as RawTokenizer

    from lmapps.model.checkpoint import Checkpoint
    from lmapps.model.language_model import LanguageModel
    from lmapps.text.template import Template
    from lmapps.text.tokenizer import CONTROL_TOKENS, Tokenizer

    config = config_of(shape)
    vocab = config.vocab_size
    torch.manual_seed(0)
    model = LanguageModel(config).eval()
    for parameter in model.parameters() if shape in SHAPES else ():
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
    except (ImportError, CannotServe) as error:
        print(json.dumps({"missing": str(error)}), file=out, flush=True)
        return
    server = getattr(run, "server", None)
    try:
        run([list(range(10, 26))], 2)
        print(json.dumps({}), file=out, flush=True)
        for line in sys.stdin:
            prompts, tokens = json.loads(line)
            if not prompts:  # the end
                print(json.dumps(peak(getattr(server, "pid", os.getpid()))), file=out, flush=True)
                return
            begin = time.perf_counter()
            run(prompts, tokens)
            print(json.dumps(time.perf_counter() - begin), file=out, flush=True)
    finally:
        if isinstance(server, subprocess.Popen):
            server.terminate()


def peak(process: int) -> float:
    """Most MB that a process had in memory."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


class Contestant:
    """The other end of `work`."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        words = [sys.executable, __file__, "--work", name, str(folder), "--threads", str(threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self.name = name
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env=environment,
        )  # fmt: skip
        self.missing = self._answer().get("missing")

    def seconds(self, prompts: list[list[int]], tokens: int) -> float:
        assert self.process.stdin
        print(json.dumps([prompts, tokens]), file=self.process.stdin, flush=True)
        answer = self._answer()
        if isinstance(answer, dict):
            raise RuntimeError(f"{self.name}: {answer['missing']}")
        return float(answer)

    def close(self) -> float:
        """End it; the most MB that it had."""
        megabytes = self.seconds([], 0)
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:  # threads of its own that do not end
            self.process.kill()
        return megabytes

    def _answer(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"missing": "its process ended"}


def measure_shape(shape: str, names: list[str], rounds: int, threads: int, new: int) -> Any:
    """Of one model: its parameters; tokens/s of each task, contestant and counted round; the most
    MB of each; and who is missing, with the reason."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / shape.replace(" ", "-")
        parameters = write_model(shape, folder)
        running = {name: Contestant(name, folder, threads) for name in names}
        missing = {name: c.missing for name, c in running.items() if c.missing}
        taken: dict[str, Any] = {}
        torch.manual_seed(1)
        for task, (streams, length, _) in TASKS.items():
            tokens = new if is_decoding(task) else 1
            counted = streams * (tokens if is_decoding(task) else length)

            def speed(
                name: str, size: tuple[int, int] = (streams, length), tokens: int = tokens,
                counted: int = counted,
            ) -> dict[str, float]:  # fmt: skip
                prompts = torch.randint(300, config_of(shape).vocab_size, size).tolist()
                try:
                    return {"tokens/s": counted / running[name].seconds(prompts, tokens)}
                except RuntimeError as error:
                    missing[name] = str(error)
                    return {"tokens/s": math.nan}

            able = [name for name in names if name not in missing]
            rates = machine.alternate(able, rounds + 1, speed)
            taken[task] = {
                n: [r["tokens/s"] for r in rates[n][1:]] for n in able if n not in missing
            }
            print(f"{shape}, {task}: done, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        peaks = {n: c.close() for n, c in running.items() if n not in missing}
    return {
        "parameters": parameters, "tokens/s": taken, "peak MB": peaks, "missing": missing,
    }  # fmt: skip


def is_decoding(task: str) -> bool:
    return TASKS[task][2] > 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shapes", nargs="+", default=[*SHAPES, *RECURRENT], choices=[*SHAPES, *RECURRENT]
    )
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS)
    parser.add_argument("--rounds", type=int, default=5, help="counted ones")
    parser.add_argument("--new", type=int, default=128, help="tokens of each stream")
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
        bandwidth = machine.bandwidth(args.threads)
        print(f"memory is read at {bandwidth / 1e9:.1f} GB/s by {args.threads} threads")
        found = measure_shape(shape, args.contestants, args.rounds, args.threads, args.new)
        result["shapes"][shape] = found | {"bandwidth": bandwidth}
        print(f"\n{shape} ({found['parameters'] / 1e6:.1f}M parameters), tokens/s\n")
        rows = [
            [
                name, *(_shown(task, found["tokens/s"][task][name]) for task in TASKS),
                _share(shape, name, found["tokens/s"]["1 stream"][name], bandwidth),
                f"{megabytes:.0f}",
            ]
            for name, megabytes in found["peak MB"].items()
        ]  # fmt: skip
        print(machine.table(["", *TASKS, "of the bandwidth", "peak MB"], rows))
        for name, reason in found["missing"].items():
            print(f"{name}: not measured ({reason})")
        result["load_after"] = os.getloadavg()
        file = machine.write(args.name, result)  # after each shape: what is measured is kept
    print(f"\n{json.dumps(result['machine'])}\n{file}", flush=True)


def _shown(task: str, rates: list[float]) -> str:
    """Median, and lowest and highest as shares of it; of a prompt also the milliseconds."""
    middle = machine.median(rates)
    after = "" if is_decoding(task) else f", {1000 * TASKS[task][1] / middle:.0f} ms"
    return f"{middle:.0f} ({machine.spread(rates)}){after}"


def _share(shape: str, contestant: str, rates: list[float], bandwidth: float) -> str:
    """What one stream reads of weights, of what memory gives."""
    read = read_weights(config_of(shape)) * BYTES[contestant.split()[1]]
    return f"{machine.median(rates) * read / bandwidth:.0%}"


if __name__ == "__main__":
    main()
