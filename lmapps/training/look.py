"""A run's folder -> how the run stands: its state, its log so far, the time it will take."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lmapps.sentence import Sentence
from lmapps.small_file import small_object
from lmapps.training.log import Log
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
        return 1.0 if self.state == "finished" else min(1.0, float(self.last.get("share", 0.0)))

    @property
    def seconds_left(self) -> float | None:
        """At the speed so far; None before there is one."""
        share, seconds = self.share, float(self.last.get("seconds", 0.0))
        return seconds * (1 - share) / share if share > 1e-9 and seconds > 0 else None


def look_at(folder: Path, log: Log) -> Look:
    """How the run in a folder stands; `log` is what was read of it before."""
    entries = log.read(folder / "run" / "log.jsonl")
    state, why = _state(folder, entries)
    settings = small_object(folder / "run" / "settings.json")
    report = small_object(folder / "report.json") if state == "finished" else None
    return Look(folder.name, folder, state, why, settings, entries, output_of(folder), report)


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
    """The end of what a run printed."""
    file = folder / "run" / OUTPUT
    if not file.is_file():
        return ""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - OUTPUT_SHOWN))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""
