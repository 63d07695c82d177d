"""Requests and replies in the form of OpenAI's API <-> ours, on the client's side."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from lmapps.decoding import Decoding
from lmapps.engine.admission import Lengths
from lmapps.engine.request import Delta, Finish, Usage
from lmapps.engine.turns import User
from lmapps.errors import Busy, InputError, LmappsError, ModelServerError, PromptTooLong
from lmapps.messages import Message
from lmapps.sentence import Sentence

RETRIED = (408, 429, 500, 502, 503, 504)
"""Statuses after which the same request may succeed."""
LONGEST_WAIT = 20.0
"""The most seconds that are waited before the next try, whatever a server asks for."""
USUAL_CONTEXT = 8192
"""Tokens, where a server does not tell its model's."""
POSITION = ": position "
"""A comment in a stream of ours: the place in the queue. Other clients skip comments."""

# Settings that OpenAI's API has not, but servers around it know by this name (ours, vLLM, SGLang).
_EXTRA = ("top_k", "min_p", "repetition_penalty", "no_repeat_ngram", "regex")
_USUAL = Decoding()
_CONTEXTS = ("max_model_len", "context_length", "context_window", "max_context_length")
"""Where servers tell their models' (vLLM, SGLang and we; OpenRouter; Groq; LM Studio)."""


@dataclass(frozen=True)
class RemotePrompt:
    """What another server is asked to go on with: messages, a text, or ids of its own."""

    asked: list[Message] | str | list[int]
    tokens: int

    def __len__(self) -> int:
        return self.tokens

    @property
    def is_text(self) -> bool:
        """Whether it is no conversation."""
        return isinstance(self.asked, str) or not isinstance(self.asked[0], dict)


class Temporary(Exception):
    """A failure that may be gone the next time, or at the next server."""

    def __init__(self, error: LmappsError, wait: float = 0.0) -> None:
        super().__init__(str(error))
        self.error, self.wait = error, wait


