"""A server without a checkpoint: it says how to get one, and goes on by itself once it is there."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from lmapps.discovery import discover
from lmapps.model.checkpoint import Checkpoint
from lmapps.server import serve as serving
from lmapps.server.waiting import wait_for_checkpoint, waiting_app


@pytest.fixture
def listening() -> socket.socket:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    return listening


def asked(url: str, path: str) -> httpx.Response:
    """The answer, as soon as somebody listens."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return httpx.request("POST" if path else "GET", f"{url}/{path}", timeout=10)
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_page_and_api_say_how_to_get_a_model_until_there_is_one(
    listening: socket.socket,
    tiny_checkpoint: Callable[[str], Checkpoint],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path))
    monkeypatch.setattr("lmapps.server.waiting.LOOK_SECONDS", 0.02)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    there = threading.Event()

    def find() -> Checkpoint | None:
        return tiny_checkpoint("gru") if there.is_set() else None

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait_for_checkpoint, find, waiting_app(discover()), listening)
        page = asked(url, "")
        assert page.status_code == 503 and "lmapps has no model yet" in page.text
        assert str(tmp_path / "checkpoints" / "default") in page.text and "Summarize" in page.text
        for path in ("v1/chat/completions", "apps/chat", "health"):
            answer = asked(url, path)
            assert answer.status_code == 503
            assert "lmapps train --data FILES" in answer.json()["error"]["message"]
        assert not waiting.done()
        there.set()
        assert waiting.result(20).name == "unnamed"
    assert listening.fileno() >= 0, "what comes next listens there"


def test_a_default_checkpoint_is_taken_once_it_is_whole(
    tiny_checkpoint: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lmapps.paths.checkpoint_folders", lambda: [tmp_path])
    monkeypatch.chdir(tmp_path.parent)
    assert serving.find_default() is None
    tiny_checkpoint("gru").save(tmp_path / "default")
    weights = tmp_path / "default" / "model.safetensors"
    weights.rename(tmp_path / "aside")
    assert serving.find_default() is None
    (tmp_path / "aside").rename(weights)
    found = serving.find_default()
    assert found and found.name == "default"
