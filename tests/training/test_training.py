"""Text to a checkpoint: losses, several processes, clear errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lmapps.commands.train import summary
from lmapps.errors import DataError, SettingsError
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.config import BODIES
from lmapps.training.settings import TrainSettings, read_recipe
from lmapps.training.start import run_training
from lmapps.training.watch import Diverged

STORY = (
    "The old man lived by the sea. Every morning he took his boat and went out to fish. "
    "The boy from the village came to help him with the nets, and they talked of the weather. "
)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "story.txt"
    file.write_text("\n\n".join(f"Chapter {n}. {STORY}" for n in range(60)))
    return file


def tiny(story: Path, out: Path, **changes: Any) -> TrainSettings:
    values: dict[str, Any] = {
        "data": [str(story)], "out": str(out), "steps": 12, "vocab_size": 320, "context": 32,
        "layers": 2, "width": 32, "batch_tokens": 256, "micro_batch_tokens": 128,
        "evaluations": 2, "saves": 4, "mixed_precision": "no",
    }  # fmt: skip
    return TrainSettings.from_values(values | changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def logged(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "run" / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("body", BODIES)
def test_every_body_learns_and_leaves_a_checkpoint_and_a_report(
    story: Path, tmp_path: Path, body: str
) -> None:
    report = run_training(tiny(story, tmp_path, model=body, steps=40, learning_rate=0.01))
    losses = [entry["loss"] for entry in logged(tmp_path) if "loss" in entry]
    assert losses[-1] < losses[0] - 1
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["scores"]["test"]["bits_per_byte"] > 0
    assert stored["scores"]["validation"]["perplexity"] > 1
    assert stored["steps"] == 40 and stored["tokens"] == 40 * 256
    assert Checkpoint.load(tmp_path).config.body == body
    assert "perplexity" in summary(report)


def test_a_short_run_has_the_losses_it_always_had(story: Path, tmp_path: Path) -> None:
    """A refactor must not move these; a change of the recipe may, with a word why."""
    run_training(tiny(story, tmp_path, steps=20, optimizer="adamw"))
    losses = [entry["loss"] for entry in logged(tmp_path) if "loss" in entry]
    assert losses == pytest.approx(PINNED, abs=2e-3)


PINNED = [5.78755, 4.82334, 4.04501]


def test_a_finished_run_started_again_changes_nothing(story: Path, tmp_path: Path) -> None:
    run_training(tiny(story, tmp_path))
    before = weights(tmp_path)
    report = run_training(tiny(story, tmp_path))
    assert report["steps"] == 12
    assert same(before, weights(tmp_path))


def test_accumulation_gives_the_weights_of_one_large_batch(story: Path, tmp_path: Path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    run_training(tiny(story, one, micro_batch_tokens=256, optimizer="adamw"))
    run_training(tiny(story, many, micro_batch_tokens=64, optimizer="adamw"))
    for name, tensor in weights(one).items():
        assert torch.allclose(tensor, weights(many)[name], atol=2e-4), name


def test_another_run_in_the_same_folder_is_refused(story: Path, tmp_path: Path) -> None:
    run_training(tiny(story, tmp_path))
    with pytest.raises(SettingsError, match="holds a run with seed = 0, not 1"):
        run_training(tiny(story, tmp_path, seed=1))


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(
    story: Path, tmp_path: Path
) -> None:
    with pytest.raises(Diverged, match="lower --learning-rate"):
        run_training(tiny(story, tmp_path, steps=40, learning_rate=9, clip=0, optimizer="adamw",
                          weight_decay=10))  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": "huge"}, "size must be one of tiny, small, base, large, got 'huge'"),
        ({"model": "cnn"}, "model must be one of rnn, gru, lstm, transformer, got 'cnn'"),
        ({"learning_rate": -1}, "learning_rate must be between 0 and 10, got -1"),
        ({"steps": 5, "minutes": 1}, "give one of steps, tokens and minutes"),
        ({"out": ""}, "no folder for the checkpoint"),
        ({"apps": ["chat"]}, "--apps fine-tunes a checkpoint"),
        ({"lr": 1}, "unknown setting 'lr'; known: data, out"),
    ],
)
def test_a_bad_setting_is_a_sentence_with_the_value(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        TrainSettings.from_values({"out": "x"} | values)
    assert message in str(raised.value)


def test_a_text_shorter_than_the_context_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "short.txt"
    file.write_text("Too short to learn from.")
    with pytest.raises(DataError, match="fewer than one context of 512"):
        run_training(tiny(file, tmp_path / "out", context=512))


def test_a_recipe_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text("steps = = 3")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_recipe(file)
    with pytest.raises(SettingsError, match="no recipe"):
        read_recipe(tmp_path / "missing.toml")
