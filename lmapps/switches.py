"""A person's switches -> the names of plugins that are off, kept in the data folder."""

from __future__ import annotations

import json
from pathlib import Path

from lmapps.errors import StorageError
from lmapps.paths import home


def switches_file() -> Path:
    """Where they are kept: a JSON list of names."""
    return home() / "plugins_off.json"


def switched_off() -> frozenset[str]:
    """The names that are off. A file that cannot be read switches nothing off."""
    try:
        names = json.loads(switches_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return frozenset()
    names = names if isinstance(names, list) else []
    return frozenset(name for name in names if isinstance(name, str))


def switch(name: str, on: bool) -> bool:
    """Turn a plugin on or off; False where it was so already. Raises `StorageError`."""
    before = switched_off()
    after = before - {name} if on else before | {name}
    if after == before:
        return False
    file = switches_file()
    whole = file.with_suffix(".writing")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        whole.write_text(json.dumps(sorted(after)), encoding="utf-8")
        whole.replace(file)
    except OSError as error:
        raise StorageError(f"cannot write {file}: {error.strerror}") from None
    return True
