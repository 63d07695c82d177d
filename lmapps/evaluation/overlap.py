"""Replies and reference texts -> ROUGE and BLEU of the packages that papers use.

Part of the extra `evaluation`: rouge-score (Google's re-implementation of Lin, 2004) and sacrebleu
(Post, 2018). Words are those of any script, in small letters and without punctuation, and each
Chinese or Japanese character is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmapps.words import words_of


class _Words:
    """rouge-score's own words are runs of a-z and 0-9 only."""

    def tokenize(self, text: str) -> list[str]:
        return words_of(text)


def overlap_scores(replies: Sequence[str], references: Sequence[Any]) -> dict[str, float]:
    """Mean F1 of ROUGE-1, -2 and -L (0 to 1), and BLEU of all replies together (0 to 100).

    Empty where a reference is no text, or the packages are not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        return {}
    if not replies or not all(isinstance(reference, str) for reference in references):
        return {}
    kinds = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(kinds, tokenizer=_Words())
    scores = [scorer.score(right, ours) for ours, right in zip(replies, references, strict=True)]
    means = {kind: sum(score[kind].fmeasure for score in scores) / len(scores) for kind in kinds}
    ours, theirs = ([" ".join(words_of(text)) for text in texts] for texts in (replies, references))
    return {**means, "bleu": float(BLEU(tokenize="none").corpus_score(ours, [theirs]).score)}
