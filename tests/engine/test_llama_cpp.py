"""llama.cpp's own server as the remote: from its wheel, xllamacpp."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from lmapps.decoding import Decoding
from lmapps.engine.backends.source import Source, open_backend
from lmapps.engine.engine import Engine
from lmapps.errors import InputError
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.gguf_file import write_gguf
from tests.conftest import llama_cpp

xllamacpp = llama_cpp()
ASK: list[Any] = [{"role": "user", "content": "Where is the cat?"}]
GREEDY = Decoding(temperature=0, max_new_tokens=24)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Callable[[str], Checkpoint]) -> Checkpoint:
    return tiny_checkpoint("transformer")


@pytest.fixture(scope="module")
def url(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    file = tmp_path_factory.mktemp("llama.cpp") / "tiny.gguf"
    write_gguf(checkpoint, file, "float32")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.port, params.endpoint_slots = port, True
    params.n_ctx, params.n_parallel, params.warmup = 256, 2, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}"
    del server


@pytest.fixture
def far(url: str) -> Any:
    return open_backend(Source("far", f"{url}/v1"))


def test_its_greedy_reply_streams_and_is_ours(far: Any, checkpoint: Checkpoint) -> None:
    async def read() -> list[Any]:
        return [delta async for delta in far.stream(far.render(ASK), GREEDY, "me")]

    deltas = asyncio.run(read())
    with Engine(checkpoint, slots=1) as engine:
        prompt = engine.render(ASK)
        reply = engine.generate(prompt, GREEDY)
    assert sum(bool(delta.text) for delta in deltas) > 5
    assert "".join(delta.text for delta in deltas).strip() == reply.text.strip()
    assert deltas[-1].finish == reply.finish
    assert deltas[-1].usage.prompt_tokens == len(prompt)


def test_leaving_ends_its_reply(far: Any, url: str, wait_until: Callable[..., None]) -> None:
    def slots() -> list[Any]:
        return list(httpx.get(f"{url}/slots").json())

    def most_tokens() -> int:
        """In a slot, of prompt and reply, once nobody is answered."""
        wait_until(lambda: not any(slot["is_processing"] for slot in slots()))
        return max(slot.get("n_prompt_tokens", 0) for slot in slots())

    async def leave() -> None:
        deltas = far.stream(prompt, endless, "me")
        await anext(deltas)
        await deltas.aclose()

    prompt = far.render(ASK)
    no_end = {1: -100, 2: -100}
    endless = Decoding(temperature=0.9, seed=3, max_new_tokens=100, logit_bias=no_end)
    asyncio.run(leave())
    left = most_tokens()
    asyncio.run(far.complete(prompt, endless, "me"))
    assert left < most_tokens()


def test_what_it_refuses_is_told_in_its_words_and_a_schema_is_kept(far: Any) -> None:
    long: list[Any] = [{"role": "user", "content": "the cat sat on the mat " * 100}]
    with pytest.raises(InputError, match=r"the server of the model 'far' says: .*context size"):
        asyncio.run(far.complete(far.render(long), GREEDY, "me"))
    schema = {
        "type": "object",
        "properties": {"sure": {"type": "boolean"}},
        "required": ["sure"],
        "additionalProperties": False,
    }
    held = Decoding(temperature=0.9, seed=1, max_new_tokens=80, json_schema=json.dumps(schema))
    reply = asyncio.run(far.complete(far.render(ASK), held, "me"))
    if reply.finish == "stop":  # it may write spaces to the end of its context
        assert set(json.loads(reply.text)) == {"sure"}
    assert reply.text.strip().startswith("{")


def test_several_at_once_share_it(far: Any) -> None:
    async def together() -> list[Any]:
        asked = [far.complete(far.render(ASK), GREEDY, f"user {number}") for number in range(5)]
        return list(await asyncio.gather(*asked))

    assert len({reply.text for reply in asyncio.run(together())}) == 1
