"""News: an article for a headline."""

from typing import Literal

from lmapps import Decoding, plugin, whole_sentences, word_f1

LENGTHS = {"one paragraph": 450, "a few paragraphs": 1100}  # characters of a training article


@plugin(
    title="News",
    decoding=Decoding(temperature=0.6, top_p=0.9, no_repeat_ngram=6, max_new_tokens=320),
    finish=whole_sentences,
    examples=[
        ["Storm closes airport for two days", "weather", "news report", "one paragraph"],
        ["Scientists find new planet near a distant star", "", "news report", "a few paragraphs"],
        ["Five ways to make a website easier to use", "", "blog post", "a few paragraphs"],
    ],
)
def news(
    headline: str,
    topic: str = "",
    style: Literal["news report", "blog post"] = "news report",
    length: Literal["one paragraph", "a few paragraphs"] = "one paragraph",
) -> str:
    """Write an article for a headline. Everything in it is made up: don't take it as true."""
    about = f" about {topic.strip()}" if topic.strip() else ""
    return f"Write a {style}{about}, {length} long.\nHeadline: {headline}"


@news.dataset(fields=("headline", "body", "source"))
def articles(record):
    headline, body = record["headline"], record["body"]
    length = list(LENGTHS)[len(body) % 2]
    words = [word for word in headline.split() if word.isalpha() and word in body]
    yield (
        {
            "headline": headline,
            "topic": max(words, key=len) if words and len(headline) % 3 == 0 else "",
            "style": "news report" if record["source"] == "wikinews" else "blog post",
            "length": length,
        },
        first_paragraphs(body, LENGTHS[length]),
    )


def first_paragraphs(body: str, characters: int) -> str:
    """Whole paragraphs up to about so many characters; at least a part of the first."""
    first, *rest = (part.strip() for part in body.split("\n\n"))
    text = first if len(first) <= 2 * characters else whole_sentences(first[:characters])
    for paragraph in rest:
        if len(text) + len(paragraph) > characters:
            break
        text += "\n\n" + paragraph
    return text


@news.metric
def words_in_common(reply: str, reference: str, fields: dict) -> float:
    return word_f1(reply, reference)
