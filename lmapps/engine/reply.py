"""The deltas of a request -> its whole reply."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass

from lmapps.engine.request import Delta, Finish, Usage
from lmapps.engine.sampling import Logprob


@dataclass(frozen=True)
class Reply:
    """A reply at its end."""

    text: str
    ids: tuple[int, ...]
    finish: Finish
    logprobs: tuple[Logprob, ...] = ()
    reused: int = 0
    """Ids of the prompt that were not read again."""
    usage: Usage | None = None
    """Where another server wrote it."""

    @property
    def tokens(self) -> int:
        """How many tokens it has."""
        return self.usage.completion_tokens if self.usage else len(self.ids)

    def prompt_tokens(self, prompt: Sized) -> int:
        """How many tokens the prompt has that it answers."""
        return self.usage.prompt_tokens if self.usage else len(prompt)


def joined(deltas: Sequence[Delta]) -> Reply:
    """All the deltas of one request -> its reply."""
    finish = deltas[-1].finish
    assert finish is not None
    ids = tuple(token_id for delta in deltas for token_id in delta.ids)
    logprobs = tuple(one for delta in deltas for one in delta.logprobs)
    reused = sum(delta.reused for delta in deltas)
    text, usage = "".join(delta.text for delta in deltas), deltas[-1].usage
    return Reply(text, ids, finish, logprobs, usage.reused if usage else reused, usage)
