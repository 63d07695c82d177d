"""The HTTP API as real clients use it: the openai package, and curl's way of sending."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from lmapps.discovery import discover
from lmapps.engine.admission import Lengths

ASK: list[Any] = [{"role": "user", "content": "Where is the cat?"}]


@pytest.fixture(scope="module")
def client(served: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def test_models_lists_what_is_served(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id).id == model.id == "unnamed"
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4' here"):
        client.models.retrieve("gpt-4")


def test_a_chat_completion_whole_and_streamed_are_the_same(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "unnamed", "messages": ASK, "max_tokens": 20, "seed": 5, "temperature": 0.9,
    }  # fmt: skip
    whole = client.chat.completions.create(**options)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage and whole.usage.completion_tokens == 20
    chunks = list(
        client.chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content != ""
    assert len(chunks) > 10
    usage = chunks[-1].usage
    assert usage and usage.total_tokens == whole.usage.total_tokens and not chunks[-1].choices


def test_a_text_completion_whole_and_streamed_are_the_same(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "unnamed", "prompt": "The cat", "max_tokens": 15, "temperature": 0,
    }  # fmt: skip
    whole = client.completions.create(**options)
    parts = [chunk.choices[0].text for chunk in client.completions.create(**options, stream=True)]
    assert "".join(parts) == whole.choices[0].text != ""
    ids = client.completions.create(**{**options, "prompt": [5, 6, 7]})
    assert ids.usage and ids.usage.prompt_tokens == 3


def test_content_in_parts_and_a_stop_string(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "unnamed", "max_tokens": 40, "seed": 2}
    parts: list[Any] = [{"role": "user", "content": [{"type": "text", "text": ASK[0]["content"]}]}]
    one = client.chat.completions.create(messages=parts, **options)
    other = client.chat.completions.create(messages=ASK, **options)
    text = one.choices[0].message.content
    assert text == other.choices[0].message.content and text
    stop = text[5:8]
    cut = client.chat.completions.create(messages=ASK, stop=[stop], **options)
    assert cut.choices[0].message.content == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"temperature": -1}, "temperature must be between 0 and 2, got -1"),
        ({"max_tokens": 0}, "max_new_tokens must be a whole number between 1"),
        ({"messages": []}, "at least one message"),
        ({"messages": "hi"}, "messages must be a list"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role must be one of"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "must be text"),
        ({"n": 17}, "n must be a whole number between 1 and 16, got 17"),
        ({"stream": "yes"}, "stream must be true or false, got 'yes'"),
        ({"stop": [""]}, "stop must be"),
        ({"messages": [{"role": "user", "content": "word " * 300}]}, "the prompt has"),
    ],
)
def test_bad_input_is_a_sentence_and_a_4xx(
    served: Any, changes: dict[str, Any], words: str
) -> None:
    for stream in (False, True):
        body = {"messages": ASK, "stream": stream} | changes
        response = httpx.post(f"{served.url}/v1/chat/completions", json=body)
        assert 400 <= response.status_code < 500
        assert words in response.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"{", b"[1]", b'"x"', b"\xff"])
def test_a_body_that_is_not_a_json_object_is_named(served: Any, body: bytes) -> None:
    response = httpx.post(f"{served.url}/apps/news", content=body)
    assert response.status_code == 400 and "body" in response.json()["error"]["message"]


@pytest.mark.parametrize("form", ["utf-8", "utf-16"])
def test_half_a_surrogate_pair_in_whatever_bytes_is_no_text(served: Any, form: str) -> None:
    body = '{"prompt": "\ud800"}'.encode(form, "surrogatepass")
    response = httpx.post(f"{served.url}/v1/completions", content=body)
    assert response.status_code == 400 and "in UTF-8" in response.json()["error"]["message"]


def test_a_byte_order_mark_before_the_json_is_read_over(served: Any) -> None:
    body = b'\xef\xbb\xbf{"prompt": "The cat", "max_tokens": 1}'
    assert httpx.post(f"{served.url}/v1/completions", content=body).status_code == 200


def test_a_body_that_is_too_large_is_refused(served: Any) -> None:
    response = httpx.post(f"{served.url}/apps/summarize", content=b" " * 10_000_001)
    assert response.status_code == 413
    url = f"{served.url}/v1/chat/completions"
    for part in ("[]", '""', '{"a": 1}'):  # each is read by itself, while nobody gets a token
        many = httpx.post(url, content=f'{{"messages": [{part}{f",{part}" * 500_000}]}}'.encode())
        assert many.status_code == 413 and "around its texts" in many.json()["error"]["message"]
    text = 'the "cat" sat, [and] \\ {sat}\n' * 50_000  # as long, and read at once
    asked = httpx.post(url, json={"messages": [{"role": "user", "content": text}]}, timeout=60)
    assert "the prompt has" in asked.json()["error"]["message"]


def test_an_overflowing_conversation_says_what_was_left_out(served: Any) -> None:
    turns = [
        {"role": ("user", "assistant")[n % 2], "content": "the cat sat " * 4} for n in range(21)
    ]
    body = {"messages": turns, "max_tokens": 4}
    response = httpx.post(f"{served.url}/v1/chat/completions", json=body)
    assert response.status_code == 200
    assert "oldest" in response.headers["x-lmapps-notice"]


def test_a_prompt_longer_than_the_server_takes_is_413_and_a_reply_is_cut_at_what_it_gives(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.engine, "lengths", Lengths(prompt=60, reply=5))

    def ask(where: str, **more: Any) -> Any:
        return httpx.post(f"{served.url}/v1/{where}", json={"max_tokens": 9, "seed": 1} | more)

    told = {"message": "the prompt has 61 tokens, this server takes at most 60: shorten it",
            "type": "invalid_request_error", "code": "PromptTooLong"}  # fmt: skip
    refused = ask("completions", prompt=[5] * 61)
    assert refused.status_code == 413 and refused.json()["error"].items() >= told.items()
    for answer in (ask("completions", prompt=[5] * 60), ask("chat/completions", messages=ASK)):
        body = answer.json()
        assert body["choices"][0]["finish_reason"] == "length"
        assert body["usage"]["completion_tokens"] == 5
    long = [{"role": "user", "content": "word " * 30}]
    assert ask("chat/completions", messages=long).status_code == 413
    body = {"headline": "word " * 30, "topic": "weather"}
    assert httpx.post(f"{served.url}/apps/news", json=body).status_code == 413


def test_every_plugin_answers_without_a_content_type_as_curl_sends(served: Any) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "chat": {"messages": ASK},
        "news": {"headline": "Rain falls"},
        "code": {"instruction": "Add two numbers."},
        "summarize": {"text": "A cat sat on a mat.", "length": "a headline"},
    }
    for name, body in bodies.items():
        content = json.dumps(body | {"decoding": {"max_new_tokens": 8, "seed": 1}}).encode()
        headers = {"content-type": "application/x-www-form-urlencoded"}
        response = httpx.post(f"{served.url}/apps/{name}", content=content, headers=headers)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert answer["completion_tokens"] == 8 and isinstance(answer["reply"], str)


def test_a_plugin_streams_events_that_end_in_done(served: Any) -> None:
    body = {"text": "The cat sat. " * 60, "stream": True, "decoding": {"max_new_tokens": 8}}
    events = []
    with httpx.stream("POST", f"{served.url}/apps/summarize", json=body, timeout=60) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                events.append(json.loads(line[6:]))
    kinds = [event["event"] for event in events]
    assert (
        "asked" not in kinds
        and kinds[0] == "progress"
        and kinds[-1] == "done"
        and "clear" in kinds
        and "text" in kinds
    )


@pytest.mark.parametrize(
    ("name", "body", "status", "words"),
    [
        ("nope", {}, 404, "there is no plugin 'nope'; known: chat, code, news, summarize"),
        ("news", {}, 400, "news needs the field 'headline'"),
        ("news", {"headline": "x", "size": 3}, 400, "news has no field 'size'"),
        ("news", {"headline": "x", "style": "poem"}, 400, "style must be one of"),
        ("news", {"headline": "x", "decoding": 3}, 400, "decoding must be an object"),
        ("news", {"headline": "x", "decoding": []}, 400, "decoding must be an object"),
        ("news", {"headline": "x", "decoding": 0}, 400, "decoding must be an object"),
        ("news", {"headline": "x", "decoding": ""}, 400, "decoding must be an object"),
        (
            "news",
            {"headline": "x", "decoding": {"heat": 1}},
            400,
            "unknown decoding setting 'heat'",
        ),
        ("chat", {"decoding": {"self": 1}}, 400, "unknown decoding setting 'self'"),
        ("news", {"headline": "word " * 300}, 413, "the prompt has"),
    ],
)
def test_a_plugins_bad_input_is_a_sentence(
    served: Any, name: str, body: dict[str, Any], status: int, words: str
) -> None:
    response = httpx.post(f"{served.url}/apps/{name}", json=body)
    assert response.status_code == status
    assert words in response.json()["error"]["message"]


def test_the_value_of_a_reply_is_typed_and_its_schema_published(serve: Any) -> None:
    found = discover([Path(__file__).parents[2] / "docs" / "examples"])
    with serve(found, 0.0) as served:
        answer = httpx.post(f"{served.url}/apps/classify", json={"review": "Fine."}).json()
        paths = httpx.get(f"{served.url}/openapi.json").json()["paths"]
        schema = paths["/apps/classify"]["post"]["responses"]["200"]["content"]["application/json"][
            "schema"
        ]
        assert schema["properties"]["value"]["enum"] == ["positive", "neutral", "negative"]
        jsonschema.validate(answer, schema)
        body = {"message": "x", "decoding": {"max_new_tokens": 3}}
        cut = httpx.post(f"{served.url}/apps/extract", json=body)
        assert cut.status_code == 502
        assert "max_new_tokens" in cut.json()["error"]["message"]
        listed = {app["name"]: app for app in httpx.get(f"{served.url}/apps").json()}
        assert listed["extract"]["reply"]["required"] == ["who", "day", "hour", "urgent"]


def test_the_schema_of_every_form_is_published(served: Any) -> None:
    listed = {app["name"]: app for app in httpx.get(f"{served.url}/apps").json()}
    assert listed["news"]["form"]["required"] == ["headline"]
    paths = httpx.get(f"{served.url}/openapi.json").json()["paths"]
    body = paths["/apps/news"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == {
        "headline", "topic", "style", "length", "stream", "decoding", "model",
    }  # fmt: skip


def test_many_clients_at_once_share_the_passes(served: Any) -> None:
    before = served.engine.passes
    statuses: list[int] = []

    def ask(seed: int) -> None:
        body = {"messages": ASK, "max_tokens": 50, "seed": seed}
        url = f"{served.url}/v1/chat/completions"
        statuses.append(httpx.post(url, json=body, timeout=60).status_code)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 8
    assert served.engine.passes - before < 8 * 50 / 2


def test_port_in_use_and_out_of_range_are_named(served: Any, tmp_path: Path) -> None:
    from lmapps.errors import SettingsError
    from lmapps.server.settings import ServeSettings

    port = int(served.url.rsplit(":", 1)[1])
    with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1 port {port}.*--port"):
        ServeSettings(port=port).listen()
    with pytest.raises(SettingsError, match="port must be between 1 and 65535, got 99999"):
        ServeSettings(port=99999)
