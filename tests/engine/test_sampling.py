"""Sampling by its definitions: distributions, filters, penalties."""

from __future__ import annotations

import itertools
import math
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmapps.decoding import Decoding
from lmapps.engine.request import Request
from lmapps.engine.sampling import (
    Runs,
    adjusted,
    completing,
    draw,
    logprob_of,
    probabilities,
    sample,
)
from lmapps.engine.stops import StopStrings
from lmapps.errors import CheckpointError, DecodingError

LOGITS = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.05]))


def kept(decoding: Decoding) -> list[int]:
    return np.flatnonzero(probabilities(LOGITS, decoding)).tolist()


def test_drawn_ids_follow_the_probabilities() -> None:
    rng = random.Random(0)
    counts = np.bincount([draw(np.exp(LOGITS), rng) for _ in range(20_000)], minlength=5)
    assert np.abs(counts / 20_000 - np.exp(LOGITS)).max() < 0.015


def test_temperature_sharpens_and_flattens() -> None:
    cold = probabilities(LOGITS, Decoding(temperature=0.5))
    expected = np.exp(LOGITS) ** 2 / (np.exp(LOGITS) ** 2).sum()
    np.testing.assert_allclose(cold, expected)
    assert probabilities(LOGITS, Decoding(temperature=2)).max() < 0.4


