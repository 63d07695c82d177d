"""Sampled ids follow the definition, worked out here in plain Python, by Pearson's chi-square."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lmapps.decoding import Decoding
from lmapps.engine.drawing import Drawing
from lmapps.engine.engine import Engine
from lmapps.engine.sampling import completing, distinct, is_plain, logprob_of
from lmapps.errors import DecodingError
from lmapps.model.checkpoint import Checkpoint

LOGITS = [2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -3.0]
PROMPT, GENERATED = [0, 6], [1, 1, 3, 1]
DRAWS = 20_000


def definition(
    decoding: Decoding, prompt: list[int], generated: list[int], allowed: set[int]
) -> dict[int, float]:
    """The exact probability of each id: each rule as its paper or API says it, one at a time."""
    bias = dict(decoding.logit_bias)
    logit = {number: value + bias.get(number, 0) for number, value in enumerate(LOGITS)}
    logit = {number: value for number, value in logit.items() if number in allowed}
    for number in logit:
        if number in prompt or number in generated:
            penalty = decoding.repetition_penalty
            logit[number] = (
                logit[number] / penalty if logit[number] > 0 else logit[number] * penalty
            )
        if number in generated:
            logit[number] -= decoding.presence_penalty
            logit[number] -= decoding.frequency_penalty * generated.count(number)
    if size := decoding.no_repeat_ngram:
        runs = {tuple(generated[i : i + size]) for i in range(len(generated) - size + 1)}
        tail = tuple(generated[len(generated) - size + 1 :])
        logit = {number: value for number, value in logit.items() if (*tail, number) not in runs}
    ranked = sorted(logit, key=lambda number: (-logit[number], number))
    if decoding.top_k:
        ranked = ranked[: decoding.top_k]
    share = softmax({number: logit[number] / decoding.temperature for number in ranked})
    kept, total = [], 0.0
    for number in ranked:
        if total < decoding.top_p:
            kept.append(number)
        total += share[number]
    best = max(share.values())
    kept = [number for number in kept if share[number] >= decoding.min_p * best]
    whole = sum(share[number] for number in kept)
    return {number: share[number] / whole for number in kept}


def softmax(logit: dict[int, float]) -> dict[int, float]:
    whole = sum(math.exp(value) for value in logit.values())
    return {number: math.exp(value) / whole for number, value in logit.items()}


def chi_square_fits(counts: Counter[int], expected: dict[int, float]) -> bool:
    """Pearson's test at about p = 0.0001, its quantile by Wilson and Hilferty (1931)."""
    total, freedom = sum(counts.values()), len(expected) - 1
    if set(counts) - set(expected):
        return False
    if freedom == 0:
        return counts[next(iter(expected))] == total
    statistic = sum((counts[n] - total * p) ** 2 / (total * p) for n, p in expected.items())
    spread = 2 / (9 * freedom)
    return statistic < freedom * (1 - spread + 3.719 * math.sqrt(spread)) ** 3


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2},
        {"top_k": 3},
        {"top_p": 0.8},
        {"min_p": 0.2},
        {"repetition_penalty": 1.5},
        {"presence_penalty": 1.2},
        {"frequency_penalty": 0.4},
        {"presence_penalty": -1, "frequency_penalty": -0.3},
        {"no_repeat_ngram": 2},
        {"logit_bias": {7: 5, 0: -2}},
        {"logit_bias": {2: -100}},
        {"temperature": 1.3, "top_k": 6, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2,
         "frequency_penalty": 0.3, "presence_penalty": 0.1, "logit_bias": {5: 1.5}},
    ],
    ids=lambda settings: ",".join(settings) or "plain",
)  # fmt: skip
@pytest.mark.parametrize("allowed", [set(range(8)), {1, 2, 4, 7}], ids=["all", "some"])
@pytest.mark.parametrize("native", ["1", "0"], ids=["native", "numpy"])
def test_sampled_ids_follow_the_definition(
    settings: dict[str, Any], allowed: set[int], native: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMAPPS_NATIVE", native)
    decoding = Decoding(**{"temperature": 1.0, **settings})
    mask = np.array([number in allowed for number in range(8)])
    asked: Any = SimpleNamespace(
        decoding=decoding, random=random.Random(1), generated=GENERATED,
        seen=distinct([*PROMPT, *GENERATED]),
        completing=completing(GENERATED, decoding.no_repeat_ngram),
        is_constrained=not mask.all(), allowed=lambda: mask,
        is_plain=mask.all() and is_plain(decoding),
    )  # fmt: skip
    logits_BV = np.tile(np.array(LOGITS, dtype=np.float32), (DRAWS // 4, 1))
    counts: Counter[Any] = Counter(Drawing(8)(logits_BV, [asked] * len(logits_BV)))
    assert chi_square_fits(counts, definition(decoding, PROMPT, GENERATED, allowed))


def test_the_chi_square_test_sees_a_wrong_distribution() -> None:
    expected = definition(Decoding(temperature=1), [], [], set(range(8)))
    rng = random.Random(0)
    right = Counter(rng.choices(list(expected), list(expected.values()), k=DRAWS))
    assert chi_square_fits(right, expected)
    warmer = definition(Decoding(temperature=1.1), [], [], set(range(8)))
    assert not chi_square_fits(right, warmer)


@pytest.fixture(scope="module")
def engine(endless_checkpoint: Callable[[str], Checkpoint]) -> Any:
    with Engine(endless_checkpoint("gru"), slots=8) as engine:
        yield engine


def test_first_tokens_of_many_seeds_follow_the_models_distribution(engine: Engine) -> None:
    ids, vocab_size = [20, 30, 40], engine.checkpoint.tokenizer.vocab_size
    with torch.inference_mode():
        logits = engine.checkpoint.model(torch.tensor([ids]))[0, -1, :vocab_size].tolist()
    share = softmax(dict(enumerate(logits)))

    async def ask() -> list[int]:
        replies = await asyncio.gather(
            *(
                engine.complete(ids, Decoding(temperature=1, seed=seed, max_new_tokens=1))
                for seed in range(250)
            )
        )
        return [reply.ids[0] for reply in replies]

    drawn = Counter(number for number in asyncio.run(ask()))
    common = sorted(share, key=lambda number: -share[number])[:5]
    grouped = Counter({number: drawn[number] for number in common})
    grouped[-1] = 250 - sum(grouped.values())
    expected = {number: share[number] for number in common}
    expected[-1] = 1 - sum(expected.values())
    assert chi_square_fits(grouped, expected)


def test_logprobs_are_those_of_the_model_whatever_the_sampling(engine: Engine) -> None:
    prompt = [20, 30, 40]
    settings: dict[str, Any] = {
        "temperature": 0.3, "top_k": 5, "repetition_penalty": 2.0, "logit_bias": {9: 50}, "seed": 1,
    }  # fmt: skip
    reply = engine.generate(prompt, Decoding(max_new_tokens=6, logprobs=3, **settings))
    assert [one.token_id for one in reply.logprobs] == list(reply.ids)
    vocab_size = engine.checkpoint.tokenizer.vocab_size
    for place, told in enumerate(reply.logprobs):
        with torch.inference_mode():
            logits = engine.checkpoint.model(torch.tensor([[*prompt, *reply.ids[:place]]]))
        exact = torch.log_softmax(logits[0, -1, :vocab_size].double(), dim=0)
        assert told.logprob == pytest.approx(float(exact[told.token_id]), abs=1e-4)
        values, ids = exact.topk(3)
        assert [number for number, _ in told.top] == ids.tolist()
        assert [value for _, value in told.top] == pytest.approx(values.tolist(), abs=1e-4)
    assert not engine.generate(prompt, Decoding(max_new_tokens=2)).logprobs


def test_a_logprob_is_the_log_of_the_softmax() -> None:
    told = logprob_of(np.array(LOGITS), 3, 2)
    share = softmax(dict(enumerate(LOGITS)))
    assert math.exp(told.logprob) == pytest.approx(share[3])
    assert [(number, math.exp(value)) for number, value in told.top] == [
        (0, pytest.approx(share[0])), (1, pytest.approx(share[1])),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"logit_bias": {5: 101}}, "logit_bias of id 5 must be between -100 and 100, got 101"),
        ({"logit_bias": {-1: 1}}, "an id in logit_bias must be a whole number"),
        ({"logit_bias": {"x": 1}}, "an id in logit_bias must be a whole number"),
        ({"logit_bias": 3}, "logit_bias must map token ids to numbers, got 3"),
        ({"logit_bias": [1, 2]}, "logit_bias must map token ids to numbers"),
        ({"logit_bias": dict.fromkeys(range(2000), 1)}, "at most 1024 ids, got 2000"),
        ({"temperature": 10**400}, "temperature must be between 0 and 2"),
        ({"temperature": float("nan")}, "temperature must be between 0 and 2, got nan"),
        ({"temperature": 2.1}, "temperature must be between 0 and 2, got 2.1"),
        ({"top_k": 1.5}, "top_k must be a whole number between 0 and 1000000, got 1.5"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1, got 0"),
        ({"min_p": 1.1}, "min_p must be between 0 and 1, got 1.1"),
        ({"repetition_penalty": 0}, "repetition_penalty must be between 0.1 and 10, got 0"),
        ({"presence_penalty": "1"}, "presence_penalty must be between -2 and 2, got '1'"),
        ({"frequency_penalty": -3}, "frequency_penalty must be between -2 and 2, got -3"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram must be a whole number between 0 and 64"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number between 1 and 1000000"),
        ({"seed": 2**63}, "seed must be a whole number between 0 and"),
        ({"stop": [""]}, "stop must be a text or a list of texts, none of them empty"),
        ({"regex": ""}, "regex must be a text that is not empty, got ''"),
        ({"logprobs": 21}, "logprobs must be a whole number between 0 and 20, got 21"),
        ({"logprobs": True}, "logprobs must be a whole number"),
        ({"stop": ["x"] * 17}, "stop takes at most 16 texts of at most 1000 characters, got 17"),
    ],
)
def test_values_out_of_range_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DecodingError, match=words):
        Decoding(**settings)


