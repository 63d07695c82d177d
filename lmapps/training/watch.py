"""The losses of a run as they come -> `Diverged`, with the step and its texts, if they go wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from lmapps.errors import LmappsError
from lmapps.text.batches import Batch, BatchSource
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


class Step(NamedTuple):
    """What is kept of a step until somebody looks at it; its texts can be had again."""

    reading: Reading
    numbers: Sequence[int]
    """Of the micro-batches of this process."""
    losses: Sequence[torch.Tensor]
    """Of each, as it counts in the loss of the step."""


class Watch:
    """Keeps what the last few steps gave, and looks at it together."""

    def __init__(
        self, tokenizer: Tokenizer, batches: BatchSource, settings: TrainSettings, run: Run
    ) -> None:
        self.tokenizer, self.batches, self.settings, self.run = tokenizer, batches, settings, run
        self._since: list[Step] = []

    def note(
        self, reading: Reading, numbers: Sequence[int], losses: Sequence[torch.Tensor]
    ) -> None:
        """A step. Waits for nothing."""
        self._since.append(Step(reading, numbers, losses))

    def check(self, progress: Progress, last: int) -> None:
        """Steps since the last look, up to step `last`: raises `Diverged` where a loss or a
        gradient is no number, or half of what was learned is lost again at every one of them.

        `progress` carries the last losses, and the first and the lowest mean of some, over saves.
        """
        seen = [step for step in self._since if step.reading.step <= last]
        self._since = self._since[len(seen) :]
        for step in seen:
            reading = step.reading
            for what, number in (("loss", reading.loss), ("gradient's norm", reading.norm)):
                if not math.isfinite(number):
                    where = f"the {what} is {number} at step {reading.step}"
                    raise Diverged(self._sentence(where, step))
        losses = [round(step.reading.loss, 4) for step in seen]
        recent = [*progress.get("recent_losses", ()), *losses][-WINDOW:]
        progress["recent_losses"] = recent
        if len(recent) < WINDOW:
            return
        mean = sum(recent) / WINDOW
        first = progress.setdefault("first_loss", mean)
        lowest = progress["lowest_loss"] = min(mean, progress.get("lowest_loss", mean))
        # Batches of one kind may be harder than the others by more than was learned: where some of
        # the steps still know it, nothing is lost.
        if first - lowest > LEARNED and min(recent) > (first + lowest) / 2:
            step = max(seen, key=lambda step: step.reading.loss)
            jump = f"the loss has jumped from {lowest:.2f} to {mean:.2f}, most at step"
            where = f"{jump} {step.reading.step} ({step.reading.loss:.2f})"
            raise Diverged(self._sentence(where, step, self._best_kept()))

    def _sentence(self, what: str, step: Step, kept: str = "") -> str:
        micro_batches = [self.batches.batch(number) for number in step.numbers]
        means = [
            float(loss) / max(1, batch.target_count)
            for loss, batch in zip(step.losses, micro_batches, strict=True)
        ]
        # The worst first: one whose own loss is no number, or the highest.
        order = sorted(range(len(means)), key=lambda n: (math.isfinite(means[n]), -means[n]))
        texts = [self._texts(micro_batches[number]) for number in order]
        shown = "such as " + ", ".join(map(_shortened, texts[0][:TEXTS_SHOWN]))
        if not math.isfinite(step.reading.loss) and all(map(math.isfinite, means)):
            shown = "of another process than this"
        return (
            f"{what}, on texts {shown}{self._written(step, texts)}: lower --learning-rate "
            f"(now {self.settings.learning_rate}), or leave such texts out; "
            f"{kept or self._last_kept()}"
        )

    def _written(self, step: Step, texts: list[list[str]]) -> str:
        """Where all texts of the step are, micro-batch by micro-batch; nothing on a full disk."""
        file = self.run.state / f"texts-of-step-{step.reading.step}-{step.numbers[0]}.jsonl"
        records = [{"text": text} for batch in texts for text in batch]
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        try:
            file.write_text("".join(lines), encoding="utf-8")
        except OSError:
            return ""
        return f" (all {len(lines)} of the step, the worst first: {file})"

    def _last_kept(self) -> str:
        steps = self.run.steps()
        return f"the last good checkpoint is {steps[-1]}" if steps else "no checkpoint was kept yet"

    def _best_kept(self) -> str:
        """The last one may have been saved while it was being lost."""
        folder = self.run.folder
        is_there = (folder / "config.json").exists()
        return f"the best weights so far are in {folder}" if is_there else ""

    def _texts(self, batch: Batch) -> list[str]:
        return [self.tokenizer.decode(ids.tolist()) for ids in batch.ids_BT]


def _shortened(text: str) -> str:
    return repr(" ".join(text[: 2 * CHARACTERS_SHOWN].split())[:CHARACTERS_SHOWN])