def body_of(
    url: str, model: str, prompt: RemotePrompt, decoding: Decoding, user: User, context: int,
    lengths: Lengths,
) -> dict[str, Any]:  # fmt: skip
    """The request. Raises `InputError` for what cannot be asked for through this API, and
    `PromptTooLong`."""
    # What the context has room for the server counts itself.
    lengths.check_prompt(len(prompt), sys.maxsize)
    if decoding.logprobs is not None:
        raise InputError(f"logprobs are not known of the model {model!r}: leave logprobs out")
    limit = "max_completion_tokens" if "://api.openai.com/" in f"{url}/" else "max_tokens"
    room = max(context - len(prompt), context // 4)  # the prompt is counted rather too long
    body: dict[str, Any] = {
        "model": model,
        "prompt" if prompt.is_text else "messages": prompt.asked,
        "stream": True,
        "stream_options": {"include_usage": True},
        limit: min(decoding.max_new_tokens, lengths.reply, room),
        "temperature": decoding.temperature,
    }
    for name in ("top_p", "presence_penalty", "frequency_penalty", "seed", *_EXTRA):
        value = getattr(decoding, name)
        if value != getattr(_USUAL, name):
            body[name] = value
    if decoding.stop:
        body["stop"] = list(decoding.stop)
    if decoding.logit_bias:
        body["logit_bias"] = {str(number): value for number, value in decoding.logit_bias}
    if decoding.regex is not None:
        body["structured_outputs"] = {"regex": decoding.regex}  # vLLM's place for it
    if decoding.json_schema is not None:
        named = {"name": "reply", "schema": json.loads(decoding.json_schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    if user is not None:  # so that people take turns there too; who they are stays here
        body["user"] = hashlib.sha256(user.encode()).hexdigest()[:16]
    return body


async def deltas_of(
    name: str, pieces: AsyncIterator[bytes], prompt: RemotePrompt
) -> AsyncGenerator[Delta, None]:
    """The bytes of a stream -> deltas, the last with `finish` and what the server counted.

    Raises `ModelServerError` where it ends in the middle, and what the server says is wrong.
    """
    finish: Finish | None = None
    usage, count = None, 0
    async for line in _lines(pieces):
        if line.startswith(POSITION) and line.removeprefix(POSITION).isdecimal():
            yield Delta(position=int(line.removeprefix(POSITION)))
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            break
        event = _event(name, data)
        try:
            usage = _usage(event) or usage
            told = [_choice(choice) for choice in event.get("choices") or []]
        except (AttributeError, TypeError, ValueError):
            raise ModelServerError(
                "the server of the model {name!r} sent what is no reply: {data!r}",
                name=name,
                data=data[:100],
            ) from None
        for text, end in told:
            count += bool(text)
            finish = end or finish
            if text:
                yield Delta(text)
    if finish is None:
        raise ModelServerError(
            "the server of the model {name!r} ended in the middle of a reply", name=name
        )
    yield Delta(finish=finish, usage=usage or Usage(len(prompt), count))


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncGenerator[str, None]:
    """The lines of a stream of events. They end with a line feed alone: httpx would also end one at
    what a model may write, such as U+2028 or U+0085."""
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")
    yield rest.decode(errors="replace")


def models_in(text: str) -> dict[str, Any]:
    """What a server tells of each of its models, by name; empty where that is no such list."""
    try:
        return {str(one["id"]): one for one in json.loads(text)["data"]}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def context_of(told: dict[str, Any]) -> int:
    """A model's context, as far as its server tells."""
    meta = told.get("meta") if isinstance(told.get("meta"), dict) else {}
    places = [told.get(name) for name in _CONTEXTS] + [(meta or {}).get("n_ctx_train")]
    return next((size for size in places if isinstance(size, int) and size > 1), USUAL_CONTEXT)


def refusal(name: str, status: int, text: str, headers: Mapping[str, str]) -> LmappsError:
    """What an answer that is no reply means for whoever asked here."""
    said = Sentence(
        "the server of the model {name!r} says: {message}",
        name=name, message=_message(text) or f"HTTP {status}",
    )  # fmt: skip
    match status:
        case 413:
            return PromptTooLong(said)
        case 429 | 503:
            return Busy(said, max(1, round(seconds_to_wait(headers))))
        case 400 | 422:
            return InputError(said)
        case 401 | 403:
            return ModelServerError(
                "{said} (status {status}: is its key set?)", said=said, status=status
            )
    return ModelServerError("{said} (status {status})", said=said, status=status)


def failure(
    name: str, status: int, text: str, headers: Mapping[str, str]
) -> LmappsError | Temporary:
    """The same, as what may be gone the next time where that is so."""
    error = refusal(name, status, text, headers)
    return Temporary(error, seconds_to_wait(headers)) if status in RETRIED else error


def seconds_to_wait(headers: Mapping[str, str]) -> float:
    """`Retry-After` in seconds, bounded; 0 where it is not told."""
    try:
        return min(LONGEST_WAIT, max(0.0, float(headers.get("retry-after", 0))))
    except ValueError:  # a date
        return 0.0


def _event(name: str, data: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise ModelServerError(
            "the server of the model {name!r} sent no JSON: {data!r}", name=name, data=data[:100]
        )
    error = event.get("error")
    if error:
        told = error if isinstance(error, dict) else {}
        is_ours = told.get("type") == "invalid_request_error" or told.get("code") == 400  # vLLM
        status = 400 if is_ours else 500
        raise refusal(name, 503 if told.get("code") == "ShuttingDown" else status, data, {})
    return event


def _choice(choice: dict[str, Any]) -> tuple[str, Finish | None]:
    """The text that one choice of an event adds, and how it ended."""
    text = (choice.get("delta") or {}).get("content") or choice.get("text") or ""
    if not isinstance(text, str):
        raise TypeError(text)
    return text, _finish(choice.get("finish_reason"))


def _usage(event: dict[str, Any]) -> Usage | None:
    told = event.get("usage")
    if not isinstance(told, dict):
        return None
    details = told.get("prompt_tokens_details") or {}
    return Usage(
        int(told.get("prompt_tokens") or 0),
        int(told.get("completion_tokens") or 0),
        int(details.get("cached_tokens") or 0),
    )


def _finish(reason: str | None) -> Finish | None:
    """OpenAI's words, and ours for a reply that was cut there; anything else ended by itself."""
    if reason is None:
        return None
    return "length" if reason == "length" else "cancelled" if reason == "cancelled" else "stop"


def _message(text: str) -> str:
    """The sentence in an error's body, in any of the forms that servers use."""
    try:
        said = json.loads(text)
    except ValueError:
        return " ".join(text.split())[:300]
    for name in ("error", "message", "detail"):
        said = said.get(name, said) if isinstance(said, dict) else said
    return str(said)[:500]
