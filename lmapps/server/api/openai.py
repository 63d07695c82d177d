"""HTTP requests -> the engine -> JSON or server-sent events: /v1 as OpenAI has it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from lmapps.decoding import Decoding
from lmapps.engine.context import fit_conversation
from lmapps.engine.engine import Engine, joined
from lmapps.engine.request import Delta, Finish
from lmapps.engine.sampling import Logprob
from lmapps.errors import InputError
from lmapps.server.api.bodies import CHAT, COMPLETION, described
from lmapps.server.api.connection import merged, started, stream_response, while_connected
from lmapps.server.api.monitor import monitor_routes
from lmapps.server.api.protocol import (
    NotFound,
    decoding_of,
    flag_of,
    messages_of,
    read_json,
    replies_of,
    user_of,
)
from lmapps.server.api.shapes import Tokens, usage


def openai_routes(engine: Engine) -> APIRouter:
    """`/v1/models`, `/v1/chat/completions`, `/v1/completions`, and how the engine is doing."""
    routes = APIRouter()
    routes.include_router(monitor_routes(engine))
    started, tokens = int(time.time()), Tokens(engine.checkpoint.tokenizer)

    def model() -> dict[str, Any]:
        return {"id": engine.name, "object": "model", "created": started, "owned_by": "lmapps"}

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model()]}

    @routes.get("/v1/models/{name}")
    async def one_model(name: str) -> dict[str, Any]:
        check_model(engine, {"model": name})
        return model()

    @routes.post("/v1/chat/completions", openapi_extra=described(CHAT))
    async def chat_completions(request: Request) -> Response:
        values = await read_json(request)
        check_model(engine, values)
        decoding = await asyncio.to_thread(decoding_of, values, Decoding())  # a schema takes time
        ids, left_out = await asyncio.to_thread(
            fit_conversation,
            messages_of(values),
            engine.checkpoint.template,
            engine.context,
            decoding,
        )
        response = await ChatAnswer(engine, tokens, values, ids, decoding).response(request)
        if left_out:
            response.headers["x-lmapps-notice"] = (
                f"the oldest {left_out} messages were left out to fit the context"
            )
        return response

    @routes.post("/v1/completions", openapi_extra=described(COMPLETION))
    async def completions(request: Request) -> Response:
        values = await read_json(request)
        check_model(engine, values)
        decoding = await asyncio.to_thread(decoding_of, values, Decoding())
        ids = await asyncio.to_thread(prompt_ids_of, engine, values.get("prompt"))
        return await TextAnswer(engine, tokens, values, ids, decoding).response(request)

    return routes


def check_model(engine: Engine, values: dict[str, Any]) -> None:
    """Raises `NotFound` for a model that is not served here."""
    name = values.get("model", engine.name)
    if name != engine.name:
        raise NotFound(f"there is no model {name!r} here; served: {engine.name!r}")


def prompt_ids_of(engine: Engine, prompt: Any) -> list[int]:
    """One text, or the ids of one."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    tokenizer = engine.checkpoint.tokenizer
    if isinstance(prompt, str):
        return tokenizer.prompt_ids(prompt)
    if isinstance(prompt, list) and prompt and all(type(number) is int for number in prompt):
        if all(0 <= number < tokenizer.vocab_size for number in prompt):
            return prompt
        raise InputError(f"token ids must be between 0 and {tokenizer.vocab_size - 1}")
    raise InputError(f"prompt must be one text or one list of ids, got {str(prompt)[:60]!r}")


