"""The four plugins on each kind of backend: our own step, transformers, another server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lmapps.decoding import Decoding
from lmapps.discovery import discover
from lmapps.engine.admission import Lengths
from lmapps.engine.application import Application, Done, Event, Notice, Progress, Text
from lmapps.engine.backends.source import Opening, Source, open_backend
from lmapps.engine.engine import Engine
from lmapps.errors import PromptTooLong
from lmapps.model.checkpoint import Checkpoint
from tests.engine.test_transformers import make

FOUND = discover()
FIELDS: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "Where is the cat?"}], "persona": "A cat."},
    "news": {"headline": "Rain falls", "topic": "weather"},
    "code": {"instruction": "Add two numbers."},
    "summarize": {"text": "The cat sat on the mat. " * 30, "length": "a headline"},
}
SHORT = Decoding(temperature=0.9, seed=3, max_new_tokens=12)


@pytest.fixture(scope="module")
def ours(endless_checkpoint: Callable[[str], Checkpoint]) -> Iterator[Engine]:
    with Engine(endless_checkpoint("transformer")) as engine:
        yield engine


@pytest.fixture(scope="module")
def far(served: Any) -> Any:
    return open_backend(Source("far", f"{served.url}/v1"))


@pytest.fixture(scope="module")
def theirs(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Callable[[str], Checkpoint]
) -> Iterator[Any]:
    folder = make("llama", tmp_path_factory.mktemp("llama"), tiny_checkpoint("transformer"))
    with closing(open_backend(Source("theirs", str(folder)))) as backend:
        assert backend.step_name.startswith("transformers")
        yield backend


@pytest.fixture(scope="module")
def smollm2(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Callable[[str], Checkpoint]
) -> Iterator[Any]:
    folder = make("smollm2", tmp_path_factory.mktemp("llama"), tiny_checkpoint("transformer"))
    with closing(open_backend(Source("smollm2", str(folder)))) as backend:
        assert not backend.step_name.startswith("transformers")
        yield backend


def events(name: str, backend: Any, fields: dict[str, Any] | None = None) -> list[Event]:
    async def read() -> list[Event]:
        asked = Application(FOUND.plugins[name], backend).events(fields or FIELDS[name], SHORT)
        return [event async for event in asked]

    return asyncio.run(read())


def test_the_fields_are_those_of_all_that_we_ship() -> None:
    assert set(FIELDS) == set(FOUND.plugins) and not FOUND.failures


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("place", ["ours", "smollm2", "theirs", "far"])
def test_each_plugin_streams_and_ends(
    name: str, place: str, request: pytest.FixtureRequest
) -> None:
    seen = events(name, request.getfixturevalue(place))
    *_, done = seen
    assert isinstance(done, Done) and done.completion_tokens > 0 and done.prompt_tokens > 5
    assert any(isinstance(event, Text) for event in seen)
    assert not [event for event in seen if isinstance(event, Notice) and name == "chat"]
    if name == "summarize":  # longer than the context: in parts, then the whole
        assert max(event.total for event in seen if isinstance(event, Progress)) > 2


@pytest.mark.parametrize("name", ["chat", "news", "code"])
def test_the_same_model_gives_the_same_reply_here_and_there(
    name: str, ours: Engine, far: Any
) -> None:
    """A summary's parts are cut by what is known of the tokens, which is less there."""
    here, there = events(name, ours)[-1], events(name, far)[-1]
    assert isinstance(here, Done) and isinstance(there, Done)
    assert (here.reply, here.finish) == (there.reply, there.finish)


@pytest.mark.parametrize("place", ["ours", "theirs", "far"])
def test_no_prompt_and_no_reply_is_longer_than_the_server_takes_and_gives(
    place: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    known = request.getfixturevalue(place)
    if place == "ours":
        known.checkpoint.save(tmp_path)
    where = known.url if place == "far" else str(known.folder or tmp_path)
    backend = open_backend(Source("it", where), Opening(lengths=Lengths(prompt=70, reply=5)))
    turns = [{"role": ("user", "assistant")[n % 2], "content": "the cat sat"} for n in range(21)]
    with closing(backend):
        seen = events("chat", backend, {"messages": turns})
        (notice,) = [event.text for event in seen if isinstance(event, Notice)]
        assert "longer than the 70 tokens of a prompt: its oldest" in notice
        done = seen[-1]
        assert isinstance(done, Done) and done.prompt_tokens <= 70
        assert (done.completion_tokens, done.finish) == (5, "length")
        assert isinstance(events("summarize", backend)[-1], Done), "its parts are shorter"
        told = r"the prompt has \d+ tokens, this server takes at most 70: shorten it"
        with pytest.raises(PromptTooLong, match=told):
            events("news", backend, {"headline": "the cat sat " * 10, "topic": "weather"})
        with pytest.raises(PromptTooLong, match=told):
            asyncio.run(backend.complete(backend.read([5] * 71), SHORT))
        assert asyncio.run(backend.complete(backend.read([5] * 70), SHORT)).tokens == 5
