"""A story in which the person chooses how it goes on."""

from typing import Literal

from lmapps import Decoding, Messages, plugin, word_f1

OPENING = (
    "You stand on a pier at night. A boat without a crew bumps against the stones.\n\n"
    "1. Step into the boat.\n2. Call out.\n3. Walk back to the light."
)
NEXT = {
    "1": "It drifts off at once. A lamp lies at your feet.\n\n1. Light it.\n2. Row.\n3. Jump.",
    "2": "A voice answers from below.\n\n1. Ask its name.\n2. Lie down and look.\n3. Run.",
    "3": "The light is a door, ajar.\n\n1. Knock.\n2. Go in.\n3. Listen.",
}


@plugin(title="Story", decoding=Decoding(max_new_tokens=160), examples=[["A pier at night"]])
def story(messages: Messages, mood: Literal["eerie", "funny", "calm"] = "eerie") -> Messages:
    """Say where the story begins, then answer with the number of a choice."""
    rules = f"Tell a story, {mood}, a few sentences at a time. End each part with three choices."
    return [{"role": "system", "content": rules}, *messages]


@story.dataset
def turns():
    begin = {"role": "user", "content": "A pier at night"}
    yield {"messages": [begin]}, OPENING
    for choice, part in NEXT.items():
        told = {"role": "assistant", "content": OPENING}
        yield {"messages": [begin, told, {"role": "user", "content": choice}]}, part


@story.metric
def words_in_common(reply: str, reference: str, fields: dict) -> float:
    return word_f1(reply, reference)
