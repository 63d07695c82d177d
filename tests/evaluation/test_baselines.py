"""What is trivial is scored beside the model: by counting, by the beginning, by nothing at all."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lmapps import Passage, plugin, rouge_l
from lmapps.evaluation.baselines import DISCOUNT, Trigram, baseline_scores, lead, trigram_on
from lmapps.evaluation.overlap import overlap_scores
from lmapps.plugin import Example, Plugin
from lmapps.text.corpus import build_corpus
from lmapps.text.tokenizer import Tokenizer
from tests.conftest import brought


def by_definition(train: list[int], ids: list[int], size: int) -> float:
    """Absolute discounting, one token after another."""
    unigrams = Counter(train)
    counts = [Counter(zip(*(train[n:] for n in range(order)), strict=False)) for order in (2, 3)]

    def probability(context: tuple[int, ...], token: int) -> float:
        if not context:
            return (unigrams[token] + 1) / (len(train) + size)
        shorter = probability(context[1:], token)
        followers = {g: n for g, n in counts[len(context) - 1].items() if g[:-1] == context}
        total = sum(followers.values())
        if not total:
            return shorter
        own = max(followers.get((*context, token), 0) - DISCOUNT, 0)
        return own / total + DISCOUNT * len(followers) / total * shorter

    logs = [
        math.log(probability(tuple(ids[max(0, place - 2) : place]), ids[place]))
        for place in range(1, len(ids))
    ]
    return -sum(logs) / len(logs)


def test_the_trigram_model_is_that_of_its_definition() -> None:
    random = np.random.default_rng(0)
    train, ids = random.integers(0, 7, 300), random.integers(0, 9, 80)
    expected = by_definition(train.tolist(), ids.tolist(), 9)
    assert Trigram(train, 9).loss(ids) == pytest.approx(expected, rel=1e-9)


def test_the_trigram_models_probabilities_add_up_to_one() -> None:
    train = np.array([0, 1, 2, 0, 1, 3, 0, 1, 2, 4])
    for context in ([0, 1], [4, 4], [1, 3]):
        before = Trigram(train, 6).loss(np.array(context))
        losses = [Trigram(train, 6).loss(np.array([*context, n])) * 2 - before for n in range(6)]
        assert sum(math.exp(-loss) for loss in losses) == pytest.approx(1)


def test_a_split_of_a_corpus_is_scored_in_bits_per_byte(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The cat sat on the mat, and the dog sat on the cat. " * 200)
    tokenizer = Tokenizer.train([(tmp_path / "a.txt").read_text()], "bpe", 300)
    corpus = build_corpus([tmp_path / "a.txt"], tokenizer, tmp_path / "tokens")
    scores = trigram_on(corpus, tokenizer, "test")
    assert scores["loss"] is not None and scores["bits_per_byte"] is not None
    assert 0 < scores["bits_per_byte"] < 1 and scores["unknown_rate"] is None
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four.", "One. Two! Three?"),
        ('He paid 3.50 for it. "Good." Done.\n\nMore.', 'He paid 3.50 for it. "Good." Done.'),
        ("今天天气很好。我们去公园。你呢？好的。", "今天天气很好。 我们去公园。 你呢？"),
        ("No end at all", "No end at all"),
        ("", ""),
    ],
)
def test_the_lead_is_the_first_three_sentences(text: str, expected: str) -> None:
    assert lead(text) == expected


@pytest.fixture
def shorten() -> Plugin:
    @plugin
    def shorten(text: Passage) -> str:
        """Shorten."""
        return f"Shorten: {text}"

    @shorten.metric
    def overlap(reply: str, reference: str, fields: dict) -> float:
        return rouge_l(reply, reference)

    return shorten


def test_an_application_is_scored_for_nothing_and_for_the_beginning(shorten: Plugin) -> None:
    text = "A dog ran. A cat sat. A bird sang. A fish swam."
    examples = [Example({"text": text}, "A dog ran.", "A dog ran.")] * 2
    scores = baseline_scores(shorten, examples)
    assert scores["empty reply"] == {"overlap": 0.0}
    assert scores["first 3 sentences"]["overlap"] == pytest.approx(2 * 3 / (3 + 9))


def test_a_metric_that_cannot_take_an_empty_reply_leaves_that_baseline_out(shorten: Plugin) -> None:
    @shorten.metric
    def first_letter(reply: str, reference: str, fields: dict) -> float:
        return float(reply[0] == reference[0])

    scores = baseline_scores(shorten, [Example({"text": "A dog."}, "A", "A")])
    assert list(scores) == ["first 3 sentences"]


def test_rouge_and_bleu_are_those_of_the_packages_in_any_script() -> None:
    brought("rouge_score")
    brought("sacrebleu")
    same = "the cat sat on the mat today"
    scores = overlap_scores([same], [same])
    assert scores["rougeL"] == scores["rouge1"] == 1 and scores["bleu"] == pytest.approx(100)
    half = overlap_scores(["今天天气好"], ["今天天气很好"])
    assert half["rouge1"] == pytest.approx(2 * 5 / 11) and 50 < half["bleu"] < 60
    chinese = overlap_scores(["今天天气很好。"], ["今天天气很好！"])
    assert chinese["bleu"] == pytest.approx(100)
    assert overlap_scores(["a b d c"], ["a b c"])["rougeL"] == rouge_l("a b d c", "a b c")
    assert overlap_scores(["x"], [{"tests": []}]) == {}
