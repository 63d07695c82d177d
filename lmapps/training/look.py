"""A run's folder -> how the run stands: its state, its log so far, the time it will take."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lmapps.sentence import Sentence
from lmapps.training.process import EARLY, ENDED, LOCK, OUTPUT, holder, how_it_ended

State = Literal["starting", "training", "scoring", "paused", "stopped", "finished", "failed"]
LIVE: tuple[State, ...] = ("starting", "training", "scoring")
OUTPUT_SHOWN = 4000
"""Bytes from the end of what a run printed."""


@dataclass(frozen=True)
class Look:
    """A run as it is now."""

    name: str
    folder: Path
    state: State
    why: str = ""
    """How it came to be paused or failed, as a sentence."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    log: Sequence[Mapping[str, Any]] = ()
    output: str = ""
    """The end of what it printed."""
    report: Mapping[str, Any] | None = None

    @property
    def is_live(self) -> bool:
        return self.state in LIVE

    @property
    def has_weights(self) -> bool:
        """Whether the folder can be served: the best weights so far, once there are some."""
        return (self.folder / "model.safetensors").is_file()

    @property
    def last(self) -> Mapping[str, Any]:
        """The last entry of a step: loss, tokens a second, share, seconds."""
        return next((entry for entry in reversed(self.log) if "loss" in entry), {})

    @property
    def share(self) -> float:
        """How much of the run is done, 0 to 1."""
        return 1.0 if self.state == "finished" else float(self.last.get("share", 0.0))

    @property
    def seconds_left(self) -> float | None:
        """At the speed so far; None before there is one."""
        share, seconds = self.share, float(self.last.get("seconds", 0.0))
        return seconds * (1 - share) / share if share > 0 and seconds > 0 else None


class Log:
    """A log that is read on from where it was read to."""

    def __init__(self) -> None:
        self._inode = self._read = 0
        self._entries: list[dict[str, Any]] = []

    def read(self, file: Path) -> list[dict[str, Any]]:
        try:
            with file.open("rb") as stream:
                stat = os.fstat(stream.fileno())
                if stat.st_ino != self._inode or stat.st_size < self._read:  # it was rewound
                    self._inode, self._read, self._entries = stat.st_ino, 0, []
                stream.seek(self._read)
                new = stream.read()
        except OSError:
            return []
        whole = new[: new.rfind(b"\n") + 1]  # the last line may be half written
        self._read += len(whole)
        self._entries = [*self._entries, *_lines(whole)]
        return self._entries


def look_at(folder: Path, log: Log) -> Look:
    """How the run in a folder stands; `log` is what was read of it before."""
    entries = log.read(folder / "run" / "log.jsonl")
    state, why = _state(folder, entries)
    settings = _json(folder / "run" / "settings.json")
    report = _json(folder / "report.json") if state == "finished" else None
    return Look(folder.name, folder, state, why, settings, entries, output_of(folder), report)


def _lines(written: bytes) -> Iterator[dict[str, Any]]:
    for line in written.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # cut off by a kill
            continue
        if isinstance(entry, dict):
            yield entry


def _state(folder: Path, log: Sequence[Mapping[str, Any]]) -> tuple[State, str]:
    if holder(folder) is not None:
        return _stage(log), ""
    if (folder / "report.json").is_file():
        return "finished", ""
    ended = how_it_ended(folder)
    if ended is not None and ended.state == "failed":
        return "failed", ended.why
    if (folder / "run" / EARLY).exists():
        return "stopped", Sentence("it was stopped before it had a report")
    if ended is not None:
        return "paused", ended.why
    return "paused", Sentence("it was ended from outside, and goes on where it was")


def _stage(log: Sequence[Mapping[str, Any]]) -> State:
    """What a process under way does: the report is made after the last evaluation."""
    if not log:
        return "starting"
    return "scoring" if log[-1].get("done") else "training"


def last_change(run: Path) -> float:
    """When anything in it was written last, in seconds since 1970."""
    names = ("log.jsonl", "settings.json", OUTPUT, ENDED, LOCK, EARLY)
    files = [*(run / name for name in names), run.parent / "report.json"]
    return max(map(_changed, files))


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def output_of(folder: Path) -> str:
    try:
        with (folder / "run" / OUTPUT).open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - OUTPUT_SHOWN))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


def _json(file: Path) -> dict[str, Any]:
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}
