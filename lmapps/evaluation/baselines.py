"""Held-out data -> the scores of something trivial: what a model must beat to be worth anything."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lmapps.errors import PluginError
from lmapps.evaluation.language import unknown_rate
from lmapps.plugin import Example, Plugin
from lmapps.text.corpus import Corpus, Split, spread
from lmapps.text.tokenizer import Tokenizer

LEAD = 3
"""Sentences: the beginning of a news article is hard to beat as its summary (Nenkova, 2005)."""
TRAINING_TOKENS = 5_000_000
"""An n-gram model is counted on at most so many, from all over the training text."""
DISCOUNT = 0.75

Ids = npt.NDArray[np.int64]

_SENTENCE = re.compile(r"\S.*?(?:[.!?…][\"'”’)\]]*(?=\s)|[。！？][”’」』）]*|\n\n|\Z)", re.S)


def baseline_scores(plugin: Plugin, examples: Sequence[Example]) -> dict[str, dict[str, float]]:
    """Each metric's mean for the empty reply and, where there is a long text, for its beginning."""
    trivial: dict[str, Callable[[Example], str]] = {"empty reply": lambda example: ""}
    field = plugin.passage_field
    if field is not None:
        trivial[f"first {LEAD} sentences"] = lambda example: lead(str(example.fields[field]))
    found = {}
    for name, reply in trivial.items():
        try:
            scores = [plugin.scores(reply(example), example) for example in examples]
        except PluginError:  # a metric that cannot take such a reply says nothing about it
            continue
        if scores:
            found[name] = {
                metric: sum(values[metric] for values in scores) / len(scores)
                for metric in plugin.metrics
            }
    return found


def lead(text: str, sentences: int = LEAD) -> str:
    """The first sentences of a text."""
    found = [match.group().strip() for match in _SENTENCE.finditer(text)]
    return " ".join(found[:sentences])


class Trigram:
    """Probabilities of a token after the two before it, by counting.

    Interpolated absolute discounting (Ney, Essen and Kneser, 1994) of trigrams, bigrams and
    unigrams, these with one added to each count.
    """

    def __init__(self, ids: npt.NDArray[Any], vocab_size: int) -> None:
        self.size = vocab_size
        ids = np.asarray(ids, dtype=np.int64)
        self.unigrams = (np.bincount(ids, minlength=vocab_size) + 1) / (len(ids) + vocab_size)
        self.orders = [_Counts(_places(ids, 1, vocab_size), ids[1:], vocab_size)]
        if len(ids) > 2:
            self.orders.append(_Counts(_places(ids, 2, vocab_size), ids[2:], vocab_size))

    def loss(self, ids: npt.NDArray[Any]) -> float:
        """Mean negative log-likelihood of ids[1:], in nats."""
        ids = np.asarray(ids, dtype=np.int64)
        probability = self.unigrams[ids[1:]]
        for order, counts in enumerate(self.orders, start=1):
            longer = counts.probability(_places(ids, order, self.size), ids[order:],
                                        probability[order - 1 :])  # fmt: skip
            probability = np.concatenate([probability[: order - 1], longer])
        return float(-np.log(probability).mean())


class _Counts:
    """How often each token followed each context, contexts being numbers."""

    def __init__(self, contexts: Ids, tokens: Ids, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.grams, self.gram_counts = np.unique(contexts * vocab_size + tokens, return_counts=True)
        self.contexts, starts = np.unique(self.grams // vocab_size, return_index=True)
        self.totals = np.add.reduceat(self.gram_counts, starts)
        self.kinds = np.diff(np.append(starts, len(self.grams)))

    def probability(
        self, contexts: Ids, tokens: Ids, shorter: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """p(token | context), given that by a shorter context."""
        count = _look_up(self.grams, self.gram_counts, contexts * self.vocab_size + tokens)
        total = _look_up(self.contexts, self.totals, contexts)
        kinds = _look_up(self.contexts, self.kinds, contexts)
        seen = np.maximum(total, 1)
        mixed = np.maximum(count - DISCOUNT, 0) / seen + DISCOUNT * kinds / seen * shorter
        return np.where(total > 0, mixed, shorter)


def trigram_scores(
    corpus: Corpus, tokenizer: Tokenizer, ids: npt.NDArray[Any], bytes_per_token: float
) -> dict[str, float | None]:
    """A trigram model of the training text, on other ids of the same vocabulary: the scores of
    `LanguageScores` but for the accuracy."""
    train = spread(corpus.ids("train"), TRAINING_TOKENS)
    loss, rate = Trigram(train, tokenizer.vocab_size).loss(ids), unknown_rate(ids, tokenizer)
    return {
        "loss": loss,
        "perplexity": math.exp(loss),
        "bits_per_byte": None if rate else loss / math.log(2) / bytes_per_token,
        "tokens": len(ids) - 1,
        "unknown_rate": rate,
    }


def trigram_on(
    corpus: Corpus, tokenizer: Tokenizer, split: Split, most_tokens: int | None = None
) -> dict[str, float | None]:
    """`trigram_scores` on a split of the corpus itself, the whole or so many tokens all over it."""
    counts = corpus.splits[split]
    ids = spread(corpus.ids(split), most_tokens)
    return trigram_scores(corpus, tokenizer, ids, counts.bytes / max(1, counts.tokens))


def _places(ids: Ids, order: int, vocab_size: int) -> Ids:
    """The `order` ids before each position, as one number."""
    context = ids[: len(ids) - order]
    for step in range(1, order):
        context = context * vocab_size + ids[step : len(ids) - order + step]
    return context


def _look_up(keys: Ids, values: npt.NDArray[Any], wanted: Ids) -> npt.NDArray[np.float64]:
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0).astype(np.float64)
