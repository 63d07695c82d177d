"""Gradio's page -> the same, without work for what stays as it is, and without what a closed page
leaves behind.

Gradio makes every output of an event anew, also those that an update says nothing about, describes
each of them again for links that we don't have, looks for matplotlib with every update, sums up all
events after each of them, and keeps what it knows of a page for ever.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from copy import copy
from types import SimpleNamespace
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio.routes import App
from gradio.state_holder import SessionState, StateHolder

from lmapps.server.page.streams import Streams

MOST_PAGES = 2000
"""So many open pages the server knows; of another one the oldest is forgotten. A page that was
forgotten goes on: where it stands it knows itself."""
CLOSED_PAGES = 32
"""So many closed pages are remembered: a phone comes back to its page."""

TEXTS = (gr.Markdown, gr.Textbox, gr.HTML)
"""Components whose value is a text."""
FIELDS = (gr.Textbox, gr.Number, gr.Slider, gr.Checkbox, gr.Dropdown, gr.Radio)
"""Components that a person fills in with no file."""
SCALARS = (str, int, float, bool, type(None))
SHOWN = {"__type__", "visible", "interactive", "label"}
"""What may change of a component without its being another one for the server."""
NOT_SO_SIMPLE = object()


class Page(Streams):
    """The page's components and events."""

    async def preprocess_data(
        self,
        block_fn: Any,
        inputs: Sequence[Any],
        state: SessionState | None,
        explicit_call: bool = False,
    ) -> list[Any]:
        """What the browser has sent -> what an event is given, one value for each input."""
        if state is None or block_fn.component_prop_inputs or len(inputs) < len(block_fn.inputs):
            return await super().preprocess_data(block_fn, list(inputs), state, explicit_call)
        given = dict[int, Any]()
        for place, (block, value) in enumerate(zip(block_fn.inputs, inputs, strict=False)):
            known = state.get(block._id, block)
            if type(known) in FIELDS and isinstance(value, SCALARS):
                with suppress(Exception):  # Gradio says what is wrong with it, below
                    given[place] = known.preprocess(value)
        rest = [place for place in range(len(block_fn.inputs)) if place not in given]
        if rest:
            fewer = copy(block_fn)
            fewer.inputs = [block_fn.inputs[place] for place in rest]
            values = [inputs[place] for place in rest]
            values = await super().preprocess_data(fewer, values, state, explicit_call)
            given |= zip(rest, values, strict=True)
        return [given[place] for place in range(len(block_fn.inputs))]

    async def postprocess_data(
        self, block_fn: Any, predictions: Any, state: SessionState | None
    ) -> list[Any]:
        """What an event has told -> what the browser is sent, one value for each output."""
        told = _told(block_fn.outputs, predictions)
        if told is None or block_fn.batch:
            return await super().postprocess_data(block_fn, predictions, state)
        sent: list[Any] = [None if block.stateful else gr.skip() for block in block_fn.outputs]
        rest = dict[int, Any]()
        for place, value in told.items():
            block = block_fn.outputs[place]
            now = _at_once(block if state is None else state.get(block._id, block), value)
            if now is NOT_SO_SIMPLE:
                rest[place] = value
            else:
                sent[place] = now
        if rest:
            fewer = copy(block_fn)
            fewer.outputs = [block_fn.outputs[place] for place in rest]
            values = list(rest.values())
            single = values[0] if len(values) == 1 else values
            values = await super().postprocess_data(fewer, single, state)
            for place, value in zip(rest, values, strict=True):
                sent[place] = value
        return sent


class OpenPage(SessionState):
    """What is kept of one page: its state, and components that are not as they were built."""

    def __init__(self, blocks: gr.Blocks) -> None:
        # Gradio describes every component for every page: here there are none to describe.
        super().__init__(SimpleNamespace(default_config=blocks.default_config, blocks=()))  # type: ignore[arg-type]

    def __setitem__(self, key: int, value: Any) -> None:
        if isinstance(self.blocks_config.blocks.get(key), gr.State):
            super().__setitem__(key, value)
        else:
            self.blocks_config.blocks[key] = value

    def _update_config(self, key: int) -> None:
        """Nobody asks for a component's description again."""

    def _update_value_in_config(self, key: int, value: Any) -> None:
        """Nor for its value."""


class OpenPages(StateHolder):
    """All pages; of those that were closed the last ones only."""

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = OpenPage(self.blocks)
        return super().__getitem__(session_id)

    def delete_all_expired_state(self) -> None:
        """Gradio calls this once a second."""
        closed = [name for name, page in self.session_data.items() if page.is_closed]
        for name in closed[:-CLOSED_PAGES]:
            del self.session_data[name]
            self.time_last_used.pop(name, None)


def spare(app: FastAPI, page: gr.Blocks) -> None:
    """Do all this for the page that is mounted in a web application."""
    gr.utils.MatplotlibBackendMananger = nullcontext  # type: ignore[misc, assignment]
    page._queue.ANAYLTICS_CACHE_FREQUENCY = sys.maxsize
    page._queue.ANALYTICS_MAX_EVENTS = 1
    inside = [getattr(route, "app", None) for route in app.routes]
    (mounted,) = [one for one in inside if isinstance(one, App)]
    pages = OpenPages()  # type: ignore[no-untyped-call]
    pages.set_blocks(page)
    pages.capacity = MOST_PAGES
    mounted.state_holder = pages
    page._queue.set_server_app(mounted)


def _told(outputs: Sequence[Any], predictions: Any) -> dict[int, Any] | None:
    """What was told of which output; None where it was not told as components and values, or as
    one value for each."""
    if predictions == gr.skip():
        return {}
    if isinstance(predictions, Mapping):
        places = {block: place for place, block in enumerate(outputs)}
        if not predictions or any(block not in places for block in predictions):
            return None
        return {places[block]: value for block, value in predictions.items()}
    if isinstance(predictions, (list, tuple)) and len(predictions) == len(outputs) > 1:
        skip = gr.skip()
        values = enumerate(predictions)
        return {place: value for place, value in values if _is_other(value, skip)}
    return None


def _at_once(block: Any, value: Any) -> Any:
    """What the browser is sent for texts, conversations and what can be seen or pressed: Gradio
    sends each of them to a thread and looks for files in it, or makes the component anew.
    `NOT_SO_SIMPLE` for everything else."""
    if isinstance(value, dict):
        simple = value.keys() <= SHOWN and value.get("__type__") == "update"
        return dict(value) if simple else NOT_SO_SIMPLE
    if type(block) in TEXTS and isinstance(value, str):
        return value  # as it is: of Markdown Gradio takes the indentation off
    if type(block) is gr.Chatbot and isinstance(value, list):
        return block.postprocess(value).model_dump()
    return NOT_SO_SIMPLE


def _is_other(value: Any, skip: dict[str, Any]) -> bool:
    return not isinstance(value, dict) or value != skip
