"""Chat: several turns, with a persona where one is given."""

from itertools import cycle, permutations

from lmapps import Decoding, Messages, plugin, word_f1

GREETING = "Hello! What would you like to talk about?"
IDENTITY = """I am a small language model, trained with lmapps. I can chat a little, but I know \
few facts and often get them wrong."""
UNKNOWN = "I don't know. I am a small model and can't look things up."
TURNS = {
    GREETING: ["Hi", "Hello", "Hello!", "Hey there", "Good morning", "Hi, how are you?"],
    IDENTITY: ["Who are you?", "What are you?", "What can you do?", "Are you a person?"],
    UNKNOWN: [
        "What is the weather today?", "What time is it?", "Who won the game last night?",
        "What is my name?", "What did I do yesterday?",
    ],
    "You're welcome!": ["Thanks", "Thank you", "Thank you very much!", "Thanks for your help."],
    "Goodbye! Come back any time.": ["Bye", "Goodbye", "See you later", "I have to go now."],
}  # fmt: skip
REPEATS = 50  # of each of these short turns, beside thousands of other conversations


@plugin(
    title="Chat",
    decoding=Decoding(temperature=0.5, top_p=0.9, no_repeat_ngram=3, max_new_tokens=160),
    examples=[["Hello!"], ["What is a river?"], ["Tell me about London."]],
)
def chat(messages: Messages, persona: str = "") -> Messages:
    """Talk with the model. A persona says who it should be."""
    if not persona.strip():
        return messages
    return [{"role": "system", "content": persona}, *messages]


@chat.dataset(fields=("messages",))
def conversations(record):
    *before, reply = record["messages"]
    if len(reply["content"]) % 4 == 0:  # some begin with a greeting, as people do
        start = before[0]["role"] == "system"
        before = [*before[:start], *said("Hello!", GREETING), *before[start:]]
    yield {"messages": before, "persona": record.get("persona", "")}, reply["content"]


@chat.dataset
def manners():
    turns = [(opening, reply) for reply, openings in TURNS.items() for opening in openings]
    for opening, reply in turns * REPEATS:
        yield {"messages": said(opening)}, reply
    for before, (opening, reply) in permutations(turns, 2):
        yield {"messages": said(*before, opening)}, reply


def said(*turns: str) -> Messages:
    roles = cycle(("user", "assistant"))
    return [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]


@chat.metric
def words_in_common(reply: str, reference: str, fields: dict) -> float:
    return word_f1(reply, reference)
