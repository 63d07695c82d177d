"""What a person saved under a name <-> the controls of a tab: decoding presets and personas.

One box chooses a name and takes a new one; the values are those of the controls beside it. What
is chosen and set is remembered by the browser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from lmapps.decoding import Decoding
from lmapps.errors import InputError, LmappsError
from lmapps.fields import Field
from lmapps.plugin import Plugin
from lmapps.server.page.languages import later, plugin_word, word
from lmapps.server.page.live import warning
from lmapps.server.page.plugins import cell
from lmapps.server.page.visitor import Visitor
from lmapps.server.page.way import changed, changes
from lmapps.server.page.widgets import (
    CHOICE,
    QUIET,
    decoding_controls,
    decoding_from,
    decoding_values,
    widget,
)
from lmapps.server.store.aside import aside
from lmapps.server.store.presets import DECODING, Presets, Values, fields_of

BALANCED, NONE = later("Balanced"), later("None")
DECODING_PRESETS: Mapping[str, Values] = {
    later("Precise"): {"temperature": 0.2, "top_p": 0.8},
    BALANCED: {},
    later("Creative"): {"temperature": 1.0, "top_p": 0.95},
}
"""What differs from an application's own settings, which are the balanced ones."""


@dataclass(frozen=True)
class Kind:
    """What is saved under names, and how controls show it."""

    name: str
    """As the store has it."""
    own: Mapping[str, Values]
    """Those that are always there; the first without values is where a new visitor begins."""
    pack: Callable[[Sequence[Any]], Values]
    """The controls' values -> what is kept. Raises `InputError` for values that do not fit."""
    unpack: Callable[[Values], list[Any]]
    """The controls' values again, whatever was kept."""

    @property
    def first(self) -> str:
        return next(name for name, values in self.own.items() if not values)


def decoding_kind(decoding: Decoding) -> Kind:
    """Decoding settings of an application: kept is what differs from its own, so that a preset
    made in one application changes no more in another."""

    def pack(values: Sequence[Any]) -> Values:
        return changes(decoding, decoding_from(decoding, values))

    def unpack(values: Values) -> list[Any]:
        return decoding_values(changed(decoding, values))

    return Kind(DECODING, DECODING_PRESETS, pack, unpack)


def fields_kind(plugin: str, others: Sequence[Field]) -> Kind:
    """What is filled in beside a conversation."""

    def pack(values: Sequence[Any]) -> Values:
        filled = zip(others, values, strict=True)
        return {field.name: value for field, value in filled if value != _empty(field)}

    def unpack(values: Values) -> list[Any]:
        return [values.get(field.name, _empty(field)) for field in others]

    return Kind(fields_of(plugin), {NONE: {}}, pack, unpack)


def decoding_panel(plugin: Plugin, presets: Presets) -> PresetPanel:
    """The decoding settings of a tab."""
    return PresetPanel(
        decoding_kind(plugin.decoding), presets, lambda: word("Decoding"),
        f"{plugin.name}-decoding", lambda: decoding_controls(plugin.decoding),
    )  # fmt: skip


def fields_panel(plugin: Plugin, presets: Presets) -> PresetPanel | None:
    """What a chat asks beside the conversation, as a rule a persona; None where it asks nothing."""
    others = [field for field in plugin.fields if field.kind != "messages"]
    shown = partial(plugin_word, plugin)
    if not others:
        return None

    def title() -> Any:
        return shown(others[0].label) if len(others) == 1 else word("Settings")

    return PresetPanel(
        fields_kind(plugin.name, others), presets, title, f"{plugin.name}-fields",
        lambda: [widget(field, shown) for field in others],
    )  # fmt: skip


