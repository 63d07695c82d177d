"""What the openai package asks for beyond a plain chat: choices, probabilities, formats, limits."""

from __future__ import annotations

import json
import math
import re
import threading
import time
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from lmapps.engine.turns import subdivided
from lmapps.errors import DecodingError
from lmapps.text.tokenizer import Tokenizer

ASK: list[Any] = [{"role": "user", "content": "Where is the cat?"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "mood": {"enum": ["happy", "sad"]},
        "age": {"type": "integer", "minimum": 1, "maximum": 20},
    },
    "required": ["mood", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(served: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def chat(client: openai.OpenAI, **changes: Any) -> Any:
    options: dict[str, Any] = {"model": "unnamed", "messages": ASK, "max_tokens": 12, "seed": 3}
    return client.chat.completions.create(**(options | changes))


def test_several_replies_have_seeds_of_their_own(client: openai.OpenAI) -> None:
    several = chat(client, n=3)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in several.choices]
    assert len(set(texts)) == 3
    assert texts == [chat(client, seed=seed).choices[0].message.content for seed in (3, 4, 5)]
    assert several.usage.completion_tokens == 36
    assert several.usage.prompt_tokens == chat(client).usage.prompt_tokens


def test_several_replies_stream_side_by_side(client: openai.OpenAI) -> None:
    texts, order, roles = ["", ""], [], [0, 0]
    for chunk in chat(client, n=2, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        roles[choice.index] += choice.delta.role == "assistant"
        order.append(choice.index)
    whole = chat(client, n=2)
    assert texts == [choice.message.content for choice in whole.choices]
    assert roles == [1, 1], "only the first chunk of a reply names the role"
    assert order != sorted(order), "the second did not wait for the first one's end"


def test_a_chats_logprobs_spell_its_text(client: openai.OpenAI) -> None:
    choice = chat(client, logprobs=True, top_logprobs=4, temperature=0).choices[0]
    told = choice.logprobs.content
    assert len(told) == 12
    written = bytes(byte for token in told for byte in token.bytes)
    assert written.decode(errors="replace").startswith(choice.message.content)
    for token in told:
        assert token.logprob <= 0 and len(token.top_logprobs) == 4
        assert token.top_logprobs[0].token == token.token, "greedy takes the most probable"
        assert sum(math.exp(other.logprob) for other in token.top_logprobs) <= 1
    streamed = [
        token.logprob
        for chunk in chat(client, logprobs=True, temperature=0, stream=True)
        for token in chunk.choices[0].logprobs.content
    ]
    assert streamed == pytest.approx([token.logprob for token in told], abs=1e-4)
    assert chat(client).choices[0].logprobs is None


def test_a_text_completions_logprobs_have_offsets(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "unnamed", "prompt": "The cat", "max_tokens": 9, "seed": 1, "logprobs": 2,
    }  # fmt: skip
    choice = client.completions.create(**options).choices[0]
    told = choice.logprobs
    assert told and told.tokens and told.text_offset and told.top_logprobs
    assert len(told.tokens) == len(told.token_logprobs or []) == 9
    assert told.text_offset[0] == 0
    for token, start in zip(told.tokens, told.text_offset, strict=True):
        if "\ufffd" not in "".join(told.tokens):
            assert choice.text[start:].startswith(token)
    assert all(1 <= len(top) <= 2 for top in told.top_logprobs)


def test_logit_bias_by_id_as_text(client: openai.OpenAI, served: Any) -> None:
    letter = served.engine.checkpoint.tokenizer.id_of("x")
    reply = chat(client, logit_bias={str(letter): 100}, max_tokens=4, temperature=0)
    assert reply.choices[0].message.content == "xxxx"


def test_a_reply_is_held_to_a_json_schema(client: openai.OpenAI) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "pet", "schema": SCHEMA}}
    for seed in range(3):
        reply = chat(client, response_format=wanted, seed=seed, max_tokens=60, temperature=1.5)
        value = json.loads(reply.choices[0].message.content)
        assert value["mood"] in ("happy", "sad") and 1 <= value["age"] <= 20
        assert reply.choices[0].finish_reason == "stop"


def test_the_clients_own_parsing_gives_an_object(client: openai.OpenAI) -> None:
    class Pet(BaseModel):
        hungry: bool
        lives: int

    reply = client.chat.completions.parse(
        model="unnamed", messages=ASK, response_format=Pet, max_tokens=90, seed=1,
        logit_bias={"20": -1},
    )  # fmt: skip
    assert isinstance(reply.choices[0].message.parsed, Pet)


def test_json_object_and_regex(client: openai.OpenAI) -> None:
    reply = chat(client, response_format={"type": "json_object"}, max_tokens=3)
    text, finish = reply.choices[0].message.content, reply.choices[0].finish_reason
    assert text.startswith("{") and (finish == "length" or json.loads(text) is not None)
    reply = chat(client, extra_body={"regex": "(yes|no)!"}, response_format={"type": "text"})
    assert re.fullmatch("(yes|no)!", reply.choices[0].message.content)


def test_a_regex_and_a_schema_where_vllm_has_them(client: openai.OpenAI) -> None:
    wanted = {"structured_outputs": {"regex": "(yes|no)!", "json": None}}
    for more in ({}, {"regex": "(yes|no)!"}):
        reply = chat(client, extra_body=wanted | more)
        assert re.fullmatch("(yes|no)!", reply.choices[0].message.content)
    schema = {"structured_outputs": {"json": SCHEMA}}
    reply = chat(client, extra_body=schema, max_tokens=60, temperature=1.5)
    assert json.loads(reply.choices[0].message.content)["mood"] in ("happy", "sad")
    text = client.completions.create(
        model="unnamed", prompt="The cat", extra_body={"structured_outputs": {"regex": "[ab]{3}"}}
    )
    assert re.fullmatch("[ab]{3}", text.choices[0].text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tools": [{"type": "function"}]}, "tools is not supported: leave it out"),
        ({"tool_choice": "required"}, "tool_choice is not supported"),
        ({"messages": [{"role": "tool", "content": "3"}]}, "role must be one of"),
        ({"n": 0}, "n must be a whole number between 1 and 16, got 0"),
        ({"n": "2"}, "n must be a whole number between 1 and 16, got '2'"),
        ({"top_logprobs": 3}, "top_logprobs needs logprobs: true beside it, got None"),
        ({"logprobs": True, "top_logprobs": 30}, "logprobs must be a whole number between 0"),
        ({"logprobs": "yes"}, "logprobs must be a whole number"),
        ({"response_format": {"type": "xml"}}, "response_format.type must be text, json_object"),
        ({"response_format": 3}, "response_format must be an object like"),
        ({"response_format": "json_schema"}, 'must be an object like {"type": "json_object"}, got'),
        ({"response_format": {"type": "json_schema"}}, "needs a schema under json_schema.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 1}}}},
            "json_schema cannot be used",
        ),
        ({"regex": "("}, "regex cannot be used: unclosed group"),
        ({"structured_outputs": {"regex": "("}}, "regex cannot be used: unclosed group"),
        ({"structured_outputs": {"choice": ["a"]}}, "and nothing else, got \"{'choice': ['a']}\""),
        ({"structured_outputs": {"json": "{}"}}, "or with a JSON schema as json"),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "and nothing else"),
        ({"structured_outputs": "a"}, "structured_outputs must be an object"),
        ({"structured_outputs": {"regex": "a"}, "regex": "b"}, "ask for different replies"),
        ({"ignore_eos": True}, "ignore_eos is not supported: leave it out, got True"),
        ({"min_tokens": 3}, "min_tokens is not supported"),
        ({"guided_regex": "a"}, "guided_regex is not supported"),
        ({"repeat_penalty": 1.1}, "repeat_penalty is not supported: leave it out, got 1.1"),
        ({"stream": True, "stream_options": "x"}, "stream_options must be an object, got 'x'"),
        ({"stream_options": []}, "stream_options must be an object"),
        ({"stop": {"x": 1}}, "stop must be a text or a list of texts"),
        ({"logit_bias": {"cat": 3}}, "an id in logit_bias must be a whole number"),
        ({"logit_bias": {"999999": 3}}, "an id in logit_bias must be between 0 and"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"temperature": 1e308 * 10}, "temperature must be between 0 and 2, got inf"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "surrogates not allowed"),
    ],
)
def test_what_is_wrong_is_named(served: Any, changes: dict[str, Any], words: str) -> None:
    body = json.dumps({"messages": ASK, "max_tokens": 3} | changes)
    response = httpx.post(f"{served.url}/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_of_tokens_of_an_unknown_kind_are_refused_before_the_reply(
    served: Any, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    def unknown(_: Any) -> Any:
        raise DecodingError("it is not known what the tokens write")

    monkeypatch.setattr(Tokenizer, "token_bytes", property(unknown))
    monkeypatch.setattr(served.engine, "submit", None)  # it is not even asked
    body = {"messages": ASK, "max_tokens": 3, "logprobs": True, "stream": stream}
    response = httpx.post(f"{served.url}/v1/chat/completions", json=body)
    assert response.status_code == 400 and "not known" in response.json()["error"]["message"]


def test_a_full_queue_answers_429_and_when_to_come_back(served: Any) -> None:
    usual, served.engine.queue = served.engine.queue, 0
    try:
        body = {"messages": ASK, "max_tokens": 3}
        response = httpx.post(f"{served.url}/v1/chat/completions", json=body)
        assert response.status_code == 429
        assert 1 <= int(response.headers["retry-after"]) <= 60
        assert httpx.get(f"{served.url}/ready").status_code == 503
    finally:
        served.engine.queue = usual
    assert httpx.get(f"{served.url}/ready").json() == {"ready": True, "reason": None}


def test_ready_says_what_is_done_before_the_first_step(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.engine._loop, "preparing", "step 3 of 28")
    response = httpx.get(f"{served.url}/ready")
    assert response.status_code == 503
    assert "is being made ready (step 3 of 28)" in response.json()["reason"]
    assert httpx.get(f"{served.url}/health").status_code == 200


def test_the_client_tries_again_after_a_429(served: Any) -> None:
    patient = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=3)
    usual, served.engine.queue = served.engine.queue, 0

    def back() -> None:
        while not served.engine.counts.refused:
            time.sleep(0.005)
        served.engine.queue = usual

    before = served.engine.counts.refused
    served.engine.counts.refused = 0
    opening = threading.Thread(target=back)
    opening.start()
    assert chat(patient, max_tokens=2).choices[0].message.content is not None
    opening.join()
    assert served.engine.counts.refused == 1
    served.engine.counts.refused += before


