"""What the engine's tests share: when two replies count as the same, and waiting for a thread."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from lmapps.decoding import Decoding
from lmapps.engine.engine import Engine
from lmapps.engine.sampling import probabilities


def _same_but_for_rounding(
    engine: Engine,
    prompt_ids: list[int],
    decoding: Decoding,
    first: Sequence[int],
    second: Sequence[int],
) -> bool:
    """Whether two replies are equal, or first differ where the draw lies on their boundary.

    Matrix products of different batch sizes differ in their last bits, so the design allows it
    where the draw and the boundary between the two ids are within 1e-4 of each other.
    """
    pairs = enumerate(zip(first, second, strict=True))
    place = next((place for place, (one, other) in pairs if one != other), None)
    if place is None:
        return True
    ids = torch.tensor([[*prompt_ids, *first[:place]]])
    with torch.inference_mode():
        logits = engine.checkpoint.model(ids)[0, -1, : engine.checkpoint.tokenizer.vocab_size]
    cumulative = probabilities(logits.numpy().astype(np.float64), decoding).cumsum()
    rng = random.Random(decoding.seed)
    drawn = [rng.random() for _ in range(place + 1)][-1]
    low, high = sorted((first[place], second[place]))
    return bool(abs(cumulative[low] - drawn) < 1e-4 and abs(cumulative[high - 1] - drawn) < 1e-4)


@pytest.fixture(scope="session")
def same_but_for_rounding() -> Callable[..., bool]:
    """`same_but_for_rounding(engine, prompt_ids, decoding, first, second)`: ids of two replies."""
    return _same_but_for_rounding


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in 30 seconds"
        time.sleep(0.001)


@pytest.fixture(scope="session")
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """`wait_until(lambda: engine.running == 0)`: what the engine's thread does, it does soon."""
    return _wait_until
