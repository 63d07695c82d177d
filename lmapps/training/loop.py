"""A model and batches -> trained weights: the loop, readable top to bottom.

Every step is a pure function of its number (batches, random state, learning rate), so that a run
resumed from step n goes on exactly as one that was never interrupted. Bounded by minutes, the
learning rate follows the clock and only the data order is exact.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import tqdm

from lmapps.evaluation.language import LanguageScores, told_bits
from lmapps.model.checkpoint import Checkpoint
from lmapps.text.batches import BatchSource
from lmapps.training.adapters import adapters_of
from lmapps.training.compiled import compile_training
from lmapps.training.observe import Observation, Observe
from lmapps.training.optimizer import learning_rate_factor, set_learning_rate
from lmapps.training.optimizer_state import state_of
from lmapps.training.parallel import distribute, gather, whole
from lmapps.training.process import Paused
from lmapps.training.reading import Reading
from lmapps.training.run import Progress, Run
from lmapps.training.settings import TrainSettings
from lmapps.training.watch import Watch

Validate = Callable[[Any], LanguageScores]


@dataclass(frozen=True)
class Bounds:
    """How long a run is: a number of steps, or of seconds."""

    steps: int
    seconds: float

    def progress(self, step: int, elapsed: float) -> float:
        """Share of the run that is done, 0 to 1."""
        done = elapsed / self.seconds if self.seconds else step / self.steps
        return min(1.0, done)


def bounds(settings: TrainSettings, batches: BatchSource, passes: int) -> Bounds:
    """Steps, tokens or minutes as chosen; one epoch where nothing was. A step has so many `passes`
    over all processes."""
    if settings.minutes:
        return Bounds(0, settings.minutes * 60)
    if settings.tokens:
        return Bounds(max(1, settings.tokens // settings.batch_tokens), 0)
    return Bounds(settings.steps or max(1, batches.batches_per_epoch // passes), 0)


def train(
    checkpoint: Checkpoint,
    batches: BatchSource,
    validate: Validate,
    observe: Observe,
    settings: TrainSettings,
    run: Run,
    accelerator: Accelerator,
) -> Progress:
    """Train `checkpoint.model`; the best weights are saved in `run.folder`.

    Returns the final progress: step, tokens, seconds and the goodness of the best weights (minus
    the validation loss, or the metric that `settings.best` names). Raises `Diverged` where the loss
    is not a number, `StorageError` where a save fails, `Paused` where it was asked to end.
    """
    model = checkpoint.model
    progress: Progress = {"step": 0, "tokens": 0, "seconds": 0.0, "best": None, "worse": 0}
    progress |= run.load(model) or {}
    if accelerator.is_main_process:
        run.rewind_log(progress["step"])
    prepared, optimizers = distribute(model, settings, accelerator)
    compile_training(prepared, model, settings, accelerator)
    run.load_optimizers([_plain(optimizer) for optimizer in optimizers], adapters_of(prepared))
    processes, rank = accelerator.num_processes, accelerator.process_index
    per_pass = batches.tokens_per_batch * processes
    accumulation = settings.passes(per_pass)
    length = bounds(settings, batches, accumulation * processes)
    meter = Meter(accelerator, length, progress)
    watch = Watch(checkpoint.tokenizer, batches, settings, run)
    share = length.progress(progress["step"], progress["seconds"])
    prepared.train()

    while not progress.get("done"):
        step = progress["step"]
        torch.manual_seed(settings.seed * 1_000_003 + step * processes + rank)
        factor = learning_rate_factor(share, settings.warmup, settings.decay)
        set_learning_rate(optimizers, settings.learning_rate * factor)

        first = step * accumulation
        numbers = [(first + number) * processes + rank for number in range(accumulation)]
        micro_batches = [batches.batch(number) for number in numbers]
        targets = sum(batch.target_count for batch in micro_batches)
        counted = torch.full((), targets, device=accelerator.device)
        counted = accelerator.reduce(counted, reduction="sum")
        losses: list[torch.Tensor] = []
        for number, micro_batch in enumerate(micro_batches):
            is_last = number == accumulation - 1
            batch = micro_batch.to(accelerator.device)
            with nullcontext() if is_last else accelerator.no_sync(prepared):
                with accelerator.autocast():
                    loss = prepared(batch.ids_BT, batch.targets_BT, batch.places_BT)
                    loss = loss / counted.clamp(min=1)
                accelerator.backward(loss * processes)
            losses.append(loss.detach())
        total_loss = accelerator.reduce(torch.stack(losses).sum(), reduction="sum")
        norm = accelerator.clip_grad_norm_(prepared.parameters(), settings.clip or float("inf"))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        progress["step"] += 1
        progress["tokens"] += accumulation * per_pass
        share_after, asked = _after(
            length, progress["step"], meter.elapsed, run.request.made, accelerator
        )
        if asked and run.request.is_early:
            share_after = 1.0
        progress["done"] = share_after >= 1
        is_evaluated = _due(settings.evaluations, share, share_after)
        is_saved = _due(settings.saves, share, share_after) or asked
        is_due = is_evaluated or is_saved
        share = share_after

        reading = Reading(progress["step"], total_loss, whole(norm))
        watch.note(reading, numbers, losses)
        entry = meter.after_step(progress, reading, settings.learning_rate * factor, is_due)
        if entry is not None and accelerator.is_main_process:
            run.log(entry)
        if entry is not None or is_due:
            watch.check(progress, progress["step"] if is_due or entry is None else entry["step"])
        if is_due:
            gather(prepared, model)
        if is_evaluated:
            _evaluate(checkpoint, validate, observe, settings, run, accelerator, progress, meter)
        if is_saved:
            state = state_of([_plain(optimizer) for optimizer in optimizers])
            state |= adapters_of(prepared)
            if accelerator.is_main_process:
                run.save(checkpoint, state, {**progress, **meter.clock()})
        if asked and not progress["done"]:
            raise Paused(f"paused after step {progress['step']}: the same command goes on there")
    meter.close()
    return progress | meter.clock()


def _after(
    length: Bounds, step: int, elapsed: float, asked: bool, accelerator: Accelerator
) -> tuple[float, bool]:
    """The share that is done after a step, and whether the run was asked to end: the same in all
    processes."""
    share = length.progress(step, elapsed)
    if accelerator.num_processes == 1:
        return share, asked
    if not length.seconds and step % Meter.EVERY:
        return share, False  # to ask everybody is to wait for everybody
    agreed, asked = _agreed(share, asked, accelerator)
    return agreed if length.seconds else share, asked


def _due(times: int, before: float, after: float) -> bool:
    """Whether one of `times` evenly spread marks lies in (before, after]."""
    return int(after * times) > int(before * times) or after >= 1


def _evaluate(
    checkpoint: Checkpoint,
    validate: Validate,
    observe: Observe,
    settings: TrainSettings,
    run: Run,
    accelerator: Accelerator,
    progress: Progress,
    meter: Meter,
) -> None:
    """Validation: log it, keep the best weights, and stop early where that was asked for."""
    scores = validate(checkpoint.model)
    seen = observe() if accelerator.is_main_process else Observation()
    if settings.best == "loss":
        goodness = -scores.loss
    else:  # without a score, worse than any
        goodness = seen.metrics.get(settings.best, -math.inf)
    goodness = _from_main_process(goodness, accelerator)
    better = progress["best"] is None or goodness > progress["best"]
    progress["worse"] = 0 if better else progress["worse"] + 1
    if better:
        progress["best"] = goodness
    if settings.patience and progress["worse"] >= settings.patience:
        progress["done"] = True
    if accelerator.is_main_process:
        entry = {"step": progress["step"], "validation": scores.as_dict(), **asdict(seen)}
        run.log({**entry, "is_best": better, "done": progress["done"], **meter.clock()})
        meter.note(progress["step"], scores)
        if better:
            run.keep_best(checkpoint, getattr(torch, settings.save_dtype))
    accelerator.wait_for_everyone()


def _from_main_process(value: float, accelerator: Accelerator) -> float:
    """The main process's number, in every process."""
    own = torch.tensor(value if accelerator.is_main_process else 0.0)
    return float(accelerator.reduce(own.to(accelerator.device), reduction="sum"))


