"""Logits and `Decoding` -> the next id. Knows no model and no other request.

Shape legend: V vocabulary. Works in float64 on the CPU, so that the same logits and the same
random number give the same id everywhere.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lmapps.decoding import Decoding
from lmapps.errors import CheckpointError, DecodingError
from lmapps.sentence import Sentence

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
RULED_OUT = -9999.0
"""The logarithm of a probability that is told instead of minus infinity, as in OpenAI's API."""
_BLOCK = 128
_NO_IDS, _NO_VALUES = np.empty(0, np.int64), np.empty(0)


@dataclass(frozen=True)
class Logprob:
    """How probable the model found a sampled id, as a natural logarithm."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The most probable ids and theirs, the most probable first."""


def sample(
    logits_V: npt.NDArray[Any],
    decoding: Decoding,
    rng: random.Random,
    seen: Sequence[int] | Ids = (),
    generated: Sequence[int] = (),
    allowed_V: npt.NDArray[np.bool_] | None = None,
) -> int:
    """The next id: the most probable one at temperature 0, else drawn with one random number.

    `seen` are the ids of the prompt and of what was generated, `distinct`. Where `allowed_V` is
    given, it is one of those that are true in it.
    """
    logits = adjusted(logits_V, decoding, seen, generated, allowed_V)
    if decoding.temperature == 0:
        return int(logits.argmax())
    return draw(probabilities(logits, decoding), rng)


def adjusted(
    logits_V: npt.NDArray[Any],
    decoding: Decoding,
    seen: Sequence[int] | Ids = (),
    generated: Sequence[int] = (),
    allowed_V: npt.NDArray[np.bool_] | None = None,
) -> Floats:
    """A copy of the logits with bias and penalties; minus infinity where an id may not come.

    Raises `CheckpointError` where the model gives no numbers, and `DecodingError` where it rules
    out all that is allowed.
    """
    logits = logits_V.astype(np.float64)
    if not np.isfinite(logits.max()):
        raise CheckpointError(
            Sentence("the model's output is not a number: its weights are damaged")
        )
    ids, values = changes(logits_V, decoding, seen, generated)
    logits[ids] = values
    if allowed_V is not None:
        logits[~allowed_V] = -np.inf
        if logits.max() == -np.inf:
            raise DecodingError(
                Sentence(
                    "the reply cannot go on: the model rules out every token that the regex or "
                    "schema allows here"
                )
            )
    if banned := completing(generated, decoding.no_repeat_ngram):
        without = logits.copy()
        without[banned] = -np.inf
        if without.max() > -np.inf:  # else every id is banned, and one of them it must be
            return without
    return logits


def logprob_of(logits_V: npt.NDArray[Any], token_id: int, top: int) -> Logprob:
    """Log-softmax of the model's own logits at an id, and at the `top` most probable ids; what a
    model rules out has `RULED_OUT`, since JSON has no infinity.
    """
    logits = logits_V.astype(np.float64)
    shifted = logits - logits.max()
    logprobs = np.maximum(shifted - np.log(np.exp(shifted).sum()), RULED_OUT)
    least = _largest(logprobs, min(top, len(logprobs))) if top else np.inf
    likely = np.flatnonzero(logprobs >= least)
    order = likely[np.argsort(-logprobs[likely], kind="stable")][:top]
    ranked = tuple((int(place), float(logprobs[place])) for place in order)
    return Logprob(token_id, float(logprobs[token_id]), ranked)


def probabilities(logits_V: Floats, decoding: Decoding) -> Floats:
    """Softmax at the temperature, after top-k, top-p (Holtzman et al., 2020) and min-p."""
    weights = logits_V - logits_V.max()  # first: divided by almost nothing it is still 0
    with np.errstate(over="ignore"):
        weights /= decoding.temperature
    if 0 < decoding.top_k < len(weights):
        weights[weights < _largest(weights, decoding.top_k)] = -np.inf
    np.exp(weights, out=weights)
    weights /= weights.sum()
    if decoding.top_p < 1:
        _keep_most_probable(weights, decoding.top_p)
    if decoding.min_p > 0:
        weights[weights < decoding.min_p * weights.max()] = 0
    weights /= weights.sum()
    return weights


def _largest(values_V: Floats, number: int) -> float:
    """The value that so many reach. Where as many blocks reach a value, it is at least that."""
    blocks = np.maximum.reduceat(values_V, np.arange(0, len(values_V), _BLOCK))
    if number <= len(blocks):
        values_V = values_V[values_V >= np.partition(blocks, -number)[-number]]
    return float(np.partition(values_V, -number)[-number])


