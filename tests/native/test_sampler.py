"""Ids drawn by the native call, and for a whole step: those that `sampling.sample` draws."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lmapps.decoding import Decoding
from lmapps.engine.drawing import Drawing
from lmapps.engine.sampling import adjusted, completing, distinct, is_plain, probabilities, sample
from lmapps.errors import CheckpointError
from lmapps.native.library import Unavailable, levels
from lmapps.native.sampler import Row, Sampler
from lmapps.native.threads import Threads

try:
    LEVELS = levels()
except Unavailable:
    LEVELS = []
needs_native = pytest.mark.skipif(not LEVELS, reason="no native library")
SIZES = [1, 2, 63, 64, 65, 127, 128, 129, 1000, 4096]
EDGE = 1e-9
"""So near to where another id, or another set of them, begins, rounding may decide."""


@dataclass
class Point:
    """The one random number of a row."""

    point: float

    def random(self) -> float:
        return self.point


def unchecked(decoding: Decoding, **changes: float) -> Decoding:
    """A copy with values that may be more than a person may ask for."""
    changed = copy.copy(decoding)
    for name, value in changes.items():
        object.__setattr__(changed, name, value)
    return changed


@dataclass
class Asked:
    """What of a request drawing looks at."""

    decoding: Decoding
    random: Any
    prompt_ids: list[int] = field(default_factory=list)
    generated: list[int] = field(default_factory=list)
    is_constrained: bool = False

    @property
    def is_plain(self) -> bool:
        return not self.is_constrained and is_plain(self.decoding)

    @property
    def seen(self) -> Any:
        return distinct([*self.prompt_ids, *self.generated])

    @property
    def completing(self) -> list[int]:
        return completing(self.generated, self.decoding.no_repeat_ngram)

    def allowed(self) -> None:
        return None


@cache
def threads_of(count: int) -> Threads | None:
    """So many; one is the caller's own, which needs none."""
    return Threads(count) if count > 1 else None


def native(vocab_size: int, level: int = 0, threads: int = 1) -> Any:
    drawing = Drawing(vocab_size)
    drawing._sampler = Sampler(vocab_size, threads_of(threads), level=level)
    return drawing


def logits_of(kind: str, size: int, seed: int) -> Any:
    """Of a model that is sure, of one that is not, of few different numbers, with -inf."""
    made = np.random.default_rng(seed)
    logits = {
        "sharp": lambda: made.normal(0, 12, size),
        "flat": lambda: made.normal(0, 0.01, size),
        "equal": lambda: np.zeros(size),
        "steps": lambda: made.integers(-9, 9, size) / 4,
        "ruled out": lambda: np.where(made.random(size) < 0.7, -np.inf, made.integers(0, 3, size)),
        "one": lambda: np.where(np.arange(size) == made.integers(size), 3, -np.inf),
    }[kind]().astype(np.float32)
    if logits.max() == -np.inf:
        logits[made.integers(size)] = 0
    return logits