def test_a_bias_may_come_from_json_and_its_ids_must_be_the_tokenizers(engine: Engine) -> None:
    assert Decoding(logit_bias={"7": 1, 5: 2}).logit_bias == ((5, 2), (7, 1))
    assert hash(Decoding(logit_bias={7: 1}))
    reply = engine.generate([20], Decoding(temperature=0, max_new_tokens=3, logit_bias={9: 100}))
    assert reply.ids == (9, 9, 9)
    with pytest.raises(DecodingError, match="an id in logit_bias must be between 0 and"):
        engine.generate([20], Decoding(logit_bias={100_000: 1}))


@pytest.mark.parametrize("seed", range(4))
def test_the_first_of_several_stop_strings_ends_the_text_however_tokens_cut_it(
    engine: Engine, seed: int
) -> None:
    decoding = Decoding(temperature=1.2, seed=seed, max_new_tokens=80)
    whole = engine.generate([20, 30], decoding)
    tokenizer = engine.checkpoint.tokenizer
    edges = {len(tokenizer.decode(whole.ids[:place])) for place in range(len(whole.ids))}
    edge = next(e for e in sorted(edges) if e > 15 and "\ufffd" not in whole.text[e - 2 : e + 2])
    across = whole.text[edge - 2 : edge + 2]  # begins in one token and ends in another
    later = whole.text[edge + 10 : edge + 14]
    cut = engine.generate([20, 30], decoding.replace(stop=(later, across, "never there")))
    first = min(whole.text.index(stop) for stop in (across, later))
    assert cut.text == whole.text[:first] and cut.finish == "stop"