def _keep_most_probable(weights_V: Floats, top_p: float) -> None:
    """Zeros, in place, behind the first ids that together reach `top_p`.

    All ids that are rarer than (1 - top_p) / V together do not make up 1 - top_p, so they stand
    behind: only the others, usually few, are put in order.
    """
    likely = np.flatnonzero(weights_V >= (1 - top_p) / len(weights_V))
    order = likely[np.argsort(-weights_V[likely], kind="stable")]
    ranked = weights_V[order]
    is_kept = np.cumsum(ranked) - ranked < top_p
    weights_V[:] = 0
    weights_V[order[is_kept]] = ranked[is_kept]


def draw(probabilities_V: Floats, rng: random.Random) -> int:
    """An id by the inverse of the cumulative distribution, in the order of the ids.

    First among blocks of ids, then in one: a running sum of the whole vocabulary takes longer than
    all the rest.
    """
    starts = np.arange(0, len(probabilities_V), _BLOCK)
    blocks = np.add.reduceat(probabilities_V, starts)
    number, rest = _reached(blocks, rng.random() * blocks.sum())
    start = number * _BLOCK
    return start + _reached(probabilities_V[start : start + _BLOCK], rest)[0]


def _reached(weights: Floats, target: float) -> tuple[int, float]:
    """Where the running sum first exceeds the target, and what of the target is left there."""
    sums = np.cumsum(weights)
    place = int(np.searchsorted(sums, target, side="right"))
    if place == len(sums):  # rounding: the sum in another order was larger
        place = int(np.flatnonzero(weights)[-1])
    return place, target - (float(sums[place - 1]) if place else 0.0)


def is_plain(decoding: Decoding) -> bool:
    """Whether the ids that were there before, and a bias, have no part in what comes next."""
    penalises = decoding.presence_penalty or decoding.frequency_penalty
    penalises = penalises or decoding.repetition_penalty != 1
    return not (penalises or decoding.logit_bias or decoding.no_repeat_ngram)


def distinct(ids: Sequence[int]) -> Ids:
    """Each id once, in their order."""
    return np.unique(np.array(ids, np.int64))


def with_id(ids: Ids, token_id: int) -> Ids:
    """Distinct ids and one that may be new among them."""
    place = int(np.searchsorted(ids, token_id))
    is_there = place < len(ids) and ids[place] == token_id
    return ids if is_there else np.insert(ids, place, token_id)


def changes(
    logits_V: npt.NDArray[Any],
    decoding: Decoding,
    seen: Sequence[int] | Ids,
    generated: Sequence[int],
) -> tuple[Ids, Floats]:
    """The ids whose logits bias and penalties change, and their new ones (repetition: Keskar et
    al., CTRL, 2019)."""
    penalty = decoding.repetition_penalty
    presence, frequency = decoding.presence_penalty, decoding.frequency_penalty
    if penalty == 1 and not (decoding.logit_bias or presence or frequency):
        return _NO_IDS, _NO_VALUES
    bias = dict(decoding.logit_bias)
    lowered = np.asarray(seen if penalty != 1 else (), np.int64)
    counts: dict[int, int] = Counter(generated) if presence or frequency else {}
    biased, counted = np.array([*bias], np.int64), np.array([*counts], np.int64)
    ids = lowered
    if bias or counts:
        ids = np.unique(np.concatenate((biased, lowered, counted)))
    values = logits_V[ids].astype(np.float64)
    if bias:
        values[np.searchsorted(ids, biased)] += [*bias.values()]
    if len(lowered):
        places = slice(None) if ids is lowered else np.searchsorted(ids, lowered)
        before = values[places]
        values[places] = np.where(before > 0, before / penalty, before * penalty)
    if counts:
        times = np.array([*counts.values()])
        values[np.searchsorted(ids, counted)] -= presence + frequency * times
    return ids, values


class Runs:
    """The runs of `size` ids in a reply so far: what `completing` looks for anew each time."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._ends: dict[tuple[int, ...], set[int]] = {}
        """What came after so many ids less one."""

    def add(self, generated: Sequence[int]) -> None:
        """The reply has one id more."""
        if self._size and len(generated) >= self._size:
            *before, last = generated[-self._size :]
            self._ends.setdefault(tuple(before), set()).add(last)

    def completing(self, generated: Sequence[int]) -> Collection[int]:
        """`completing`, in any order."""
        if not self._ends:
            return ()
        return self._ends.get(tuple(generated[len(generated) - self._size + 1 :]), ())


def completing(generated: Sequence[int], size: int) -> list[int]:
    """The ids that would complete a run of `size` ids that is already there."""
    if not size or len(generated) < size:
        return []
    if size == 1:
        return sorted(set(generated))
    *before, last = generated[len(generated) - size + 1 :]
    banned, place = set[int](), size - 3
    with suppress(ValueError):  # where it does not come again; the search itself is C's
        while True:
            place = generated.index(last, place + 1, len(generated) - 1)
            if list(generated[place - size + 2 : place]) == before:
                banned.add(generated[place + 1])
    return sorted(banned)