def test_the_next_turn_says_how_much_was_not_read_again(client: openai.OpenAI, served: Any) -> None:
    talk = [{"role": "user", "content": "The cat sat on the mat, and the dog ran home."}]
    before = metrics_of(served)
    first = chat(client, messages=talk)
    talk += [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Why?"}]
    second = chat(client, messages=talk)
    told = second.usage.prompt_tokens_details.cached_tokens
    assert told >= first.usage.prompt_tokens
    after = metrics_of(served)
    assert after["lmapps_reused_tokens_total"] - before["lmapps_reused_tokens_total"] >= told
    read = after["lmapps_read_tokens_total"] - before["lmapps_read_tokens_total"]
    assert read <= first.usage.prompt_tokens + second.usage.prompt_tokens - told
    assert after["lmapps_prefix_bytes"] > 0


def test_the_engine_hears_whose_request_it_is(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    users: list[str | None] = []
    submit = served.engine.submit
    monkeypatch.setattr(
        served.engine, "submit", lambda *given: users.append(given[3]) or submit(*given)
    )
    body = {"messages": ASK, "max_tokens": 1}
    httpx.post(f"{served.url}/v1/chat/completions", json=body)
    httpx.post(f"{served.url}/v1/chat/completions", json=body | {"user": "ann"})
    httpx.post(f"{served.url}/apps/news", json={"headline": "Rain"})
    assert users == ["127.0.0.1", subdivided("127.0.0.1", "user ann"), "127.0.0.1"]
    for name in (3, "x" * 300):
        response = httpx.post(f"{served.url}/v1/chat/completions", json=body | {"user": name})
        assert response.status_code == 400 and "user must be" in response.text


def test_each_open_page_takes_turns() -> None:
    from types import SimpleNamespace

    from gradio.context import LocalContext

    from lmapps.server.who import who_on_page

    assert who_on_page().turns is None
    token = LocalContext.request.set(SimpleNamespace(session_hash="abc"))  # type: ignore[arg-type]
    assert who_on_page().turns == subdivided("unknown", "page abc")
    LocalContext.request.reset(token)


OF_MODEL = 'model="unnamed"'
"""Every number is told for each model."""


def metrics_of(served: Any) -> dict[str, float]:
    lines = httpx.get(f"{served.url}/metrics").text.splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name.replace(OF_MODEL, "").replace("{}", ""): float(value) for name, value in pairs}


def test_metrics_count_requests_tokens_and_time_to_first_token(
    client: openai.OpenAI, served: Any
) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    before = metrics_of(served)
    reply = chat(client, max_tokens=7)
    with client.chat.completions.create(
        model="unnamed", messages=ASK, max_tokens=100, stream=True
    ) as stream:
        next(iter(stream))
    served.wait_until_idle()
    after = metrics_of(served)
    grown = {name: value - before.get(name, 0) for name, value in after.items()}
    assert grown['lmapps_requests_total{finish="length",}'] == 1
    assert grown['lmapps_requests_total{finish="cancelled",}'] == 1
    assert grown["lmapps_accepted_requests_total"] == 2
    assert grown["lmapps_reused_tokens_total"] + grown["lmapps_read_tokens_total"] == (
        2 * reply.usage.prompt_tokens
    )
    assert grown["lmapps_prompt_tokens_total"] == 2 * reply.usage.prompt_tokens
    assert grown["lmapps_generated_tokens_total"] >= 8
    assert grown["lmapps_time_to_first_token_seconds_count"] == 2
    assert grown['lmapps_time_to_first_token_seconds_bucket{le="+Inf",}'] == 2
    assert after["lmapps_running_requests"] == after["lmapps_waiting_requests"] == 0
    text = httpx.get(f"{served.url}/metrics").text
    assert {family.type for family in text_string_to_metric_families(text)} == {
        "gauge", "counter", "histogram",
    }  # fmt: skip
