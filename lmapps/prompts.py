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
from pathlib import Path
from typing import Any

from lmapps.errors import InputError, StorageError
from lmapps.plugin import Plugin

FILE = "prompts.json"
TEMPLATE = "chat_template.jinja"


def record_prompts(
    folder: Path,
    plugins: Iterable[Plugin],
    template_hash: str,
    start_from: str | Path | None = None,
) -> None:
    """Write `prompts.json`: these plugins' prompts, and those that the model knew before."""
    known = _read(Path(start_from)).get("plugins", {}) if start_from else {}
    for plugin in plugins:
        known[plugin.name] = [
            {"fields": values, "prompt": plugin.asked(values)} for values in probes(plugin)
        ]
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
            now = _lines(plugin.asked(probe["fields"]))
        except InputError as error:
            now = [f"(no prompt: {error})"]
        difference = list(difflib.unified_diff(_lines(probe["prompt"]), now, lineterm="", n=0))
        text = "\n".join(line for line in difference[2:] if not line.startswith("@@"))
        if text and text not in seen:  # many values bring out the same change
            seen.add(text)
            changes.append(text)
    return "\n\n".join(changes)


def changed_prompts(plugins: Iterable[Plugin], folder: Path | None) -> dict[str, str]:
    """The plugins whose prompts have changed since training, and how.

    A prompt function that does not return holds nobody up: that it doesn't is what is shown.
    """
    changes: dict[str, str] = {}
    for plugin in plugins if folder and (folder / FILE).is_file() else ():
        found: list[str | None] = []
        look = threading.Thread(
            target=lambda plugin=plugin, found=found: found.append(prompt_change(plugin, folder)),
            daemon=True,
        )
        look.start()
        look.join(1)
        change = found[0] if found else "(no prompt within a second)"
        if change:
            changes[plugin.name] = change
    return changes


TEMPLATE_CHANGED = f"{TEMPLATE} is not the one that the model was trained with"


def probes(plugin: Plugin) -> Iterator[dict[str, Any]]:
    """Values of the form that between them bring out each wording: one field changes at a time."""
    tries = {field.name: field.type.probes() for field in plugin.fields}
    base = {
        field.name: tries[field.name][0] if field.required else field.default
        for field in plugin.fields
    }
    yield base
    for name, values in tries.items():
        for value in values:
            if value != base[name]:
                yield {**base, name: value}


def _lines(prompt: Any) -> list[str]:
    """A prompt, or several side by side, as lines that can be compared."""
    conversations = prompt if prompt and isinstance(prompt[0], list) else [prompt]
    lines = []
    for conversation in conversations:
        for message in conversation:
            first, *rest = str(message["content"]).split("\n")
            lines += [f"{message['role']}: {first}", *rest]
    return lines


def _has_template(folder: Path, template_hash: str) -> bool:
    file = folder / TEMPLATE
    if not file.is_file():
        return True
    text = file.read_text(encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest() == template_hash


def _read(folder: Path) -> dict[str, Any]:
    """`prompts.json` of a checkpoint; empty where it has none that can be read."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return content if isinstance(content["plugins"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
