"""The four plugins on each kind of backend: our own step, transformers, another server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmapps.decoding import Decoding
from lmapps.discovery import discover
from lmapps.engine.application import Application, Done, Event, Notice, Progress, Text
from lmapps.engine.backends.source import Source, open_backend
from lmapps.engine.engine import Engine
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
    folder: Path = make("llama", tmp_path_factory.mktemp("llama"), tiny_checkpoint("transformer"))
    backend = open_backend(Source("theirs", str(folder)))
    assert backend.step_name.startswith("transformers")
    yield backend
    backend.close()


def events(name: str, backend: Any) -> list[Event]:
    async def read() -> list[Event]:
        asked = Application(FOUND.plugins[name], backend).events(FIELDS[name], SHORT)
        return [event async for event in asked]

    return asyncio.run(read())


def test_the_fields_are_those_of_all_that_we_ship() -> None:
    assert set(FIELDS) == set(FOUND.plugins) and not FOUND.failures


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("place", ["ours", "theirs", "far"])
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
