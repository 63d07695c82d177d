"""A compiled run is the same run, resumed exactly; on a GPU nobody waits for anybody."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lmapps.errors import SettingsError
from lmapps.model import fused
from lmapps.training import compiled, loop
from lmapps.training.settings import TrainSettings
from lmapps.training.start import run_training

STORY = "The old man lived by the sea. Every morning he took his boat and went out to fish. "

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., TrainSettings]:
    (tmp_path / "story.txt").write_text("\n\n".join(f"Chapter {n}. {STORY}" for n in range(60)))

    def settings(name: str, **changes: Any) -> TrainSettings:
        values: dict[str, Any] = {
            "data": [str(tmp_path / "story.txt")], "out": str(tmp_path / name), "steps": 24,
            "vocab_size": 320, "context": 32, "layers": 2, "width": 32, "batch_tokens": 256,
            "micro_batch_tokens": 128, "evaluations": 2, "saves": 3, "mixed_precision": "no",
        }  # fmt: skip
        return TrainSettings.from_values(values | changes)

    return settings


def stored(settings: TrainSettings) -> dict[str, torch.Tensor]:
    """The best weights, and those and the optimizer's state after the last step."""
    last = Path(settings.out) / "run" / "step-00000024"
    files = (Path(settings.out) / "model", last / "model", last / "optimizer")
    return {
        f"{number} {name}": tensor
        for number, file in enumerate(files)
        for name, tensor in load_file(f"{file}.safetensors").items()
    }


def same(one: TrainSettings, other: TrainSettings) -> bool:
    ours, theirs = stored(one), stored(other)
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


class Interrupted(loop.Meter):
    def after_step(self, progress: Any, *rest: Any) -> Any:
        if progress["step"] == 13:
            raise KeyboardInterrupt
        return super().after_step(progress, *rest)


def test_a_compiled_run_is_the_run_and_resumes_exactly(
    settings: Callable[..., TrainSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []

    def eager(graph: Any, inputs: Any) -> Any:
        passes.append(sum(node.op == "call_function" for node in graph.graph.nodes))
        return graph.forward

    monkeypatch.setattr(compiled, "BACKEND", eager)
    torch.compiler.reset()
    plain, whole = settings("plain"), settings("whole", compile="yes")
    with monkeypatch.context() as patch:
        patch.setattr(fused, "pays", lambda _: False)  # a compiler sees the plain forms
        run_training(plain)
    assert not passes
    run_training(whole)
    assert len(passes) == 1 and passes[0] > 50, "all of the model is one graph, made once"
    assert same(plain, whole)
    stopped = settings("stopped", compile="yes")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "Meter", Interrupted)
        run_training(stopped)
    run_training(stopped)
    assert same(whole, stopped)


def test_the_log_has_every_tenth_step_once_though_it_is_written_later(
    settings: Callable[..., TrainSettings],
) -> None:
    run_training(settings("m", steps=24, saves=12))
    lines = (Path(settings("m").out) / "run" / "log.jsonl").read_text().splitlines()
    entries = [entry for entry in map(json.loads, lines) if "loss" in entry]
    assert [entry["step"] for entry in entries] == [1, 10, 20]
    assert all(entry["tokens"] == 256 * entry["step"] for entry in entries)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "gru"}, "for transformers; a gru is one call"),
        ({"compile": "always"}, "auto, yes, no, got 'always'"),
    ],
)
def test_what_cannot_be_compiled_is_a_sentence(
    settings: Callable[..., TrainSettings], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        run_training(settings("m", **{"compile": "yes", **changes}))


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_compiled_steps_learn_what_plain_ones_do_and_resume_exactly(
    settings: Callable[..., TrainSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, whole = settings("plain", compile="no"), settings("whole")
    losses = [run_training(one)["scores"]["validation"]["loss"] for one in (plain, whole)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "Meter", Interrupted)
        run_training(settings("stopped"))
    run_training(settings("stopped"))
    assert same(whole, settings("stopped"))


@pytest.mark.gpu
@needs_gpu
def test_between_saves_the_loop_never_waits_for_the_gpu(
    settings: Callable[..., TrainSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Strict(loop.Meter):
        def after_step(self, progress: Any, *rest: Any) -> Any:
            entry = super().after_step(progress, *rest)
            is_due = rest[-1]
            watched = progress["step"] > 2 and not is_due
            torch.cuda.set_sync_debug_mode("error" if watched else "default")
            return entry

    monkeypatch.setattr(loop, "Meter", Strict)
    try:
        run_training(settings("m", evaluations=1, saves=1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
