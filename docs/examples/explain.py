"""Explain code."""

from typing import Literal

from lmapps import Decoding, Passage, plugin, whole_sentences, word_f1

LINES = {
    "total = sum(prices)": "It adds up all prices and keeps the result as total.",
    "names.sort()": "It puts the names in order, in the list itself.",
    "if not line.strip():\n    continue": "It skips lines that are empty or only spaces.",
    "with open(path) as file:\n    text = file.read()": "It reads a whole file and closes it.",
}


@plugin(
    title="Explain code",
    decoding=Decoding(temperature=0.3, max_new_tokens=160),
    finish=whole_sentences,
    examples=[["names.sort()", "a beginner"]],
)
def explain(code: Passage, reader: Literal["a beginner", "a programmer"] = "a beginner") -> str:
    """Say in words what a piece of code does."""
    return f"Explain to {reader} what this code does.\n\n```\n{code.strip()}\n```"


@explain.dataset
def explained():
    for code, words in LINES.items():
        yield {"code": code}, words


@explain.metric
def words_in_common(reply: str, reference: str, fields: dict) -> float:
    return word_f1(reply, reference)
