"""HTTP requests -> the engine -> JSON or server-sent events: /v1 as OpenAI has it, and /health."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from lmapps import __version__
from lmapps.decoding import Decoding
from lmapps.engine.context import fit_conversation
from lmapps.engine.engine import Engine
from lmapps.engine.request import Delta
from lmapps.errors import InputError
from lmapps.server.protocol import (
    NotFound,
    decoding_of,
    flag_of,
    messages_of,
    read_json,
    server_sent,
)

T = TypeVar("T")
DISCONNECT_SECONDS = 0.1
"""How often a request that does not stream is asked whether anybody still waits for it."""


def openai_routes(engine: Engine) -> APIRouter:
    """`/v1/models`, `/v1/chat/completions`, `/v1/completions` and `/health`."""
    routes = APIRouter()
    started = int(time.time())

    @routes.get("/health")
    async def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "lmapps": __version__,
            "checkpoint": engine.name,
            "running": engine.running,
            "waiting": engine.waiting,
        }

    def model() -> dict[str, Any]:
        return {"id": engine.name, "object": "model", "created": started, "owned_by": "lmapps"}

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model()]}

    @routes.get("/v1/models/{name}")
    async def one_model(name: str) -> dict[str, Any]:
        check_model(engine, {"model": name})
        return model()

    @routes.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        values = await read_json(request)
        check_model(engine, values)
        decoding = decoding_of(values, Decoding())
        template = engine.checkpoint.template
        ids, left_out = fit_conversation(messages_of(values), template, engine.context, decoding)
        answer = ChatAnswer(engine, values, ids, decoding)
        response = await answer.response(request)
        if left_out:
            response.headers["x-lmapps-notice"] = (
                f"the oldest {left_out} messages were left out to fit the context"
            )
        return response

    @routes.post("/v1/completions")
    async def completions(request: Request) -> Response:
        values = await read_json(request)
        check_model(engine, values)
        ids = prompt_ids_of(engine, values.get("prompt"))
        return await TextAnswer(engine, values, ids, decoding_of(values, Decoding())).response(
            request
        )

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
    """One completion, whole or streamed; the two endpoints differ in their shape alone."""

    prefix, kind, chunk_kind = "", "", ""

    def __init__(
        self, engine: Engine, values: dict[str, Any], ids: list[int], decoding: Decoding
    ) -> None:
        self.engine, self.ids, self.decoding = engine, ids, decoding
        self.streams = flag_of(values, "stream")
        options = values.get("stream_options") or {}
        self.with_usage = isinstance(options, dict) and flag_of(options, "include_usage")
        self.head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": engine.name,
        }

    def choice(self, text: str) -> dict[str, Any]:
        """The text of a whole answer."""
        raise NotImplementedError

    def part(self, text: str) -> dict[str, Any]:
        """The text of one chunk."""
        raise NotImplementedError

    async def response(self, request: Request) -> Response:
        """The HTTP answer; what is wrong with the request is raised before anything is sent."""
        if not self.streams:
            return JSONResponse(await while_connected(request, self._whole()))
        deltas = await started(self.engine.stream(self.ids, self.decoding))
        return stream_response(self._chunks(deltas))

    async def _whole(self) -> dict[str, Any]:
        reply = await self.engine.complete(self.ids, self.decoding)
        choice = {"index": 0, "finish_reason": reply.finish, "logprobs": None}
        return {
            **self.head,
            "object": self.kind,
            "choices": [choice | self.choice(reply.text)],
            "usage": self._usage(len(reply.ids)),
        }

    async def _chunks(self, deltas: AsyncGenerator[Delta, None]) -> AsyncIterator[dict[str, Any]]:
        count = 0
        async with aclosing(deltas):
            async for delta in deltas:
                count += len(delta.ids)
                if delta.text or delta.finish:
                    choice = {"index": 0, "finish_reason": delta.finish, "logprobs": None}
                    yield self._chunk([choice | self.part(delta.text)])
        if self.with_usage:
            yield self._chunk([], usage=self._usage(count))

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {**self.head, "object": self.chunk_kind, "choices": choices, **more}

    def _usage(self, completion_tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": len(self.ids),
            "completion_tokens": completion_tokens,
            "total_tokens": len(self.ids) + completion_tokens,
        }


class ChatAnswer(Answer):
    """`/v1/chat/completions`."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}}

    def part(self, text: str) -> dict[str, Any]:
        return {"delta": {"role": "assistant", "content": text}}


class TextAnswer(Answer):
    """`/v1/completions`."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def choice(self, text: str) -> dict[str, Any]:
        return {"text": text}

    part = choice


async def started(items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The same items, once the first is there: what raises does so here."""
    first = await anext(items)

    async def again() -> AsyncGenerator[T, None]:
        async with aclosing(items):
            yield first
            async for item in items:
                yield item

    return again()


def stream_response(events: AsyncIterator[dict[str, Any]]) -> StreamingResponse:
    """Server-sent events, ended by the word that OpenAI's clients expect."""

    async def lines() -> AsyncIterator[str]:
        async for line in server_sent(events):
            yield line
        yield "data: [DONE]\n\n"

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which is cancelled when nobody waits for it any more."""
    task = asyncio.create_task(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=DISCONNECT_SECONDS)
            if not task.done() and await request.is_disconnected():
                break
    finally:
        task.cancel()
    return await task
