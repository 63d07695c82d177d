"""A conversation -> what the model sees of it: ids, their text, and which of them training counts.

It is read off the template that makes the live request, not rendered a second way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from lmapps.decoding import Decoding
from lmapps.messages import Message
from lmapps.text.template import Template
from lmapps.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Token:
    """One id of a prompt."""

    id: int
    text: str
    """What it writes; '' where a character is whole only with the next id."""
    control: bool
    """Whether it is a role marker or ends a turn: a text can't contain it."""
    counted: bool
    """Whether training counts it: it belongs to a reply."""


@dataclass(frozen=True)
class Explanation:
    """One prompt as the model reads it, and how it is to go on."""

    tokens: tuple[Token, ...]
    decoding: Decoding
    prompts: int = 1
    """How many run side by side, of which this is the first."""
    template: str = ""
    """The hash of the chat template."""

    @property
    def text(self) -> str:
        """The rendered prompt."""
        return "".join(token.text for token in self.tokens)

    @property
    def settings(self) -> str:
        """The decoding settings that differ from the usual ones, and the temperature."""
        usual = Decoding()
        changed = {
            field.name: getattr(self.decoding, field.name)
            for field in fields(Decoding)
            if getattr(self.decoding, field.name) != getattr(usual, field.name)
        }
        shown = {"temperature": self.decoding.temperature, **changed}
        return ", ".join(f"{name} = {value}" for name, value in shown.items())


def explain(
    messages: Sequence[Message], template: Template, decoding: Decoding, prompts: int = 1
) -> Explanation:
    """What the model is given for a conversation that fits."""
    ids, mask = template.prompt(messages)
    texts = texts_of(ids, template.tokenizer)
    control = template.tokenizer.control_ids
    tokens = (
        Token(number, text, number in control, counted)
        for number, text, counted in zip(ids, texts, mask, strict=True)
    )
    return Explanation(tuple(tokens), decoding, prompts, template.hash)


def texts_of(ids: list[int], tokenizer: Tokenizer) -> list[str]:
    """What each id adds to the text."""
    texts = []
    stream = tokenizer.decode_stream()
    for number in ids:
        if number in tokenizer.control_ids:
            texts.append(str(tokenizer.raw.id_to_token(number)))
            stream = tokenizer.decode_stream()
        else:
            texts.append(stream.step(number))
    return texts
