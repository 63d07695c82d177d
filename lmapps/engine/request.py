"""A prompt and how to decode it -> `Request`, and the `Delta`s that it streams back."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from lmapps.decoding import Decoding
from lmapps.engine.constraint import Constraint
from lmapps.engine.sampling import Logprob, Runs, distinct, is_plain, with_id
from lmapps.engine.stops import StopStrings
from lmapps.engine.turns import User
from lmapps.text.tokenizer import Tokenizer

Finish = Literal["stop", "length", "cancelled", "error"]
"""Why a reply ended: by itself (or a stop string), by its limit, by the person, by a failure."""


@dataclass(frozen=True)
class Usage:
    """What another server counted of a request, at its end; its ids are not known here."""

    prompt_tokens: int
    completion_tokens: int
    reused: int = 0


class Delta(NamedTuple):  # made for each token: a dataclass takes three times as long
    """What is new about a request."""

    text: str = ""
    ids: tuple[int, ...] = ()
    """The sampled ids behind the text, the one that ends a reply included."""
    finish: Finish | None = None
    error: Exception | None = None
    position: int | None = None
    """While it waits: 1 = next in the queue."""
    read: tuple[int, int] | None = None
    """While its prompt is read: how many ids of how many."""
    logprobs: tuple[Logprob, ...] = ()
    """One for each id, where `Decoding.logprobs` asks for them."""
    reused: int = 0
    """Of the prompt, so many ids were not read again; told with the first id of the reply."""
    usage: Usage | None = None

    @property
    def tokens(self) -> int:
        """How many tokens of the reply it tells of."""
        return self.usage.completion_tokens if self.usage else len(self.ids)

    def then(self, later: Delta) -> Delta:
        """This one and the next in one."""
        return Delta(
            self.text + later.text,
            self.ids + later.ids,
            later.finish,
            later.error,
            self.position if later.position is None else later.position,
            later.read or self.read,
            self.logprobs + later.logprobs,
            self.reused + later.reused,
            later.usage or self.usage,
        )


Deliver = Callable[[Delta], None]
"""Called in the engine's thread; must return at once."""


class Request:
    """One reply in the making. Made and used by the engine's thread, but for `cancel`."""

    def __init__(
        self,
        prompt_ids: Sequence[int],
        decoding: Decoding,
        max_new_tokens: int,
        tokenizer: Tokenizer,
        deliver: Deliver,
        constraint: Constraint | None = None,
        user: User = None,
    ) -> None:
        self.prompt_ids = list(prompt_ids)
        self.decoding = decoding
        self.max_new_tokens = max_new_tokens
        self.generated: list[int] = []
        self.is_plain = constraint is None and is_plain(decoding)
        """Whether the model's logits are drawn from as they are."""
        self._penalises = decoding.repetition_penalty != 1
        self.seen = distinct(prompt_ids if self._penalises else ())
        """What a repetition penalty lowers; kept, since a prompt may be long."""
        self._runs = Runs(decoding.no_repeat_ngram)
        self.user = user
        self.prefilled = 0
        """How many ids of the prompt are in the state."""
        self.reused = 0
        """How many of these were in a state that was kept."""
        self.position: int | None = None
        self.cancelled = False
        self.arrived = time.monotonic()
        self.finish: Finish | None = None
        self.random = random.Random(decoding.seed)
        self._end_ids = tokenizer.end_ids
        self._text = tokenizer.decode_stream()
        self._stops = StopStrings(decoding.stop)
        self._deliver = deliver
        self._constraint = constraint

    @cached_property
    def prompt(self) -> npt.NDArray[np.int32]:
        """The ids of the prompt, quickly compared."""
        return np.array(self.prompt_ids, dtype=np.int32)

    @property
    def length(self) -> int:
        """Ids that the state holds once the last sampled one was read."""
        return len(self.prompt_ids) + len(self.generated)

    @property
    def longest(self) -> int:
        """Ids that the state may come to hold."""
        return len(self.prompt_ids) + self.max_new_tokens

    def cancel(self) -> None:
        """Ask for the slot to be freed before the next step. Safe from any thread, any time."""
        self.cancelled = True

    def wait_at(self, position: int) -> None:
        """Say the place in the queue, where it has changed."""
        if position != self.position:
            self.position = position
            self.deliver(Delta(position=position))

    def tell_reading(self) -> None:
        """Say how much of the prompt is read by now."""
        self.deliver(Delta(read=(self.prefilled, len(self.prompt_ids))))

    @property
    def completing(self) -> Collection[int]:
        """The ids that `no_repeat_ngram` rules out now."""
        return self._runs.completing(self.generated)

    @property
    def is_constrained(self) -> bool:
        """Whether the reply is held to a regex or schema."""
        return self._constraint is not None

    def allowed(self) -> npt.NDArray[np.bool_] | None:
        """True for every id that may come next; None where all may. Raises `DecodingError`."""
        return self._constraint.allowed() if self._constraint else None

    def take(self, token_id: int, logprob: Logprob | None = None) -> bool:
        """Take the next sampled id and stream its text; True when the reply is at its end."""
        self.generated.append(token_id)
        if not self.is_plain:
            self._remember(token_id)
        ended = token_id in self._end_ids
        text, stopped = self._stops.feed("" if ended else self._text.step(token_id))
        finish: Finish | None = None
        if ended or stopped or (self._constraint and _completes(self._constraint, token_id)):
            finish = "stop"
        elif len(self.generated) >= self.max_new_tokens:
            finish = "length"
        self.finish = finish
        if finish and not stopped:
            text += self._stops.flush()
        logprobs = (logprob,) if logprob else ()
        reused = self.reused if len(self.generated) == 1 else 0
        self.deliver(Delta(text, (token_id,), finish, logprobs=logprobs, reused=reused))
        return finish is not None

    def _remember(self, token_id: int) -> None:
        """What changes the logits of the next step."""
        self._runs.add(self.generated)
        if self._penalises:
            self.seen = with_id(self.seen, token_id)

    def end(self, finish: Finish, error: Exception | None = None) -> None:
        """End it from outside: cancelled, out of time, or failed."""
        self.finish = finish
        self.deliver(Delta(self._stops.flush(), finish=finish, error=error))

    def deliver(self, delta: Delta) -> None:
        try:
            self._deliver(delta)
        except RuntimeError:  # the reader's event loop is closed: nobody is there any more
            self.cancelled = True


def _completes(constraint: Constraint, token_id: int) -> bool:
    """Whether the id makes a reply all that its regex or schema takes."""
    constraint.take(token_id)
    return constraint.complete
