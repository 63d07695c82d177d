"""HTTP bodies -> checked values, and errors -> HTTP answers, in the form of OpenAI's API."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from lmapps.decoding import Decoding
from lmapps.errors import InputError, LmappsError, TooLarge
from lmapps.fields import Messages
from lmapps.server.api.bodies import MAX_REPLIES
from lmapps.server.gate.log import REQUEST

MAX_BODY = 10_000_000
"""The largest request, in bytes."""
MAX_STRUCTURE = 1_000_000
"""How many of them may stand outside of texts. JSON is read between everybody's tokens: ten million
bytes of text in 15 ms, as many of `[],[],` in a second."""
MAX_TEXTS = 100_000
"""How many texts are looked for in a large request; more of them count as being outside."""
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)

# Of OpenAI's parameters: our name for each that sets decoding.
_DECODING = {
    "temperature": "temperature", "top_p": "top_p", "stop": "stop", "seed": "seed",
    "presence_penalty": "presence_penalty", "frequency_penalty": "frequency_penalty",
    "max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens",
    "top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram": "no_repeat_ngram", "logit_bias": "logit_bias", "regex": "regex",
}  # fmt: skip
# And those that would change the answer and are not there: refused rather than ignored.
_MISSING: dict[str, tuple[Any, ...]] = {
    "best_of": (1,), "echo": (False,), "suffix": ("",), "tools": ([],), "functions": ([],),
    "tool_choice": ("none", "auto"), "function_call": ("none", "auto"), "audio": (),
    "modalities": (["text"],), "prediction": (), "web_search_options": (),
    # What vLLM and llama.cpp take besides.
    "ignore_eos": (False,), "min_tokens": (0,), "stop_token_ids": ([],), "bad_words": ([],),
    "allowed_token_ids": ([],), "repeat_penalty": (1,), "use_beam_search": (False,),
    "guided_json": (), "guided_regex": (), "guided_choice": (), "guided_grammar": (),
    "grammar": ("",), "continue_final_message": (False,),
}  # fmt: skip


class NotFound(InputError):
    """A plugin that is not served here."""

    status = 404


async def read_body(request: Request, most: int = MAX_BODY) -> bytes:
    """A request's whole body. Raises `TooLarge` as soon as there are more than so many bytes."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise TooLarge(f"the request is larger than {most:,} bytes: shorten it")
    return bytes(body)


