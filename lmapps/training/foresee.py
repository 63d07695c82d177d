"""Settings -> the memory and time that a run would take, before it is started and without its data.

In a process of its own (`python -m lmapps.training.foresee` reads settings and writes the answer as
JSON), since what a process has taken already, and what it does meanwhile, would count.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from lmapps.errors import SettingsError
from lmapps.sentence import Sentence
from lmapps.training.settings import TrainSettings

BYTES_PER_TOKEN = 3.5
"""Of text, about, before there is a vocabulary."""
PROGRAM = [sys.executable, "-m", "lmapps.training.foresee"]
SECONDS = 240
"""How long two passes may take."""


@dataclass(frozen=True)
class Foreseen:
    """About what a run will need."""

    parameters: int
    context: int
    bytes: int
    room: int | None
    """Bytes that there are; None where unknown."""
    seconds_per_step: float
    steps: int
    seconds: float
    """Of the steps alone: evaluations and the report come on top."""
    passes: float | None
    """How often the text is read; None where its size is unknown."""

    @property
    def fits(self) -> bool:
        return self.room is None or self.bytes <= self.room


def ask(settings: TrainSettings, data_bytes: int) -> Foreseen:
    """Foresee in another process. Raises `SettingsError` with the reason where that fails."""
    asked = json.dumps({"settings": settings.as_dict(), "data_bytes": data_bytes})
    try:
        done = subprocess.run(PROGRAM, input=asked, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise SettingsError(
            "two small passes took more than {seconds} seconds: choose a smaller size or context",
            seconds=SECONDS,
        ) from None
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2] or Sentence("memory does not suffice")
        raise SettingsError("the run cannot be foreseen: {reason}", reason=reason)
    return Foreseen(**json.loads(done.stdout.splitlines()[-1]))


def foresee(settings: TrainSettings, data_bytes: int) -> Foreseen:
    """Two small passes of a model of that shape, measured.

    data_bytes   size of the text; 0 where unknown
    """
    from accelerate import Accelerator

    from lmapps.model.language_model import LanguageModel
    from lmapps.training.forecast import forecast
    from lmapps.training.start import mixed_precision

    config = config_of(settings)
    accelerator = Accelerator(mixed_precision=mixed_precision(settings.mixed_precision))
    context = config.context
    rows = settings.rows_at_once(context)
    accumulation = settings.passes(rows * context)
    found = forecast(LanguageModel(config), settings, accelerator, rows, context, accumulation)
    per_step = rows * context * accumulation
    whole = data_bytes / BYTES_PER_TOKEN
    if settings.minutes:
        steps = max(1, round(settings.minutes * 60 / found.seconds_per_step))
    elif settings.tokens:
        steps = max(1, settings.tokens // settings.batch_tokens)
    else:
        steps = settings.steps or max(1, round(whole / per_step))
    return Foreseen(
        config.parameters, context, found.total, found.room, found.seconds_per_step, steps,
        steps * found.seconds_per_step, steps * per_step / whole if whole else None,
    )  # fmt: skip


def config_of(settings: TrainSettings):  # type: ignore[no-untyped-def]
    """The shape of the model: of the checkpoint to go on from, else of a new one."""
    from lmapps.model.config import ModelConfig
    from lmapps.model.folder import read_json, understand

    if settings.start_from:
        folder = Path(settings.start_from)
        config = understand(read_json(folder, "config.json"), folder)
        settings.check_shape(config)
        return config
    return ModelConfig.from_size(
        settings.size, body=settings.model, vocab_size=settings.vocab_size,
        context=settings.context, layers=settings.layers, width=settings.width,
    )  # fmt: skip


def main() -> None:
    asked = json.load(sys.stdin)
    settings = TrainSettings.from_values(asked["settings"])
    print(json.dumps(asdict(foresee(settings, asked["data_bytes"]))))


if __name__ == "__main__":
    main()
