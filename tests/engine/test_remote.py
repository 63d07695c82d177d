"""A model of another server: lmapps itself as that server, and one that plays tricks."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from lmapps import Decoding, Messages, Passage, plugin
from lmapps.discovery import discover
from lmapps.engine.application import Application, Done, Progress, Text
from lmapps.engine.backends import openai as remote
from lmapps.engine.backends.estimate import estimated_tokens
from lmapps.engine.backends.openai import OpenAIBackend
from lmapps.engine.backends.source import Source, open_backend
from lmapps.engine.request import Delta
from lmapps.errors import Busy, InputError, ModelServerError, PromptTooLong

SHORT = Decoding(temperature=0.9, seed=5, max_new_tokens=12)
HELLO: Messages = [{"role": "user", "content": "Where is the cat?"}]


@dataclass
class Weather:
    sky: Literal["clear", "grey"]
    degrees: int


@plugin(reply=Weather, decoding=Decoding(max_new_tokens=60, seed=1))
def weather(place: str) -> str:
    return f"How is the weather in {place}?"


@plugin(reply=Literal["yes", "no"])
def decide(question: str) -> str:
    return question


@plugin(decoding=SHORT)
def digest(text: Passage) -> Any:
    if not text.fits:
        notes = yield [f"Note: {part}" for part in text.parts()]
        yield "All: " + " ".join(note[:5] for note in notes)
    else:
        yield f"Whole: {text}"


@pytest.fixture(scope="module")
def far(served: Any) -> Any:
    return open_backend(Source("far", f"{served.url}/v1"))


def reply(backend: Any, decoding: Decoding, messages: Messages = HELLO) -> Any:
    return asyncio.run(backend.complete(backend.render(messages), decoding))


def test_it_learns_the_models_name_and_context_from_the_server(far: Any, served: Any) -> None:
    assert (far.name, far.model, far.context) == ("far", "unnamed", 128)
    assert str(far.about) == f"unnamed at {served.url}/v1, 128 tokens of context"
    named = open_backend(Source("far", f"{served.url}/v1#unnamed"))
    assert named.model == "unnamed"  # type: ignore[attr-defined]
    with pytest.raises(ModelServerError, match="has no model 'gpt'; it has 'unnamed'"):
        open_backend(Source("far", f"{served.url}/v1#gpt"))
    with pytest.raises(ModelServerError, match="is no list of models: is the URL that of an API"):
        open_backend(Source("far", served.url))
    with pytest.raises(ModelServerError, match="does not answer"):
        open_backend(Source("far", "http://127.0.0.1:9/v1"))


def test_a_reply_is_that_of_the_model_there(far: Any, served: Any) -> None:
    here = served.engine
    one, other = reply(far, SHORT), reply(here, SHORT)
    assert one.text == other.text and one.finish == "length"
    assert one.tokens == 12 and one.prompt_tokens(()) == len(here.render(HELLO))
    stop = other.text[3:6]
    cut = reply(far, SHORT.replace(stop=(stop,)))
    assert cut.text == other.text[: other.text.index(stop)] and cut.finish == "stop"
    changed = SHORT.replace(
        top_k=5, min_p=0.01, repetition_penalty=1.3, no_repeat_ngram=2, presence_penalty=0.5,
        frequency_penalty=0.5, top_p=0.9, logit_bias={7: 3},
    )  # fmt: skip
    assert reply(far, changed).text == reply(here, changed).text != one.text
    text = asyncio.run(far.complete(far.read("The cat"), SHORT))
    assert text.text == here.generate(here.read("The cat"), SHORT).text
    ids = asyncio.run(far.complete(far.read([5, 6, 7]), SHORT))
    assert ids.text == here.generate([5, 6, 7], SHORT).text and ids.prompt_tokens(()) == 3


def test_plugins_work_on_it_held_to_their_form_and_in_several_steps(far: Any) -> None:
    done = asyncio.run(Application(decide, far).reply({"question": "Is it so?"}))
    assert done.reply in ("yes", "no")
    done = asyncio.run(Application(weather, far).reply({"place": "Bonn"}))
    assert isinstance(done.value, Weather) and json.loads(done.reply)["sky"] in ("clear", "grey")

    async def events() -> list[Any]:
        text = {"text": "The cat sat on the mat. " * 30}
        return [event async for event in Application(digest, far).events(text)]

    seen = asyncio.run(events())
    assert max(event.total for event in seen if isinstance(event, Progress)) > 2
    assert any(isinstance(event, Text) for event in seen) and isinstance(seen[-1], Done)


def test_leaving_ends_the_reply_on_the_server(far: Any, served: Any, leaving: Any) -> None:
    async def leave_early() -> Any:
        stream = far.stream(far.render(HELLO), Decoding(max_new_tokens=90, seed=1))
        async for _ in stream:
            break
        left = leaving(served)
        await stream.aclose()
        return left

    asyncio.run(leave_early()).frees_its_slot()
    assert far.running == 0
    assert served.engine.counts.finished["cancelled"] and far.counts.finished["cancelled"]


def test_what_the_server_refuses_is_told_in_its_words(far: Any) -> None:
    async def complete(prompt: Any) -> None:
        await far.complete(prompt, SHORT)

    with pytest.raises(PromptTooLong, match="model 'far' says: the prompt has 200 tokens"):
        asyncio.run(complete(far.read([5] * 200)))
    with pytest.raises(InputError, match="logprobs are not known"):
        reply(far, SHORT.replace(logprobs=1))
    with pytest.raises(InputError, match="the ids that the model 'far' is given are not known"):
        far.explain(HELLO, SHORT)
    with pytest.raises(InputError, match="role must be one of"):
        far.render([{"role": "robot", "content": "x"}])
    with pytest.raises(PromptTooLong):  # estimated here, before anything is sent
        asyncio.run(Application(decide, far).reply({"question": "word " * 500}))


def test_the_place_in_the_queue_there_is_told_here(
    endless_checkpoint: Callable[[str], Any], serve: Callable[..., Any]
) -> None:
    with serve(discover(), 0.01) as server:
        far = open_backend(Source("far", f"{server.url}/v1"))
        slots = server.engine._scheduler.slots
        slots.count = 1

        async def both() -> list[Delta]:
            first = far.stream(far.render(HELLO), Decoding(max_new_tokens=60, seed=1))
            await anext(first)
            waiting = far.stream(far.render(HELLO), SHORT)
            told = [await anext(waiting)]
            await first.aclose()
            return [*told, *[delta async for delta in waiting]]

        told = asyncio.run(both())
    assert told[0].position == 1 and told[-1].finish == "length"


class Tricks:
    """A server whose answers are written beforehand, one for each request."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: list[tuple[int, dict[str, str], list[str]]] = []
        self.asked: list[tuple[dict[str, Any], str]] = []

    def next_is(self, status: int, *lines: str, **headers: str) -> None:
        self.answers.append((status, headers, list(lines)))


