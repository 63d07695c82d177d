"""Settings -> a finished run: prepare, train, score, report. What `lmapps train` calls."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from lmapps.errors import LmappsError
from lmapps.memory import is_out_of_memory, kept_memory
from lmapps.prompts import record_prompts
from lmapps.training.adapters import add_adapters
from lmapps.training.forecast import Forecast, forecast
from lmapps.training.loop import train
from lmapps.training.prepare import Prepared, prepare_text
from lmapps.training.provenance import code_now
from lmapps.training.report import make_report, report_page
from lmapps.training.run import OutOfMemory, Progress, Run
from lmapps.training.settings import TrainSettings

PATIENCE = timedelta(hours=6)
"""So long processes wait for the one that scores: torch's ten minutes are soon over."""


def run_training(settings: TrainSettings) -> dict[str, Any]:
    """Train as chosen, or go on where a run in the same folder stopped; returns the report."""
    code = code_now()
    AcceleratorState._reset_state()  # an earlier run in this process may have had another precision
    accelerator = Accelerator(
        mixed_precision=mixed_precision(settings.mixed_precision),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    run = Run(settings.out)
    with accelerator.main_process_first():
        run.open(settings)
    prepared, progress = None, None
    while progress is None:
        fitted, prepared = run.fitted(settings), None
        with accelerator.main_process_first():
            try:
                prepared = prepare(fitted, run, accelerator.num_processes)
                run.keep_data(prepared.data_sha256)
            except LmappsError:
                run.abandon()
                raise
        if accelerator.is_main_process:
            template = prepared.checkpoint.template
            record_prompts(run.folder, prepared.held_out, template.hash, settings.start_from)
        progress = train_or_halve(prepared, fitted, run, accelerator)
    report: dict[str, Any] = {}
    accelerator.free_memory()  # gradients and optimizers: the report needs room of its own
    if accelerator.is_main_process and prepared is not None:
        report = make_report(settings, prepared, progress, accelerator, code)
        run.finish(report, report_page(report, run.entries()))
    accelerator.wait_for_everyone()
    return report


def train_or_halve(
    prepared: Prepared, settings: TrainSettings, run: Run, accelerator: Accelerator
) -> Progress | None:
    """The final progress; None where memory does not suffice, and the micro-batch was halved."""
    context = prepared.checkpoint.config.context
    expected = None
    try:
        if not run.steps():
            accelerator.print(describe(prepared, settings, accelerator))
            expected = foresee(prepared, settings, accelerator)
            accelerator.print(expected)
            if accelerator.is_main_process:
                run.note_largest(expected.largest)
        if _everybody(expected is None or expected.fits, accelerator):
            with run.request, kept_memory(accelerator.device):
                return train(
                    prepared.checkpoint, prepared.batches, prepared.validate, prepared.observe,
                    settings, run, accelerator,
                )  # fmt: skip
        why = "memory will not suffice"
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        why = "out of memory"
        if accelerator.num_processes > 1:
            rank = accelerator.process_index
            run.halve_micro_batch(settings, context, why + run.largest, accelerator.num_processes)
            # The others wait for this one in the middle of a step: all must begin anew.
            raise OutOfMemory(
                f"process {rank} is out of memory: give the same command again, it goes on with "
                "fewer tokens in a pass"
            ) from None
        error.__traceback__ = None  # which holds the tensors of the pass
    accelerator.free_memory()  # it holds the model and the optimizers that it prepared
    why += run.largest
    run.halve_micro_batch(
        settings, context, why, accelerator.num_processes, accelerator.is_main_process
    )
    accelerator.wait_for_everyone()
    return None


def _everybody(yes: bool, accelerator: Accelerator) -> bool:
    """Whether all processes say so; none goes on before all were asked."""
    answers = torch.tensor(float(yes), device=accelerator.device)
    return float(accelerator.reduce(answers, reduction="sum")) == accelerator.num_processes


def foresee(prepared: Prepared, settings: TrainSettings, accelerator: Accelerator) -> Forecast:
    """Memory and time of a step, for a run at its start."""
    context = prepared.checkpoint.config.context
    tokens = prepared.batches.tokens_per_batch
    accumulation = settings.passes(tokens * accelerator.num_processes)
    rows = max(1, tokens // context)
    model = add_adapters(settings) if settings.lora else prepared.checkpoint.model
    return forecast(model, settings, accelerator, rows, context, accumulation)


def prepare(settings: TrainSettings, run: Run, processes: int) -> Prepared:
    """Text for pretraining, or plugins' examples where `apps` names some."""
    if not settings.apps:
        return prepare_text(settings, run, processes)
    from lmapps.training.examples import prepare_apps

    return prepare_apps(settings, run, processes)


def mixed_precision(chosen: str) -> str:
    """`auto` -> bf16 where the machine computes in it, else no."""
    if chosen != "auto":
        return chosen
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    if torch.backends.mps.is_available():
        return "no"
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() and _has_bf16_units() else "no"


def _has_bf16_units() -> bool:
    """Whether this CPU multiplies bf16 in hardware; without, it is slower than fp32."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return any(unit in flags for unit in ("avx512_bf16", "amx_bf16", " bf16"))


def describe(prepared: Prepared, settings: TrainSettings, accelerator: Accelerator) -> str:
    """What is about to run, in two lines."""
    config = prepared.checkpoint.config
    lines = [
        f"{config.body}, {config.parameters / 1e6:.2f}M parameters: {config.num_layers} layers, "
        f"width {config.hidden_size}, vocabulary {config.vocab_size}, context {config.context}; "
        f"{accelerator.num_processes} x {accelerator.device}, {accelerator.mixed_precision}"
    ]
    if prepared.corpus:
        counts = prepared.corpus.splits["train"]
        lines.append(
            f"{counts.documents:,} documents, {counts.tokens:,} training tokens, "
            f"{counts.bytes / max(1, counts.tokens):.2f} bytes per token"
        )
    return "\n".join(lines)
