"""The Compare tab: one request, two or three models or presets side by side, and a vote."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import gradio as gr

from lmapps.discovery import Found
from lmapps.engine.asking import events_on
from lmapps.errors import InputError
from lmapps.plugin import Plugin
from lmapps.server.page.languages import plugin_word, word
from lmapps.server.page.live import Ask, Update, View, warning
from lmapps.server.page.picker import Picker
from lmapps.server.page.plugins import cell
from lmapps.server.page.presets import BALANCED, choices
from lmapps.server.page.visitor import Visitor
from lmapps.server.page.way import changed, changes
from lmapps.server.page.widgets import CHOICE, QUIET, values_of, widget
from lmapps.server.page.workshop.ballot import (
    LETTERS,
    MOST,
    WAYS,
    Shown,
    Side,
    sides_of,
    tally_html,
    took,
)
from lmapps.server.page.workshop.sides import side_by_side
from lmapps.server.store.aside import aside
from lmapps.server.store.presets import DECODING, Presets, Values
from lmapps.server.store.votes import Votes
from lmapps.server.who import who_on_page


class CompareTab:
    """What is chosen for every application; the form of the chosen one is drawn below it."""

    def __init__(self, picker: Picker, found: Found, visitor: Visitor) -> None:
        self.models, self.found, self.visitor = picker.models, found, visitor
        database = visitor.store.database
        self.votes, self.presets = Votes(database), Presets(database)
        with gr.Row():
            self.plugin = gr.Dropdown(
                [], label=word("Application"), elem_id="compare-plugin", interactive=True
            )
            self.blind = gr.Checkbox(
                False, label=word("Blind"), elem_id="compare-blind", interactive=True,
                info=word("The names are shown after the vote, the order is drawn"),
            )  # fmt: skip
        self.names, self.ways = list[Any](), list[Any]()
        with gr.Row():
            for number in range(MOST):
                with gr.Column(min_width=220):
                    self.names.append(gr.Dropdown(
                        [("-", "")], value="", label=word("Model"), elem_id=f"side-{number}",
                        interactive=True,
                    ))  # fmt: skip
                    self.ways.append(gr.Dropdown(
                        choices(WAYS, {}), value=BALANCED, label=word("Preset"),
                        elem_id=f"way-{number}",
                        interactive=True,  # what only a drawn form reads counts as a picture
                    ))  # fmt: skip
        self.drawn = gr.Textbox(visible="hidden")

    def connect(self, tab: gr.Tab) -> None:
        """Every event; a form is drawn when the tab is opened for the first time."""
        shown = [self.plugin, *self.names, *self.ways]
        tab.select(
            self._on_arrive, [self.visitor.box, *shown], [*shown, self.drawn], **QUIET
        )  # fmt: skip
        self.plugin.input(lambda name: name, self.plugin, self.drawn, **CHOICE)

        # One at a time: Gradio adds the events of what is drawn to one dictionary of the page.
        @gr.render(  # type: ignore[untyped-decorator]
            [self.drawn], [self.drawn.change], show_progress="hidden",
            concurrency_limit=1, concurrency_id="draw",
        )  # fmt: skip
        def draw(name: str) -> None:
            plugin = self.found.plugins.get(name)
            if plugin:
                Comparison(plugin, self)

    def saved(self, visitor: str) -> Mapping[str, Values]:
        """The presets that are there for everybody, and those that a person keeps."""
        return {**self.presets.of(self.visitor.owner(visitor), DECODING), **WAYS}

    def _on_arrive(self, visitor: str, plugin: str | None, *chosen_sides: str) -> list[Any]:
        """What there is to choose; at first the default model asked in two ways, or with another
        model that is there."""
        names, ways = chosen_sides[:MOST], chosen_sides[MOST:]
        found = {p.name: plugin_word(p, p.title) for p in self.found.plugins.values()}
        chosen = plugin if plugin in found else next(iter(found), None)
        known = self.models.names
        if not any(names):
            names = (known[0], known[1] if len(known) > 1 else known[0], "")
        offered, saved = [("-", ""), *((name, name) for name in known)], self.saved(visitor)
        offered_ways = choices(WAYS, saved)
        return [
            gr.update(choices=[(title, name) for name, title in found.items()], value=chosen),
            *(gr.update(choices=offered, value=name if name in known else "") for name in names),
            *(
                gr.update(choices=offered_ways, value=way if way in saved else BALANCED)
                for way in ways
            ),
            chosen or "",
        ]


class Comparison:
    """One application's form, its replies side by side, and the vote."""

    def __init__(self, plugin: Plugin, tab: CompareTab) -> None:
        self.plugin, self.tab = plugin, tab
        self.shown = gr.State(Shown())
        self.inputs = [self._input(field) for field in plugin.fields]
        with gr.Row():
            self.ask = gr.Button(word("Compare"), variant="primary", min_width=90)
            self.stop = gr.Button(
                word("Stop"), variant="stop", interactive=False, min_width=90,
                elem_classes="stop-reply",
            )  # fmt: skip
        self.told = gr.Markdown(
            word("Two or three models, or one with two presets, answer at the same time, side by "
                 "side; then you say which is better."),
            elem_classes="status", elem_id="compare-told",
        )  # fmt: skip
        self._build_sides()
        with gr.Row(visible=False, elem_classes="run-buttons") as self.voting:
            self.buttons = [gr.Button(letter, min_width=90) for letter in LETTERS]
            self.tie = gr.Button(word("None is better"), min_width=90)
        self.table = gr.HTML(self._tally(), elem_id="votes")
        self.outputs = [
            self.shown, self.ask, self.stop, self.told, self.voting, *self.buttons, *self.columns,
            *self.heads, *self.replies, *self.states,
        ]  # fmt: skip
        self._connect()

    def _input(self, field: Any) -> Any:
        if field.kind == "messages":
            return gr.Textbox(label=word("Message"), lines=2, elem_id="compare-message")
        made = widget(field, partial(plugin_word, self.plugin))
        made.elem_id = f"compare-{field.name}"  # the form's own tab has the other one
        return made

    def _build_sides(self) -> None:
        self.columns, self.heads = list[Any](), list[Any]()
        self.replies, self.states = list[Any](), list[Any]()
        with gr.Row():
            for number in range(MOST):
                component, options = self.plugin.reply_form.component()
                with gr.Column(min_width=260, visible=False) as column:
                    self.heads.append(gr.Markdown(elem_id=f"head-{number}"))
                    self.replies.append(
                        getattr(gr, component)(
                            **options, elem_id=f"compared-{number}", elem_classes="reply"
                        )
                    )
                    self.states.append(gr.Markdown(elem_classes="status", elem_id=f"took-{number}"))
                self.columns.append(column)

    def _connect(self) -> None:
        tab = self.tab
        asked = self.ask.click(
            self._on_ask, [tab.visitor.box, tab.blind, *tab.names, *tab.ways, *self.inputs],
            self.outputs, **QUIET,
        )  # fmt: skip
        self.stop.click(
            self._on_stop, None, [self.ask, self.stop, self.told], cancels=[asked], queue=False,
            **QUIET,
        )  # fmt: skip
        voted = [self.shown, self.voting, self.told, self.table, *self.heads]
        for number, button in enumerate([*self.buttons, self.tie]):
            winner = number if number < MOST else None
            given = [tab.visitor.box, self.shown]
            button.click(partial(self._on_vote, winner), given, voted, **QUIET)

    async def _on_ask(
        self, visitor: str, blind: bool, *values: Any
    ) -> AsyncGenerator[Update, None]:
        """All sides as they grow; leaving ends them all."""
        busy = {self.ask: gr.update(interactive=False), self.stop: gr.update(interactive=True)}
        done = {self.ask: gr.update(interactive=True), self.stop: gr.update(interactive=False)}
        try:
            known = await aside(self._known, visitor)
            chosen = sides_of(values[:MOST], values[MOST : 2 * MOST], known, blind)
            request = self._request(values[2 * MOST :])
            labels = tuple(side.label for side in chosen)
            heads = LETTERS if blind else labels
            yield {self.shown: Shown(), self.told: "", self.voting: gr.update(visible=False),
                   **busy, **self._headed(heads)}  # fmt: skip
            asks, say = self._asks(chosen, request), partial(plugin_word, self.plugin)
            async with aclosing(side_by_side(asks, say)) as news:
                async for sides in news:
                    yield self._sides(sides)
            can_vote = not any(side.failed for side in sides)
            replies = tuple(side.text for side in sides)
            yield {
                **done, self.shown: Shown(labels, blind, can_vote, request, replies),
                self.voting: gr.update(visible=can_vote), **self._ballot(heads, len(labels)),
            }  # fmt: skip
        except Exception as error:  # else the tab waits for ever
            yield {self.told: warning(error), **done}

    def _known(self, visitor: str) -> dict[str, Values]:
        """What each preset changes of the application's own settings."""
        own = self.plugin.decoding
        saved = self.tab.saved(visitor)
        return {name: changes(own, changed(own, values)) for name, values in saved.items()}

    def _request(self, values: Sequence[Any]) -> dict[str, Any]:
        """What was filled in, by the name of the field."""
        filled, messages = list(values), dict[str, Any]()
        fields = list(self.plugin.fields)
        for number, field in reversed(list(enumerate(self.plugin.fields))):
            if field.kind == "messages":
                said = str(filled.pop(number) or "").strip()
                del fields[number]
                if not said:
                    raise InputError(word("the message is empty: write one"))
                messages[field.name] = [{"role": "user", "content": said}]
        return values_of(fields, filled) | messages

    def _asks(self, chosen: Sequence[Side], request: Mapping[str, Any]) -> list[Ask]:
        own, turns = self.plugin.decoding, who_on_page().turns
        return [
            partial(
                events_on, self.tab.models, side.model, self.plugin, request,
                own.replace(**side.values), turns,
            )
            for side in chosen
        ]  # fmt: skip

    def _headed(self, heads: Sequence[str]) -> Update:
        update: Update = {}
        for number, (column, head) in enumerate(zip(self.columns, self.heads, strict=True)):
            is_there = number < len(heads)
            update[column] = gr.update(visible=is_there)
            update[head] = f"**{cell(heads[number])}**" if is_there else ""
        return update

    def _ballot(self, heads: Sequence[str], count: int) -> Update:
        return {
            button: gr.update(
                value=word("{name} is better", name=heads[number]) if number < count else "",
                visible=number < count,
            )
            for number, button in enumerate(self.buttons)
        }

    def _sides(self, sides: Sequence[View]) -> Update:
        update: Update = {}
        for side, reply, state in zip(sides, self.replies, self.states, strict=False):
            update[reply] = self.plugin.reply_form.shown(side.text, side.value)
            update[state] = " ".join(part for part in (side.status, took(side)) if part)
        return update

    def _on_stop(self) -> Update:
        return {
            self.ask: gr.update(interactive=True), self.stop: gr.update(interactive=False),
            self.told: word("Stopped."),
        }  # fmt: skip

    def _on_vote(self, winner: int | None, visitor: str, shown: Shown) -> Update:
        """Keep it, show the names, and the sums."""
        if not shown.open:
            return {self.told: word("This vote is given already.")}
        try:
            best = None if winner is None else shown.sides[winner]
            self.tab.votes.add(
                who_on_page(visitor).owner, self.plugin.name, shown.sides, best, shown.blind,
                shown.request, shown.replies,
            )  # fmt: skip
        except Exception as error:
            return {self.told: warning(error)}
        heads = {
            head: f"**{cell(side)}**" for head, side in zip(self.heads, shown.sides, strict=False)
        }
        return {
            self.shown: Shown(shown.sides, shown.blind), self.voting: gr.update(visible=False),
            self.told: word("Your vote is kept."), self.table: self._tally(), **heads,
        }  # fmt: skip

    def _tally(self) -> str:
        return tally_html(self.tab.votes.tally(self.plugin.name))
