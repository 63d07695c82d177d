"""The JSON schemas of what `/v1` takes, for its OpenAPI description."""

from __future__ import annotations

from typing import Any

from lmapps.decoding import MAX_BIASES, MAX_LOGPROBS, MAX_STOP_LENGTH, MAX_STOPS

MAX_REPLIES = 16
"""The most replies to one request (OpenAI's `n`)."""
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code"],
            "properties": {name: {"type": "string"} for name in ("message", "type", "code")},
        }
    },
}


def _number(low: float, high: float) -> dict[str, Any]:
    return {"type": ["number", "null"], "minimum": low, "maximum": high}


def _whole(low: int, high: int) -> dict[str, Any]:
    return {"type": ["integer", "null"], "minimum": low, "maximum": high}


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    if "anyOf" in schema:
        return {"anyOf": [one for one in schema["anyOf"] if one != {"type": "null"}]}
    return {**schema, "type": schema["type"][0]}


_STOP = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_LENGTH}
_FLAG = {"type": ["boolean", "null"]}
_SAMPLING: dict[str, Any] = {
    "temperature": _number(0, 2),
    "top_p": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
    "top_k": _whole(0, 1_000_000),
    "min_p": _number(0, 1),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "repetition_penalty": _number(0.1, 10),
    "no_repeat_ngram": _whole(0, 64),
    "seed": _whole(0, 2**63 - 1),
    "stop": {
        "anyOf": [{"type": "null"}, _STOP, {"type": "array", "items": _STOP, "maxItems": MAX_STOPS}]
    },
    "logit_bias": {
        "type": ["object", "null"],
        "propertyNames": {"pattern": "^[0-9]{1,9}$"},
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        "maxProperties": MAX_BIASES,
    },
    "regex": {"type": ["string", "null"], "minLength": 1, "description": "the whole reply matches"},
}
_SHARED: dict[str, Any] = {
    "model": {"type": "string", "description": "the checkpoint that is served; may be left out"},
    "stream": _FLAG,
    "stream_options": {"type": ["object", "null"], "properties": {"include_usage": _FLAG}},
    "n": _whole(1, MAX_REPLIES),
    "user": {
        "type": ["string", "null"],
        "maxLength": 256,
        "description": "one of several people behind an address or key, who take turns within its "
        "share",
    },
    "max_tokens": _whole(1, 1_000_000),
    **_SAMPLING,
    "structured_outputs": {
        "type": ["object", "null"],
        "description": "vLLM's way to say regex, or response_format with a schema",
        "properties": {"regex": {"type": "string", "minLength": 1}, "json": {"type": "object"}},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    },
    "response_format": {
        "type": ["object", "null"],
        "required": ["type"],
        "properties": {
            "type": {"enum": ["text", "json_object", "json_schema"]},
            "json_schema": {
                "type": "object",
                "required": ["schema"],
                "properties": {"name": {"type": "string"}, "schema": {"type": "object"}},
            },
        },
    },
}
_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant"]},
        "content": {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["type", "text"],
                        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                    },
                },
            ]
        },
    },
}
CHAT = {
    "type": "object",
    "required": ["messages"],
    "properties": {
        "messages": {"type": "array", "items": _MESSAGE, "minItems": 1},
        **_SHARED,
        "max_completion_tokens": _whole(1, 1_000_000),
        "logprobs": _FLAG,
        "top_logprobs": _whole(0, MAX_LOGPROBS),
    },
}
COMPLETION = {
    "type": "object",
    "required": ["prompt"],
    "properties": {
        "prompt": {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
            ]
        },
        **_SHARED,
        "logprobs": _whole(0, MAX_LOGPROBS),
    },
}

# Our own names, as `Decoding` has them; only where null means something may it be given.
DECODING = {
    "type": "object",
    "description": 'changes the plugin\'s own settings, for example {"temperature": 0}',
    "properties": {
        "max_new_tokens": {**_whole(1, 1_000_000), "type": "integer"},
        "json_schema": {"type": ["string", "null"], "minLength": 2},
        **{
            name: schema if name in ("seed", "regex") else _not_null(schema)
            for name, schema in _SAMPLING.items()
        },
    },
    "additionalProperties": False,
}


def described(schema: dict[str, Any]) -> dict[str, Any]:
    """What a POST route says of itself: its body, and the errors that it answers with."""
    error = {"content": {"application/json": {"schema": ERROR}}}
    reasons = {
        "400": "a value that can be corrected, named in the message",
        "404": "a model that is not served here",
        "413": "a body or prompt that is too long",
        "429": "too many requests are waiting; Retry-After says in how many seconds to come back",
    }
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {status: {"description": why, **error} for status, why in reasons.items()},
    }
