"""Summarize: a text or a file, shortened. A long one is read in parts."""

from typing import Literal

from lmapps import Decoding, Passage, plugin, whole_sentences
from lmapps import rouge_l as rouge

ROUNDS = 4  # of reading in parts, before the beginning alone has to do


@plugin(
    title="Summarize",
    decoding=Decoding(temperature=0.3, top_p=0.9, no_repeat_ngram=6, max_new_tokens=128),
    finish=whole_sentences,
    examples=[
        [
            "The town council met on Tuesday to discuss the old bridge. Engineers said that it is "
            "no longer safe for heavy trucks and that repairs would cost two million dollars. The "
            "council will vote next month on whether to repair it or to build a new one.",
            "one sentence",
        ]
    ],
)
def summarize(
    text: Passage,
    length: Literal["a headline", "one sentence", "a paragraph"] = "one sentence",
):
    """Shorten a text, typed or from a file. A long one is summarized in parts, then as a whole."""
    for _ in range(ROUNDS):
        if text.fits:
            break
        notes = yield [prompt(part, "one sentence") for part in text.parts()]
        text = text.with_text("\n".join(notes))
    yield prompt(text if text.fits else text.parts()[0], length)


def prompt(text: str, length: str) -> str:
    return f"Summarize the text in {length}.\n\n{text}"


@summarize.dataset(fields=("document", "summary", "kind"))
def pairs(record):
    summary = record["summary"]
    length = "one sentence" if len(summary) < 200 else "a paragraph"
    if record["kind"] == "headline":
        length = "a headline"
    yield {"text": record["document"], "length": length}, summary


@summarize.metric
def rouge_l(reply: str, reference: str, fields: dict) -> float:
    return rouge(reply, reference)
