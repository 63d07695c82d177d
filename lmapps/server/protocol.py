"""HTTP bodies -> checked values, and errors -> HTTP answers, in the form of OpenAI's API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from lmapps.decoding import Decoding
from lmapps.errors import InputError, LmappsError
from lmapps.fields import Messages

MAX_BODY = 10_000_000
"""The largest request, in bytes."""

# Of OpenAI's parameters: our name for each that sets decoding.
_DECODING = {
    "temperature": "temperature", "top_p": "top_p", "stop": "stop", "seed": "seed",
    "presence_penalty": "presence_penalty", "frequency_penalty": "frequency_penalty",
    "max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens",
    "top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram": "no_repeat_ngram",
}  # fmt: skip
# And those that would change the answer and are not there: refused rather than ignored.
_MISSING: dict[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "echo": (False,), "suffix": ("",), "logprobs": (False, 0),
    "top_logprobs": (0,), "logit_bias": ({},), "tools": ([],), "functions": ([],),
    "response_format": ({"type": "text"},), "audio": (),
}  # fmt: skip


class TooLarge(InputError):
    """A request body over the limit."""

    status = 413


class NotFound(InputError):
    """A model or a plugin that is not served here."""

    status = 404


async def read_json(request: Request) -> dict[str, Any]:
    """The JSON object of a request's body, whatever its content type says."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise TooLarge(f"the request is larger than {MAX_BODY:,} bytes: shorten it")
    try:
        values = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise InputError(f"the request's body is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"the request's body must be a JSON object, got {str(values)[:60]!r}")
    return values


def decoding_of(values: Mapping[str, Any], start: Decoding) -> Decoding:
    """OpenAI's sampling parameters over the ones to start from. Raises `InputError`."""
    for name, neutral in _MISSING.items():
        if values.get(name) is not None and values[name] not in neutral:
            raise InputError(f"{name} is not supported: leave it out, got {values[name]!r}")
    changes = {
        ours: values[theirs] for theirs, ours in _DECODING.items() if values.get(theirs) is not None
    }
    return start.replace(**changes)


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


def error_body(error: Exception) -> dict[str, Any]:
    """An error in OpenAI's form."""
    code = type(error).__name__
    kind = "invalid_request_error" if isinstance(error, InputError) else "server_error"
    return {"error": {"message": str(error), "type": kind, "code": code, "param": None}}


async def on_error(_: Request, error: Exception) -> JSONResponse:
    """The handler of every `LmappsError`."""
    assert isinstance(error, LmappsError)
    return JSONResponse(error_body(error), status_code=error.status)


async def server_sent(events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    """Objects as server-sent events. An error in the middle is the last event."""
    try:
        async for event in events:
            yield f"data: {json.dumps(event, ensure_ascii=False)}\n\n"
    except LmappsError as error:
        yield f"data: {json.dumps(error_body(error))}\n\n"
