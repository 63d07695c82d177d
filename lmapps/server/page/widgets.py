"""Fields and decoding settings -> Gradio components, and their values back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import get_blocks_context

from lmapps.decoding import Decoding
from lmapps.errors import DecodingError, LmappsError
from lmapps.fields import Field, Messages
from lmapps.plugin import Plugin
from lmapps.server.page.languages import translated, word
from lmapps.text.documents import read_document
from lmapps.text.readers import READERS

PRIVATE: dict[str, Any] = {"api_visibility": "private"}
"""For every event: the HTTP endpoints are ours, in `api.py`."""
QUIET: dict[str, Any] = {"show_progress": "hidden", **PRIVATE}
"""Whose answer is shown once it is there."""
CHOICE: dict[str, Any] = {"trigger_mode": "always_last", **QUIET}
"""For what is chosen: who chooses again before the answer is there gets what was chosen last."""

# A finger would open the keyboard, which covers the reply.
FOCUS = """() => {
    const boxes = [...document.querySelectorAll("#message textarea")];
    if (matchMedia("(pointer: fine)").matches) boxes.find(box => box.offsetParent)?.focus();
}"""
"""Puts the cursor into the message box."""


def widget(field: Field, shown: Callable[[str], Any] = str) -> Any:
    """The component that fills in a field; `shown` translates its texts."""
    component, options = field.type.component()
    if "choices" in options:
        options["choices"] = [_choice(choice, shown) for choice in options["choices"]]
    if not field.required:
        options["value"] = (
            "" if component == "Dropdown" and field.default is None else field.default
        )
    elif component == "Dropdown":
        options["value"] = options["choices"][0][1]
    named = {"label": shown(field.label), "info": shown(field.help) if field.help else None}
    made = getattr(gr, component)(**options, **named, elem_id=f"field-{field.name}")
    if field.kind == "passage":
        drop = gr.File(
            label=word("Text of a file"), file_types=list(READERS), height=96,
            elem_id=f"drop-{field.name}", elem_classes="drop",
        )  # fmt: skip
        drop.upload(text_of_file, drop, [made, drop], show_progress="minimal", **PRIVATE)
    return made


def _choice(choice: Any, shown: Callable[[str], Any]) -> tuple[Any, Any]:
    """A choice as Gradio has it: what is shown, and its value."""
    text, value = choice if isinstance(choice, tuple) else (choice, choice)
    return shown(text) if text else "-", value


def values_of(fields: Sequence[Field], filled_in: Sequence[Any]) -> dict[str, Any]:
    """What the components of fields hold, by name; what was left empty is left out."""
    values = {}
    for field, value in zip(fields, filled_in, strict=True):
        if isinstance(value, str):
            value = field.type.of_word(value)
        if value is not None or field.optional:
            values[field.name] = value
    return values


def value_again(field: Field, values: Mapping[str, Any]) -> Any:
    """What a field's component shows where `values_of` once gave these values."""
    value = values.get(field.name)
    if value is None:
        value = None if field.required else field.default
    component, _ = field.type.component()
    if component in ("Textbox", "Dropdown"):
        return "" if value is None else str(value)
    return value


def text_of_file(path: str) -> tuple[Any, None]:
    """The text of a file for its field, and an empty place for the next one; what is wrong with
    it is shown under its own name."""
    try:
        return read_document(path), None
    except LmappsError as error:
        gr.Warning(str(translated(error)).replace(path, Path(path).name))
        return gr.skip(), None


def decoding_controls(decoding: Decoding) -> list[Any]:
    """The settings that people change; see `decoding_from`."""
    return [
        gr.Slider(
            0, 2, decoding.temperature, step=0.05, label=word("Temperature"),
            info=word("0 is always the most probable token; higher is more surprising"),
        ),
        gr.Slider(
            0.05, 1, decoding.top_p, step=0.05, label=word("Top p"),
            info=word("Keep the most probable tokens up to this share of the probability"),
        ),
        gr.Slider(
            0, 200, decoding.top_k, step=1, label=word("Top k"),
            info=word("Keep so many of the most probable tokens; 0 = all"),
        ),
        gr.Slider(
            1, 2, decoding.repetition_penalty, step=0.05, label=word("Repetition penalty"),
            info=word("Above 1, what was said already becomes less probable"),
        ),
        gr.Slider(
            1, max(512, decoding.max_new_tokens), decoding.max_new_tokens, step=1,
            label=word("Longest reply, in tokens"),
        ),
        gr.Textbox(  # Gradio's number box can't be empty
            "" if decoding.seed is None else str(decoding.seed), max_lines=1,
            label=word("Seed"),
            info=word("The same seed gives the same text; empty = another one each time"),
        ),
    ]  # fmt: skip


def decoding_values(decoding: Decoding) -> list[Any]:
    """What the components of `decoding_controls` hold for a decoding."""
    return [
        decoding.temperature, decoding.top_p, decoding.top_k, decoding.repetition_penalty,
        decoding.max_new_tokens, "" if decoding.seed is None else str(decoding.seed),
    ]  # fmt: skip


def decoding_from(decoding: Decoding, values: Sequence[Any]) -> Decoding:
    """The plugin's decoding, changed by the values of the panel. Raises `DecodingError`."""
    temperature, top_p, top_k, repetition_penalty, max_new_tokens, seed = values
    return decoding.replace(
        temperature=temperature,
        top_p=top_p,
        top_k=int(top_k),
        repetition_penalty=repetition_penalty,
        max_new_tokens=int(max_new_tokens),
        seed=_seed(seed),
    )


def _seed(text: str) -> int | None:
    try:
        return int(text) if text.strip() else None
    except ValueError:
        raise DecodingError(
            "seed must be a whole number or empty, got {text!r}", text=text
        ) from None


def examples(plugin: Plugin, inputs: Sequence[Any]) -> None:
    """Rows that fill in the form, where the plugin has some."""
    if plugin.examples:
        rows = [row[: len(inputs)] for row in plugin.examples]
        shown = gr.Examples(rows, list(inputs), cache_examples=False, **PRIVATE)
        context = get_blocks_context()
        assert context
        *_, event = context.fns.values()
        event.queue = True  # what takes values may fail on them, which past the queue is a 500
        # The table is not translated by Gradio: it would show its own notation.
        shown.dataset.headers = [field.label for field in plugin.fields[: len(inputs)]]
        for field, told in zip(plugin.fields, shown.dataset.component_props, strict=False):
            if "choices" in told:
                _, options = field.type.component()
                told["choices"] = [_choice(choice, str) for choice in options["choices"]]


def chat_examples(plugin: Plugin, message: Any, inputs: Sequence[Any]) -> None:
    """Rows that fill in the message box and the other fields, as far as any row says more than
    the defaults."""
    plugin, others = copy(plugin), iter(inputs)
    fields = plugin.fields
    boxes = [message if field.kind == "messages" else next(others) for field in fields]
    plugin.examples = [
        [
            _last_said(value) if field.kind == "messages" else value
            for field, value in zip(fields, row, strict=True)
        ]
        for row in plugin.examples
    ]
    used = [
        number for row in plugin.examples for number, field in enumerate(fields)
        if field.kind == "messages" or row[number] != field.default
    ]  # fmt: skip
    examples(plugin, boxes[: max(used, default=0) + 1])


def _last_said(messages: str | Messages) -> str:
    """What stands in the message box for an example's conversation."""
    return messages if isinstance(messages, str) else messages[-1]["content"]