async def read_json(request: Request) -> dict[str, Any]:
    """The JSON object of a request's body, whatever its content type says."""
    body = await read_body(request)
    _check_structure(body)
    try:
        # Given bytes, json would also read UTF-16, and let through half a surrogate pair as such.
        values = json.loads(body.decode("utf-8-sig") or "{}")
        if b"\\u" in body:  # half a surrogate pair is JSON, but no text
            json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InputError(f"the request's body is not JSON in UTF-8: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"the request's body must be a JSON object, got {str(values)[:60]!r}")
    return values


def _check_structure(body: bytes) -> None:
    """Raises `TooLarge` where reading the JSON would take long."""
    if len(body) > MAX_STRUCTURE and len(_TEXT.sub(b"", body, MAX_TEXTS)) > MAX_STRUCTURE:
        raise TooLarge(
            f"the request has more than {MAX_STRUCTURE:,} bytes around its texts: shorten it"
        )


def in_our_names(values: dict[str, Any]) -> dict[str, Any]:
    """The same request with what vLLM's `structured_outputs` holds a reply to, a regex or a JSON
    schema, where we have it: `regex` and `response_format`. Raises `InputError`."""
    wanted = values.get("structured_outputs")
    if wanted is None:
        return values
    asked = wanted.items() if isinstance(wanted, dict) else ()
    match {name: value for name, value in asked if value not in (None, False)}:
        case {"regex": regex, **rest} if not rest:
            name, ours = "regex", regex
        case {"json": dict(schema), **rest} if not rest:
            name = "response_format"
            ours = {"type": "json_schema", "json_schema": {"schema": schema}}
        case _:
            raise InputError(
                "structured_outputs must be an object with a regex, or with a JSON schema as json, "
                f"and nothing else, got {str(wanted)[:80]!r}"
            )
    if values.get(name) not in (None, ours):  # our own client says a regex in both places
        raise InputError(
            f"structured_outputs and {name} ask for different replies: leave one out, got "
            f"{str(values[name])[:80]!r}"
        )
    return {**values, name: ours}


def decoding_of(values: Mapping[str, Any], start: Decoding) -> Decoding:
    """OpenAI's sampling parameters over the ones to start from. Raises `InputError`."""
    for name, neutral in _MISSING.items():
        if values.get(name) is not None and values[name] not in neutral:
            raise InputError(f"{name} is not supported: leave it out, got {values[name]!r}")
    changes = {
        ours: values[theirs] for theirs, ours in _DECODING.items() if values.get(theirs) is not None
    }
    return start.replace(logprobs=_logprobs(values), json_schema=_schema(values), **changes)


def replies_of(values: Mapping[str, Any]) -> int:
    """How many replies are asked for (`n`)."""
    number = 1 if values.get("n") is None else values["n"]
    if type(number) is not int or not 1 <= number <= MAX_REPLIES:
        raise InputError(f"n must be a whole number between 1 and {MAX_REPLIES}, got {number!r}")
    return number


def _logprobs(values: Mapping[str, Any]) -> int | None:
    """A chat asks with a flag and `top_logprobs`, a text completion with their number."""
    asked, top = values.get("logprobs"), values.get("top_logprobs")
    if top and asked is not True:
        raise InputError(f"top_logprobs needs logprobs: true beside it, got {asked!r}")
    if asked is True:
        return top or 0
    return None if asked is False else asked


def _schema(values: Mapping[str, Any]) -> str | None:
    """The JSON schema that `response_format` asks for."""
    wanted = values.get("response_format")
    if wanted is None:
        return None
    if not isinstance(wanted, dict):
        raise InputError(
            f'response_format must be an object like {{"type": "json_object"}}, '
            f"got {str(wanted)[:80]!r}"
        )
    kind = wanted.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return '{"type": "object"}'
    if kind == "json_schema":
        named = wanted.get("json_schema")
        schema = named.get("schema") if isinstance(named, dict) else None
        if isinstance(schema, dict):
            return json.dumps(schema)
        raise InputError(
            f"response_format needs a schema under json_schema.schema, got {str(wanted)[:80]}"
        )
    raise InputError(
        f"response_format.type must be text, json_object or json_schema, got {str(wanted)[:80]}"
    )


def model_of(values: Mapping[str, Any]) -> str | None:
    """The model that a request names; None = the default one."""
    name = values.get("model")
    if name is not None and not isinstance(name, str):
        raise InputError(f"model must be the name of one, a text, got {str(name)[:60]!r}")
    return name


def flag_of(values: Mapping[str, Any], name: str) -> bool:
    """A true-or-false value; missing is false."""
    value = values.get(name)
    if not isinstance(value, bool | None):
        raise InputError(f"{name} must be true or false, got {value!r}")
    return bool(value)


def messages_of(values: Mapping[str, Any]) -> Messages:
    """OpenAI's messages, whose content may come in parts, as role and text alone."""
    messages = values.get("messages")
    if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
        raise InputError(f"messages must be a list of messages, got {str(messages)[:60]!r}")
    return [
        {
            "role": "system" if turn.get("role") == "developer" else str(turn.get("role")),
            "content": _text(turn.get("content"), number),
        }
        for number, turn in enumerate(messages, start=1)
    ]


def _text(content: Any, number: int) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    if all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        return "".join(part["text"] for part in parts)
    raise InputError(f"message {number}: content must be text, got {str(content)[:60]!r}")


def told_of(error: Exception) -> str:
    """What whoever asked is told."""
    return error.outward if isinstance(error, LmappsError) else str(error)


def error_body(error: Exception) -> dict[str, Any]:
    """An error in OpenAI's form."""
    code = type(error).__name__
    kind = "invalid_request_error" if isinstance(error, InputError) else "server_error"
    told = {"message": told_of(error), "type": kind, "code": code, "param": None}
    return {"error": {**told, "request_id": REQUEST.get() or None}}


async def on_error(_: Request, error: Exception) -> JSONResponse:
    """The handler of every `LmappsError`."""
    assert isinstance(error, LmappsError)
    return JSONResponse(error_body(error), error.status, error_headers(error))


def error_headers(error: LmappsError) -> dict[str, str]:
    """What goes with an error, beside its body."""
    return {"Retry-After": str(error.retry_after)} if error.retry_after else {}


async def server_sent(
    events: AsyncGenerator[dict[str, Any] | str, None],
) -> AsyncGenerator[str, None]:
    """Objects as server-sent events, and texts as comments, which clients skip. An error in the
    middle is the last event."""
    try:
        async with aclosing(events):
            async for event in events:
                if isinstance(event, str):
                    yield f": {event}\n\n"
                    continue
                yield f"data: {json.dumps(event, ensure_ascii=False)}\n\n"
    except LmappsError as error:
        yield f"data: {json.dumps(error_body(error))}\n\n"
