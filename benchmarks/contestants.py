"""A checkpoint folder -> engines that continue prompts: ours and its peers, all on the CPU.

Each is set up as its own documents advise and called the same way: `run(prompts, tokens)` returns
when every prompt has its greedy continuation of exactly so many tokens. One with "-http" in its
name is asked as a client would, through its own server.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import machine
import torch

from lmapps.engine.turns import spare

Prompts = list[list[int]]
Run = Callable[[Prompts, int], None]
MOST_STREAMS = 32
SERVED_SLOTS = MOST_STREAMS + spare(2 * MOST_STREAMS)
"""Of a server that all streams reach from one address, which leaves some free for others."""

CONTESTANTS = (
    "lmapps torch", "lmapps float32", "lmapps bfloat16", "lmapps int8", "llama.cpp F32",
    "llama.cpp BF16", "llama.cpp Q8_0", "ctranslate2 float32", "ctranslate2 int8",
    "transformers float32", "transformers bfloat16", "transformers-batching float32",
    "lmapps-http float32", "lmapps-http int8", "llama.cpp-http F32", "llama.cpp-http Q8_0",
)  # fmt: skip
RECURRENT = ("lmapps", "lmapps-http", "transformers")
"""Who knows recurrent bodies: no peer does, and transformers only with our class."""
BYTES = {
    "torch": 4, "float32": 4, "F32": 4, "bfloat16": 2, "BF16": 2, "int8": 1, "Q8_0": 34 / 32,
}  # fmt: skip
"""Of memory that a weight takes when it is read."""


class CannotServe(Exception):
    """What a contestant does not take."""


def start(contestant: str, folder: Path, threads: int) -> Run:
    """Load the model into one engine. Raises `ImportError` where the peer is not installed, and
    `CannotServe`."""
    torch.set_num_threads(threads)
    engine, kind = contestant.split()
    body = json.loads((folder / "config.json").read_text())["model_type"]
    if body not in ("llama", "qwen3") and engine not in RECURRENT:
        raise CannotServe("it knows no recurrent bodies")
    starters = {
        "lmapps": _lmapps,
        "transformers": _transformers,
        "ctranslate2": _ctranslate2,
        "transformers-batching": _transformers_batching,
        "llama.cpp": _llama_cpp,
        "lmapps-http": _lmapps_http,
        "llama.cpp-http": _llama_cpp_http,
    }
    return starters[engine](folder, kind, threads)


def _lmapps(folder: Path, kind: str, threads: int) -> Run:
    """The whole engine: scheduling, sampling and detokenising are in the time."""
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


def _theirs(folder: Path, kind: str) -> Any:
    from transformers import AutoModelForCausalLM

    import lmapps.model.hub  # noqa: F401 - registers recurrent bodies

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, kind)).eval()
    model.generation_config.eos_token_id = None  # a reply is as long as was asked for
    model.generation_config.pad_token_id = 0
    return model


def _transformers_batching(folder: Path, kind: str, threads: int) -> Run:
    """Its continuous batching; begun anew with each call, since it does not rest in between."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    model = _theirs(folder, kind)
    pages = ContinuousBatchingConfig(num_blocks=256, max_batch_tokens=2048)

    def run(prompts: Prompts, tokens: int) -> None:
        settings = GenerationConfig(
            max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
        )
        found = model.generate_batch(
            prompts, generation_config=settings, continuous_batching_config=pages, warmup=False
        )
        assert len(found) == len(prompts), f"{len(found)} replies for {len(prompts)} prompts"
        assert all(len(reply.generated_tokens) == tokens for reply in found.values())

    return run


def _transformers(folder: Path, kind: str, threads: int) -> Run:
    model = _theirs(folder, kind)

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


def _gguf(folder: Path, kind: str) -> Path:
    from lmapps.model.checkpoint import Checkpoint
    from lmapps.model.gguf_file import KINDS, write_gguf

    file = folder / f"{kind}.gguf"
    if not file.is_file():
        weights = next(ours for ours, theirs in KINDS.items() if theirs == kind)
        write_gguf(Checkpoint.load(folder), file, weights)
    return file


def llama_server(folder: Path, kind: str, threads: int, port: int = 0) -> Any:
    """llama.cpp's own server, with as many slots as there are streams."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(_gguf(folder, kind))
    params.n_ctx = MOST_STREAMS * 512
    params.n_parallel = MOST_STREAMS
    params.kv_unified = True  # one long prompt may use the room of all
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.port = port or params.port
    return xllamacpp.Server(params)


def _llama_cpp(folder: Path, kind: str, threads: int) -> Run:
    server = llama_server(folder, kind, threads)

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


def _lmapps_http(folder: Path, kind: str, threads: int) -> Run:
    """`lmapps serve` in a process of its own, as people start it."""
    from lmapps.model.checkpoint import Checkpoint

    end_ids = Checkpoint.load(folder).tokenizer.end_ids
    url = f"http://127.0.0.1:{machine.free_port()}"
    words = [
        sys.executable, "-m", "lmapps", "serve", "--checkpoint", str(folder), "--weights", kind,
        "--slots", str(SERVED_SLOTS), "--port", url.rpartition(":")[2], "--log", "error",
        "--database", f"sqlite:///{folder}/serving.db",
    ]  # fmt: skip
    server = subprocess.Popen(words, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
    machine.wait_until_ready(server, url)
    bias = {str(number): -100 for number in end_ids}
    return _asking(url, {"logit_bias": bias}, server)


def _llama_cpp_http(folder: Path, kind: str, threads: int) -> Run:
    server = llama_server(folder, kind, threads, machine.free_port())
    extra = {"ignore_eos": True, "cache_prompt": False}
    return _asking(server.listening_address, extra, server)


def _asking(url: str, extra: dict[str, Any], server: Any) -> Run:
    """Every prompt as a stream of its own, each token an event, as a page would read them."""

    async def one(http: httpx.AsyncClient, prompt: list[int], tokens: int) -> None:
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True,
                "stream_options": {"include_usage": True}} | extra  # fmt: skip
        usage: dict[str, int] = {}
        async with http.stream("POST", "/v1/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    usage = json.loads(line[6:]).get("usage") or usage
        assert usage.get("completion_tokens") == tokens, f"{usage} for {tokens} tokens"

    async def all_at_once(prompts: Prompts, tokens: int) -> None:
        limits = httpx.Limits(max_connections=MOST_STREAMS)
        async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
            await asyncio.gather(*(one(http, prompt, tokens) for prompt in prompts))

    def run(prompts: Prompts, tokens: int) -> None:
        asyncio.run(all_at_once(prompts, tokens))

    run.server = server  # type: ignore[attr-defined] - as long as somebody asks
    return run
