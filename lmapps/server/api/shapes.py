"""Replies and the probabilities of their tokens -> the pieces of OpenAI's answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from lmapps.engine.backends.backend import Backend
from lmapps.engine.sampling import Logprob
from lmapps.errors import InputError
from lmapps.text.tokenizer import Tokenizer


class Tokens:
    """What each id of a tokenizer writes. Raises `DecodingError` where that is not known."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._bytes = tokenizer, tokenizer.token_bytes

    @classmethod
    def of(cls, backend: Backend) -> Self:
        """Those of a model. Raises `InputError` where they are not known."""
        if backend.tokenizer is None:
            raise InputError(
                f"logprobs are not known of the model {backend.name!r}, which another server "
                "runs: leave logprobs out"
            )
        return cls(backend.tokenizer)

    def text(self, token_id: int) -> str:
        """A token as text; half a character is U+FFFD."""
        return self._bytes[token_id].decode(errors="replace")

    def chat_logprobs(self, logprobs: Sequence[Logprob]) -> dict[str, Any]:
        """`choices[].logprobs` of a chat; the token that ends a reply is not part of it."""
        return {"content": [self._one(told) for told in self._written(logprobs)], "refusal": None}

    def text_logprobs(self, logprobs: Sequence[Logprob], offset: int = 0) -> dict[str, Any]:
        """`choices[].logprobs` of a text completion whose tokens begin at that character."""
        written = self._written(logprobs)
        texts = [self.text(told.token_id) for told in written]
        offsets = [offset + sum(map(len, texts[:place])) for place in range(len(texts))]
        return {
            "tokens": texts,
            "token_logprobs": [told.logprob for told in written],
            "top_logprobs": [{self.text(n): value for n, value in told.top} for told in written],
            "text_offset": offsets,
        }

    def _written(self, logprobs: Sequence[Logprob]) -> list[Logprob]:
        return [told for told in logprobs if told.token_id not in self._tokenizer.end_ids]

    def _one(self, told: Logprob) -> dict[str, Any]:
        top = [self._named(token_id, logprob) for token_id, logprob in told.top]
        return {**self._named(told.token_id, told.logprob), "top_logprobs": top}

    def _named(self, token_id: int, logprob: float) -> dict[str, Any]:
        written = self._bytes[token_id]
        return {"token": self.text(token_id), "logprob": logprob, "bytes": list(written)}


def usage(prompt_tokens: int, completion_tokens: int, reused_tokens: int) -> dict[str, Any]:
    """`usage`: the tokens of the prompt, once, and of all replies together. Of the prompt, so
    many were not read again."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": reused_tokens},
    }
