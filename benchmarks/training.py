"""Training speed: lmapps, Hugging Face Trainer and a nanoGPT-style loop on the same shapes.

    python benchmarks/training.py --rounds 3

Each measurement is a process of its own; the contestants take turns. Every one trains in bf16
autocast with the same tokens a step and the micro-batch that suits it best (`--tune` finds it). On
a GPU all are compiled, with `--compile` on a CPU too; the first steps, in which that happens, are
not counted.
FLOPs are counted the same for all (6 x parameters and attention, see
`ModelConfig.flops_per_token`); utilisation is their share of a bf16 matrix product here.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch

from lmapps.model.config import ModelConfig

SHAPES = {  # width, layers, heads, vocabulary, context
    "10M": (256, 10, 4, 8192, 256),
    "30M": (384, 12, 6, 16384, 256),
    "125M": (768, 12, 12, 32768, 1024),
}
CONTESTANTS = ("lmapps", "lmapps-adamw", "trainer", "gpt", "gpt-kept")
COMPILE = "BENCHMARK_COMPILE"
WARM = 2
"""Steps before the clock starts."""


def config_of(shape: str) -> ModelConfig:
    width, layers, heads, vocab, context = SHAPES[shape]
    return ModelConfig(
        body="transformer", vocab_size=vocab, embed_size=width, hidden_size=width,
        num_layers=layers, num_heads=heads, num_kv_heads=heads, context=context, qk_norm=True,
        tie_embeddings=True,
    )  # fmt: skip


class Windows:
    """Random tokens in rows of a context: micro-batches for any contestant, by number."""

    def __init__(self, config: ModelConfig, rows: int) -> None:
        random = np.random.default_rng(0)
        self.ids = random.integers(0, config.vocab_size, (64, config.context + 1))
        self.rows, self.tokens_per_batch, self.batches_per_epoch = rows, rows * config.context, 64

    def batch(self, number: int) -> Any:
        from lmapps.text.batches import Batch

        places = [(number * self.rows + row) % 64 for row in range(self.rows)]
        ids = torch.from_numpy(self.ids[places])
        return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())


def compiled() -> bool:
    return torch.cuda.is_available() or bool(os.environ.get(COMPILE))


def run_lmapps(shape: str, steps: int, tokens: int, micro: int, optimizer: str) -> list[float]:
    """The real loop of `lmapps train`; the time at the end of each step."""
    from accelerate import Accelerator

    from lmapps.evaluation.language import LanguageScores
    from lmapps.memory import kept_memory
    from lmapps.model.checkpoint import Checkpoint
    from lmapps.model.language_model import LanguageModel
    from lmapps.text.template import Template
    from lmapps.text.tokenizer import Tokenizer
    from lmapps.training import loop
    from lmapps.training.observe import Observation
    from lmapps.training.run import Run
    from lmapps.training.settings import TrainSettings

    config = config_of(shape)
    tokenizer = Tokenizer.train(["any text"], "bpe", 300)
    checkpoint = Checkpoint(LanguageModel(config), tokenizer, Template(tokenizer))
    ends: list[float] = []

    class Clock(loop.Meter):
        def after_step(self, progress: Any, *rest: Any) -> Any:
            if torch.cuda.is_available() and progress["step"] in (WARM, steps):
                torch.cuda.synchronize()  # the loop itself waits for nothing
            ends.append(time.perf_counter())
            return super().after_step(progress, *rest)

    loop.Meter = Clock  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainSettings(
            data=("random",), out=folder, steps=steps, batch_tokens=tokens,
            micro_batch_tokens=micro, evaluations=1, saves=1, optimizer=optimizer,
            compile="yes" if compiled() else "no",
        )  # fmt: skip
        run = Run(folder)
        run.open(settings)
        scores = LanguageScores(1.0, 0.0, 1.0, None, 1)
        batches = Windows(config, micro // config.context)
        accelerator = Accelerator(mixed_precision="bf16")
        with kept_memory(accelerator.device):
            loop.train(
                checkpoint, batches, lambda _: scores, Observation, settings, run, accelerator
            )
    return ends


def run_trainer(shape: str, steps: int, tokens: int, micro: int) -> list[float]:
    """Hugging Face Trainer on a Llama of the same shape."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback
    from transformers import TrainingArguments as Arguments

    config = config_of(shape)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size, hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size, num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads, num_key_value_heads=config.num_kv_heads,
            max_position_embeddings=config.context, tie_word_embeddings=True, use_cache=False,
        )
    )  # fmt: skip
    windows = Windows(config, 1)
    rows = [torch.from_numpy(row[:-1]) for row in windows.ids] * (steps * tokens // 64)
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = Arguments(
            output_dir=folder, max_steps=steps, bf16=True, optim="adamw_torch_fused",
            per_device_train_batch_size=micro // config.context,
            gradient_accumulation_steps=tokens // micro, learning_rate=1e-3, save_strategy="no",
            report_to=[], logging_steps=10, disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(), torch_compile=compiled(),
        )  # fmt: skip
        Trainer(
            model=model,
            args=arguments,
            train_dataset=[{"input_ids": row, "labels": row} for row in rows],  # type: ignore
            callbacks=[Clock()],
        ).train()
    return ends


def run_gpt(shape: str, steps: int, tokens: int, micro: int) -> list[float]:
    """The nanoGPT-style loop."""
    import gpt

    width, layers, heads, vocab, context = SHAPES[shape]
    windows = Windows(config_of(shape), micro // context)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = gpt.GPT(vocab, width, layers, heads, context).to(device)
    if compiled():
        model.compile()
    each = tokens // micro

    def batch(step: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for number in range(each):
            made = windows.batch(step * each + number)
            yield made.ids_BT, made.targets_BT

    return gpt.train(model, batch, steps, 1e-3, device)


def run_one(name: str, shape: str, steps: int, tokens: int, micro: int) -> dict[str, float]:
    """One contestant in this process: tokens a second, peak memory in MB."""
    from lmapps.memory import kept_memory

    if name == "trainer":
        ends = run_trainer(shape, steps, tokens, micro)
    elif name == "gpt":
        ends = run_gpt(shape, steps, tokens, micro)
    elif name == "gpt-kept":
        with kept_memory(torch.device("cpu")):
            ends = run_gpt(shape, steps, tokens, micro)
    else:
        ends = run_lmapps(shape, steps, tokens, micro, "adamw" if "adamw" in name else "muon")
    seconds = ends[-1] - ends[WARM - 1]
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 1e6
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"tokens_per_second": (len(ends) - WARM) * tokens / seconds, "peak_mb": peak}


def measure(name: str, shape: str, args: argparse.Namespace, micro: int) -> dict[str, float]:
    """`run_one` in a process of its own."""
    words = [sys.executable, __file__, "--one", name, "--shapes", shape, "--steps"]
    words += [str(args.steps), "--tokens", str(args.tokens), "--micro", str(micro)]
    words += ["--threads", str(args.threads)]
    environment = {
        **os.environ,
        COMPILE: "1" if args.compile else "",
        "OMP_NUM_THREADS": str(args.threads),
        "TQDM_DISABLE": "1",
    }
    done = subprocess.run(
        words, capture_output=True, text=True, env=environment, cwd=Path(__file__).parent
    )
    if done.returncode:
        raise SystemExit(f"{name} on {shape} failed:\n{done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{shape} {name} micro {micro}: {result}", file=sys.stderr, flush=True)
    return result


def best_micro(name: str, shape: str, args: argparse.Namespace) -> int:
    """The micro-batch at which a contestant is fastest."""
    context = SHAPES[shape][-1]
    tried = [micro for micro in (2048, 4096, 8192, 16384) if context <= micro <= args.tokens]
    speeds = {m: measure(name, shape, args, m)["tokens_per_second"] for m in tried}
    return max(speeds, key=lambda micro: speeds[micro])


def contest(shape: str, args: argparse.Namespace) -> dict[str, Any]:
    """All contestants on one shape: their micro-batches and every measurement."""
    micro = {
        name: best_micro(name, shape, args) if args.tune else args.micro
        for name in args.contestants
    }
    runs = machine.alternate(
        args.contestants, args.rounds, lambda name: measure(name, shape, args, micro[name])
    )
    return {"micro_batch": micro, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=["10M", "30M"], choices=SHAPES)
    parser.add_argument("--contestants", nargs="+", default=CONTESTANTS, choices=CONTESTANTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="the first two are not counted")
    parser.add_argument("--tokens", type=int, default=8192, help="in one optimizer step")
    parser.add_argument("--micro", type=int, default=4096, help="tokens in one forward pass")
    parser.add_argument("--tune", action="store_true", help="find each one's best micro-batch")
    parser.add_argument("--compile", action="store_true", help="torch.compile on a CPU too")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        torch.set_num_threads(args.threads)
        print(json.dumps(run_one(args.one, args.shapes[0], args.steps, args.tokens, args.micro)))
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(args.threads)
    peak = machine.matmul_peak(torch.bfloat16, device)
    result: dict[str, Any] = {"machine": machine.describe(args.threads), "matmul_flops": peak}
    rows = []
    for shape in args.shapes:
        result[shape] = contest(shape, args)
        rows += list(table_rows(shape, result[shape], peak))
    print(json.dumps(result["machine"]))
    print(f"bf16 matrix product: {peak / 1e9:.0f} GFLOP/s\n")
    header = ["shape", "", "tokens/s", "spread", "utilisation", "peak MB", "micro-batch"]
    print(machine.table([*header, "lmapps is x as fast"], rows))
    print(f"\nwritten to {machine.write(f'training-{device}', result)}")


def table_rows(shape: str, contest: dict[str, Any], peak: float) -> Iterator[list[Any]]:
    """One row a contestant; the ratio is the median over rounds of lmapps / contestant."""
    flops = config_of(shape).flops_per_token
    for name, runs in contest["runs"].items():
        speeds = [run["tokens_per_second"] for run in runs]
        ours = [run["tokens_per_second"] for run in contest["runs"].get("lmapps", runs)]
        ratio = machine.median([a / b for a, b in zip(ours, speeds, strict=True)])
        middle = machine.median(speeds)
        memory = machine.median([run["peak_mb"] for run in runs])
        yield [
            shape, name, f"{middle:,.0f}", machine.spread(speeds), f"{middle * flops / peak:.0%}",
            f"{memory:,.0f}", contest["micro_batch"][name], f"{ratio:.2f}",
        ]  # fmt: skip


if __name__ == "__main__":
    main()
