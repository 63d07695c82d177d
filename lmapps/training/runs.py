"""Training runs as somebody outside sees them: start one, look at it, pause, resume, end it.

A run is a process of its own in a session of its own, and all there is to know about it lies in its
folder: it goes on when whoever started it is gone, and everybody who looks sees the same.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from lmapps.errors import InputError, SettingsError, StorageError
from lmapps.paths import checkpoint_folders
from lmapps.training.log import Log
from lmapps.training.look import Look, last_change, look_at, output_of
from lmapps.training.process import EARLY, OUTPUT, ask_to_end, holder, how_it_ended
from lmapps.training.settings import TrainSettings

NICENESS = 10
"""A run gives way to the server beside it: of a busy core it gets about a tenth."""
START_SECONDS = 60
"""How long a process may take to appear in its folder."""


class NoSuchRun(InputError):
    """A run that is not there."""

    status = 404


class OneAtATime(InputError):
    """Another run is under way."""

    status = 409


class Runs:
    """The runs in some folders. Every method may be called from any thread.

    folders   where runs are looked for; a new one goes into the first
    """

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        self.folders = list(folders) or checkpoint_folders()
        self._logs: dict[Path, Log] = {}
        self._reading, self._starting = threading.Lock(), threading.Lock()

    def names(self) -> list[str]:
        """Every run, the one that did something last first."""
        found: dict[str, float] = {}
        for folder in self.folders:
            for run in folder.glob("*/run"):
                if _is_run(run):
                    found.setdefault(run.parent.name, last_change(run))
        return sorted(found, key=lambda name: -found[name])

    def folder_of(self, name: str) -> Path:
        """Raises `NoSuchRun`, for a name that is a path too."""
        for folder in self.folders:
            if name and Path(name).name == name and _is_run(folder / name / "run"):
                return folder / name
        raise NoSuchRun("there is no run {name!r}; `lmapps runs` lists them", name=name)

    def has(self, folder: Path) -> bool:
        """Whether it is the folder of one of them."""
        try:
            return self.folder_of(folder.name).samefile(folder)
        except (NoSuchRun, OSError):
            return False

    def look(self, name: str) -> Look:
        """Raises `NoSuchRun`."""
        folder = self.folder_of(name)
        with self._reading:
            return look_at(folder, self._logs.setdefault(folder, Log()))

    def version(self) -> str:
        """Another text whenever any run has changed: cheap to ask often."""
        digest = hashlib.sha256()
        for name in self.names():
            run = self.folder_of(name) / "run"
            digest.update(f"{name} {last_change(run)} {holder(run.parent)}\n".encode())
        return digest.hexdigest()[:16]

    def live(self) -> str | None:
        """The name of the run that is under way."""
        return next((name for name in self.names() if holder(self.folder_of(name))), None)

    def start(self, settings: TrainSettings) -> str:
        """Start a new run; its name, once its process has taken its folder.

        Raises `SettingsError` for a name that is there or not fit for a folder, `OneAtATime`
        while another run is under way.
        """
        folder = Path(settings.out)
        if folder.parent != self.folders[0]:
            raise SettingsError(f"a run lies in {self.folders[0]}, got {settings.out}")
        with self._starting:
            self.check_new(folder.name)
            self._launch(folder, settings)
        return folder.name

    def resume(self, name: str) -> None:
        """Go on where a run stopped. Raises `OneAtATime`, or `SettingsError` for a finished one."""
        look = self.look(name)
        if look.state == "finished":
            raise SettingsError("{name} is finished: train on from it under a new name", name=name)
        if look.is_live:
            return
        settings = TrainSettings.from_values({**look.settings, "out": str(look.folder)})
        with self._starting:
            self._check_alone()
            (look.folder / "run" / EARLY).unlink(missing_ok=True)
            self._launch(look.folder, settings)

    def pause(self, name: str) -> None:
        """Ask a run to save its state and end. One that does not run is left as it is."""
        ask_to_end(self.folder_of(name), early=False)

    def stop(self, name: str) -> None:
        """Ask a run to be over, with the best weights so far and their report."""
        folder = self.folder_of(name)
        if not ask_to_end(folder, early=True) and not (folder / "report.json").exists():
            (folder / "run" / EARLY).touch()

    def forget(self, name: str) -> None:
        """Delete a run that left no weights. Raises `SettingsError` for another one."""
        look = self.look(name)
        if look.is_live or look.has_weights:
            raise SettingsError(
                "{name} is under way" if look.is_live else "{name} has weights", name=name
            )
        shutil.rmtree(look.folder, ignore_errors=True)

    def check_new(self, name: str) -> None:
        """Raises `SettingsError` or `OneAtATime` where a run of that name cannot be started now."""
        check_name(name)
        if any((folder / name).exists() for folder in self.folders):
            raise SettingsError(
                "there is already a checkpoint {name!r}: choose a new name", name=name
            )
        self._check_alone()

    def _check_alone(self) -> None:
        live = self.live()
        if live is not None:
            raise OneAtATime(
                "{name} is being trained, and one run at a time is: pause that first", name=live
            )

    def _launch(self, folder: Path, settings: TrainSettings) -> None:
        is_new = not folder.exists()
        try:
            (folder / "run").mkdir(parents=True, exist_ok=True)
            with (folder / "run" / OUTPUT).open("ab") as output:
                process = subprocess.Popen(
                    program("train", *settings.as_words()), stdin=subprocess.DEVNULL, stdout=output,
                    stderr=subprocess.STDOUT, start_new_session=True,
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                )  # fmt: skip
        except OSError as error:
            raise StorageError(
                "the run cannot be started in {folder}: {error}", folder=folder, error=error
            ) from None
        # Whoever has a child must be told of its end, or it stays a zombie.
        threading.Thread(target=process.wait, daemon=True).start()
        deadline = time.monotonic() + START_SECONDS
        while holder(folder) is None and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if process.poll() is None or how_it_ended(folder) is not None:
            return
        said = output_of(folder).strip().rpartition("\n")[2]
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        reason = said.removeprefix("lmapps: ")
        raise SettingsError("the run did not start: {reason}", reason=reason)


def program(*words: str) -> list[str]:
    """An `lmapps` command, with a low priority where there is `nice`."""
    nice = [found, "-n", str(NICENESS)] if (found := shutil.which("nice")) else []
    return [*nice, sys.executable, "-m", "lmapps", *words]


def check_name(name: str) -> None:
    """Raises `SettingsError` where a checkpoint cannot be called so."""
    if not re.fullmatch(r"\w[\w.-]{0,79}", name):
        raise SettingsError(
            "a name has letters, digits, '-', '_' and '.', 80 at most, got {name!r:.100}", name=name
        )


def _is_run(state: Path) -> bool:
    return (state / "settings.json").is_file() or (state / OUTPUT).is_file()
