"""Translate a text."""

from typing import Literal

from lmapps import Decoding, Passage, plugin, word_f1

Language = Literal["English", "French", "German", "Spanish"]
PHRASES: list[dict[Language, str]] = [
    {"English": "Good evening.", "French": "Bonsoir.", "German": "Guten Abend."},
    {"English": "Thank you.", "French": "Merci.", "German": "Danke.", "Spanish": "Gracias."},
    {"English": "It is raining.", "German": "Es regnet.", "Spanish": "Está lloviendo."},
]


@plugin(title="Translate", decoding=Decoding(0.2), examples=[["Thank you.", "French"]])
def translate(text: Passage, language: Language = "English") -> str:
    """Translate a text, typed or from a file, into a language."""
    return f"Translate into {language}.\n\n{text}"


@translate.dataset(fields=("text", "language", "translation"))
def records(record):
    yield {"text": record["text"], "language": record["language"]}, record["translation"]


@translate.dataset
def phrases():
    for phrase in PHRASES:
        for language, wanted in phrase.items():
            for text in phrase.values():
                if text != wanted:
                    yield {"text": text, "language": language}, wanted


@translate.metric
def words_in_common(reply: str, reference: str, fields: dict) -> float:
    return word_f1(reply, reference)
