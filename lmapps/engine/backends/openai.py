"""A model of another server with OpenAI's API -> a backend: vLLM, SGLang, llama.cpp, lmapps, ..."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from lmapps.decoding import Decoding
from lmapps.engine.admission import ANY, Lengths, admit
from lmapps.engine.backends.estimate import estimated_prompt, estimated_tokens
from lmapps.engine.backends.fleet import Fleet, Server, urls_of
from lmapps.engine.backends.wire import (
    RemotePrompt,
    Temporary,
    body_of,
    context_of,
    deltas_of,
    failure,
    models_in,
)
from lmapps.engine.counts import Counts
from lmapps.engine.explanation import Explanation
from lmapps.engine.reply import Reply, joined
from lmapps.engine.request import Delta, Usage
from lmapps.engine.scheduler import LONGEST_SECONDS
from lmapps.engine.scoring import Score
from lmapps.engine.turns import User
from lmapps.errors import Busy, InputError, LmappsError, ModelServerError, ShuttingDown
from lmapps.messages import Message
from lmapps.sentence import Sentence
from lmapps.text.template import check_messages

if TYPE_CHECKING:
    import httpx

RETRIES = 3
"""So often a request is sent again to every server, as long as nothing of its reply has come."""
FIRST_WAIT = 0.5
"""Seconds before the first of these; each time twice as long."""
CONNECT_SECONDS, READ_SECONDS = 5.0, 300.0
"""The longest that a server may take to answer at all, and between two pieces of a reply."""


class OpenAIBackend:
    """One model of another server, which schedules, samples and constrains by itself; or of
    several servers, which all have it (see fleet.py).

    Each request has a connection of its own; closing it is what cancels the reply there. Tokens
    are estimated beforehand (see estimate.py) and told by the server afterwards.

    url    of its API, up to and with /v1; of several servers, with commas between them
    model  what the server calls the model
    key    sent as a bearer token; '' = none
    queue  how many requests may be under way, half of them one person's
    lengths  the longest prompt, as estimated, and reply
    """

    tokenizer = folder = broken = None
    bytes = prefix_bytes = waiting = 0

    def __init__(
        self,
        name: str,
        url: str,
        model: str,
        *,
        key: str = "",
        queue: int = 256,
        lengths: Lengths = ANY,
    ) -> None:
        self.name, self.model, self.context, self.lengths = name, model, context_of({}), lengths
        self.fleet = Fleet(urls_of(url))
        self.queue, self.counts = queue, Counts()
        self._under_way: list[User] = []
        """Whose each of the requests is."""
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._trusted = ssl.create_default_context() if "https://" in url else False
        self._closed = False

    @classmethod
    def connect(
        cls, name: str, url: str, model: str = "", key: str = "", queue: int = 256,
        lengths: Lengths = ANY,
    ) -> OpenAIBackend:  # fmt: skip
        """Ask the servers for their models; without a name the first one's first is taken.

        Raises `ModelServerError`, or `Busy`, where none answers or all fail for now, and where
        one that answers has no such model or refuses.
        """
        client, answered = cls(name, url, model, key=key, queue=queue, lengths=lengths), 0
        for server in client.fleet.servers:
            try:
                client._learn(server, is_first=not answered)
                answered += 1
            except Temporary as temporary:
                client.fleet.failed(server)
                gone = temporary.error
        if not answered:
            raise gone
        return client

    @property
    def running(self) -> int:
        return len(self._under_way)

    @property
    def url(self) -> str:
        """Of its server, or of all of them, for a sentence."""
        return ", ".join(server.url for server in self.fleet.servers)

    @property
    def about(self) -> Sentence:
        return Sentence("{model} at {url}, {context} tokens of context",
                        model=self.model, url=self.url, context=self.context)  # fmt: skip

    @property
    def step_name(self) -> str:
        return f"by the server at {self.url}"

    @property
    def servers_up(self) -> dict[str, bool]:
        """Which of its servers are asked now."""
        return {one.url: one not in self.fleet.resting for one in self.fleet.servers}

    def why_not_ready(self) -> str | None:
        if len(self.fleet.resting) == len(self.fleet.servers):
            return f"the model {self.name!r} is not reached at {self.url}: try again in a moment"
        return self._why_not()

    def render(self, messages: Sequence[Message]) -> RemotePrompt:
        check_messages(messages)
        return RemotePrompt(list(messages), estimated_prompt(messages))

    def read(self, text: str | list[int]) -> RemotePrompt:
        tokens = estimated_tokens(text) if isinstance(text, str) else len(text)
        return RemotePrompt(text, tokens)

    def measure(self, text: str) -> int:
        return estimated_tokens(text)

    def explain(
        self, messages: Sequence[Message], decoding: Decoding, prompts: int = 1
    ) -> Explanation:
        raise InputError(
            "the ids that the model {name!r} is given are not known here: the server at {url} "
            "renders its prompts", name=self.name, url=self.url,
        )  # fmt: skip

    async def score(self, messages: Sequence[Message], reply: str, user: User = None) -> Score:
        raise InputError(
            "how probable the tokens of a reply are is not known of the model {name!r}: it runs on "
            "the server at {url}", name=self.name, url=self.url,
        )  # fmt: skip

    async def stream(
        self, prompt: RemotePrompt, decoding: Decoding, user: User = None
    ) -> AsyncGenerator[Delta, None]:
        """Deltas as they come, the last with `finish` set. Closing the iterator cancels.

        Raises `Busy` or `ModelServerError` where the server goes on refusing, and `InputError`
        where the request is wrong, here or by what the server says.
        """
        if self._closed:
            raise ShuttingDown()
        url = self.fleet.servers[0].url
        body = body_of(url, self.model, prompt, decoding, user, self.context, self.lengths)
        admit(self._why_not(), user, self._under_way, self.queue, self.counts)
        self._under_way.append(user)
        finish = "cancelled"
        try:
            async with aclosing(self._tried(prompt, body, user)) as deltas:
                async for delta in deltas:
                    finish = delta.finish or finish
                    if delta.usage:
                        self.counts.add(delta.usage)
                    yield delta
        except LmappsError as error:
            finish = "error"
            if isinstance(error, ModelServerError):
                self.counts.trouble = time.monotonic(), str(error)
            raise
        finally:
            self._under_way.remove(user)
            self.counts.end(finish, time.monotonic())

    async def complete(self, prompt: RemotePrompt, decoding: Decoding, user: User = None) -> Reply:
        """The whole reply."""
        return joined([delta async for delta in self.stream(prompt, decoding, user)])

    def close(self) -> None:
        self._closed = True

    def _why_not(self) -> str | None:
        """Why a request is not even sent."""
        if self._closed:
            return ShuttingDown.told
        if self.running >= self.queue:
            return Sentence("{count} requests are under way already: try again in a moment",
                            count=self.running)  # fmt: skip
        return None

    def _learn(self, server: Server, is_first: bool) -> None:
        """Which model a server has, and what its context is."""
        import httpx

        asked = f"{server.url}/models"
        try:
            response = httpx.get(asked, headers=self._headers, timeout=CONNECT_SECONDS)
        except httpx.RequestError as error:
            raise Temporary(self._unreachable(server, error)) from None
        known = models_in(response.text) if response.status_code == 200 else {}
        if response.status_code not in (200, 404):
            raise failure(self.name, response.status_code, response.text, {})
        if not (known or self.model):
            raise ModelServerError(
                f"{asked} is no list of models: is the URL that of an API like "
                "OpenAI's, up to and with /v1? A server without a list needs URL#MODEL"
            )
        if self.model and known and self.model not in known:
            raise ModelServerError(
                f"{server.url} has no model {self.model!r}; it has {', '.join(map(repr, known))}"
            )
        self.model = self.model or next(iter(known))
        told = context_of(known.get(self.model, {}))
        self.context = told if is_first else min(told, self.context)

    async def _tried(
        self, prompt: RemotePrompt, body: dict[str, Any], user: User
    ) -> AsyncGenerator[Delta, None]:
        """The reply; while nothing of it has come, one server after the other is asked, and then,
        after a while, all of them again, a few times."""
        began, pieces = time.monotonic(), 0
        for attempt in range(RETRIES + 1):
            for server in self.fleet.in_order(user):
                try:
                    async with aclosing(self._once(server, prompt, body)) as deltas:
                        async for delta in deltas:
                            if delta.text and not pieces:
                                self.counts.first_token.add(time.monotonic() - began)
                            pieces += bool(delta.text)
                            is_late = time.monotonic() - began > LONGEST_SECONDS
                            if is_late and user is not None and not delta.finish:
                                # The server tells at the end what it counted: here a piece is one.
                                usage = Usage(len(prompt), pieces)
                                yield Delta(delta.text, finish="length", usage=usage)
                                return
                            yield delta
                    return
                except Temporary as temporary:
                    if pieces:
                        raise ModelServerError("the reply broke off, ask again: {error}",
                                               error=temporary.error) from None  # fmt: skip
                    last = temporary
            if attempt == RETRIES:
                raise last.error
            await asyncio.sleep(last.wait or FIRST_WAIT * 2**attempt)

    async def _once(
        self, server: Server, prompt: RemotePrompt, body: dict[str, Any]
    ) -> AsyncGenerator[Delta, None]:
        """One try, over a connection that is closed with it."""
        import httpx

        timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
        url = f"{server.url}/{'completions' if prompt.is_text else 'chat/completions'}"
        client = httpx.AsyncClient(headers=self._headers, timeout=timeout, verify=self._trusted)
        server.running += 1
        try:
            async with client, client.stream("POST", url, json=body) as response:
                self.fleet.answered(server)
                if response.status_code != 200:
                    raise await self._refused(response)
                async with aclosing(deltas_of(self.name, response.aiter_bytes(), prompt)) as deltas:
                    async for delta in deltas:
                        yield delta
        except httpx.RequestError as error:
            self.fleet.failed(server)
            raise Temporary(self._unreachable(server, error)) from None
        except Busy as error:  # it waited there in a queue, and the server ends
            raise Temporary(error) from None
        finally:
            server.running -= 1

    async def _refused(self, response: httpx.Response) -> Exception:
        key = self._headers.get("Authorization", "")[7:] or "\0"  # which the server may quote
        text = (await response.aread()).decode(errors="replace").replace(key, "***")
        return failure(self.name, response.status_code, text, response.headers)

    def _unreachable(self, server: Server, error: Exception) -> ModelServerError:
        return ModelServerError(
            "the server of the model {name!r} at {url} does not answer ({reason}): is it running?",
            name=self.name, url=server.url, reason=str(error) or type(error).__name__,
        )  # fmt: skip
