"""Several processes learn what one does, with copies of the model and with shards of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lmapps.__main__ import build_parser
from lmapps.errors import SettingsError
from lmapps.training.loop import Meter
from lmapps.training.settings import TrainSettings
from lmapps.training.start import run_training

STORY = "The old man lived by the sea. Every morning he took his boat and went out to fish. "

VARIANTS: dict[str, dict[str, Any]] = {
    "copies, Muon": {},
    "shards, Muon": {"shard": True},
}
MORE_VARIANTS: dict[str, dict[str, Any]] = {
    "copies, AdamW": {"optimizer": "adamw"},
    "shards, AdamW": {"optimizer": "adamw", "shard": True},
    "shards, GRU": {"shard": True, "model": "gru"},
    "copies, LSTM": {"model": "lstm"},
}
RESUMED = "shards, Muon, resumed"

TWO_PROCESSES = """
import json, sys
from lmapps.training import loop
from lmapps.training.settings import TrainSettings
from lmapps.training.start import run_training

variants, resumed = json.loads(sys.argv[1])
loop.Meter.EVERY = 2
for values in variants:
    report = run_training(TrainSettings.from_values(values))
    assert not report or report["machine"]["processes"] == 2, report

class Interrupted(loop.Meter):
    def after_step(self, progress, *rest):
        if progress["step"] == 9:
            raise KeyboardInterrupt
        return super().after_step(progress, *rest)

whole, loop.Meter = loop.Meter, Interrupted
try:
    run_training(TrainSettings.from_values(resumed))
except KeyboardInterrupt:
    loop.Meter = whole
run_training(TrainSettings.from_values(resumed))
"""


def settings(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "data": [str(folder / "story.txt")], "out": str(folder / name), "steps": 12,
        "vocab_size": 320, "context": 32, "layers": 2, "width": 32, "batch_tokens": 256,
        "micro_batch_tokens": 64, "evaluations": 2, "saves": 4, "mixed_precision": "no",
    }  # fmt: skip
    return values | changes


def train_by_two_then_one(folder: Path, variants: dict[str, dict[str, Any]]) -> Path:
    """A folder of runs: all variants by two processes in one launch, then each by one."""
    (folder / "story.txt").write_text("\n\n".join(f"Chapter {n}. {STORY}" for n in range(60)))
    (folder / "script.py").write_text(TWO_PROCESSES)
    by_two = [settings(folder, f"two: {name}", **v) for name, v in variants.items()]
    resumed = settings(folder, f"two: {RESUMED}", **VARIANTS["shards, Muon"])
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"),
        *("--standalone", str(folder / "script.py"), json.dumps([by_two, resumed])),
    ]
    done = launched(command)
    assert done.returncode == 0, done.stderr[-3000:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Meter, "EVERY", 2)
        for name, changes in variants.items():
            changes = {key: value for key, value in changes.items() if key != "shard"}
            run_training(TrainSettings.from_values(settings(folder, f"one: {name}", **changes)))
    return folder


def flags(values: dict[str, Any]) -> list[str]:
    named = ((f"--{name.replace('_', '-')}", str(value)) for name, value in values.items())
    return [word for pair in named for word in pair]


def launched(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_by_two_then_one(tmp_path_factory.mktemp("runs"), VARIANTS)


def log(run: Path) -> list[dict[str, Any]]:
    return [*map(json.loads, (run / "run" / "log.jsonl").read_text().splitlines())]


def losses(run: Path) -> list[float]:
    """Training and validation losses, in the order of the log."""
    return [e["loss"] if "loss" in e else e["validation"]["loss"] for e in log(run)]


def norms(run: Path) -> list[float]:
    """Of the gradients, which say what the losses do not: neither Muon nor AdamW would notice
    gradients that are twice as large."""
    return [entry["gradient_norm"] for entry in log(run) if "gradient_norm" in entry]


def assert_alike(folder: Path, name: str) -> None:
    one, two = folder / f"one: {name}", folder / f"two: {name}"
    assert (len(losses(one)), len(norms(one))) == (9, 7)
    assert losses(one) == pytest.approx(losses(two), abs=2e-3)
    assert norms(one)[0] == pytest.approx(norms(two)[0], rel=1e-3)
    assert norms(one) == pytest.approx(norms(two), rel=0.1)
    weights, weights_too = (load_file(run / "model.safetensors") for run in (one, two))
    assert weights.keys() == weights_too.keys()
    for key, tensor in weights.items():
        assert torch.allclose(tensor, weights_too[key], atol=5e-3), key


@pytest.mark.parametrize("name", VARIANTS)
def test_two_processes_have_the_loss_curve_and_the_weights_of_one(folder: Path, name: str) -> None:
    assert_alike(folder, name)


@pytest.mark.long
def test_so_have_they_with_every_optimizer_and_body(tmp_path: Path) -> None:
    train_by_two_then_one(tmp_path, MORE_VARIANTS)
    for name in MORE_VARIANTS:
        assert_alike(tmp_path, name)


def test_a_sharded_run_resumes_exactly(folder: Path) -> None:
    whole, resumed = folder / "two: shards, Muon", folder / f"two: {RESUMED}"
    for file in ("model.safetensors", "run/step-00000012/optimizer.safetensors"):
        one, other = load_file(whole / file), load_file(resumed / file)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_shards_of_one_process_are_refused(folder: Path) -> None:
    alone = TrainSettings.from_values(settings(folder, "alone", shard=True))
    with pytest.raises(SettingsError, match="several processes, got one"):
        run_training(alone)


WEAK = """
import json, os, sys
import torch
from lmapps.__main__ import main
from lmapps.model.language_model import LanguageModel

