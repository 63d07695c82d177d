"""A reply that is there already -> how probable the model finds each of its tokens.

The reply is generated once more, with just its own ids allowed: so it takes turns with everybody
else's, its steps are those of the batch, and the numbers are those that it was sampled by.
"""

from __future__ import annotations

import math
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmapps.decoding import Decoding
from lmapps.engine.constraint import Constraint
from lmapps.engine.explanation import texts_of
from lmapps.engine.reply import joined
from lmapps.engine.request import Delta
from lmapps.engine.sampling import Logprob
from lmapps.engine.turns import User
from lmapps.messages import Message
from lmapps.text.template import Template
from lmapps.text.tokenizer import Tokenizer

TOP = 5
"""Of each place, so many of the most probable tokens are told."""


@dataclass(frozen=True)
class ScoredToken:
    """One token of a reply."""

    id: int
    text: str
    """What it writes; '' where a character is whole only with the next id."""
    control: bool
    """Whether it ends the reply: no text has it."""
    probability: float
    top: tuple[tuple[str, float], ...]
    """The most probable tokens at this place and their probabilities, the most probable first."""


@dataclass(frozen=True)
class Score:
    """A whole reply."""

    tokens: tuple[ScoredToken, ...]

    @property
    def perplexity(self) -> float:
        """Over the tokens of the text: how many equally probable ones would be as surprising."""
        known = [token.probability for token in self.tokens if not token.control]
        if not known:
            return math.nan
        least = sys.float_info.min  # a probability may round to nothing
        return math.exp(-sum(math.log(max(p, least)) for p in known) / len(known))


class Forced(Constraint):
    """A constraint that just one reply fits."""

    def __init__(self, ids: Sequence[int], vocab_size: int) -> None:
        self._ids, self._size, self._place = ids, vocab_size, 0

    @property
    def complete(self) -> bool:
        return self._place == len(self._ids)

    def allowed(self) -> npt.NDArray[np.bool_]:
        """True for the next id alone, (V,)."""
        allowed_V = np.zeros(self._size, dtype=np.bool_)
        allowed_V[self._ids[self._place]] = True
        return allowed_V

    def take(self, token_id: int) -> None:
        self._place += 1


async def scored(
    stream: Callable[..., AsyncGenerator[Delta, None]],
    template: Template,
    messages: Sequence[Message],
    reply: str,
    user: User,
) -> Score:
    """How probable each token of a reply to messages is. stream  the engine's"""
    ids, tokenizer = reply_ids(messages, reply, template), template.tokenizer
    if not ids:
        return Score(())
    decoding = Decoding(temperature=0, logprobs=TOP, max_new_tokens=len(ids))
    forced = Forced(ids, tokenizer.vocab_size)
    deltas = stream(template.prompt_ids(messages), decoding, user, forced)
    return score_of(joined([delta async for delta in deltas]).logprobs, tokenizer)


def reply_ids(messages: Sequence[Message], reply: str, template: Template) -> list[int]:
    """The ids of a reply, as training would have them, its end included."""
    before = template.prompt_ids(messages)
    whole, _ = template.training_ids([*messages, {"role": "assistant", "content": reply}])
    if whole[: len(before)] == before:
        return whole[len(before) :]
    return template.tokenizer.encode(reply)  # the template opens a live reply in another way


def score_of(logprobs: Sequence[Logprob], tokenizer: Tokenizer) -> Score:
    """What was told of each id of a reply -> tokens to look at."""
    texts = texts_of([one.token_id for one in logprobs], tokenizer)
    return Score(
        tuple(
            ScoredToken(
                one.token_id,
                text,
                one.token_id in tokenizer.control_ids,
                math.exp(one.logprob),
                tuple((_text_of(number, tokenizer), math.exp(p)) for number, p in one.top),
            )
            for one, text in zip(logprobs, texts, strict=True)
        )
    )


def _text_of(number: int, tokenizer: Tokenizer) -> str:
    """What an id writes by itself; half a character is U+FFFD."""
    if number in tokenizer.control_ids:
        return str(tokenizer.raw.id_to_token(number))
    return tokenizer.decode([number])
