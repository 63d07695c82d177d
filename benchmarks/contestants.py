"""A checkpoint folder -> engines that continue prompts: ours and its peers, all on the CPU.

Each is set up as its own documents advise and called the same way: `run(prompts, tokens)` returns
when every prompt has its greedy continuation of exactly so many tokens.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Prompts = list[list[int]]
Run = Callable[[Prompts, int], None]
MOST_STREAMS = 32

CONTESTANTS = (
    "lmapps torch", "lmapps float32", "lmapps bfloat16", "lmapps int8", "llama.cpp F32",
    "llama.cpp BF16", "llama.cpp Q8_0", "ctranslate2 float32", "ctranslate2 int8",
    "transformers float32", "transformers bfloat16",
)  # fmt: skip


def start(contestant: str, folder: Path, threads: int) -> Run:
    """Load the model into one engine. Raises `ImportError` where the peer is not installed."""
    torch.set_num_threads(threads)
    engine, kind = contestant.split()
    starters = {
        "lmapps": _lmapps,
        "transformers": _transformers,
        "ctranslate2": _ctranslate2,
        "llama.cpp": _llama_cpp,
    }
    return starters[engine](folder, kind, threads)


def _lmapps(folder: Path, kind: str, threads: int) -> Run:
    """The whole engine: scheduling, sampling and detokenising are in the time."""
    import os
    import queue

    if kind == "torch":
        os.environ["LMAPPS_NATIVE"] = "0"
    from lmapps.decoding import Decoding
    from lmapps.engine.engine import Engine
    from lmapps.model.checkpoint import Checkpoint

    checkpoint = Checkpoint.load(folder)
    checkpoint.tokenizer.end_ids = frozenset()
    weights = "float32" if kind == "torch" else kind
    engine = Engine(checkpoint, slots=MOST_STREAMS, weights=weights)
    assert engine.step_name.startswith("torch" if kind == "torch" else "native"), engine.step_name

    def run(prompts: Prompts, tokens: int) -> None:
        deltas: queue.SimpleQueue[Any] = queue.SimpleQueue()
        decoding = Decoding(temperature=0, max_new_tokens=tokens)
        for prompt in prompts:
            engine.submit(prompt, decoding, deltas.put)
        ended = 0
        while ended < len(prompts):
            delta = deltas.get()
            if delta.error:
                raise delta.error
            ended += delta.finish is not None

    return run


def _transformers(folder: Path, kind: str, threads: int) -> Run:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, kind)).eval()
    model.generation_config.eos_token_id = None  # a reply is as long as was asked for
    model.generation_config.pad_token_id = 0

    def run(prompts: Prompts, tokens: int) -> None:
        ids = torch.tensor(prompts)
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False
        )
        assert out.shape == (len(prompts), len(prompts[0]) + tokens)

    return run


def _ctranslate2(folder: Path, kind: str, threads: int) -> Run:
    import ctranslate2

    converted = folder / "ctranslate2"
    if not converted.is_dir():
        ctranslate2.converters.TransformersConverter(str(folder)).convert(str(converted))
    generator = ctranslate2.Generator(
        str(converted), compute_type=kind, intra_threads=threads, inter_threads=1
    )
    names = json.loads((converted / "vocabulary.json").read_text())

    def run(prompts: Prompts, tokens: int) -> None:
        results = generator.generate_batch(
            [[names[number] for number in prompt] for prompt in prompts],
            max_length=tokens, min_length=tokens, include_prompt_in_result=False,
            max_batch_size=MOST_STREAMS, sampling_topk=1,
        )  # fmt: skip
        assert all(len(result.sequences_ids[0]) == tokens for result in results)

    return run


def _llama_cpp(folder: Path, kind: str, threads: int) -> Run:
    """Its own server with as many slots as there are streams."""
    import xllamacpp

    from lmapps.model.checkpoint import Checkpoint
    from lmapps.model.gguf_file import KINDS, write_gguf

    file = folder / f"{kind}.gguf"
    if not file.is_file():
        weights = next(ours for ours, theirs in KINDS.items() if theirs == kind)
        write_gguf(Checkpoint.load(folder), file, weights)
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx = MOST_STREAMS * 512
    params.n_parallel = MOST_STREAMS
    params.kv_unified = True  # one long prompt may use the room of all
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)

    def one(prompt: list[int], tokens: int, failed: list[str]) -> None:
        body = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "ignore_eos": True,
                "cache_prompt": False}  # fmt: skip
        answer = server.handle_completions(body)
        usage = answer.get("usage", {})
        if (usage.get("prompt_tokens"), usage.get("completion_tokens")) != (len(prompt), tokens):
            failed.append(str(answer)[:300])

    def run(prompts: Prompts, tokens: int) -> None:
        failed: list[str] = []
        calls = [threading.Thread(target=one, args=(p, tokens, failed)) for p in prompts]
        for call in calls:
            call.start()
        for call in calls:
            call.join()
        assert not failed, failed[0]

    return run
