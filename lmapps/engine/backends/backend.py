"""What serves one model: the messages that it is asked -> what it streams back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, Protocol

from lmapps.decoding import Decoding
from lmapps.engine.admission import Lengths
from lmapps.engine.counts import Counts
from lmapps.engine.explanation import Explanation
from lmapps.engine.reply import Reply
from lmapps.engine.request import Delta
from lmapps.engine.scoring import Score
from lmapps.engine.turns import User
from lmapps.messages import Message
from lmapps.sentence import Sentence
from lmapps.text.tokenizer import Tokenizer

Prompt = Any
"""What a backend makes of messages or a text, for nobody but its own `stream`. Its `len` is how
many tokens it has: ids where they are known here, else an estimate that is rather too high."""


class Backend(Protocol):
    """One model. Page, API, commands and evaluation ask no more of it than this."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def about(self) -> Sentence:
        """What it is, as a line for a person."""

    @property
    def step_name(self) -> str:
        """What computes its replies: a line for a person."""

    @property
    def context(self) -> int:
        """The longest prompt and reply together, in tokens."""

    @property
    def lengths(self) -> Lengths:
        """The longest prompt and reply each, where they are shorter."""

    @property
    def folder(self) -> Path | None:
        """Its checkpoint, where it is one on this machine."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None where ids, and what is said of each, are not known here."""

    @property
    def bytes(self) -> int:
        """Memory that it takes in this process at most."""

    @property
    def prefix_bytes(self) -> int:
        """Of these, what is kept of prompts and replies for the next turn."""

    @property
    def counts(self) -> Counts:
        """What it has done so far."""

    @property
    def running(self) -> int:
        """Requests that are being answered."""

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""

    @property
    def broken(self) -> str | None:
        """Why it answers nobody any more, though it was not closed; None where it goes on."""

    def why_not_ready(self) -> str | None:
        """Why a request that comes now would be refused; None where it would not."""

    def render(self, messages: Sequence[Message]) -> Prompt:
        """A conversation that the model is to go on with. Raises `InputError`."""

    def read(self, text: str | list[int]) -> Prompt:
        """A text, or the ids of one, that the model is to go on with. Raises `InputError`."""

    def measure(self, text: str) -> int:
        """How many tokens a text has, by itself."""

    def explain(
        self, messages: Sequence[Message], decoding: Decoding, prompts: int = 1
    ) -> Explanation:
        """What the model is given for a conversation. Raises `InputError` where that is unknown."""

    async def score(self, messages: Sequence[Message], reply: str, user: User = None) -> Score:
        """How probable the model finds each token of a reply. Raises `InputError` where that is
        unknown."""

    def stream(
        self, prompt: Prompt, decoding: Decoding, user: User = None
    ) -> AsyncGenerator[Delta, None]:
        """Deltas as they come, the last with `finish` set. Closing the iterator cancels."""

    async def complete(self, prompt: Prompt, decoding: Decoding, user: User = None) -> Reply:
        """The whole reply."""

    def close(self) -> None:
        """End what is under way, and free what it takes."""