@st.composite
def rows(draw: Any) -> tuple[int, list[tuple[Any, Asked]]]:
    """A vocabulary's size; logits and a request of each row, whose random number is to come."""
    size = draw(st.sampled_from(SIZES))
    kinds = st.sampled_from(["sharp", "flat", "equal", "steps", "ruled out", "one"])
    ids = st.lists(st.integers(0, min(size, 9) - 1), max_size=30)
    some = []
    for _ in range(draw(st.integers(1, 3))):
        decoding = Decoding(
            temperature=draw(st.sampled_from([0, 5e-324, 1e-4, 0.3, 1, 2])),
            top_k=draw(st.sampled_from([0, 0, 1, 2, 7, 63, size, size + 1])),
            top_p=draw(st.sampled_from([1, 1, 0.9, 0.35, 1e-3]) | st.floats(1e-9, 1)),
            min_p=draw(st.sampled_from([0, 0, 0.1, 1]) | st.floats(0, 1)),
            repetition_penalty=draw(st.sampled_from([1, 1, 1.5, 0.5])),
            presence_penalty=draw(st.sampled_from([0, 0, 1, -1])),
            frequency_penalty=draw(st.sampled_from([0, 0, 0.5])),
            no_repeat_ngram=draw(st.sampled_from([0, 1, 2, 3])),
            logit_bias=draw(st.sampled_from([(), ((0, 2),), ((size - 1, -100), (size // 2, 1))])),
        )
        if decoding.temperature == 2 and draw(st.booleans()):
            decoding = unchecked(decoding, temperature=100.0)
        asked = Asked(decoding, random.Random(0), draw(ids), draw(ids))
        some.append((logits_of(draw(kinds), size, draw(st.integers(0, 99))), asked))
    return size, some


def points(logits: Any, decoding: Decoding) -> list[tuple[float, int]]:
    """Random numbers, and the id that each stands for: at both ends of what is an id's, and in its
    middle. Not for settings where rounding decides which ids are kept."""
    if decoding.temperature == 0:
        return [(0.5, int(logits.argmax()))]
    weights = probabilities(logits, unchecked(decoding, top_p=1, min_p=0))
    ranked = np.sort(weights)[::-1]
    before = np.cumsum(ranked) - ranked
    assume(decoding.top_p == 1 or not (np.abs(before - decoding.top_p) < EDGE).any())
    share = ranked[ranked < ranked[0]] / ranked[0]
    assume(not (np.abs(share - decoding.min_p) < EDGE * decoding.min_p).any())
    ends = np.cumsum(probabilities(logits, decoding))
    begins = np.concatenate(([0], ends[:-1]))
    wide = np.flatnonzero(ends - begins > 4 * EDGE)
    some = {*wide[:3].tolist(), *wide[-3:].tolist(), *wide[:: max(1, len(wide) // 8)].tolist()}
    return [
        (float(point), number)
        for number in sorted(some)
        for point in (
            begins[number] + (EDGE if begins[number] else 0),
            (begins[number] + ends[number]) / 2,
            ends[number] - EDGE,
        )
    ]


@needs_native
@settings(max_examples=300, deadline=None)
@given(rows(), st.sampled_from(range(len(LEVELS) or 1)), st.sampled_from([1, 2, 3]))
def test_the_native_call_draws_the_ids_that_the_definition_draws(
    made: tuple[int, list[tuple[Any, Asked]]], level: int, threads: int
) -> None:
    size, some = made
    logits_BV, requests, expected = [], list[Any](), list[int]()
    for logits_V, asked in some:
        values = adjusted(logits_V, asked.decoding, asked.seen, asked.generated)
        for place, number in points(values, asked.decoding):
            point: Any = Point(place)
            known = asked.seen, asked.generated
            assert sample(logits_V, asked.decoding, point, *known) == number
            logits_BV.append(logits_V)
            requests.append(Asked(asked.decoding, point, asked.prompt_ids, asked.generated))
            expected.append(number)
    drawn = native(size, level, threads)._native(np.array(logits_BV), requests)
    assert drawn == expected, "-1 would be left to NumPy"


@needs_native
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("level", range(len(LEVELS)))
def test_a_row_of_no_numbers_fails_alone(bad: float, size: int, level: int) -> None:
    logits_BV = np.zeros((3, size), np.float32)
    logits_BV[1, slice(None) if bad == -np.inf else size - 1] = bad
    requests: list[Any] = [Asked(Decoding(temperature=1), Point(0.999)) for _ in range(3)]
    first, failed, last = native(size, level)(logits_BV, requests)
    assert isinstance(failed, CheckpointError) and "not a number" in str(failed)
    assert first == last == int(0.999 * size)


@needs_native
def test_a_request_draws_one_random_number_a_token_with_the_library_and_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits_BV = np.random.default_rng(0).normal(0, 3, (4, 300)).astype(np.float32)
    decoding = Decoding(temperature=1, top_p=0.9, no_repeat_ngram=2)

    def text(drawing: Drawing, beside: int, held: bool = False) -> list[int]:
        asked: Any = Asked(decoding, random.Random(5), is_constrained=held)
        others: list[Any] = [
            Asked(decoding, random.Random(n), is_constrained=n % 2 == 0) for n in range(beside)
        ]
        for step in range(50):
            rows_BV = np.roll(logits_BV, step, axis=1)[-1 - beside :]
            drawn: list[Any] = drawing(rows_BV, [*others, asked])
            for request, number in zip([*others, asked], drawn, strict=True):
                request.generated.append(number)
        return list(asked.generated)

    alone = text(native(300), 0)
    assert text(native(300), 3) == alone
    assert text(native(300), 3, held=True) == alone
    monkeypatch.setenv("LMAPPS_NATIVE", "0")
    drawing = Drawing(300)
    assert drawing._sampler is None
    assert text(drawing, 0) == alone


@needs_native
def test_a_tokenizer_smaller_than_the_model_is_never_left() -> None:
    logits_BV = np.zeros((2, 100), np.float32)
    logits_BV[:, 70:] = 50
    requests: list[Any] = [Asked(Decoding(temperature=t), Point(0.999)) for t in (0, 1)]
    assert native(70)(logits_BV, requests) == [0, 69]


@needs_native
@pytest.mark.parametrize(
    ("row", "ids", "values", "error"),
    [
        ({"changed": 1}, [9], [0.0], IndexError),
        ({"banned": 1}, [-1], [], IndexError),
        ({"changed": 1}, [2], [], ValueError),
        ({"banned": 2}, [2], [], ValueError),
        ({"number": 1}, [], [], IndexError),
        ({"number": -1}, [], [], IndexError),
    ],
)
def test_the_library_is_never_given_what_it_could_not_trust(
    row: dict[str, int], ids: Sequence[int], values: Sequence[float], error: type[Exception]
) -> None:
    plain = Row(0, 0, 1.0, 1.0, 0.0, 0.5, 0, 0)
    assert Sampler(9)(np.zeros((1, 9), np.float32), [plain]) == [4]
    with pytest.raises(error):
        Sampler(9)(np.zeros((1, 9), np.float32), [plain._replace(**row)], ids, values)
    for wrong in (np.zeros((1, 9)), np.zeros((9, 2), np.float32).T, np.zeros((1, 8), np.float32)):
        with pytest.raises(ValueError, match="logits"):
            Sampler(9)(wrong, [plain])
