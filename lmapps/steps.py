"""What a prompt function returns or yields -> conversations for the model, step by step."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

from lmapps.errors import LmappsError, PluginError
from lmapps.messages import Message, Messages

Steps = Generator[list[Messages] | Messages, list[str], None]
"""Conversations for the model, in steps: a list of them runs side by side and stays inside, a
single one is streamed to the person. Each step is sent the replies, one for each conversation."""


def steps_of(name: str, made: Any) -> Steps:
    """Steps of what the function of a plugin made: one prompt, or a generator of several."""
    if not isinstance(made, Generator):
        yield conversation_of(name, made)
        return
    asked = next(made, None)
    if asked is None:
        raise PluginError(f"plugin {name!r} yielded no prompt")
    while True:
        several = isinstance(asked, list) and not (asked and is_message(asked[0]))
        if several:
            replies = yield [conversation_of(name, prompt) for prompt in asked]
        else:
            replies = yield conversation_of(name, asked)
        try:
            asked = made.send(replies if several else replies[0])
        except StopIteration:
            return


def conversation_of(name: str, prompt: Any) -> Messages:
    """A prompt as a conversation. Raises `PluginError` for what is neither text nor messages."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if isinstance(prompt, list) and prompt and all(map(is_message, prompt)):
        return prompt
    raise PluginError(
        f"plugin {name!r} returned {str(prompt)[:60]!r}; a prompt is a text, or a list of "
        'messages {"role": ..., "content": ...}'
    )


def is_conversation(asked: Messages | list[Messages]) -> TypeGuard[Messages]:
    """Whether it is one conversation, and not several side by side."""
    return bool(asked) and is_message(asked[0])


def is_message(value: Any) -> TypeGuard[Message]:
    return isinstance(value, dict) and {"role", "content"} <= value.keys()


@contextmanager
def plugin_boundary(what: str) -> Iterator[None]:
    """An exception in a plugin's code becomes a `PluginError` that says where."""
    try:
        yield
    except LmappsError:
        raise
    except Exception as error:
        raise PluginError(f"{what} failed: {type(error).__name__}: {error}") from error
