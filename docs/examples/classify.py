"""Say whether a review is glad or not: the reply is one of three words, and can be nothing else."""

from typing import Literal

from lmapps import Decoding, Passage, plugin

Feeling = Literal["positive", "neutral", "negative"]
REVIEWS: dict[Feeling, list[str]] = {
    "positive": ["Best soup in town.", "It works, and so quietly!", "My children love it."],
    "neutral": ["It came on Tuesday.", "It is a kettle.", "Two of the five parts are blue."],
    "negative": ["It broke on the first day.", "Cold, slow and dear.", "Never again."],
}


@plugin(
    title="Feeling",
    reply=Feeling,
    decoding=Decoding(temperature=0),
    examples=[["The room was clean and the people were kind."]],
)
def classify(review: Passage) -> str:
    """Say whether a review is positive, neutral or negative.

    Args:
        review: What somebody wrote about a thing or a place.
    """
    return f"Is this review positive, neutral or negative?\n\n{review}"


@classify.dataset
def labelled():
    for feeling, reviews in REVIEWS.items():
        for review in reviews:
            yield {"review": review}, feeling


@classify.metric
def right(reply: Feeling, reference: Feeling, fields: dict) -> float:
    return reply == reference