def said(text: str, finish: str | None = None) -> str:
    return "data: " + json.dumps(
        {"choices": [{"delta": {"content": text}, "finish_reason": finish}]}
    )


@contextmanager
def standing_in(app: FastAPI) -> Iterator[str]:
    """The URL of an API, on a free port."""
    import uvicorn

    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}/v1"
    running.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def server() -> Iterator[Tricks]:
    app, tricks = FastAPI(), Tricks()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"data": [{"id": "m", "meta": {"n_ctx_train": 512}}, {"id": "other"}]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> StreamingResponse:
        tricks.asked.append((await request.json(), request.headers.get("authorization", "")))
        status, headers, lines = tricks.answers.pop(0)

        async def body() -> AsyncIterator[str]:
            for line in lines:
                yield line + "\n\n"

        return StreamingResponse(body(), status, headers)

    with standing_in(app) as tricks.url:
        yield tricks


@pytest.fixture
def tricks(server: Tricks, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tricks]:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)
    server.answers.clear()
    server.asked.clear()
    yield server
    assert not server.answers, "not everything was asked for"


def test_what_may_be_gone_the_next_time_is_tried_again_until_the_reply_begins(
    tricks: Tricks,
) -> None:
    far = OpenAIBackend.connect("far", tricks.url)
    assert (far.model, far.context) == ("m", 512)
    tricks.next_is(503, '{"error": "loading"}')
    tricks.next_is(429, '{"error": {"message": "slow"}}', **{"retry-after": "0.001"})
    tricks.next_is(500, "oh")
    tricks.next_is(200, said("Hel"), ": a comment", said("lo", "stop"), "data: [DONE]")
    done = reply(far, SHORT)
    assert done.text == "Hello" and done.finish == "stop" and len(tricks.asked) == 4
    assert done.tokens == 2, "pieces, where the server does not count"


