"""Plugins -> what their prompts say for fixed values, kept with a checkpoint and compared later.

A model knows the wording that it was trained on. `prompts.json` beside the weights holds it: for
each plugin a few values of its form, and the prompts that they gave. The same values are tried
again later: where another prompt comes out, the wording has changed since.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from lmapps.errors import LmappsError, StorageError
from lmapps.examples import Example
from lmapps.interrupt import interrupt
from lmapps.messages import Messages
from lmapps.plugin import Plugin
from lmapps.small_file import small_object, small_text
from lmapps.steps import trial

FILE = "prompts.json"
TEMPLATE = "chat_template.jinja"
_compared: WeakKeyDictionary[Plugin, tuple[object, str | None]] = WeakKeyDictionary()
"""What came of the last comparison of each plugin, and with what it was compared."""


def record_prompts(
    folder: Path,
    plugins: Iterable[Plugin],
    template_hash: str,
    start_from: str | Path | None = None,
) -> None:
    """Write `prompts.json`: these plugins' prompts, and those that the model knew before."""
    known = _read(Path(start_from)).get("plugins", {}) if start_from else {}
    for plugin in plugins:
        known.pop(plugin.name, None)
        tried = [{"fields": values, "prompt": prompt} for values, prompt in probes(plugin)]
        if tried:
            known[plugin.name] = tried
    content = {"template": template_hash, "plugins": known}
    temporary = folder / (FILE + ".part")
    try:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
        os.replace(temporary, folder / FILE)
    except OSError as error:
        raise StorageError(f"cannot write {folder / FILE}: {error.strerror}") from None


def prompt_change(plugin: Plugin, folder: Path | None) -> str | None:
    """How a plugin's prompts differ from those that a checkpoint was trained on.

    "" where they are the same, None where the checkpoint was not trained on the plugin or does not
    say so, else the difference: lines that begin with "-" were trained on, those with "+" are now.
    """
    recorded = _read(folder) if folder else {}
    if plugin.name not in recorded.get("plugins", {}):
        return None
    changes = [] if folder and _has_template(folder, recorded["template"]) else [TEMPLATE_CHANGED]
    seen: set[str] = set()
    for probe in recorded["plugins"][plugin.name]:
        try:
            with trial():
                now = _lines(plugin.asked(probe["fields"]))
        except LmappsError as error:
            now = [f"(no prompt: {error})"]
        difference = list(difflib.unified_diff(_lines(probe["prompt"]), now, lineterm="", n=0))
        text = "\n".join(line for line in difference[2:] if not line.startswith("@@"))
        if text and text not in seen:  # many values bring out the same change
            seen.add(text)
            changes.append(text)
    return "\n\n".join(changes)


def changed_prompts(plugins: Iterable[Plugin], folder: Path | None) -> dict[str, str]:
    """The plugins whose prompts have changed since training, and how.

    A prompt function that does not return holds nobody up: that it doesn't is what is shown. Each
    version of a plugin is compared once with what a checkpoint holds.
    """
    changes: dict[str, str] = {}
    if folder is None or not (folder / FILE).is_file():
        return changes
    for plugin in plugins:
        what = (folder, *(_stamp(folder / name) for name in (FILE, TEMPLATE)))
        before, change = _compared.get(plugin, (None, None))
        if before != what:
            change = _within_a_second(plugin, folder)
            _compared[plugin] = what, change
        if change:
            changes[plugin.name] = change
    return changes


def _within_a_second(plugin: Plugin, folder: Path) -> str | None:
    """`prompt_change` in a thread of its own, which is ended when it takes longer."""
    found: list[str | None] = []

    def compare() -> None:
        with suppress(SystemExit):  # from `interrupt`
            found.append(prompt_change(plugin, folder))

    look = threading.Thread(target=compare, daemon=True, name=f"prompts of {plugin.name}")
    look.start()
    look.join(1)
    if not found:
        interrupt(look)
    return found[0] if found else "(no prompt within a second)"


def _stamp(file: Path) -> tuple[int, ...]:
    """What changes when a file is written anew."""
    try:
        state = os.stat(file)
    except OSError:
        return ()
    return state.st_mtime_ns, state.st_size, state.st_ino


TEMPLATE_CHANGED = f"{TEMPLATE} is not the one that the model was trained with"


def probes(plugin: Plugin) -> Iterator[tuple[dict[str, Any], Messages | list[Messages]]]:
    """Values of the form that between them bring out each wording, and their prompts.

    They begin with real values, since a function may read its texts: a date, say. From there one
    field changes at a time; values that the function does not take are left out.
    """
    tried = ((values, _prompt(plugin, values)) for values in _starts(plugin))
    base, prompt = next((one for one in tried if one[1] is not None), ({}, None))
    if prompt is None:
        return
    yield base, prompt
    for field in plugin.fields:
        for value in field.type.probes():
            another = field.kind in ("line", "passage") and value and base[field.name]
            if value == base[field.name] or another:  # of another text the wording is the same
                continue
            values = {**base, field.name: value}
            if (prompt := _prompt(plugin, values)) is not None:
                yield values, prompt


def _starts(plugin: Plugin) -> Iterator[dict[str, Any]]:
    """Whole forms: the author's examples, the first one it is trained on, a made-up one."""
    names = [field.name for field in plugin.fields]
    for row in plugin.examples:
        yield dict(zip(names, row, strict=True))
    made_up = {
        field.name: field.type.probes()[0] if field.required else field.default
        for field in plugin.fields
    }
    own: list[Example] = []
    with suppress(LmappsError), trial():
        own = list(islice(plugin.own_examples(), 1))
    yield from (made_up | example.fields for example in own)
    yield made_up


def _prompt(plugin: Plugin, values: dict[str, Any]) -> Messages | list[Messages] | None:
    """What it asks first; None where it does not take the values."""
    try:
        with trial():
            return plugin.asked(values)
    except LmappsError:
        return None


def _lines(prompt: Any) -> list[str]:
    """A prompt, or several side by side, as lines that can be compared."""
    lines = []
    for conversation in _conversations(prompt):
        for message in conversation:
            first, *rest = str(message["content"]).split("\n")
            lines += [f"{message['role']}: {first}", *rest]
    return lines


def _conversations(prompt: list[Any]) -> list[Any]:
    return prompt if prompt and isinstance(prompt[0], list) else [prompt]


def _has_template(folder: Path, template_hash: str) -> bool:
    try:
        text = small_text(folder / TEMPLATE)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return hashlib.sha256(text.encode()).hexdigest() == template_hash


def _read(folder: Path) -> dict[str, Any]:
    """`prompts.json` of a checkpoint; empty where it has none that can be read."""
    content = small_object(folder / FILE)
    plugins = content.get("plugins")
    known = plugins if isinstance(plugins, dict) else {}
    sound = {
        name: tried for name, tried in known.items()
        if isinstance(tried, list) and all(map(_is_probe, tried))
    }  # fmt: skip
    return {"template": content.get("template"), "plugins": sound}


def _is_probe(tried: Any) -> bool:
    """Values of a form and the prompt that they gave, as `record_prompts` writes them."""
    if not isinstance(tried, dict) or not isinstance(tried.get("fields"), dict):
        return False
    return isinstance(tried.get("prompt"), list) and all(
        isinstance(message, dict) and {"role", "content"} <= message.keys()
        for conversation in _conversations(tried["prompt"])
        for message in (conversation if isinstance(conversation, list) else [None])
    )
