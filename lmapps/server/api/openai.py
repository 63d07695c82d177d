"""HTTP requests -> a model -> JSON or server-sent events: /v1 as OpenAI has it."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from lmapps.decoding import Decoding
from lmapps.engine.backends.backend import Backend, Prompt
from lmapps.engine.compiling import settings_in_time
from lmapps.engine.context import cut, fit_conversation, length_of
from lmapps.engine.entry import Description
from lmapps.engine.models import Models
from lmapps.engine.reply import joined
from lmapps.engine.request import Delta, Finish
from lmapps.engine.sampling import Logprob
from lmapps.errors import InputError
from lmapps.server.api.bodies import CHAT, COMPLETION, described
from lmapps.server.api.connection import Events, merged, started, while_connected
from lmapps.server.api.protocol import (
    decoding_of,
    flag_of,
    in_our_names,
    messages_of,
    model_of,
    read_json,
    replies_of,
)
from lmapps.server.api.shapes import Tokens, usage
from lmapps.server.who import who


def openai_routes(models: Models) -> APIRouter:
    """`/v1/models`, `/v1/chat/completions` and `/v1/completions`."""
    routes = APIRouter()
    started = int(time.time())

    def listed(model: Description) -> dict[str, Any]:
        told = {"id": model.name, "object": "model", "created": started, "owned_by": "lmapps"}
        return told | ({"max_model_len": model.context} if model.context else {})  # as vLLM has it

    @routes.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [listed(model) for model in models.describe()]}

    @routes.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        name = models.known(name)
        return next(listed(model) for model in models.describe() if model.name == name)

    @routes.post("/v1/chat/completions", openapi_extra=described(CHAT))
    async def chat_completions(request: Request) -> Response:
        values = in_our_names(await read_json(request))
        decoding = await settings_of(values, request)
        messages = messages_of(values)
        async with models.use(model_of(values)) as backend:
            prompt, left_out = await cut(
                lambda: fit_conversation(messages, backend, decoding), length_of(messages)
            )
            answer = ChatAnswer(models, backend, values, prompt, decoding)
            response = await answer.response(request)
        if left_out:
            response.headers["x-lmapps-notice"] = (
                f"the oldest {left_out} messages were left out to fit"
            )
        return response

    @routes.post("/v1/completions", openapi_extra=described(COMPLETION))
    async def completions(request: Request) -> Response:
        values = in_our_names(await read_json(request))
        decoding = await settings_of(values, request)
        asked = prompt_of(values.get("prompt"))
        async with models.use(model_of(values)) as backend:
            prompt = await cut(lambda: backend.read(asked), len(asked))
            return await TextAnswer(models, backend, values, prompt, decoding).response(request)

    return routes


async def settings_of(values: dict[str, Any], request: Request) -> Decoding:
    """The decoding settings of a request; a regex or schema takes its turn."""
    user = who(request, named=values.get("user")).turns
    return await settings_in_time(partial(decoding_of, values, Decoding()), values, user)


def prompt_of(prompt: Any) -> str | list[int]:
    """One text, or the ids of one."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    is_ids = isinstance(prompt, list) and prompt and all(type(number) is int for number in prompt)
    if isinstance(prompt, str) or is_ids:
        return prompt
    raise InputError(f"prompt must be one text or one list of ids, got {str(prompt)[:60]!r}")


class Answer:
    """One request's replies, whole or streamed; the two endpoints differ in their shape alone."""

    prefix, kind, chunk_kind = "", "", ""

    def __init__(
        self,
        models: Models,
        backend: Backend,
        values: dict[str, Any],
        prompt: Prompt,
        decoding: Decoding,
    ) -> None:
        self.models, self.backend, self.prompt, self.decoding = models, backend, prompt, decoding
        self.tokens = Tokens.of(backend) if decoding.logprobs is not None else None
        self.values, self.replies = values, replies_of(values)
        self.streams = flag_of(values, "stream")
        options = values.get("stream_options")
        if not isinstance(options, dict | None):
            raise InputError(f"stream_options must be an object, got {str(options)[:60]!r}")
        self.with_usage = flag_of(options or {}, "include_usage")
        self.head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": backend.name,
        }

    def choice(self, text: str) -> dict[str, Any]:
        """The text of a whole reply."""
        raise NotImplementedError

    def part(self, text: str, is_first: bool) -> dict[str, Any]:
        """The text of one chunk."""
        raise NotImplementedError

    def logprobs(self, tokens: Tokens, told: Sequence[Logprob], offset: int) -> dict[str, Any]:
        """The probabilities of the tokens that begin at that character of a reply."""
        raise NotImplementedError

    async def response(self, request: Request) -> Response:
        """The HTTP answer; what is wrong with the request is raised before anything is sent."""
        user = who(request, named=self.values.get("user")).turns
        deltas = self._held(
            merged([self.backend.stream(self.prompt, one, user) for one in self._decodings()])
        )
        if not self.streams:
            return JSONResponse(await while_connected(request, self._whole(deltas)))
        first = await while_connected(request, started(deltas))  # who leaves before is noticed too
        return Events(self._chunks(first))

    async def _held(
        self, deltas: AsyncGenerator[tuple[int, Delta], None]
    ) -> AsyncGenerator[tuple[int, Delta], None]:
        """The same; the model stays until the last one, after the request's handler has ended."""
        async with aclosing(deltas), self.models.use(self.backend.name):
            async for item in deltas:
                yield item

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
        first, count = replies[0], sum(reply.tokens for reply in replies)
        used = usage(first.prompt_tokens(self.prompt), count, first.reused)
        return {**self.head, "object": self.kind, "choices": choices, "usage": used}

    async def _chunks(
        self, deltas: AsyncGenerator[tuple[int, Delta], None]
    ) -> AsyncGenerator[dict[str, Any] | str, None]:
        count, reused, lengths, begun = 0, 0, [0] * self.replies, set[int]()
        prompt_tokens = len(self.prompt)
        async with aclosing(deltas):
            async for index, delta in deltas:
                count += delta.tokens
                reused += delta.reused if index == 0 else 0
                if delta.usage:  # another server's, told at the end
                    prompt_tokens, reused = delta.usage.prompt_tokens, delta.usage.reused
                if delta.position is not None:
                    yield f"position {delta.position}"
                if delta.text or delta.finish or delta.logprobs:
                    choice = self._choice(index, delta.finish, delta.logprobs, lengths[index])
                    yield self._chunk([choice | self.part(delta.text, index not in begun)])
                    lengths[index] += len(delta.text)
                    begun.add(index)
        if self.with_usage:
            yield self._chunk([], usage=usage(prompt_tokens, count, reused))

    def _choice(
        self, index: int, finish: Finish | None, told: Sequence[Logprob], offset: int
    ) -> dict[str, Any]:
        logprobs = self.logprobs(self.tokens, told, offset) if self.tokens else None
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

    def logprobs(self, tokens: Tokens, told: Sequence[Logprob], offset: int) -> dict[str, Any]:
        return tokens.chat_logprobs(told)


class TextAnswer(Answer):
    """`/v1/completions`."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def choice(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def part(self, text: str, is_first: bool) -> dict[str, Any]:
        return {"text": text}

    def logprobs(self, tokens: Tokens, told: Sequence[Logprob], offset: int) -> dict[str, Any]:
        return tokens.text_logprobs(told, offset)
