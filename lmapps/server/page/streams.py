"""An event that tells several things -> its updates, with nothing between them that takes time.

Gradio asks a thread to begin such a stream. Then it wraps the function anew for each update, looks
for states, sound and a cache, and compares all of a conversation with what it was before. Where
many people are answered, whoever has just asked waits for all that.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from functools import wraps
from typing import Any

import gradio as gr
from gradio.processing_utils import add_root_url
from gradio.utils import diff, get_function_with_locals

_diff: Callable[[Any, Any], list[Any]] = diff


class Streams(gr.Blocks):
    """Components, and events whose functions may be asynchronous generators."""

    async def call_function(
        self, block_fn: Any, processed_input: list[Any], iterator: Any = None, requests: Any = None,
        event_id: str | None = None, event_data: Any = None, in_event_listener: bool = False,
        state: Any = None, oauth_token: Any = None,
    ) -> Any:  # fmt: skip
        """What the function tells next."""
        about = (requests, event_id, event_data, in_event_listener, state, oauth_token)
        if iterator is None and inspect.isasyncgenfunction(block_fn.fn):
            request = requests[0] if isinstance(requests, list) else requests
            begins = copy(block_fn)
            begins.fn = _beginning(
                get_function_with_locals(
                    block_fn.fn, self, event_id, in_event_listener, request, state
                )
            )
            begun = await super().call_function(begins, processed_input, None, *about)
            processed_input, iterator = [], begun["prediction"]
        return await super().call_function(block_fn, processed_input, iterator, *about)

    async def process_api(  # type: ignore[override]  # what comes last is always named
        self, block_fn: Any, inputs: list[Any], state: Any = None, request: Any = None,
        iterator: Any = None, session_hash: str | None = None, event_id: str | None = None,
        **about: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """An update as it is sent to the page: of a stream that has begun, the next one."""
        if inspect.isasyncgen(iterator) and session_hash and event_id and _is_plain(block_fn):
            with suppress(StopAsyncIteration):  # as it says once more when it is asked again, below
                update: Any = await anext(iterator)
                sent = await self.postprocess_data(block_fn, update, state)
                sent = add_root_url(sent, about.get("root_path") or "", None)
                run, is_simple = self._stream_run_key(iterator), about.get("simple_format", False)
                told = self.handle_streaming_diffs(
                    block_fn, sent, session_hash, run, False, is_simple
                )
                return {
                    "data": told, "is_generating": True, "iterator": iterator, "duration": None,
                    "average_duration": None, "render_config": None, "changed_state_ids": [],
                    "used_cache": None,
                }  # fmt: skip
        return await super().process_api(
            block_fn, inputs, state, request, iterator, session_hash, event_id, **about
        )

    def handle_streaming_diffs(
        self, block_fn: Any, data: list[Any], session_hash: str | None, run: str | None,
        final: bool, simple_format: bool = False,
    ) -> list[Any]:  # fmt: skip
        """What of each output is new."""
        known = self.pending_diff_streams.get(session_hash or "", {})
        if final or simple_format or run is None or run not in known:
            return super().handle_streaming_diffs(
                block_fn, data, session_hash, run, final, simple_format
            )
        before, known[run] = known[run], list(data)
        return [_edits(was, now) for was, now in zip(before, data, strict=False)]


def _beginning(stream: Callable[..., Any]) -> Callable[..., Any]:
    """A function that Gradio awaits, where it would ask a thread for what this one returns."""

    @wraps(stream)
    async def begin(*words: Any, **named: Any) -> Any:
        return stream(*words, **named)

    return begin


def _is_plain(block_fn: Any) -> bool:
    """Whether it has no outputs that Gradio does more about: states, and sound in pieces."""
    return not block_fn.renderable and not any(
        block.stateful or hasattr(block, "stream_output") for block in block_fn.outputs
    )


def _edits(was: Any, now: Any) -> Sequence[Any]:
    """How the page makes the one of the other. An update of a component is sent whole: the page's
    script makes the next one out of the one before, in its place, also where that one still waits
    to be shown. A button that may be pressed again would stay as it was."""
    if was == now:
        return []
    if isinstance(now, dict):
        return [["replace", [], now]]
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        last = len(now) - 1  # of a conversation a reply grows
        if was[:last] == now[:last]:
            return [[how, [last, *path], what] for how, path, what in _diff(was[last], now[last])]
    return _diff(was, now)
