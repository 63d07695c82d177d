"""A training run's folder: settings, log, the state to resume from, best and last checkpoints.

    DIR/                     the best checkpoint so far: a Hugging Face folder
    DIR/report.json          scores, written at the end, and report.html: the same as a page
    DIR/run/settings.json    what was asked for
    DIR/run/log.jsonl        a line every few steps and at each evaluation
    DIR/run/data.json        the hash of all that is read
    DIR/run/largest.json     what takes most of the memory
    DIR/run/micro_batch.json tokens in a pass, where fewer than asked for fit into memory
    DIR/run/corpus/          token files
    DIR/run/step-00000500/   the last checkpoint and the state to resume from
    DIR/run/process.json     and others: who trains there (`training/process.py`)

A step folder is written under another name and renamed when it is whole, then the one before it
is removed: whenever the process is killed, a whole one is there. All state is in safetensors and
JSON; no pickle.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lmapps.errors import CheckpointError, LmappsError, SettingsError, StorageError
from lmapps.model.checkpoint import Checkpoint
from lmapps.small_file import small_json, small_object
from lmapps.text.storage import sync, write_whole
from lmapps.training.log import Entry, lines_of
from lmapps.training.optimizer_state import restore
from lmapps.training.process import OUTPUT, Request
from lmapps.training.settings import TrainSettings

Progress = dict[str, Any]


class OutOfMemory(LmappsError):
    """Even the smallest pass does not fit."""


class Run:
    """The files of one run."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.state = self.folder / "run"
        self.log_file = self.state / "log.jsonl"
        self.is_new = False
        self.request = Request(self.folder)
        """To end after the step under way."""

    def open(self, settings: TrainSettings) -> None:
        """Create the folders, or check that the run there is the same one.

        Raises `SettingsError` where the folder holds a run with other settings or a checkpoint that
        no run of it made, `StorageError` where it cannot be written.
        """
        stored = self._stored_settings()
        wanted = _as_json(settings.as_dict())
        if stored is not None:
            before = _as_json({item.name: item.default for item in fields(settings)}) | stored
            for name, value in wanted.items():
                if before[name] != value and name != "out":
                    raise SettingsError(
                        f"{self.folder} holds a run with {name} = {before[name]!r}, not "
                        f"{value!r}: choose another --out, or delete {self.state} to begin anew"
                    )
            return
        if (self.folder / "config.json").exists():
            raise SettingsError(
                f"{self.folder} holds a checkpoint already, which this run would write over: "
                "choose another --out"
            )
        with self._storing():
            self.is_new = True
            self.state.mkdir(parents=True, exist_ok=True)
            content = json.dumps(wanted, indent=2, ensure_ascii=False) + "\n"
            write_whole(self.state / "settings.json", content.encode())

    def keep_data(self, sha256: str) -> None:
        """Note what the run reads. Raises `SettingsError` where it began with something else: its
        vocabulary and the order of its batches would be others."""
        file = self.state / "data.json"
        try:
            known = small_json(file)
        except (OSError, ValueError):
            with self._storing():
                write_whole(file, json.dumps(sha256).encode())
            return
        if known != sha256:
            raise SettingsError(
                f"the data of {self.folder} has changed since the run began: give it as it was, or "
                f"choose another --out, or delete {self.state} to begin anew"
            )

    def note_largest(self, what: str) -> None:
        """What takes most of the memory, for whoever has to say why it did not suffice."""
        with self._storing():
            write_whole(self.state / "largest.json", json.dumps(what).encode())

    @property
    def largest(self) -> str:
        """The same, as a part of that sentence; '' where it is not known."""
        try:
            return f" (most of it for {small_json(self.state / 'largest.json')})"
        except (OSError, ValueError):
            return ""

    def abandon(self) -> None:
        """Leave nothing of a run whose input turned out bad; one that was there before stays, and
        one from the page, which shows why."""
        if self.is_new and not (self.state / OUTPUT).exists():
            shutil.rmtree(self.state, ignore_errors=True)
            with suppress(OSError):  # the folder holds something of somebody else
                self.folder.rmdir()

    def _stored_settings(self) -> dict[str, Any] | None:
        return small_object(self.state / "settings.json") or None

    def log(self, entry: Progress) -> None:
        """Append one line."""
        with self._storing(), self.log_file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")

    def entries(self) -> list[Progress]:
        """The log so far; a last line that was cut off by a kill is left out."""
        return [entry for _, entry in self._logged()]

    def rewind_log(self, step: int) -> None:
        """Drop what was logged after the step that is resumed from."""
        kept = [line for line, entry in self._logged() if entry["step"] <= step]
        with self._storing():
            write_whole(self.log_file, b"".join(kept))

    def _logged(self) -> Iterator[tuple[bytes, Entry]]:
        if self.log_file.is_file():
            with self.log_file.open("rb") as stream:
                yield from lines_of(stream)

    def steps(self) -> list[Path]:
        """Whole step folders, oldest first."""
        return sorted(self.state.glob("step-????????"))

    def save(
        self,
        checkpoint: Checkpoint,
        optimizer_state: dict[str, torch.Tensor],
        progress: Progress,
    ) -> None:
        """Write the last checkpoint and the state to resume from (see `state_of`)."""
        target = self.state / f"step-{progress['step']:08d}"
        work = self.state / (target.name + ".part")
        with self._storing(unfinished=work):
            shutil.rmtree(work, ignore_errors=True)
            checkpoint.save(work)
            save_file(optimizer_state, work / "optimizer.safetensors")
            sync(work / "optimizer.safetensors")
            write_whole(work / "progress.json", json.dumps(progress).encode())
            before = self.steps()
            shutil.rmtree(target, ignore_errors=True)
            os.replace(work, target)
            for folder in before:
                if folder != target:
                    shutil.rmtree(folder, ignore_errors=True)

    def fitted(self, settings: TrainSettings) -> TrainSettings:
        """The settings with the micro-batch that this machine's memory was found to hold."""
        try:
            tokens = int(small_json(self.state / "micro_batch.json"))
        except (OSError, ValueError, TypeError):
            return settings
        return replace(settings, micro_batch_tokens=tokens)

    def halve_micro_batch(
        self,
        settings: TrainSettings,
        context: int,
        why: str,
        processes: int = 1,
        is_main: bool = True,
    ) -> None:
        """Half the rows in a pass of each process, or the most below that which fill a step as
        before: the same batches in less memory, wherever there is such a number.

        Kept in the folder by the main process, so that a resumed run is the same run. Raises
        `OutOfMemory` where a pass has one row already.
        """
        rows = settings.rows_at_once(context, processes)
        if rows < 2:
            raise OutOfMemory(
                f"{why}, with one row of {context} tokens at a time: choose a smaller --context, "
                "--size or --vocab-size"
            )

        def passes(rows: int) -> int:
            return settings.passes(rows * context * processes)

        fewer = range(rows // 2, 0, -1)
        alike = (n for n in fewer if n * passes(n) == rows * passes(rows))
        chosen = next(alike, rows // 2)
        if is_main:
            tokens = chosen * context
            with self._storing():
                write_whole(self.state / "micro_batch.json", json.dumps(tokens).encode())
            print(
                f"{why}: {tokens} tokens at a time from here on, in {passes(chosen)} passes a step"
            )

    def keep_best(self, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        """The checkpoint that is served, in the place of the best one before."""
        with self._storing():
            checkpoint.save(self.folder, dtype)

    @contextmanager
    def _storing(self, unfinished: Path | None = None) -> Iterator[None]:
        """A failed write becomes one sentence that says what is kept, and leaves no half file."""
        try:
            yield
        except (OSError, SafetensorError, StorageError) as error:
            if unfinished is not None:
                shutil.rmtree(unfinished, ignore_errors=True)
            kept = [folder.name for folder in self.steps()]
            raise StorageError(
                f"cannot write to {self.folder}: {error}; "
                + (f"{self.state / kept[-1]} is whole and kept. " if kept else "")
                + "Make room or choose another --out, then give the same command again"
            ) from None

    def load(self, model: torch.nn.Module) -> Progress | None:
        """Put the last saved weights into the model; None where there are none."""
        for leftover in self.state.glob("*.part"):
            shutil.rmtree(leftover, ignore_errors=True)
        saved = self.steps()
        if not saved:
            return None
        with _resuming(saved[-1]):
            stored = Checkpoint.load(saved[-1]).model.state_dict()
            progress: Progress = small_json(saved[-1] / "progress.json")
        model.load_state_dict(stored)
        return progress

    def load_optimizers(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        adapters: Mapping[str, torch.Tensor],
    ) -> None:
        """Put the last saved state into the optimizers, whole or in shards as their weights are,
        and into adapters."""
        saved = self.steps()
        if not saved:
            return
        with _resuming(saved[-1]):
            state = load_file(saved[-1] / "optimizer.safetensors")
            for name, weight in adapters.items():
                weight.copy_(state.pop(name))
            restore(state, optimizers)

    def finish(self, report: dict[str, Any], page: str) -> None:
        """Write the report, as data and as a page."""
        content = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        with self._storing():
            write_whole(self.folder / "report.html", page.encode())
            write_whole(self.folder / "report.json", content.encode())


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    """Values as they are read back."""
    read: dict[str, Any] = json.loads(json.dumps(values))
    return read


@contextmanager
def _resuming(folder: Path) -> Iterator[None]:
    """What is wrong with a step folder, as a sentence."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be resumed from: {error}; delete it") from None
