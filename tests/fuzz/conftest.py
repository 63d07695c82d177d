"""The harnesses, which are also a program of their own, and seeds that are nearly right."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from lmapps.model.checkpoint import Checkpoint
from lmapps.model.config import ModelConfig
from lmapps.model.language_model import LanguageModel

FILE = Path(__file__).with_name("harness.py")


@pytest.fixture(scope="session")
def harness() -> ModuleType:
    """tests/fuzz/harness.py."""
    spec = importlib.util.spec_from_file_location("fuzz_harness", FILE)
    assert spec and spec.loader
    module = sys.modules["fuzz_harness"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def seeds(
    tiny_checkpoint: Callable[[str], Checkpoint], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[bytes]]:
    """Sound inputs by harness, small: fuzzing begins where they are changed."""
    from lmapps.model.gguf_file import write_gguf
    from lmapps.text.template import DEFAULT

    folder = tmp_path_factory.mktemp("seeds")
    tiny_checkpoint("transformer").save(folder)
    write_gguf(_smallest(tiny_checkpoint("transformer")), folder / "it.gguf")
    weights = (folder / "model.safetensors").read_bytes()
    head = 8 + int.from_bytes(weights[:8], "little")
    root = FILE.parents[2]
    said = b'{"messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5, "stop": ["a"]}'
    turn = b'{"id": "a", "parent": null, "role": "user", "content": "Hi", "author": "person"}'
    return {
        "safetensors": [weights[: head + 64]],
        "config": [(folder / "config.json").read_bytes()],
        "names": [
            b'{"bos_token_id": null, "eos_token_id": [1, {}, [2]]}',
            b'{"chat_template": [{"name": "default", "template": "x"}], "bos_token": {}}',
            b'{"weight_map": {"a": "model.safetensors", "b": []}}',
            b'{"weight_map": null}',
        ],
        "run": [
            b'{"step": 1, "tokens": 9, "loss": 2.5, "seconds": 1.5, "share": 0.5, "done": true}',
            b'{"step": 2, "validation": {"loss": 1, "accuracy": 0.5}, "samples": {"a": "b"}, '
            b'"metrics": {"x.y": 1}, "seconds": 2}',
            b'{"scores": {"a": {"b": 1}}, "before": {"before": {}}}',
            b'{"state": "paused", "why": "x"}',
            b'[["a", "b", "c"], [["x", "y", "z"]]]',
            b'{"plugins": {"a": [{"fields": {}, "prompt": [{"role": "user", "content": "x"}]}]}}',
        ],
        "gguf": [(folder / "it.gguf").read_bytes()],
        "recipe": [
            b'[clean]\nmin_characters = 3\n[[sources]]\nname = "a"\npaths = ["*.txt"]\n',
            *(file.read_bytes() for file in sorted((root / "recipes").glob("*.toml"))[:2]),
        ],
        "plugin": [b'title = "A"\nprompt = "Say {text}."\n[fields]\ntext = {type = "line"}\n'],
        "template": [DEFAULT.encode(), b"{% for m in messages %}{{ m.content }}{% endfor %}"],
        "document": [b"\x01<p>x</p>", b"\x04%PDF-1.4\n1 0 obj\n<<>>\nendobj\n", b"\x00PK\x03\x04"],
        "conversation": [b'{"lmapps": "conversation", "leaf": "a", "turns": [%b]}' % turn],
        "request": [said],
    }


def _smallest(like: Checkpoint) -> Checkpoint:
    """A model of a few kilobytes, so that a whole file of it is read in no time."""
    shape = ModelConfig(
        "transformer", like.config.vocab_size, 8, 8, 1, 16, num_heads=2, num_kv_heads=1,
        intermediate_size=8, qk_norm=True, tie_embeddings=True,
    )  # fmt: skip
    return Checkpoint(LanguageModel(shape).eval(), like.tokenizer, like.template)
