"""`hf:OWNER/NAME`: a model of the Hub, of one of our own, is downloaded once and served."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from lmapps.decoding import Decoding
from lmapps.engine.backends.foreseen import foreseen_bytes
from lmapps.engine.backends.source import USUAL, open_backend, source_of
from lmapps.engine.engine import Engine
from lmapps.errors import CheckpointError
from lmapps.model.checkpoint import Checkpoint
from tests.engine.test_transformers import make
from tests.fake_hub import FakeHub, fake_hub

GREEDY = Decoding(temperature=0, max_new_tokens=12)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the Hub's client keeps what it downloaded."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    return tmp_path / "cache"


@pytest.fixture
def hub(
    cache: Path, tiny_checkpoint: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> Iterator[type[FakeHub]]:
    """A Hub with our transformer as `some/model`."""
    url = "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE"
    with fake_hub(tiny_checkpoint("transformer")) as (handler, address):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr(url, address + "/{repo_id}/resolve/{revision}/{filename}")
        yield handler


def reply(word: str) -> tuple[str, str]:
    """What computes it, and what a greedy reply of the model is."""
    backend = open_backend(source_of(word))
    assert isinstance(backend, Engine)
    with backend:
        prompt = backend.render([{"role": "user", "content": "Where is the cat?"}])
        return backend.step_name, backend.generate(prompt, GREEDY).text


def test_a_model_of_the_hub_is_downloaded_and_answers_as_its_folder_does(
    hub: type[FakeHub], cache: Path, tmp_path: Path, tiny_checkpoint: Callable[[str], Checkpoint]
) -> None:
    tiny_checkpoint("transformer").save(tmp_path / "folder")
    source = source_of("hf:some/model")
    assert source.name == "model" and foreseen_bytes(source, USUAL) == 0
    assert reply("hf:some/model") == reply(str(tmp_path / "folder"))
    names = {file.name for file in cache.rglob("snapshots/*/*")}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert "x.bin" not in names, "nothing that could run"


def test_what_was_downloaded_is_used_where_the_hub_is_not_reached(
    hub: type[FakeHub], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = reply("hf:some/model")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert reply("mine=hf:some/model") == first
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert reply("hf:some/model") == first


def test_another_architecture_of_the_hub_runs_through_transformers(
    hub: type[FakeHub], tmp_path: Path, tiny_checkpoint: Callable[[str], Checkpoint]
) -> None:
    folder = make("gpt2", tmp_path / "gpt2", tiny_checkpoint("gru"))
    hub.files = {file.name: file.read_bytes() for file in folder.iterdir()}
    step, said = reply("hf:some/model")
    assert step.startswith("transformers") and said == reply(str(folder))[1]


def test_what_cannot_be_fetched_is_a_sentence(
    hub: type[FakeHub], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = r"the model 'some/model' cannot be fetched from the Hub: \w"
    with pytest.raises(CheckpointError, match="'nobody/none' cannot be fetched from the Hub: 404"):
        reply("hf:nobody/none")
    hub.cuts = True  # again and again
    hurried = Mock(wraps=time, sleep=lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.file_download.time", hurried)
    with pytest.raises(CheckpointError, match=told):
        reply("hf:some/model")
    hub.cuts = False
    assert reply("hf:some/model"), "the next try goes on"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache / "another"))
    hub.files = {**hub.files, "config.json": json.dumps({"model_type": "own"}).encode()}
    with pytest.raises(CheckpointError, match="type 'own' are not supported"):
        reply("hf:some/model")
    for name, value in {"ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": True}.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache / "empty"))
        with pytest.raises(CheckpointError, match=told):
            reply("hf:some/model")
