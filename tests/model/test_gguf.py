"""GGUF files: read back exactly, the same in transformers and llama.cpp, refused where broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lmapps.__main__ import main
from lmapps.decoding import Decoding
from lmapps.engine.engine import Engine
from lmapps.errors import CheckpointError, SettingsError
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.gguf_file import read_gguf, write_gguf
from lmapps.model.language_model import LanguageModel
from lmapps.text.template import Template
from lmapps.text.tokenizer import Tokenizer
from tests.conftest import llama_cpp

TEXTS = [
    "The cat  sat on 12 mats.",
    "  7 dogs\n\n\t今天 a+b",
    "It's <|end|> of <|user|>",
    "x\n \n1",
]
FORMS = ["llama", "qwen3"]


def of_form(form: str, checkpoint: Checkpoint) -> Checkpoint:
    """The tiny model, or the same without query-key normalisation and with a head of its own."""
    if form == "qwen3":
        return checkpoint
    torch.manual_seed(2)
    config = checkpoint.config.changed(qk_norm=False, tie_embeddings=False, intermediate_size=320)
    model = LanguageModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return Checkpoint(model, checkpoint.tokenizer, checkpoint.template)


@pytest.fixture(params=FORMS)
def checkpoint(
    request: pytest.FixtureRequest, tiny_checkpoint: Callable[[str], Checkpoint]
) -> Checkpoint:
    return of_form(request.param, tiny_checkpoint("transformer"))


def test_a_file_read_back_is_the_same_model_tokenizer_and_template(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    write_gguf(checkpoint, tmp_path / "a.gguf", "float32")
    back = read_gguf(tmp_path / "a.gguf")
    assert back.config == checkpoint.config
    ours, theirs = checkpoint.model.state_dict(), back.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for text in TEXTS:
        assert back.tokenizer.encode(text) == checkpoint.tokenizer.encode(text)
        messages = [{"role": "user", "content": text}]
        assert back.template.prompt_ids(messages) == checkpoint.template.prompt_ids(messages)
    assert back.tokenizer.bos_id == checkpoint.tokenizer.bos_id
    assert back.tokenizer.end_ids <= checkpoint.tokenizer.end_ids
    assert list(tmp_path.iterdir()) == [tmp_path / "a.gguf"]


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_a_smaller_file_predicts_nearly_the_same(
    weights: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    write_gguf(checkpoint, tmp_path / "a.gguf", weights)
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        before, after = checkpoint.model(ids), read_gguf(tmp_path / "a.gguf").model(ids)
    assert 0 < (before - after).norm() / before.norm() < 0.1


def test_transformers_reads_the_same_numbers(
    tiny_checkpoint: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    """Of Llama's form: its reader takes 128 for the width of any Qwen3 head."""
    from transformers import AutoModelForCausalLM

    checkpoint = of_form("llama", tiny_checkpoint("transformer"))
    write_gguf(checkpoint, tmp_path / "a.gguf", "float32")
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="a.gguf", dtype=torch.float32
    ).eval()
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        assert (theirs(ids).logits - checkpoint.model(ids)).abs().max() < 1e-3


def test_llama_cpp_writes_the_same_greedy_text_and_cuts_text_alike(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    xllamacpp = llama_cpp()
    write_gguf(checkpoint, tmp_path / "a.gguf", "float32")
    params = xllamacpp.CommonParams()
    params.model.path = str(tmp_path / "a.gguf")
    params.n_ctx, params.n_parallel, params.warmup = 128, 1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)

    def answer(path: str, **asked: Any) -> Any:
        request = Request(server.listening_address + path, json.dumps(asked).encode())
        with urlopen(request) as reply:
            return json.load(reply)

    for text in TEXTS:
        cut = answer("/tokenize", content=text, parse_special=False)["tokens"]
        assert cut == checkpoint.tokenizer.encode(text)
    prompt = "The cat sat on the mat. The dog"
    theirs = answer("/completion", prompt=prompt, n_predict=24, temperature=0, return_tokens=True)
    with Engine(checkpoint, slots=1) as engine:
        ids = checkpoint.tokenizer.prompt_ids(prompt)
        ours = engine.generate(ids, Decoding(temperature=0, max_new_tokens=24))
    assert theirs["tokens"] == list(ours.ids) and theirs["tokens_evaluated"] == len(ids)
    asked: Any = [{"role": "user", "content": "A cat?"}]
    chat = answer("/v1/chat/completions", messages=asked, max_tokens=8, temperature=0)
    assert chat["usage"]["prompt_tokens"] == len(checkpoint.template.prompt_ids(asked))


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [("gru", "bpe", "not a model of body gru"), ("transformer", "word", "of kind WordLevel")],
)
def test_what_llama_cpp_has_not_is_refused_in_one_sentence(
    body: str,
    kind: str,
    words: str,
    tiny_checkpoint: Callable[[str], Checkpoint],
    tmp_path: Path,
) -> None:
    made = tiny_checkpoint(body)
    tokenizer = Tokenizer.train(["a cat"], kind, 300)  # type: ignore[arg-type]
    given = Checkpoint(made.model, tokenizer, Template(tokenizer))
    with pytest.raises(SettingsError, match=words):
        write_gguf(given, tmp_path / "a.gguf")
    assert not list(tmp_path.iterdir())


def test_a_broken_file_is_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    write_gguf(checkpoint, file, "float32")
    whole = file.read_bytes()
    for bad in (b"rubbish", whole[:300], whole[: len(whole) // 2]):
        file.write_bytes(bad)
        with pytest.raises(CheckpointError, match=str(file)):
            read_gguf(file)


def test_an_export_carries_its_licence_and_never_writes_over_a_file(
    checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gguf import GGUFReader

    checkpoint.save(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: cc-by-sa-4.0\n---\n# A card\n")
    words = ["checkpoints", "export", str(tmp_path / "model")]
    assert main([*words, str(tmp_path / "a.gguf")]) == 0
    fields = GGUFReader(tmp_path / "a.gguf").fields
    assert fields["general.license"].contents() == "cc-by-sa-4.0"
    assert fields["general.name"].contents() == "model"
    assert main([*words, str(tmp_path / "a.gguf")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "copy")]) == 0
    whole, half = (load_file(tmp_path / n / "model.safetensors") for n in ("model", "copy"))
    assert whole.keys() == half.keys()
    assert all(torch.equal(half[name], tensor.bfloat16()) for name, tensor in whole.items())
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "copy", dtype=torch.float32).eval()
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        ours = Checkpoint.load(tmp_path / "copy").model(ids)
        torch.testing.assert_close(ours, theirs(ids).logits, atol=1e-4, rtol=0)
    assert "A card" in (tmp_path / "copy" / "README.md").read_text()