class PresetPanel:
    """A folded panel of controls, and the box with the names of what they can be set to.

    title  of the panel, in the language of whoever asks
    name   no other panel of the page has it
    build  makes the controls in the panel
    """

    def __init__(
        self,
        kind: Kind,
        presets: Presets,
        title: Callable[[], Any],
        name: str,
        build: Callable[[], list[Any]],
    ) -> None:
        self.kind, self.presets, self.title = kind, presets, title
        with gr.Accordion(title(), open=False, elem_id=f"panel-{name}") as self.panel:
            with gr.Row(elem_classes="preset-row"):
                self.box = gr.Dropdown(
                    self._choices({}), value=kind.first, label=word("Saved settings"),
                    info=word("Choose one, or write a name to save what is set below"),
                    allow_custom_value=True, elem_id=f"preset-{name}", min_width=160, scale=3,
                )  # fmt: skip
                self.save = gr.Button(word("Save"), size="sm", min_width=60, scale=1)
                self.delete = gr.Button(word("Delete"), size="sm", min_width=60, scale=1)
            self.status = gr.Markdown(elem_classes="status")
            self.controls = build()
        self.key = f"lmapps-preset-{name}"
        """Under which the browser remembers what is set."""
        self.inputs = [self.box, *self.controls]

    def name_of(self, owner: str, values: Sequence[Any]) -> str:
        """The values of `inputs` -> what the person calls those of the controls, if anything."""
        name, *chosen = values
        known = self.kind.own if self._is_own(name) else self._known(owner)
        is_so = name in known and _same(self.kind, known[name], chosen)
        return name if is_so and name != self.kind.first else ""

    async def named(self, owner: str, values: Sequence[Any]) -> str:
        """The same without keeping others waiting: only what the person saved is looked up."""
        if self._is_own(values[0]):
            return self.name_of(owner, values)
        return await aside(self.name_of, owner, values)

    def connect(self, page: gr.Blocks, visitor: Visitor) -> None:
        """Every event."""
        owner_of, whose = visitor.owner, visitor.box

        def choose(who: str, name: str) -> dict[Any, Any]:
            known = self._known(owner_of(who))
            if name not in known:  # one that is to be saved; Gradio takes no empty dictionary
                return dict.fromkeys(self.controls, gr.skip())
            return dict(zip(self.controls, self.kind.unpack(known[name]), strict=True))

        def keep(who: str, name: str, *values: Any) -> tuple[Any, str]:
            return self._told(owner_of(who), lambda owner: self._save(owner, name, values))

        def forget(who: str, name: str) -> tuple[Any, str]:
            return self._told(owner_of(who), lambda owner: self._delete(owner, name))

        def refresh(who: str) -> Any:
            return gr.update(choices=self._choices(self.presets.of(owner_of(who), kind)))

        def entitle(who: str, *values: Any) -> Any:
            return gr.update(label=self._title(owner_of(who), values))

        kind, told, count = self.kind.name, [self.box, self.status], len(self.inputs)
        remember: dict[str, Any] = {
            "fn": None, "inputs": self.inputs,
            "js": f"(...values) => {{ lmapps.remember({self.key!r}, values.slice(0, {count})); }}",
            **QUIET,
        }  # fmt: skip
        chosen = self.box.input(choose, [whose, self.box], self.controls, **CHOICE)
        chosen.then(**remember)
        self.save.click(keep, [whose, *self.inputs], told, **QUIET).then(**remember)
        self.delete.click(forget, [whose, self.box], told, **QUIET)
        self.panel.expand(refresh, whose, self.box, **QUIET)
        # Not on every change: what a page begins with must not take the place of what was kept.
        gr.on([part.input for part in self.controls], **remember)
        # One after the other: what is remembered comes one control at a time, and the answer to
        # the last change must come last.
        gr.on(
            [*(part.change for part in self.inputs), self.save.click], entitle,
            [whose, *self.inputs], self.panel, trigger_mode="always_last", concurrency_limit=1,
            **QUIET,
        )  # fmt: skip
        page.load(None, self.inputs, self.inputs, js=REMEMBERED % (count, self.key), **QUIET)

    def _title(self, owner: str, values: Sequence[Any]) -> str:
        """The panel's, with what is set in it where that is not the usual."""
        name, chosen = self.name_of(owner, values), values[1:]
        if name:
            return f"{self.title()}: {word(name) if self._is_own(name) else name}"
        is_usual = _same(self.kind, {}, chosen)
        return str(self.title()) if is_usual else f"{self.title()}: {word('changed')}"

    def _save(self, owner: str, name: str, values: Sequence[Any]) -> tuple[str, str]:
        if self._is_own(name):
            raise InputError(
                word(
                    "{name} is always there as it is: write another name to save under",
                    name=word(name),
                )
            )
        kept = self.presets.save(owner, self.kind.name, name or "", self.kind.pack(values))
        return kept, word("Saved as {name}.", name=cell(kept))

    def _delete(self, owner: str, name: str) -> tuple[str, str]:
        if self._is_own(name):
            raise InputError(
                word("{name} is always there: choose one of your own to delete", name=word(name))
            )
        self.presets.delete(owner, self.kind.name, name or "")
        return name, word("Deleted. Save brings it back.")

    def _told(self, owner: str, action: Callable[[str], tuple[str, str]]) -> tuple[Any, str]:
        """The box and the line below it after an action, or why it could not be done."""
        try:
            name, sentence = action(owner)
        except Exception as error:  # else the tab shows nothing at all
            return gr.skip(), warning(error)
        choices = self._choices(self.presets.of(owner, self.kind.name))
        return gr.update(choices=choices, value=name), sentence

    def _known(self, owner: str) -> dict[str, Values]:
        return {**self.presets.of(owner, self.kind.name), **self.kind.own}

    def _is_own(self, name: str) -> bool:
        return name in self.kind.own

    def _choices(self, saved: Mapping[str, Values]) -> list[tuple[Any, str]]:
        return choices(self.kind.own, saved)


def choices(own: Mapping[str, Values], saved: Mapping[str, Values]) -> list[tuple[Any, str]]:
    """What a box offers, and its values: those that are always there, and a person's."""
    theirs = [(name, name) for name in saved if name not in own]
    return [*((word(name), name) for name in own), *theirs]


# Gradio gives a function the inputs and then, once more, what the outputs show.
REMEMBERED = """(...values) => {
    const now = values.slice(0, %d), kept = lmapps.remembered("%s");
    return Array.isArray(kept) && kept.length === now.length ? kept : now;
}"""


def _empty(field: Field) -> Any:
    return "" if field.required or field.default is None else field.default


def _same(kind: Kind, kept: Values, values: Sequence[Any]) -> bool:
    try:
        return kind.pack(kind.unpack(kept)) == kind.pack(values)
    except LmappsError:  # a seed that is no number, say: the reply will tell
        return False
