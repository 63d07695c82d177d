"""The environment -> where things are: a person's data folder, plugins, checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def home() -> Path:
    """The folder that holds what a person made: `LMAPPS_HOME`, else the platform's usual place."""
    chosen = os.environ.get("LMAPPS_HOME")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("lmapps", appauthor=False))


def source_tree() -> Path | None:
    """The project's folder when lmapps runs from a clone, else None."""
    root = PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() and (root / "app.py").is_file() else None


def plugin_folders() -> list[Path]:
    """Where plugins are looked for, in order: lmapps's own, then the person's."""
    root = source_tree()
    came_with = root / "plugins" if root else PACKAGE / "bundled" / "plugins"
    return [came_with, home() / "plugins"]


def example_folder() -> Path:
    """The plugins that a new one can begin as."""
    root = source_tree()
    return root / "docs" / "examples" if root else PACKAGE / "bundled" / "examples"


def checkpoint_folders() -> list[Path]:
    """Where checkpoints are looked for by name, in order: the person's own, then the project's."""
    root = source_tree()
    return [home() / "checkpoints", *([root / "checkpoints"] if root else [])]


def find_checkpoint(name: str) -> Path:
    """A folder as given, else a checkpoint of that name; not checked to exist."""
    given = Path(name).expanduser()
    if given.exists():
        return given
    for folder in checkpoint_folders():
        if (folder / name).is_dir():
            return folder / name
    return given