@pytest.mark.parametrize("temperature", [5e-324, 1e-308, 1e-12])
@pytest.mark.parametrize("filters", [{}, {"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.5}])
def test_almost_no_temperature_is_greedy(temperature: float, filters: dict[str, float]) -> None:
    decoding = Decoding(temperature=temperature, **filters)  # type: ignore[arg-type]
    for logits in ([-3.0, 7.0, 6.5, -np.inf], [-9.0, -2.0, -2.5, -4.0], [0.0, 1e9, 1e8, -1e9]):
        assert probabilities(np.array(logits), decoding).tolist() == [0, 1, 0, 0]
        assert sample(np.array(logits), decoding, random.Random(0)) == 1


@pytest.mark.parametrize(
    ("decoding", "ids"),
    [
        (Decoding(temperature=1, top_k=2), [0, 1]),
        (Decoding(temperature=1, top_p=0.7), [0, 1]),
        (Decoding(temperature=1, top_p=0.71), [0, 1, 2]),
        (Decoding(temperature=1, top_p=0.01), [0]),
        (Decoding(temperature=1, min_p=0.3), [0, 1, 2]),
        (Decoding(temperature=1, top_k=4, top_p=0.9, min_p=0.2), [0, 1, 2, 3]),
    ],
)
def test_filters_keep_what_their_definition_says(decoding: Decoding, ids: list[int]) -> None:
    # 0.4 + 0.3 reaches 0.7 up to rounding; after top-k 4 the sum is 0.95.
    assert kept(decoding) in (ids, ids if decoding.top_p != 0.7 else [0, 1, 2])


def test_penalties_lower_what_was_there() -> None:
    rng = random.Random(0)
    greedy = Decoding(temperature=0)
    logits = np.array([2.0, 1.9, -1.0])
    assert sample(logits, greedy, rng) == 0
    assert sample(logits, greedy.replace(repetition_penalty=1.5), rng, seen=[0]) == 1
    assert sample(logits, greedy.replace(presence_penalty=0.5), rng, [0], [0]) == 1
    assert sample(logits, greedy.replace(presence_penalty=0.5), rng, [0], []) == 0
    assert sample(logits, greedy.replace(frequency_penalty=0.06), rng, [], [0]) == 0
    assert sample(logits, greedy.replace(frequency_penalty=0.06), rng, [], [0, 0]) == 1


def test_bias_and_penalties_change_just_the_ids_that_they_speak_of() -> None:
    settings = Decoding(
        logit_bias={0: 1, 4: -1}, repetition_penalty=2, presence_penalty=0.5, frequency_penalty=0.25
    )
    logits = adjusted(np.array([2.0, 2.0, 2.0, -2.0, 9.0, 2.0]), settings, [1, 2, 3], [2, 2, 3])
    assert logits.tolist() == [3, 1, 1 - 0.5 - 0.5, -4 - 0.5 - 0.25, 8, 2]


@given(
    st.lists(st.integers(0, 11), max_size=20),
    st.lists(st.integers(0, 11), max_size=9),
    st.sampled_from([0.5, 1, 1.2, 3]),
    st.sampled_from([-1, 0, 0.3]),
    st.sampled_from([0, 0.7]),
    st.dictionaries(st.integers(0, 11), st.floats(-100, 100), max_size=3),
)
def test_what_a_request_has_seen_is_penalised_as_if_it_were_counted_anew(
    prompt: list[int],
    generated: list[int],
    repetition: float,
    presence: float,
    frequency: float,
    bias: dict[int, float],
) -> None:
    decoding = Decoding(
        repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency,
        logit_bias=bias,
    )  # fmt: skip
    tokenizer: Any = SimpleNamespace(end_ids=frozenset(), decode_stream=NoText)
    request = Request(prompt, decoding, 100, tokenizer, lambda delta: None)
    for token_id in generated:
        request.take(token_id)
    logits = np.random.default_rng(len(prompt)).normal(0, 3, 12).astype(np.float32)
    expected = logits.astype(np.float64)
    for number, value in enumerate(expected):
        value += bias.get(number, 0)
        if number in {*prompt, *generated}:
            value = value / repetition if value > 0 else value * repetition
        if number in generated:
            value -= presence + frequency * generated.count(number)
        expected[number] = value
    assert adjusted(logits, decoding, request.seen, generated).tolist() == expected.tolist()


class NoText:
    def step(self, token_id: int) -> str:
        return ""


def test_no_repeat_ngram_never_completes_a_run_twice() -> None:
    logits = np.array([5.0, 4.0, 3.0, 2.0])
    rng, generated = random.Random(0), list[int]()
    for _ in range(8):
        decoding = Decoding(temperature=0, no_repeat_ngram=2)
        generated.append(sample(logits, decoding, rng, [], generated))
    pairs = list(itertools.pairwise(generated))
    assert len(set(pairs)) == len(pairs)


def test_damaged_weights_are_named() -> None:
    with pytest.raises(CheckpointError, match="not a number"):
        sample(np.array([np.nan, 1.0]), Decoding(), random.Random(0))


@pytest.mark.parametrize("temperature", [0, 1])
def test_what_is_not_allowed_never_comes_even_where_the_model_rules_out_the_rest(
    temperature: float,
) -> None:
    logits, decoding = np.array([1.0, -np.inf, 2.0]), Decoding(temperature=temperature)
    with pytest.raises(DecodingError, match="rules out every token"):
        sample(logits, decoding, random.Random(0), allowed_V=np.array([False, True, False]))
    allowed = np.array([True, True, False])
    assert sample(logits, decoding, random.Random(0), allowed_V=allowed) == 0


@given(
    st.lists(st.floats(-30, 30), min_size=1, max_size=40),
    st.floats(0.05, 2), st.integers(0, 50), st.floats(0.01, 1), st.floats(0, 1), st.integers(0, 9),
)  # fmt: skip
def test_the_id_drawn_always_has_a_probability(
    logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    decoding = Decoding(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    weights = probabilities(np.array(logits), decoding)
    assert weights.sum() == pytest.approx(1)
    assert weights[draw(weights, random.Random(seed))] > 0


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=60), st.floats(0.001, 0.999))
def test_top_p_keeps_what_sorting_every_id_would(logits: list[float], top_p: float) -> None:
    weights = np.exp(np.array(logits) - max(logits))
    weights /= weights.sum()
    kept_ids, total = set[int](), 0.0
    for place in sorted(range(len(weights)), key=lambda place: -weights[place]):
        if abs(total - top_p) < 1e-9:
            return  # rounding decides
        if total < top_p:
            kept_ids.add(place)
        total += weights[place]
    assert set(
        np.flatnonzero(probabilities(np.array(logits), Decoding(temperature=1, top_p=top_p)))
    ) == {place for place in kept_ids if weights[place] > 0}


@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 99))
def test_top_k_keeps_what_sorting_every_id_would(size: int, top_k: int, seed: int) -> None:
    logits = np.random.default_rng(seed).integers(-9, 9, size) / 2.0  # some are equal
    least = sorted(logits)[-min(top_k, size)]
    weights = probabilities(logits, Decoding(temperature=1, top_k=top_k))
    assert np.flatnonzero(weights).tolist() == np.flatnonzero(logits >= least).tolist()


@given(st.integers(1, 700), st.integers(0, 20), st.integers(0, 99))
def test_the_top_ids_are_told_in_their_order(size: int, top: int, seed: int) -> None:
    logits = np.random.default_rng(seed).integers(-9, 9, size) / 2.0  # some are equal
    order = sorted(range(size), key=lambda place: -logits[place])[:top]
    assert [place for place, _ in logprob_of(logits, 0, top).top] == order


def test_what_a_model_rules_out_has_a_logarithm_that_json_can_hold() -> None:
    told = logprob_of(np.array([0.0, -np.inf, 0.0]), 1, 3)
    assert told.logprob == -9999.0
    assert told.top[:2] == ((0, pytest.approx(math.log(0.5))), (2, pytest.approx(math.log(0.5))))
    assert told.top[2] == (1, -9999.0)


@given(st.integers(1, 700), st.integers(0, 999))
def test_draws_are_where_the_running_sum_passes_the_random_number(size: int, seed: int) -> None:
    made = np.random.default_rng(seed)
    weights = made.random(size) * (made.random(size) < 0.3)
    weights[made.integers(size)] = 1
    weights /= weights.sum()
    point, total = random.Random(seed).random(), 0.0
    for expected in range(size):
        total += weights[expected]
        if abs(total - point) < 1e-9:
            return  # rounding decides
        if total > point:
            break
    assert draw(weights, random.Random(seed)) == expected


@given(st.lists(st.integers(0, 2), max_size=12), st.integers(1, 5))
def test_no_repeat_ngram_bans_what_would_make_a_run_of_before(ids: list[int], size: int) -> None:
    logits = np.array([3.0, 2.0, 1.0, -50.0])
    runs = {tuple(ids[start : start + size]) for start in range(len(ids) - size + 1)}
    tail = ids[len(ids) - size + 1 :] if size <= len(ids) else None
    free = [i for i in range(4) if tail is None or (*tail, i) not in runs]
    drawn = sample(logits, Decoding(temperature=0, no_repeat_ngram=size), random.Random(0), [], ids)
    assert drawn == free[0]
    kept = Runs(size)
    for count in range(len(ids)):
        kept.add(ids[: count + 1])
    assert set(kept.completing(ids)) == set(completing(ids, size)) == {*range(3)} - {*free}


@given(st.text("ab<>", max_size=30), st.lists(st.text("ab<>", min_size=1, max_size=4), max_size=3))
def test_a_stop_string_never_shows_however_the_text_is_cut(text: str, stops: list[str]) -> None:
    places = [text.find(stop) for stop in stops if stop in text]
    expected = text[: min(places)] if places else text
    for size in (1, 2, 3, 7):
        stream, out, stopped = StopStrings(stops), "", False
        for start in range(0, len(text), size):
            certain, stopped = stream.feed(text[start : start + size])
            out += certain
            if stopped:
                break
        if not stopped:
            out += stream.flush()
        assert not any(stop in out for stop in stops)
        if size == 1:  # one character at a time, the first stop string to be complete ends it
            ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
            assert stopped == bool(places)
            assert len(out) <= (min(ends) if ends else len(text))
        else:
            assert expected.startswith(out) or out.startswith(expected)
