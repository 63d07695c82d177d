"""What the engine's tests share: when two replies count as the same, steps by hand."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from lmapps.decoding import Decoding
from lmapps.engine.constraint import Grammars
from lmapps.engine.request import Delta, Request
from lmapps.engine.sampling import adjusted, distinct, probabilities
from lmapps.engine.scheduler import Scheduler
from lmapps.engine.slots import Slots
from lmapps.model.language_model import LanguageModel
from lmapps.native.step import Step, choose_step
from lmapps.text.tokenizer import Tokenizer


def _same_but_for_rounding(
    engine: Any,
    prompt_ids: list[int],
    decoding: Decoding,
    first: Sequence[int],
    second: Sequence[int],
) -> bool:
    """Whether two replies are equal, or first differ where rounding may decide.

    Matrix products of different batch sizes differ in their last bits, so the design allows it
    where the two best candidates, or the draw and the boundary between the two ids, are within
    1e-4 of each other. `engine` is anything with a `checkpoint`.
    """
    pairs = enumerate(zip(first, second, strict=False))
    place = next((place for place, (one, other) in pairs if one != other), None)
    if place is None:
        return len(first) == len(second)
    tokenizer = engine.checkpoint.tokenizer
    with torch.inference_mode():
        ids = torch.tensor([[*prompt_ids, *first[:place]]])
        logits = engine.checkpoint.model(ids)[0, -1, : tokenizer.vocab_size].numpy()
    constraint = Grammars(tokenizer).constraint(decoding)
    for token_id in first[:place] if constraint else ():
        constraint.take(token_id)  # type: ignore[union-attr]
    allowed = constraint.allowed() if constraint else None
    seen = distinct([*prompt_ids, *first[:place]])
    values = adjusted(logits, decoding, seen, first[:place], allowed)
    low, high = sorted((first[place], second[place]))
    if decoding.temperature == 0:
        return bool(abs(values[low] - values[high]) < 1e-4)
    cumulative = probabilities(values, decoding).cumsum()
    rng = random.Random(decoding.seed)
    drawn = [rng.random() for _ in range(place + 1)][-1]
    return bool(abs(cumulative[low] - drawn) < 1e-4 and abs(cumulative[high - 1] - drawn) < 1e-4)


@pytest.fixture(scope="session")
def same_but_for_rounding() -> Callable[..., bool]:
    """`same_but_for_rounding(engine, prompt_ids, decoding, first, second)`: ids of two replies."""
    return _same_but_for_rounding


class Steps:
    """A scheduler that is stepped by hand; its clock is the number of the step."""

    def __init__(
        self, model: LanguageModel, tokenizer: Tokenizer, slots: int, step: Step | None = None
    ) -> None:
        self.now = 0.0
        self.tokenizer = tokenizer
        self.grammars = Grammars(tokenizer)
        self.scheduler = Scheduler(
            Slots(model, slots, step or choose_step(model)),
            tokenizer.vocab_size,
            clock=lambda: self.now,
        )

    def ask(self, prompt_ids: list[int], decoding: Decoding, user: str | None = None) -> Asked:
        asked = Asked(self)
        constraint = self.grammars.constraint(decoding)
        limit = decoding.max_new_tokens
        asked.request = Request(
            prompt_ids, decoding, limit, self.tokenizer, asked.deliver, constraint, user
        )
        asked.request.arrived = self.now
        self.scheduler.waiting.append(asked.request)
        return asked

    def step(self) -> None:
        with torch.inference_mode():
            self.scheduler.step()
        self.now += 1


class Asked:
    """A request, and the steps at which something came of it."""

    request: Request

    def __init__(self, stepped: Steps) -> None:
        self.stepped, self.at = stepped, stepped.now
        self.steps: list[float] = []
        self.last = Delta()
        self.text = ""

    def deliver(self, delta: Delta) -> None:
        self.last = delta
        self.text += delta.text
        if delta.ids:
            self.steps.append(self.stepped.now)

    @property
    def ids(self) -> list[int]:
        return self.request.generated

    @property
    def is_done(self) -> bool:
        return self.last.finish is not None


@pytest.fixture(scope="session")
def stepped() -> type[Steps]:
    """`stepped(model, tokenizer, slots)`: a scheduler that is stepped by hand."""
    return Steps
