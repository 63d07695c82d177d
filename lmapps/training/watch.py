"""The losses of a run as they come -> `Diverged`, with the step and its texts, if they go wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lmapps.errors import LmappsError
from lmapps.text.batches import Batch
from lmapps.text.tokenizer import Tokenizer
from lmapps.training.reading import Reading
from lmapps.training.run import Progress, Run
from lmapps.training.settings import TrainSettings

TEXTS_SHOWN, CHARACTERS_SHOWN = 3, 60
WINDOW = 20
"""Steps that are looked at together."""
LEARNED = 1.0
"""Nats. Less than this was learned: ups and downs say nothing yet."""


class Diverged(LmappsError):
    """The loss is no longer a number, or what was learned is being lost."""


class Watch:
    """Keeps what the last few steps gave, and looks at it together."""

    def __init__(self, tokenizer: Tokenizer, settings: TrainSettings, run: Run) -> None:
        self.tokenizer, self.settings, self.run = tokenizer, settings, run
        self._since: list[tuple[Reading, Batch]] = []

    def note(self, reading: Reading, batch: Batch) -> None:
        """A step and its first micro-batch. Waits for nothing."""
        self._since.append((reading, batch))

    def check(self, progress: Progress, last: int) -> None:
        """Steps since the last look, up to step `last`: raises `Diverged` where a loss or a
        gradient is no number, or half of what was learned is lost again at every one of them.

        `progress` carries the last losses, and the first and the lowest mean of some, over saves.
        """
        seen = [(reading, batch) for reading, batch in self._since if reading.step <= last]
        self._since = self._since[len(seen) :]
        losses = []
        for reading, batch in seen:
            for what, number in (("loss", reading.loss), ("gradient's norm", reading.norm)):
                if not math.isfinite(number):
                    where = f"the {what} is {number} at step {reading.step}"
                    raise Diverged(self._sentence(where, batch))
            losses.append((reading.step, reading.loss, batch))
        recent = [*progress.get("recent_losses", ()), *(round(loss, 4) for _, loss, _ in losses)]
        progress["recent_losses"] = recent = recent[-WINDOW:]
        if len(recent) < WINDOW:
            return
        mean = sum(recent) / WINDOW
        first = progress.setdefault("first_loss", mean)
        lowest = progress["lowest_loss"] = min(mean, progress.get("lowest_loss", mean))
        # Batches of one kind may be harder than the others by more than was learned: where some of
        # the steps still know it, nothing is lost.
        if first - lowest > LEARNED and min(recent) > (first + lowest) / 2:
            step, loss, batch = max(losses, key=lambda item: item[1])
            jump = f"the loss has jumped from {lowest:.2f} to {mean:.2f}, most at step {step}"
            raise Diverged(self._sentence(f"{jump} ({loss:.2f})", batch, self._best_kept()))

    def _sentence(self, what: str, batch: Batch, kept: str = "") -> str:
        return (
            f"{what}, on texts such as {', '.join(self._texts(batch))}: lower --learning-rate (now "
            f"{self.settings.learning_rate}), or leave such texts out; {kept or self._last_kept()}"
        )

    def _last_kept(self) -> str:
        steps = self.run.steps()
        return f"the last good checkpoint is {steps[-1]}" if steps else "no checkpoint was kept yet"

    def _best_kept(self) -> str:
        """The last one may have been saved while it was being lost."""
        folder = self.run.folder
        is_there = (folder / "config.json").exists()
        return f"the best weights so far are in {folder}" if is_there else ""

    def _texts(self, batch: Batch) -> Iterator[str]:
        for ids in batch.ids_BT[:TEXTS_SHOWN]:
            text = self.tokenizer.decode(ids[: 2 * CHARACTERS_SHOWN].tolist())
            yield repr(" ".join(text.split())[:CHARACTERS_SHOWN])
