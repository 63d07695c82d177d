"""lmapps and its plugins as they lie there -> their commit and SHA-256: which version it is."""

from __future__ import annotations

import hashlib
import inspect
import subprocess
from collections.abc import Iterable
from pathlib import Path

from lmapps.paths import PACKAGE
from lmapps.plugin import Plugin

SOURCES = (".py", ".cpp")


def code_now() -> dict[str, str | None]:
    """lmapps as it lies there: its commit and the hash of its sources, under a report's names."""
    return {"code": commit_of(Path(__file__)), "code_sha256": sources_hash()}


def commit_of(file: Path) -> str | None:
    """The commit of the git checkout that a file belongs to; None where git does not keep it, as
    in an environment within somebody's own repository."""
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None
    return _git(file.parent, "describe", "--always", "--dirty", "--abbrev=12")


def sources_hash(folder: Path = PACKAGE) -> str:
    """SHA-256 over the names and contents of lmapps's own sources, in order."""
    digest = hashlib.sha256()
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*")}
    for name in sorted(name for name in files if name.endswith(SOURCES)):
        digest.update(name.encode())
        digest.update(hashlib.sha256(files[name].read_bytes()).digest())
    return digest.hexdigest()


def plugin_hashes(plugins: Iterable[Plugin]) -> dict[str, str]:
    """SHA-256 of the file of each plugin, by its name; without those whose file is gone."""
    code = {plugin.name: inspect.unwrap(plugin.function).__code__ for plugin in plugins}
    files = {name: Path(made.co_filename) for name, made in code.items()}
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest()
        for name, file in files.items()
        if file.is_file()
    }


def _git(folder: Path, *words: str) -> str | None:
    """What git says of a folder; None where it says nothing, or is not there."""
    asked = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (done.stdout.strip() or None) if done.returncode == 0 else None
