"""A reply, how it was made and what the model was given -> a folded panel that shows the inside."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from lmapps.engine.application import Asked
from lmapps.engine.backends.backend import Backend
from lmapps.engine.models import Models
from lmapps.engine.scoring import Score
from lmapps.server.page.chat.saw import Saw
from lmapps.server.page.chat.tokens import tokens_html, tokens_view
from lmapps.server.page.languages import later, word
from lmapps.server.page.plugins import cell
from lmapps.server.page.widgets import QUIET
from lmapps.server.store.conversation import Conversation, Turn
from lmapps.server.store.made import Made
from lmapps.server.who import who_on_page

EMPTY = later("Nothing yet: a reply can be looked into here.")


@dataclass(frozen=True)
class Inside:
    """What is known of one reply; what is None is not."""

    made: Made
    asked: Asked | None = None
    score: Score | None = None
    number: int = 1
    count: int = 1
    """Of a conversation's replies, which one it is."""
    is_persons: bool = False
    """Whether a person wrote it: then nothing was made."""


def inside_of(whole: Conversation, turn: Turn, number: int) -> Inside:
    """What is known of a branch's last reply without asking for it."""
    made, is_persons = whole.made_of(turn), turn.author == "person"
    return Inside(made, None, None, number, number, is_persons)


async def look_into(
    inside: Inside,
    models: Models,
    model: str | None,
    ask: Callable[[Backend], Awaitable[Asked]],
    written: str | None = None,
) -> Inside:
    """The same with what the model was given and, for a reply as it was `written`, how probable
    each of its tokens was.

    It is looked at with the model that made the reply or, where that is not served any more or a
    person wrote it, with `model`. Raises `InputError` where it is not known.
    """
    name = inside.made.model if inside.made.model in models.names else model
    async with models.use(name) as backend:
        asked = await ask(backend)
        inside = replace(inside, asked=asked)
        if written is None:
            return inside
        return replace(
            inside, score=await backend.score(asked.messages, written, who_on_page().turns)
        )


class Panel:
    """The components of one tab; `box` is the folded panel, `number` the reply that it shows.

    several  whether there may be more than one reply to look into
    """

    def __init__(self, several: bool = False) -> None:
        with gr.Accordion(word("Inside the reply"), open=False, elem_classes="saw") as self.box:
            with gr.Row(visible=False, elem_classes="versions") as self.steps:
                self.before = gr.Button("‹", size="sm", elem_id="reply-before")
                self.which = gr.Markdown(elem_id="reply-number")
                self.after = gr.Button("›", size="sm", elem_id="reply-after")
            self.facts = gr.Markdown(word(EMPTY))
            self.score = gr.Button(
                word("Show the probability of each token"), size="sm", elem_id="score"
            )
            self.tokens = tokens_view()
            self._saw = Saw()
        self.number = gr.Number(1, precision=0, visible="hidden")
        self.looks = gr.Checkbox(visible="hidden")
        """Whether the panel is unfolded: as long as nobody looks, nothing is looked up."""
        for event, now in ((self.box.expand, "true"), (self.box.collapse, "false")):
            event(None, None, self.looks, js=f"() => {now}", **QUIET)
        self._several = several
        self.outputs = [
            self.number, self.steps, self.which, self.facts, self.tokens, *self._saw.outputs,
        ]  # fmt: skip

    def update(self, inside: Inside) -> dict[Any, Any]:
        """The components and what they show from now on."""
        count = word("Reply {number} of {count}", number=inside.number, count=inside.count)
        tokens = "" if inside.score is None else tokens_html(inside.score)
        several = gr.update(visible=self._several and inside.count > 1)
        about = facts(inside) or word(EMPTY)
        asked = self._saw.update(inside.asked)
        told = [inside.number, several, count, about, tokens, *asked]
        return dict(zip(self.outputs, told, strict=True))


def facts(inside: Inside) -> str:
    """How a reply was made and what it took, as one line; only what is known."""
    made, score = inside.made, inside.score
    known = [word("Written by a person")] if inside.is_persons else []
    if made.model:
        known.append(word("model {name}", name=cell(made.model)))
    if made.persona:
        known.append(word("persona {name}", name=cell(made.persona)))
    if made.preset:
        known.append(word("preset {name}", name=cell(str(word(made.preset)))))
    elif made.decoding:
        settings = ", ".join(f"{name} = {value}" for name, value in made.decoding.items())
        known.append(word("changed: {settings}", settings=cell(settings)))
    if made.tokens is not None:
        known.append(word("{count} tokens", count=made.tokens))
    if made.first_token is not None:
        known.append(word("first after {seconds} s", seconds=f"{made.first_token:.2f}"))
    if (speed := made.tokens_per_second) is not None:
        known.append(word("{speed} tokens/s", speed=f"{speed:.0f}"))
    if score is not None and not math.isnan(score.perplexity):
        known.append(word("perplexity {value}", value=f"{score.perplexity:.3g}"))
    return " · ".join(map(str, known))
