"""What a prompt function returns or yields -> conversations for the model, step by step."""

from __future__ import annotations

import inspect
import logging
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeGuard

from lmapps.errors import LmappsError, PluginError
from lmapps.failures import Failure, remember
from lmapps.messages import Message, Messages
from lmapps.paths import PACKAGE

LOG = logging.getLogger("lmapps.plugins")
LOG.addHandler(logging.NullHandler())  # a command says the sentence itself; `serve` adds a log
_is_trial: ContextVar[bool] = ContextVar("is_trial", default=False)
MOST_STEPS = 200
"""So often a generator may ask for replies; one that goes on would never end."""

Steps = Generator[list[Messages] | Messages, list[str], None]
"""Conversations for the model, in steps: a list of them runs side by side and stays inside, a
single one is streamed to the person. Each step is sent the replies, one for each conversation."""


def steps_of(name: str, made: Any) -> Steps:
    """Steps of what the function of a plugin made: one prompt, or a generator of several."""
    if not isinstance(made, Generator):
        yield conversation_of(name, made)
        return
    asked, has_asked = next(made, None), False
    if asked is None:
        raise PluginError(f"plugin {name!r} yielded no prompt")
    for _ in range(MOST_STEPS):
        several = isinstance(asked, list) and not (asked and is_message(asked[0]))
        has_asked = has_asked or bool(asked)
        if several and not asked:
            replies: list[str] = []  # of no prompts, which nobody need ask
        elif several:
            replies = yield [conversation_of(name, prompt) for prompt in asked]
        else:
            replies = yield conversation_of(name, asked)
        try:
            asked = made.send(replies if several else replies[0])
        except StopIteration:
            if not has_asked:
                raise PluginError(f"plugin {name!r} yielded no prompt") from None
            return
    raise PluginError(
        f"plugin {name!r} has asked {MOST_STEPS} times and still goes on: end its loop"
    )


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
def plugin_boundary(what: str, function: Callable[..., Any]) -> Iterator[None]:
    """An exception in a plugin's code becomes a `PluginError` that says where.

    It goes to the log too, and is remembered for whoever lists the plugins; so is what a function
    should not have given.
    """
    try:
        yield
    except PluginError as error:
        code = inspect.unwrap(function).__code__
        place = code.co_filename, code.co_firstlineno
        _tell(f"{what} gave what cannot be used", str(error), "Correct the plugin.", place)
        raise
    except LmappsError:
        raise
    except Exception as error:
        reason, at = f"{what} failed: {type(error).__name__}", _place(error)
        _tell(reason, str(error), "Correct that line.", at)
        where = f" ({at[0]}, line {at[1]})" if at else ""
        raise PluginError(f"{reason}: {error}{where}") from error


@contextmanager
def trial() -> Iterator[None]:
    """Meanwhile a plugin is given values nobody asked for: that it fails is not told."""
    token = _is_trial.set(True)
    try:
        yield
    finally:
        _is_trial.reset(token)


def _tell(reason: str, details: str, fix: str, place: tuple[str, int | None] | None) -> None:
    if _is_trial.get():
        return
    if place is None or Path(place[0]).is_relative_to(PACKAGE):
        LOG.error("%s. %s", reason, fix, extra={"private": details})
        return
    failure = Failure(*place, reason, fix)
    LOG.error("%s", failure, extra={"private": details})  # which may quote what a person typed
    remember(failure)


def _place(error: Exception) -> tuple[str, int | None] | None:
    """Where it happened in the plugin's own file: the first one outside of lmapps."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if not Path(frame.filename).is_relative_to(PACKAGE)]
    own = [frame for frame in outside if frame.filename == outside[0].filename]
    return (own[-1].filename, own[-1].lineno) if own else None
