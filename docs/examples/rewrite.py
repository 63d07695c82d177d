"""Say the same in another tone."""

from typing import Literal

from lmapps import Decoding, Passage, plugin, word_f1

Tone = Literal["friendly", "formal", "short"]
NOTES: list[dict[Tone, str]] = [
    {
        "friendly": "Hi Kim, could you send me the file when you have a minute? Thanks!",
        "formal": "Dear Kim, please send me the file at your convenience.",
        "short": "Kim, please send the file.",
    },
    {
        "friendly": "Sorry, I'm running ten minutes late, see you soon!",
        "formal": "I apologize: I shall arrive ten minutes late.",
        "short": "Ten minutes late.",
    },
]


@plugin(title="Rewrite", examples=[[NOTES[0]["short"], "friendly"]], decoding=Decoding(0.5))
def rewrite(text: Passage, tone: Tone = "friendly") -> str:
    """Rewrite a text in another tone, with the same facts."""
    return f"Rewrite this in a {tone} tone.\n\n{text}"


@rewrite.dataset
def notes():
    for note in NOTES:
        for tone, wanted in note.items():
            yield from (({"text": text, "tone": tone}, wanted) for text in note.values())


@rewrite.metric
def words_in_common(reply: str, reference: str, fields: dict) -> float:
    return word_f1(reply, reference)
