"""A person's data -> folders, plugins, checkpoint and database, and what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from lmapps.discovery import discover
from lmapps.doctor.finding import Finding
from lmapps.doctor.machine import existing
from lmapps.errors import CheckpointError, LmappsError
from lmapps.failures import remembered
from lmapps.machine import memory_limit, total_memory
from lmapps.paths import home, plugin_folders

OVER_A_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "afs", "ceph", "lustre")
MOUNTS = Path("/proc/mounts")


def look_at_data(checkpoints: Sequence[str], database: str = "") -> Iterator[Finding]:
    """The data folder and what is in it, and what `lmapps serve` would open."""
    yield from _home()
    yield from _plugins()
    for word in checkpoints:
        yield _model(word)
    yield _database(database)


def _home() -> Iterator[Finding]:
    source = "LMAPPS_HOME" if os.environ.get("LMAPPS_HOME") else "set LMAPPS_HOME to move it"
    told, folder = f"{home()} ({source})", existing(home())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        way_out = f"make {folder} a folder that this user can write, or set LMAPPS_HOME to another"
        yield Finding("data folder", f"{told} cannot be written", way_out, fatal=True)
        return
    kind = file_system(folder)
    if kind in OVER_A_NETWORK:
        way_out = (
            "keep the database elsewhere: --database, or LMAPPS_HOME on a disk of this machine"
        )
        told = f"{told} is on {kind}, where SQLite's locks do not hold"
        yield Finding("data folder", told, way_out)
    else:
        yield Finding("data folder", told)


def file_system(folder: Path) -> str:
    """The kind of file system that a folder is on; "" where the system does not say."""
    try:
        lines = [line.split() for line in MOUNTS.read_text().splitlines()]
    except OSError:
        return ""
    place = folder.resolve()
    above = [(point, kind) for _, point, kind, *_ in lines if place.is_relative_to(Path(point))]
    return max(above, key=lambda mount: len(mount[0]), default=("", ""))[1]


def _plugins() -> Iterator[Finding]:
    found = discover()
    folders = ", ".join(map(str, plugin_folders()))
    yield Finding("plugins", f"{', '.join(found.plugins) or 'none'}; looked in {folders}")
    for failure in found.failures:
        place = f"{failure.file}, line {failure.line}" if failure.line else failure.file
        yield Finding("plugin", f"{place}: {failure.told}", failure.fix, fatal=True)
    for failure in remembered():
        place = f"{failure.file}, line {failure.line}" if failure.line else failure.file
        yield Finding("plugin", f"{place} failed in use: {failure.reason}", failure.fix)


def _model(word: str) -> Finding:
    """One of `--checkpoint`: a folder that can be read, a server that answers."""
    from lmapps.engine.backends.source import open_backend, source_of

    try:
        source = source_of(word)
        if source.folder is not None:
            return _checkpoint(source.folder)
        if source.is_hub:
            return Finding("model", f"{source.place}: fetched from the Hub when it is loaded")
        backend = open_backend(source)
    except LmappsError as error:
        told, _, way_out = str(error).rpartition(": ")
        return Finding("model", told, way_out, fatal=True)
    gone = [url for url, is_up in getattr(backend, "servers_up", {}).items() if not is_up]
    told = f"{source.name}: {backend.about}"
    if gone:
        told = f"{told}; {', '.join(gone)} does not answer"
        return Finding("model", told, "start it, or take it out of --checkpoint")
    return Finding("model", told)


def _checkpoint(folder: Path) -> Finding:
    """What `lmapps serve` opens."""
    from lmapps.engine.backends.source import native_config
    from lmapps.model.checkpoint import Checkpoint

    try:
        config = native_config(folder)
        if not config:
            return Finding("checkpoint", f"{folder}: served through transformers")
        told = (
            f"{folder}: {config.body}, {config.parameters / 1e6:.2f}M parameters, "
            f"context {config.context}"
        )
        memory = memory_limit() or total_memory()
        if memory and 4 * config.parameters > memory:
            way_out = "choose a smaller one, or `lmapps serve --weights int8` on a larger machine"
            return Finding("checkpoint", f"{told}: larger than memory", way_out, fatal=True)
        Checkpoint.load(folder)
    except CheckpointError as error:
        told, _, way_out = str(error).rpartition("; " if "; " in str(error) else ": ")
        return Finding("checkpoint", told or str(error), way_out or "train one", fatal=True)
    return Finding("checkpoint", told)


def _database(url: str) -> Finding:
    """Where conversations are kept."""
    from lmapps.server.store.database import Database
    from lmapps.server.store.migrate import is_older

    try:
        database = Database(url, as_it_is=True)
        file = database.file
        folder = file.parent if url and file else existing(home())
        if file and not file.exists() and folder.is_dir():
            return Finding("database", "none yet: it is made when the server starts")
        if file and not os.access(file, os.W_OK):
            way_out = "make it a file that this user can write, or name another with --database"
            return Finding("database", f"{file} cannot be written", way_out, fatal=True)
        with closing(database), database.reading() as connection:
            is_old = is_older(connection, database.place)
    except LmappsError as error:
        told, _, way_out = str(error).rpartition(": ")
        return Finding("database", told, way_out, fatal=True)
    if is_old:
        told = f"{database.place}, of an older version, which the next start brings up to date"
        return Finding("database", told, "`lmapps database backup FILE` beforehand")
    return Finding("database", database.place)
