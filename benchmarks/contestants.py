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

import numpy as np
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

    file = folder / f"{kind}.gguf"
    if not file.is_file():
        write_gguf(folder, file, kind)
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


def write_gguf(folder: Path, file: Path, kind: str) -> None:
    """A Llama folder of ours as a GGUF file; every matrix in `kind`, norms in F32."""
    import gguf
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    config = json.loads((folder / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    kinds = gguf.GGMLQuantizationType
    for name, tensor in load_file(folder / "model.safetensors").items():
        data = tensor.float().numpy()
        if "q_proj" in name or "k_proj" in name:  # llama.cpp turns neighbours, Llama halves
            parts = (heads if "q_proj" in name else kv_heads, 2, -1, data.shape[1])
            data = np.ascontiguousarray(data.reshape(parts).swapaxes(1, 2)).reshape(data.shape)
        chosen = kinds[kind] if data.ndim == 2 else kinds.F32
        writer.add_tensor(_gguf_name(name), gguf.quants.quantize(data, chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(name: str) -> str:
    name = name.removeprefix("model.").replace("layers.", "blk.")
    for theirs, ours in {
        "embed_tokens": "token_embd", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }.items():  # fmt: skip
        name = name.replace(theirs, ours)
    return "output_norm.weight" if name == "norm.weight" else name
