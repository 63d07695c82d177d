"""Write a haiku."""

from lmapps import Decoding, plugin, word_f1

# Topics and the replies that are wanted. Thousands are better than a few.
POEMS = {
    "rain": "Rain on the tin roof;\nthe cat counts every footstep\nof the passing cloud.",
    "a train": "The last train has gone.\nOn the empty platform now\ntwo pigeons hold court.",
    "winter": "White breath at the gate.\nThe key remembers the lock\nbefore my hand does.",
    "an old map": "Folded, unfolded,\nthe river has worn a hole\nwhere the village was.",
    "a harbour": "Ropes creak in the dark;\nthe boats nod to each other\nabout the weather.",
    "bread": "Flour on my sleeve.\nThe whole street slows at the smell\nand looks for its source.",
}


# What stands in the brackets is what the form asks for: a name, its type, perhaps a default.
# The text below is the help, and what the function returns is what the model is asked.
@plugin(
    title="Haiku",  # of the tab
    decoding=Decoding(temperature=0.8, top_p=0.9, max_new_tokens=60),
    examples=[["rain"], ["an old map"]],  # rows that fill in the form
)
def haiku(topic: str) -> str:
    """Write a haiku about a topic."""
    return f"Write a haiku about {topic.strip()}."


# What it is trained on: the form as a person might fill it in, and the reply that is wanted.
@haiku.dataset
def poems():
    for topic, poem in POEMS.items():
        yield {"topic": topic}, poem


# The same from a file: `--data haiku=poems.jsonl`, with these names in every line.
@haiku.dataset(fields=("topic", "poem"))
def more_poems(record):
    yield {"topic": record["topic"]}, record["poem"]


# How a reply is scored beside the one that was wanted: higher is better.
@haiku.metric
def words_in_common(reply: str, reference: str, fields: dict) -> float:
    return word_f1(reply, reference)