def test_of_a_reply_that_is_cut_as_it_takes_too_long_what_came_is_counted(
    tricks: Tricks, monkeypatch: pytest.MonkeyPatch
) -> None:
    far, clock = OpenAIBackend("far", tricks.url, "m"), itertools.count()
    monkeypatch.setattr(remote, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(remote, "LONGEST_SECONDS", 3)
    tricks.next_is(200, *map(said, ("One", " two", " three", " four", " five")))
    prompt = far.render(HELLO)
    done = asyncio.run(far.complete(prompt, SHORT, "somebody"))
    assert (done.text, done.finish, done.tokens) == ("One two three", "length", 3)
    assert (far.counts.generated_tokens, far.counts.prompt_tokens) == (3, len(prompt))


def test_what_cannot_be_unpacked_is_an_answer_that_did_not_come(tricks: Tricks) -> None:
    far = OpenAIBackend("far", tricks.url, "m")
    for _ in range(remote.RETRIES + 1):
        tricks.next_is(200, "no gzip at all", **{"content-encoding": "gzip"})
    with pytest.raises(ModelServerError, match=r"does not answer .*header"):
        reply(far, SHORT)


def test_a_server_that_goes_on_failing_is_given_up_with_what_it_says(tricks: Tricks) -> None:
    far = OpenAIBackend("far", tricks.url, "m")
    for _ in range(4):
        tricks.next_is(429, '{"error": {"message": "too much"}}', **{"retry-after": "0.002"})
    with pytest.raises(Busy, match="the server of the model 'far' says: too much"):
        reply(far, SHORT)
    for status, body, error, words in (
        (400, '{"error": {"message": "no such thing"}}', InputError, "says: no such thing"),
        (401, '{"detail": "who are you"}', ModelServerError, "who are you .*is its key set"),
        (404, "<html>no</html>", ModelServerError, "<html>no</html> .status 404"),
    ):
        tricks.next_is(status, body)
        with pytest.raises(error, match=words):
            reply(far, SHORT)
    assert far.counts.finished["error"] == 4 and far.running == 0


def test_a_reply_that_has_begun_is_not_begun_again(tricks: Tricks) -> None:
    far = OpenAIBackend("far", tricks.url, "m")
    tricks.next_is(200, said("Hel"))
    with pytest.raises(ModelServerError, match="ended in the middle of a reply"):
        reply(far, SHORT)
    tricks.next_is(200, said("Hel"), 'data: {"error": {"message": "no memory", "type": "x"}}')
    with pytest.raises(ModelServerError, match="says: no memory"):
        reply(far, SHORT)
    tricks.next_is(200, "data: nonsense")
    with pytest.raises(ModelServerError, match="sent no JSON: 'nonsense'"):
        reply(far, SHORT)
    for odd in ('{"choices": ["x"]}', '{"choices": 5}', '{"usage": {"prompt_tokens": "many"}}'):
        tricks.next_is(200, ": position of the moon", f"data: {odd}")
        with pytest.raises(ModelServerError, match="sent what is no reply"):
            reply(far, SHORT)


def test_what_ends_a_line_elsewhere_ends_none_of_a_stream(tricks: Tricks) -> None:
    far, text = OpenAIBackend("far", tricks.url, "m"), "a\u2028b\u2029c\x85d\x1ce\x0cf"
    choice = {"delta": {"content": text}, "finish_reason": "stop"}
    event = json.dumps({"choices": [choice]}, ensure_ascii=False)
    tricks.next_is(200, f"data: {event}\r", "data: [DONE]")
    assert reply(far, SHORT).text == text


def test_the_key_comes_from_the_environment_and_who_asks_stays_here(
    tricks: Tricks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMAPPS_KEY_FAR", "secret")
    far: Any = open_backend(Source("far", f"{tricks.url}#other"))
    tricks.next_is(200, said("x", "stop"), "data: [DONE]")
    asyncio.run(far.complete(far.render(HELLO), Decoding(), "192.0.2.7"))
    ((body, key),) = tricks.asked
    assert key == "Bearer secret" and body["model"] == "other"
    assert set(body) == {
        "model", "messages", "stream", "stream_options", "max_tokens", "temperature", "user",
    }, "what is as usual is not sent: not every server knows every name"  # fmt: skip
    assert "192" not in body["user"] and len(body["user"]) == 16


def test_nobody_takes_all_places_of_what_may_be_under_way_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    far = OpenAIBackend("far", "http://far.example/v1", "m", queue=4)

    async def goes_on(*_: Any) -> AsyncIterator[Delta]:
        while True:
            yield Delta("more")

    async def begun(user: str | None) -> Any:
        stream = far.stream(far.render(HELLO), SHORT, user)
        await anext(stream)
        return stream

    async def ask() -> None:
        first, _ = [await begun("flood"), await begun("flood")]
        with pytest.raises(Busy, match="2 of your requests are waiting already"):
            await begun("flood")
        others = [await begun("person"), await begun(None)]
        with pytest.raises(Busy, match="4 requests are under way already"):
            await begun("person")
        await first.aclose()
        assert (far.running, len(others)) == (3, 2) and await begun("flood")
        assert (far.counts.accepted, far.counts.refused) == (5, 2)

    monkeypatch.setattr(far, "_tried", goes_on)
    asyncio.run(ask())


def test_an_estimate_is_rather_too_high() -> None:
    from lmapps.text.tokenizer import Tokenizer

    text = Path(__file__).read_text()
    tokenizer = Tokenizer.train([text] * 3, "bpe", 2000)
    assert estimated_tokens(text) > len(tokenizer.encode(text))
    assert estimated_tokens("") == 0 and estimated_tokens("今天天气") == 4


def test_lmapps_run_runs_a_plugin_on_it(served: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from lmapps.__main__ import main

    words = ["run", "news", "--headline", "Rain", "--checkpoint", f"{served.url}/v1"]
    assert main([*words, "--max-new-tokens", "9", "--seed", "1"]) == 0
    assert capsys.readouterr().out.strip()
    assert main([*words, "--explain"]) == 2
    assert "are not known here" in capsys.readouterr().err


@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_key_that_a_server_quotes_is_told_to_nobody(status: int) -> None:
    import httpx

    far = OpenAIBackend("far", "http://x/v1", "m", key="sk-of-the-house-123")
    said = {"error": {"message": "the key sk-of-the-house-123 is not known"}}
    error = asyncio.run(far._refused(httpx.Response(status, json=said)))
    assert "the key *** is not known" in str(getattr(error, "error", error))


# vLLM, as it documents its answers: "OpenAI-Compatible Server" in its manual, and the models of
# vllm/entrypoints/openai/engine/protocol.py. What is refused had one form until 0.10, and has
# another one since; in a stream it always stood under "error".

NAME = "Qwen/Qwen3-0.6B"
PIECES = ("The", " cat", " sat", ".")
TOO_LONG = {
    "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 "
    "tokens (4000 in the messages, 1000 in the completion). Please reduce the length of the "
    "messages or completion.", "type": "BadRequestError", "param": None, "code": 400,
}  # fmt: skip
REFUSED = {"then": {"object": "error", **TOO_LONG}, "now": {"error": TOO_LONG}}
PERMISSION = {
    "id": "modelperm-859065a2846ec8bb", "object": "model_permission", "created": 1743010793,
    "allow_create_engine": False, "allow_sampling": True, "allow_logprobs": True,
    "allow_search_indices": False, "allow_view": True, "allow_fine_tuning": False,
    "organization": "*", "group": None, "is_blocking": False,
}  # fmt: skip
CARD = {
    "id": NAME, "object": "model", "created": 1743010793, "owned_by": "vllm", "root": NAME,
    "parent": None, "max_model_len": 4096, "permission": [PERMISSION],
}  # fmt: skip


def chunk(kind: str, *choices: dict[str, Any], usage: Any = None) -> str:
    made = {"id": "cmpl-1", "object": kind, "created": 1743010800, "model": NAME}
    return f"data: {json.dumps({**made, 'choices': choices, 'usage': usage})}\n\n"


def vllm_stream(body: dict[str, Any], said: str) -> Iterator[str]:
    is_chat, count = "messages" in body, min(body["max_tokens"], len(PIECES))
    kind = "chat.completion.chunk" if is_chat else "text_completion"
    rest = {"index": 0, "logprobs": None, "finish_reason": None}
    if is_chat:
        yield chunk(kind, {**rest, "delta": {"role": "assistant", "content": ""}})
    for piece in PIECES[:count]:
        yield chunk(kind, rest | ({"delta": {"content": piece}} if is_chat else {"text": piece}))
        if said == "late":
            yield f"data: {json.dumps({'error': {'object': 'error', **TOO_LONG}})}\n\n"
            yield "data: [DONE]\n\n"
            return
    why = {"finish_reason": "length" if count < len(PIECES) else "stop", "stop_reason": None}
    yield chunk(kind, rest | ({"delta": {"content": ""}} if is_chat else {"text": ""}) | why)
    if body["stream_options"]["include_usage"]:
        cached = {"cached_tokens": 8}
        made = count + (why["finish_reason"] == "stop")  # its end is a token too
        usage = {"prompt_tokens": 12, "total_tokens": 12 + made, "completion_tokens": made}
        yield chunk(kind, usage={**usage, "prompt_tokens_details": cached if is_chat else None})
    yield "data: [DONE]\n\n"


@pytest.fixture(scope="module")
def vllm() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The URL of such a server, and what it was asked."""
    app, asked = FastAPI(), list[dict[str, Any]]()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [CARD]}

    @app.post("/v1/chat/completions")
    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        body = await request.json()
        asked.append(body)
        said = body.get("prompt") or body["messages"][-1]["content"]
        if said in REFUSED:
            return JSONResponse(REFUSED[said], 400)
        return StreamingResponse(vllm_stream(body, said), media_type="text/event-stream")

    with standing_in(app) as url:
        yield url, asked


def test_a_reply_of_vllm_is_read_as_its_documentation_has_it(vllm: Any) -> None:
    url, asked = vllm
    far: Any = open_backend(Source("far", url))
    assert (far.model, far.context) == (NAME, 4096)
    done = reply(far, SHORT.replace(top_k=5, min_p=0.1))
    assert (done.text, done.finish) == ("The cat sat.", "stop")
    assert (done.tokens, done.prompt_tokens(())) == (5, 12), "as it counts, in the last chunk"
    assert far.counts.reused_tokens == 8
    assert {name: asked[-1][name] for name in ("top_k", "min_p")} == {"top_k": 5, "min_p": 0.1}
    cut = reply(far, SHORT.replace(max_new_tokens=2))
    assert (cut.text, cut.finish, cut.tokens) == ("The cat", "length", 2)
    text = asyncio.run(far.complete(far.read("The"), SHORT))
    assert (text.text, text.finish, text.tokens) == ("The cat sat.", "stop", 5)
    reply(far, SHORT.replace(regex="yes|no"))
    assert asked[-1]["structured_outputs"] == {"regex": "yes|no"}


@pytest.mark.parametrize("how", ["then", "now", "late"])
def test_what_vllm_refuses_is_told_in_its_words_before_and_in_a_stream(vllm: Any, how: str) -> None:
    far = open_backend(Source("far", vllm[0]))
    with pytest.raises(InputError, match=r"model 'far' says: This model's maximum context length"):
        reply(far, SHORT, [{"role": "user", "content": how}])
