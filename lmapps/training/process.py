"""A run's folder <-> the one process that trains in it: whether it lives, how the last one ended.

    DIR/run/process.json   who trains there; locked for as long as that process or its child lives
    DIR/run/ended.json     how the last one ended, where it could say so
    DIR/run/end_early      there when the run is to end after the step under way, with its report
    DIR/run/output.log     what it printed, where it was started from the page

The lock is the kernel's: it goes with the process, whatever ends that, so that a process number
that somebody else has by now is never taken for a run.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal

from lmapps.errors import LmappsError, SettingsError, StorageError
from lmapps.small_file import parsed, small_json
from lmapps.text.storage import write_whole

LOCK, ENDED, EARLY, OUTPUT = "process.json", "ended.json", "end_early", "output.log"
LONGEST_WHY = 100_000
"""Characters of what a process says about itself."""
LOOKS = 50
"""How often, a hundredth of a second apart, before a lock counts as somebody's."""


class Paused(LmappsError):
    """The run was asked to end and has saved its state: 128 + SIGTERM, as a shell has it."""

    exit_code = 143


@dataclass(frozen=True)
class Ended:
    """How a process left a run that is not finished."""

    state: Literal["paused", "failed"]
    why: str


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Be the one who trains in the folder, and leave a word where that ends before its time.

    Raises `SettingsError` where another process does, `StorageError` where the folder cannot be
    written.
    """
    state = folder / "run"
    is_new = not folder.exists()
    try:
        state.mkdir(parents=True, exist_ok=True)
        file = (state / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {error}; choose another --out") from None
    with file:
        _lock(file, folder)
        for left in (ENDED, EARLY):  # said of the one before
            (state / left).unlink(missing_ok=True)
        ended = None  # a report says that it is finished, and nothing that it was killed
        try:
            yield
        except Paused as error:
            ended = Ended("paused", str(error))
            raise
        except (LmappsError, KeyboardInterrupt) as error:
            ended = Ended("failed", str(error) or "it was stopped in its terminal")
            raise
        except Exception as error:
            ended = Ended("failed", f"{type(error).__name__}: {error}")
            raise
        finally:
            _leave(state, ended, is_new)


def _lock(file: IO[str], folder: Path) -> None:
    for _ in range(LOOKS):  # whoever looks whether it is locked has it for a moment
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            time.sleep(0.01)
    else:
        raise SettingsError(
            f"{folder} is being trained by process {holder(folder)}: pause that one first, or "
            "choose another --out"
        )
    file.truncate(0)
    file.write(json.dumps({"pid": os.getpid(), "since": time.time()}))
    file.flush()


def _leave(state: Path, ended: Ended | None, is_new: bool) -> None:
    """Say how it ended; of a run that never began nothing stays."""
    with suppress(OSError):
        if (state / "settings.json").exists() or (state / OUTPUT).exists():
            if ended is not None:
                write_whole(state / ENDED, json.dumps(asdict(ended)).encode())
            return
        (state / LOCK).unlink()
        state.rmdir()
        if is_new:
            state.parent.rmdir()


def holder(folder: Path) -> int | None:
    """The number of the process that trains in the folder; None where none does."""
    for _ in range(LOOKS):  # it has the lock a moment before its number stands there
        try:
            with (folder / "run" / LOCK).open("r+", encoding="utf-8") as file:
                if not _is_locked(file):
                    return None
                return int(parsed(file.read(LONGEST_WHY))["pid"])
        except OSError:
            return None
        except (ValueError, KeyError, TypeError):
            time.sleep(0.01)
    return None


def _is_locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def how_it_ended(folder: Path) -> Ended | None:
    """What the last process said at its end; None where it could not, or none was there."""
    try:
        stored = small_json(folder / "run" / ENDED, LONGEST_WHY)
        return Ended("paused" if stored["state"] == "paused" else "failed", str(stored["why"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def ask_to_end(folder: Path, early: bool) -> bool:
    """Ask the process to end after the step under way; False where there is none.

    early   the run is over, with the report of what it has; else it is paused
    """
    mark = folder / "run" / EARLY
    pid = holder(folder)
    if pid is None:
        return False
    with suppress(OSError):
        mark.touch() if early else mark.unlink(missing_ok=True)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    return True


class Request:
    """SIGTERM while a run trains: it ends after the step under way, with nothing lost.

    Outside the `with`, while text is read or the report is made, it ends the process at once.
    """

    def __init__(self, folder: Path) -> None:
        self.made = False
        self._mark = folder / "run" / EARLY

    @property
    def is_early(self) -> bool:
        """Whether a request means that the run is to be over, and not only paused: the same in
        every process, whichever of them got it."""
        return self._mark.exists()

    def __enter__(self) -> Request:
        self._is_main = threading.current_thread() is threading.main_thread()
        if self._is_main:  # signals come to no other
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_main:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_: object) -> None:
        self.made = True
