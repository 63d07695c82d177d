"""The losses of a run as they come -> `Diverged`, with the step and its texts, if they go wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from lmapps.errors import LmappsError
from lmapps.text.batches import Batch
from lmapps.text.tokenizer import Tokenizer
from lmapps.training.run import Progress, Run
from lmapps.training.settings import TrainSettings

TEXTS_SHOWN, CHARACTERS_SHOWN = 3, 60
WINDOW = 10
"""Steps whose mean is looked at."""
LEARNED = 1.0
"""Nats. Less than this was learned: ups and downs say nothing yet."""


class Diverged(LmappsError):
    """The loss is no longer a number, or what was learned is being lost."""


class Watch:
    """Keeps the losses of the last few steps on the device, and looks at them together."""

    def __init__(self, tokenizer: Tokenizer, settings: TrainSettings, run: Run) -> None:
        self.tokenizer, self.settings, self.run = tokenizer, settings, run
        self._since: list[tuple[int, torch.Tensor, Batch]] = []

    def note(self, step: int, loss: torch.Tensor, batch: Batch) -> None:
        """The loss of a step and its first micro-batch. Waits for nothing."""
        self._since.append((step, loss.detach(), batch))

    def check(self, progress: Progress, norm: float) -> None:
        """Before weights are kept: raises `Diverged` where a loss since the last look, or the
        gradient, is no number, or half of what was learned is lost again.

        `progress` carries the last losses, and the first and the lowest mean of some, over saves.
        """
        losses = [(step, float(loss), batch) for step, loss, batch in self._since]
        self._since.clear()
        for step, loss, batch in losses:
            if not math.isfinite(loss):
                raise Diverged(self._sentence(f"the loss is {loss} at step {step}", batch))
        if not math.isfinite(norm):
            raise Diverged(
                self._sentence(f"the gradient's norm is {norm} at step {progress['step']}",
                               losses[-1][2])
            )  # fmt: skip
        recent = [*progress.get("recent_losses", ()), *(round(loss, 4) for _, loss, _ in losses)]
        progress["recent_losses"] = recent = recent[-WINDOW:]
        if len(recent) < WINDOW:
            return
        mean = sum(recent) / WINDOW
        first = progress.setdefault("first_loss", mean)
        lowest = progress["lowest_loss"] = min(mean, progress.get("lowest_loss", mean))
        if first - lowest > LEARNED and mean > (first + lowest) / 2:
            step, loss, batch = max(losses, key=lambda item: item[1])
            jump = f"the loss has jumped from {lowest:.2f} to {mean:.2f}, most at step {step}"
            raise Diverged(self._sentence(f"{jump} ({loss:.2f})", batch))

    def _sentence(self, what: str, batch: Batch) -> str:
        steps = self.run.steps()
        kept = f"the last good checkpoint is {steps[-1]}" if steps else "no checkpoint was kept yet"
        return (
            f"{what}, on texts such as {', '.join(self._texts(batch))}: lower --learning-rate (now "
            f"{self.settings.learning_rate}), or leave such texts out; {kept}"
        )

    def _texts(self, batch: Batch) -> Iterator[str]:
        for ids in batch.ids_BT[:TEXTS_SHOWN]:
            text = self.tokenizer.decode(ids[: 2 * CHARACTERS_SHOWN].tolist())
            yield repr(" ".join(text.split())[:CHARACTERS_SHOWN])