def _agreed(share: float, asked: bool, accelerator: Accelerator) -> tuple[float, bool]:
    """The mean share that is done, by every process's own clock, and whether any was asked to end:
    the same in all of them."""
    own = torch.tensor([share, float(asked)], device=accelerator.device)
    share, requests = accelerator.reduce(own, reduction="mean").tolist()
    return share, requests > 0


def _plain(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside Accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)


class Meter:
    """The progress bar and the log's numbers. Reads the loss back only every few steps."""

    EVERY = 10

    def __init__(self, accelerator: Accelerator, length: Bounds, progress: Progress) -> None:
        self.length, self.before = length, float(progress["seconds"])
        self.started = self.window_start = time.monotonic()
        self.window_tokens = progress["tokens"]
        unit, total = ("step", length.steps) if length.steps else ("s", int(length.seconds))
        done = progress["step"] if length.steps else int(self.before)
        every = 1 if sys.stderr.isatty() else 60  # a file would grow by a line each time
        self.bar = tqdm(
            total=total, initial=done, unit=unit, mininterval=every, maxinterval=max(10, every)
        )
        self.pending: tuple[Progress, Reading] | None = None

    @property
    def elapsed(self) -> float:
        """Seconds of training, earlier parts of a resumed run included."""
        return self.before + time.monotonic() - self.started

    def clock(self) -> dict[str, float]:
        return {"seconds": round(self.elapsed, 2)}

    def after_step(
        self, progress: Progress, reading: Reading, learning_rate: float, is_due: bool
    ) -> Progress | None:
        """Move the bar. Every few steps give an entry for the log, a step late unless it `is_due`:
        by then its numbers have come without anybody having waited for them."""
        self.bar.update(1 if self.length.steps else int(self.elapsed) - self.bar.n)
        ready, self.pending = self.pending, None
        if progress["step"] % self.EVERY == 0 or progress["step"] == 1:
            self.pending = self._begun(progress, learning_rate), reading
        if is_due and self.pending:
            ready, self.pending = self.pending, None
        return self._finished(*ready) if ready else None

    def _begun(self, progress: Progress, learning_rate: float) -> Progress:
        now = time.monotonic()
        speed = (progress["tokens"] - self.window_tokens) / max(1e-9, now - self.window_start)
        self.window_start, self.window_tokens = now, progress["tokens"]
        return {
            "step": progress["step"],
            "tokens": progress["tokens"],
            "learning_rate": learning_rate,
            "tokens_per_second": round(speed),
            "share": round(self.length.progress(progress["step"], self.elapsed), 5),
            **self.clock(),
        }

    def _finished(self, entry: Progress, reading: Reading) -> Progress:
        entry |= {"loss": round(reading.loss, 5), "gradient_norm": round(reading.norm, 4)}
        self.bar.set_postfix(loss=f"{entry['loss']:.3f}", tokens_per_s=entry["tokens_per_second"])
        return entry

    def note(self, step: int, scores: LanguageScores) -> None:
        """A line about an evaluation, above the bar."""
        told = f"step {step}: validation loss {scores.loss:.3f}, perplexity "
        told += f"{scores.perplexity:.1f}, accuracy {scores.accuracy:.1%}"
        bits = told_bits(scores.as_dict())
        self.bar.write(f"{told}, {bits}" if bits else told)

    def close(self) -> None:
        self.bar.close()
