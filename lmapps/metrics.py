"""A reply and a reference -> a score from 0 to 1: what a plugin's metric can use.

Written here because each is a few lines; the packages for them bring whole toolkits along.
A word may be of any script, and each Chinese or Japanese character is one.
"""

from __future__ import annotations

import ast
from collections import Counter

from lmapps.replies import code_of
from lmapps.words import words_of


def rouge_l(reply: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (Lin, "ROUGE", 2004), without stemming."""
    ours, theirs = words_of(reply), words_of(reference)
    lengths = [0] * (len(theirs) + 1)
    for word in ours:
        diagonal = 0
        for place, other in enumerate(theirs, start=1):
            diagonal, lengths[place] = (
                lengths[place],
                diagonal + 1 if word == other else max(lengths[place], lengths[place - 1]),
            )
    return _f1(lengths[-1], len(ours), len(theirs))


def word_f1(reply: str, reference: str) -> float:
    """F1 of the words in common, in any order (Rajpurkar et al., "SQuAD", 2016)."""
    ours, theirs = words_of(reply), words_of(reference)
    return _f1(sum((Counter(ours) & Counter(theirs)).values()), len(ours), len(theirs))


def parses_as_python(reply: str) -> float:
    """1 where the reply's code is Python by its grammar, else 0. Nothing is run."""
    code = code_of(reply)
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return 0.0
    return 1.0 if code.strip() else 0.0


def _f1(common: int, ours: int, theirs: int) -> float:
    return 2 * common / (ours + theirs) if ours + theirs else 0.0
