"""Several models behind one API: named in each request, listed, and told apart in the numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmapps.discovery import discover
from lmapps.engine.admission import ANY, Lengths
from lmapps.engine.backends.source import Source, open_backend
from lmapps.engine.models import Models
from lmapps.model.checkpoint import Checkpoint
from lmapps.server.accounts.access import Access
from lmapps.server.serve import create_app, models_of
from lmapps.server.settings import ServeSettings
from lmapps.server.store.store import Store

ASK = [{"role": "user", "content": "Where is the cat?"}]


@pytest.fixture
def models(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Models]:
    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path / "home"))
    sources = []
    for body in ("gru", "lstm"):
        tiny_checkpoint(body).save(tmp_path / body)
        sources.append(Source(body, str(tmp_path / body)))
    models = Models(sources, open_backend)
    yield models
    models.close()


def asked(models: Models, store: Path, *requests: tuple[str, str, Any]) -> list[httpx.Response]:
    """The answers to requests that come one after the other."""

    async def ask() -> list[httpx.Response]:
        app = create_app(models, discover(), Store(f"sqlite:///{store}/test.db"))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://here", timeout=60
        ) as http:
            return [await http.request(*each[:2], json=each[2]) for each in requests]

    return asyncio.run(ask())


def test_the_model_field_chooses_and_each_is_listed_and_counted(
    models: Models, tmp_path: Path
) -> None:
    body = {"messages": ASK, "max_tokens": 5, "seed": 1}
    chat, form = "/v1/chat/completions", {"headline": "Rain", "decoding": {"seed": 1}}
    usual, gru, lstm, streamed, none, wrong, app, other_app, listed, one, health, metrics = asked(
        models, tmp_path,
        ("POST", chat, body), ("POST", chat, body | {"model": "gru"}),
        ("POST", chat, body | {"model": "lstm"}),
        ("POST", chat, body | {"model": "lstm", "stream": True}),
        ("POST", chat, body | {"model": "gpt"}), ("POST", chat, body | {"model": 3}),
        ("POST", "/apps/news", form), ("POST", "/apps/news", form | {"model": "lstm"}),
        ("GET", "/v1/models", None), ("GET", "/v1/models/lstm", None), ("GET", "/health", None),
        ("GET", "/metrics", None),
    )  # fmt: skip
    texts = [each.json()["choices"][0]["message"]["content"] for each in (usual, gru, lstm)]
    assert texts[0] == texts[1] != texts[2]
    assert [each.json()["model"] for each in (usual, gru, lstm)] == ["gru", "gru", "lstm"]
    assert '"model": "lstm"' in streamed.text and streamed.text.endswith("data: [DONE]\n\n")
    assert none.status_code == 404 and wrong.status_code == 400
    assert none.json()["error"]["message"] == (
        "there is no model 'gpt' here; served: 'gru', 'lstm'"
    )
    assert app.json()["reply"] != other_app.json()["reply"]
    assert [model["id"] for model in listed.json()["data"]] == ["gru", "lstm"]
    assert one.json()["max_model_len"] == 128
    states = {model["name"]: model["state"] for model in health.json()["models"]}
    assert states == {"gru": "loaded", "lstm": "loaded"} and health.json()["running"] == 0
    assert 'lmapps_accepted_requests_total{model="gru"} 3.0' in metrics.text
    assert 'lmapps_requests_total{finish="length",model="lstm"} ' in metrics.text
    assert all(model.users == 0 for model in models.describe())


def test_a_model_that_is_not_loaded_is_ready_and_one_that_cannot_be_loaded_says_why(
    models: Models, tmp_path: Path
) -> None:
    models.add(Source("gone", str(tmp_path / "gone")))
    ready, gone = asked(
        models, tmp_path, ("GET", "/ready", None),
        ("POST", "/v1/chat/completions", {"messages": ASK, "model": "gone"}),
    )  # fmt: skip
    assert ready.json() == {"ready": True, "reason": None}
    assert gone.status_code == 400 and "there is no checkpoint folder" in gone.text


def test_tools_are_refused_with_a_clear_error(models: Models, tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    (refused,) = asked(
        models, tmp_path, ("POST", "/v1/chat/completions", {"messages": ASK, "tools": [tool]})
    )
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith("tools is not supported: leave it out")


@pytest.mark.parametrize(
    ("more", "lengths"),
    [
        ({}, ANY),
        ({"longest_prompt": 70}, Lengths(prompt=70)),
        ({"longest_reply": 5}, Lengths(reply=5)),
    ],
)
def test_the_settings_say_how_long_a_prompt_and_a_reply_may_be(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Checkpoint], more: Any, lengths: Lengths
) -> None:
    tiny_checkpoint("gru").save(tmp_path)
    settings = ServeSettings(checkpoint=(str(tmp_path),), **more)
    with closing(models_of(settings, Access())) as models:
        assert models.load().lengths == lengths
