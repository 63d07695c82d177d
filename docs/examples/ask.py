"""Answer a question about a document, of any length."""

from lmapps import Decoding, Passage, plugin, word_f1

OFFICE = (
    "The office is open from nine to five. Parcels are kept in room 12 for two weeks. Lost keys "
    "are handed out by Ms Rahimi against a signature."
)
ANSWERS = {
    "When does the office open?": "At nine.",
    "Where are the parcels?": "In room 12.",
    "Who has the lost keys?": "Ms Rahimi.",
}


@plugin(
    title="Ask a document",
    decoding=Decoding(temperature=0.1, max_new_tokens=80),
    examples=[[OFFICE, "Where are the parcels?"]],
)
def ask(document: Passage, question: str) -> str:
    """Answer a question from a document. Of a long one, the part most like the question is read."""
    part = max(document.parts(), key=lambda part: word_f1(question, part))
    return f"{part}\n\nAnswer from the text above, in a few words: {question}"


@ask.dataset
def answers():
    for question, answer in ANSWERS.items():
        yield {"document": OFFICE, "question": question}, answer


@ask.metric
def words_in_common(reply: str, reference: str, fields: dict) -> float:
    return word_f1(reply, reference)
