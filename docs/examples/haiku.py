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


# Title of the tab; how replies are sampled; rows that fill in the form.
@plugin(title="Haiku", decoding=Decoding(max_new_tokens=60), examples=[["rain"], ["an old map"]])
def haiku(topic: str) -> str:  # the form: a name, its type, perhaps a default
    """Write a haiku about a topic."""  # the help
    return f"Write a haiku about {topic.strip()}."  # what the model is asked


@haiku.dataset  # what it is trained on: the form filled in, and the reply that is wanted
def poems():
    for topic, poem in POEMS.items():
        yield {"topic": topic}, poem


@haiku.dataset(fields=("topic", "poem"))  # more of it, from `--data haiku=poems.jsonl`
def more_poems(record):
    yield {"topic": record["topic"]}, record["poem"]


@haiku.metric  # how a reply is scored beside the one that was wanted; higher is better
def words_in_common(reply: str, reference: str, fields: dict) -> float:
    return word_f1(reply, reference)