whole = LanguageModel.forward

def forward(self, ids, targets=None, *rest):
    if os.environ["RANK"] == "1" and targets is not None and len(ids) > 2:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
    return whole(self, ids, targets, *rest)

LanguageModel.forward = forward
sys.exit(main(["train", *json.loads(sys.argv[1])]))
"""


@pytest.mark.long
def test_a_process_out_of_memory_ends_all_and_the_same_command_goes_on_with_less(
    tmp_path: Path,
) -> None:
    (tmp_path / "story.txt").write_text(STORY * 60)
    (tmp_path / "script.py").write_text(WEAK)
    values = settings(tmp_path, "two", micro_batch_tokens=512, batch_tokens=512)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"),
        *("--standalone", "--max-restarts", "3", str(tmp_path / "script.py")),
        json.dumps(["--data", *values.pop("data"), *flags(values)]),
    ]
    done = launched(command, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "128 tokens at a time" in done.stdout and "64 tokens at a time" in done.stdout
    assert done.stderr.count("process 1 is out of memory: give the same command again") == 2
    one = settings(tmp_path, "one", micro_batch_tokens=64, batch_tokens=512)
    run_training(TrainSettings.from_values(one))
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), abs=2e-3)


SCALING = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()


def test_the_commands_of_the_page_are_understood() -> None:
    blocks = re.findall(r"```(\w*)\n(.*?)```", SCALING, re.S)
    commands = re.findall(r"lmapps (.*)", "".join(text for kind, text in blocks if not kind))
    assert len(commands) == 11
    for command in commands:
        words = command.split()
        build_parser(words).parse_args(words)


def test_the_configurations_of_the_page_are_accelerates(tmp_path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    configurations = re.findall(r"```yaml\n(.*?)```", SCALING, re.S)
    assert len(configurations) == 2
    for number, text in enumerate(configurations):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        config = load_config_from_file(str(file))
        assert config.num_processes == 8 * config.num_machines


def test_accelerate_starts_as_many_with_the_configuration_of_the_page(tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text(STORY * 60)
    (tmp_path / "node.yaml").write_text(re.findall(r"```yaml\n(.*?)```", SCALING, re.S)[0])
    values = settings(tmp_path, "two")
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(tmp_path / "node.yaml"), "--num_processes", "2"),
        *("--main_process_port", "0"),
        *("-m", "lmapps", "train", "--data", *values.pop("data"), *flags(values)),
    ]
    done = launched(command)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 x cpu" in done.stdout
    run_training(TrainSettings.from_values(settings(tmp_path, "one")))
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), abs=2e-3)
