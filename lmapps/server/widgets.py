"""Fields and decoding settings -> Gradio components, and their values back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from lmapps.decoding import Decoding
from lmapps.errors import LmappsError
from lmapps.fields import Field
from lmapps.text.sources import read_documents

PRIVATE: dict[str, Any] = {"api_visibility": "private"}
"""For every event: the HTTP endpoints are ours, in `api.py`."""


def widget(field: Field) -> Any:
    """The component that fills in a field."""
    value = None if field.required else field.default
    named: dict[str, Any] = {"label": field.label, "value": value, "elem_id": f"field-{field.name}"}
    match field.kind:
        case "choice":
            return gr.Dropdown(list(field.choices), **{**named, "value": value or field.choices[0]})
        case "flag":
            return gr.Checkbox(**{**named, "value": bool(value)})
        case "integer" | "number" if field.bounds:
            step = 1 if field.kind == "integer" else None
            low, high = field.bounds.low, field.bounds.high
            start = low if value is None else value
            return gr.Slider(low, high, step=step, **{**named, "value": start})
        case "integer" | "number":
            return gr.Number(precision=0 if field.kind == "integer" else None, **named)
        case "passage":
            return _passage_box(named)
        case _:
            return gr.Textbox(max_lines=4, **named)


def _passage_box(named: dict[str, Any]) -> Any:
    """A tall box, and a button that puts a file's text into it."""
    box = gr.Textbox(lines=8, max_lines=20, **named)
    button = gr.UploadButton("Open a text file", size="sm")
    button.upload(_text_of_file, button, box, show_progress="hidden", **PRIVATE)
    return box


def _text_of_file(path: str) -> str:
    try:
        return "\n\n".join(document.text for document in read_documents([Path(path)]))
    except LmappsError as error:
        reason = str(error).replace(path, Path(path).name)
        raise gr.Error(reason, print_exception=False) from None


def decoding_controls(decoding: Decoding) -> list[Any]:
    """A folded panel with the settings that people change; see `decoding_from`."""
    with gr.Accordion("Decoding", open=False):
        return [
            gr.Slider(
                0, 2, decoding.temperature, step=0.05, label="Temperature",
                info="0 is always the most probable token; higher is more surprising",
            ),
            gr.Slider(
                0.05, 1, decoding.top_p, step=0.05, label="Top p",
                info="Keep the most probable tokens up to this share of the probability",
            ),
            gr.Slider(
                0, 200, decoding.top_k, step=1, label="Top k",
                info="Keep so many of the most probable tokens; 0 = all",
            ),
            gr.Slider(
                1, 2, decoding.repetition_penalty, step=0.05, label="Repetition penalty",
                info="Above 1, what was said already becomes less probable",
            ),
            gr.Slider(
                1, max(512, decoding.max_new_tokens), decoding.max_new_tokens, step=1,
                label="Longest reply, in tokens",
            ),
            gr.Number(
                decoding.seed, label="Seed", precision=0, info="The same seed gives the same text"
            ),
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
        seed=None if seed is None else int(seed),
    )