class Answer:
    """One request's replies, whole or streamed; the two endpoints differ in their shape alone."""

    prefix, kind, chunk_kind = "", "", ""

    def __init__(
        self,
        engine: Engine,
        tokens: Tokens,
        values: dict[str, Any],
        ids: list[int],
        decoding: Decoding,
    ) -> None:
        self.engine, self.tokens, self.ids, self.decoding = engine, tokens, ids, decoding
        self.values, self.replies = values, replies_of(values)
        self.streams = flag_of(values, "stream")
        options = values.get("stream_options") or {}
        self.with_usage = isinstance(options, dict) and flag_of(options, "include_usage")
        self.head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": engine.name,
        }

    def choice(self, text: str) -> dict[str, Any]:
        """The text of a whole reply."""
        raise NotImplementedError

    def part(self, text: str, is_first: bool) -> dict[str, Any]:
        """The text of one chunk."""
        raise NotImplementedError

    def logprobs(self, told: Sequence[Logprob], offset: int) -> dict[str, Any]:
        """The probabilities of the tokens that begin at that character of a reply."""
        raise NotImplementedError

    async def response(self, request: Request) -> Response:
        """The HTTP answer; what is wrong with the request is raised before anything is sent."""
        user = user_of(request, self.values)
        deltas = merged([self.engine.stream(self.ids, one, user) for one in self._decodings()])
        if not self.streams:
            return JSONResponse(await while_connected(request, self._whole(deltas)))
        return stream_response(self._chunks(await started(deltas)))

    def _decodings(self) -> list[Decoding]:
        """One for each reply: the first has the seed asked for, the others the next ones."""
        seed = self.decoding.seed
        if seed is None:
            return [self.decoding] * self.replies
        return [self.decoding.replace(seed=(seed + n) % 2**63) for n in range(self.replies)]

    async def _whole(self, deltas: AsyncGenerator[tuple[int, Delta], None]) -> dict[str, Any]:
        parts: list[list[Delta]] = [[] for _ in range(self.replies)]
        async with aclosing(deltas):
            async for index, delta in deltas:
                parts[index].append(delta)
        replies = [joined(part) for part in parts]
        choices = [
            self._choice(index, reply.finish, reply.logprobs, 0) | self.choice(reply.text)
            for index, reply in enumerate(replies)
        ]
        count = sum(len(reply.ids) for reply in replies)
        used = usage(len(self.ids), count, replies[0].reused)
        return {**self.head, "object": self.kind, "choices": choices, "usage": used}

    async def _chunks(
        self, deltas: AsyncGenerator[tuple[int, Delta], None]
    ) -> AsyncIterator[dict[str, Any]]:
        count, reused, lengths, begun = 0, 0, [0] * self.replies, set[int]()
        async with aclosing(deltas):
            async for index, delta in deltas:
                count += len(delta.ids)
                reused += delta.reused if index == 0 else 0
                if delta.text or delta.finish or delta.logprobs:
                    choice = self._choice(index, delta.finish, delta.logprobs, lengths[index])
                    yield self._chunk([choice | self.part(delta.text, index not in begun)])
                    lengths[index] += len(delta.text)
                    begun.add(index)
        if self.with_usage:
            yield self._chunk([], usage=usage(len(self.ids), count, reused))

    def _choice(
        self, index: int, finish: Finish | None, told: Sequence[Logprob], offset: int
    ) -> dict[str, Any]:
        wanted = self.decoding.logprobs is not None
        logprobs = self.logprobs(told, offset) if wanted else None
        return {"index": index, "finish_reason": finish, "logprobs": logprobs}

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {**self.head, "object": self.chunk_kind, "choices": choices, **more}


class ChatAnswer(Answer):
    """`/v1/chat/completions`."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}}

    def part(self, text: str, is_first: bool) -> dict[str, Any]:
        return {"delta": {**({"role": "assistant"} if is_first else {}), "content": text}}

    def logprobs(self, told: Sequence[Logprob], offset: int) -> dict[str, Any]:
        return self.tokens.chat_logprobs(told)


class TextAnswer(Answer):
    """`/v1/completions`."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def choice(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def part(self, text: str, is_first: bool) -> dict[str, Any]:
        return {"text": text}

    def logprobs(self, told: Sequence[Logprob], offset: int) -> dict[str, Any]:
        return self.tokens.text_logprobs(told, offset)
