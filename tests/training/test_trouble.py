"""Memory that does not suffice, a loss that goes wrong: what is said, and what goes on."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from lmapps.model.config import ModelConfig
from lmapps.model.language_model import LanguageModel
from lmapps.text.batches import Batch
from lmapps.training import forecast as forecasting
from lmapps.training.adapters import add_adapters
from lmapps.training.forecast import forecast
from lmapps.training.reading import Reading
from lmapps.training.run import OutOfMemory, Run
from lmapps.training.settings import TrainSettings
from lmapps.training.start import run_training
from lmapps.training.supervise import kills_for_memory
from lmapps.training.watch import WINDOW, Diverged, Watch
from tests.conftest import brought


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., TrainSettings]:
    (tmp_path / "a.txt").write_text("The cat sat on the mat, and the dog sat on the cat. " * 200)

    def settings(name: str, **changes: Any) -> TrainSettings:
        values: dict[str, Any] = {
            "data": [str(tmp_path / "a.txt")], "out": str(tmp_path / name), "steps": 6,
            "vocab_size": 300, "context": 32, "layers": 1, "width": 32, "batch_tokens": 256,
            "micro_batch_tokens": 256, "evaluations": 1, "mixed_precision": "no",
        }  # fmt: skip
        return TrainSettings.from_values(values | changes)

    return settings


@pytest.fixture
def weak_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device on which training holds two rows at a time, as a GPU would say it."""
    whole = LanguageModel.forward

    def forward(self: LanguageModel, ids: torch.Tensor, targets: Any = None, *rest: Any) -> Any:
        if targets is not None and len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return whole(self, ids, targets, *rest)

    monkeypatch.setattr(LanguageModel, "forward", forward)
    monkeypatch.setattr("lmapps.training.start.forecast", lambda *_: Roomy())


class Roomy:
    fits, largest = True, "activations and gradients"


def same_weights(one: str, other: str) -> bool:
    stored = [load_file(Path(folder) / "model.safetensors") for folder in (one, other)]
    return all(torch.equal(stored[0][name], stored[1][name]) for name in stored[0])


@pytest.mark.parametrize(
    ("context", "micro", "processes", "rows", "fewer"),
    [
        (256, 8192, 1, 32, 16),
        (256, 8192, 2, 16, 8),  # of 8192 tokens a step each process takes half at once
        (1024, 8192, 4, 2, 1),
        (384, 8192, 1, 21, 7),  # ten at a time would be twenty in a step
        (700, 8192, 1, 11, 5),  # no other number gives eleven
    ],
)
def test_half_as_many_rows_fill_a_step_as_before_where_some_do(
    settings: Callable[..., TrainSettings], context: int, micro: int, processes: int, rows: int,
    fewer: int,
) -> None:  # fmt: skip
    given = settings("m", context=context, batch_tokens=8192, micro_batch_tokens=micro)
    assert given.rows_at_once(context, processes) == rows
    run = Run(given.out)
    run.state.mkdir(parents=True)
    run.halve_micro_batch(given, context, "out of memory", processes)
    assert run.fitted(given).rows_at_once(context, processes) == fewer


def test_out_of_memory_halves_the_micro_batch_and_goes_on(
    settings: Callable[..., TrainSettings], weak_machine: None, capsys: pytest.CaptureFixture[str]
) -> None:
    small, large = settings("small", micro_batch_tokens=64), settings("large")
    run_training(small)
    run_training(large)
    said = capsys.readouterr().out
    assert "out of memory (most of it for activations and gradients): 128 tokens at" in said
    assert "64 tokens at a time from here on, in 4 passes a step" in said
    assert same_weights(small.out, large.out)
    assert run_training(large)["steps"] == 6, "the finished run is known again"


def test_a_row_that_does_not_fit_is_a_sentence(
    settings: Callable[..., TrainSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecasting, "room", lambda device: 1_000_000)
    with pytest.raises(OutOfMemory, match=r"will not suffice .* one row of 32 tokens at a time"):
        run_training(settings("m"))


def test_what_will_not_fit_is_not_tried(
    settings: Callable[..., TrainSettings],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rooms = iter([1_000_000, None])
    monkeypatch.setattr(forecasting, "room", lambda device: next(rooms))
    run_training(settings("m"))
    said = capsys.readouterr().out
    assert said.count("forecast: ") == 2 and "MB of 1 (process" in said
    assert "memory will not suffice (most of it for" in said and "128 tokens at a time" in said


@pytest.mark.parametrize("body", ["transformer", "gru", "lstm", "rnn"])
def test_the_tensors_of_a_large_pass_are_foreseen_from_small_ones(
    settings: Callable[..., TrainSettings], body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmapps.model.cross_entropy.CHUNK_ELEMENTS", 2 * 32 * 300)
    monkeypatch.setattr(forecasting, "GAPS", {body: 1})
    config = ModelConfig.from_size("tiny", body=body, vocab_size=300, context=32)
    model, accelerator = LanguageModel(config), Accelerator(mixed_precision="no")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    expected = forecast(model, settings("m"), accelerator, 16, 32, 1)
    with forecasting._Peak() as peak:
        ids = torch.zeros(16, 32, dtype=torch.int64)
        model(ids, ids).backward()
    assert expected.parts["activations and gradients"] == pytest.approx(peak.bytes, rel=0.1)
    assert expected.seconds_per_step > 0 and "MB" in str(expected)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


def test_adapters_are_foreseen_as_what_is_trained_beside_the_whole_model(
    settings: Callable[..., TrainSettings],
    tiny_checkpoint: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    brought("peft")
    whole = tiny_checkpoint("transformer")
    whole.save(tmp_path / "start")
    tuned = settings("m", start_from=str(tmp_path / "start"), lora=2, apps=["x"], data=[])
    accelerator = Accelerator(mixed_precision="no")
    adapted = add_adapters(tuned)
    expected = forecast(adapted, tuned, accelerator, 8, 32, 2)
    trained = sum(4 * w.numel() for w in adapted.parameters() if w.requires_grad)
    plain = forecast(whole.model, settings("n"), accelerator, 8, 32, 2)
    assert 0 < trained < expected.parts["weights"] / 4
    assert expected.parts["optimizer"] == 2 * trained
    assert expected.parts["whole copy"] == plain.parts["weights"] < expected.parts["weights"]
    assert expected.parts["optimizer"] < plain.parts["optimizer"] / 4
    assert expected.parts["activations and gradients"] < plain.parts["activations and gradients"]


def test_memory_of_a_machine_is_shared_by_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasting, "free_memory", lambda: 1000)
    monkeypatch.setattr(forecasting, "taken", lambda device: 7)
    assert forecasting.room(torch.device("cpu")) == 1007
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert forecasting.room(torch.device("cpu")) == 257


SUPERVISED = """
import atexit, os, signal
from pathlib import Path
from lmapps.training import supervise
counter = Path(folder) / "vmstat"
counter.write_text("oom_kill 7\\n")
supervise.kills_for_memory.__defaults__ = (counter,)
rows = Path(folder) / "rows"

def work():
    if int(rows.read_text()) > 2:
        counter.write_text(f"oom_kill {supervise.kills_for_memory() + by_kernel}\\n")
        os.kill(os.getpid(), signal.SIGKILL)
    atexit.register(killed_at_the_end)
    return 17

def killed_at_the_end():
    counter.write_text(f"oom_kill {supervise.kills_for_memory() + by_kernel}\\n")
    os.kill(os.getpid(), signal.SIGKILL)

def after_kill():
    rows.write_text(str(int(rows.read_text()) // 2))

try:
    code = supervise.supervised(work, after_kill)
except supervise.Killed as error:
    code = str(error)
Path(folder, "result").write_text(repr(code))
"""


@pytest.mark.parametrize(("by_kernel", "result", "rows"), [(1, "17", "2"), (0, "signal 9", "8")])
def test_a_run_killed_for_its_memory_goes_on_with_less(
    tmp_path: Path, by_kernel: int, result: str, rows: str
) -> None:
    (tmp_path / "rows").write_text("8")
    names = {"folder": str(tmp_path), "by_kernel": by_kernel}
    process = multiprocessing.get_context("forkserver").Process(
        target=exec, args=(SUPERVISED, names)
    )
    process.start()
    process.join(60)
    assert result in (tmp_path / "result").read_text()
    assert (tmp_path / "rows").read_text() == rows


def test_a_supervisor_that_is_killed_takes_the_run_along(tmp_path: Path) -> None:
    program = (
        "import os, time, pathlib\n"
        "from lmapps.training.supervise import supervised\n"
        f"file = pathlib.Path({str(tmp_path / 'pid')!r})\n"
        "supervised(lambda: file.write_text(str(os.getpid())) and time.sleep(60) or 0, lambda: 0)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as parent:
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        run = int((tmp_path / "pid").read_text())
        parent.kill()
    wait_until(lambda: not is_running(run))


def is_running(process: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


def wait_until(check: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_kernels_count_of_kills_is_read(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("pgfault 3\noom_kill 12\nother 1\n")
    assert kills_for_memory(tmp_path / "vmstat") == 12
    assert kills_for_memory(tmp_path / "nothing") == 0


class Told:
    """Micro-batches of one text each."""

    tokens_per_batch = batches_per_epoch = 1

    def __init__(self, tokenizer: Any, *texts: str) -> None:
        self.ids = [torch.tensor([tokenizer.encode(text)]) for text in texts]

    def batch(self, number: int) -> Batch:
        return Batch(self.ids[number], self.ids[number])


@pytest.fixture
def watch(settings: Callable[..., TrainSettings], tiny_checkpoint: Callable[..., Any]) -> Watch:
    tokenizer = tiny_checkpoint("gru").tokenizer
    (Path(settings("m").out) / "run" / "step-00000030").mkdir(parents=True)
    batches = Told(tokenizer, "The dog lay in the sun.", "The cat ran up a tree.")
    return Watch(tokenizer, batches, settings("m"), Run(settings("m").out))


def note(watch: Watch, step: int, *losses: float) -> None:
    """A step of one or two micro-batches."""
    parts = list(map(torch.tensor, losses))
    reading = Reading(step, torch.stack(parts).sum(), torch.tensor(1.0))
    watch.note(reading, range(len(parts)), parts)


def test_a_loss_that_is_no_number_is_named_with_its_step_texts_and_the_last_checkpoint(
    watch: Watch,
) -> None:
    for step, loss in enumerate([3.0, float("nan"), float("nan")], start=41):
        note(watch, step, 9.0, loss)
    watch.check({}, 41)
    with pytest.raises(Diverged) as raised:
        watch.check({}, 43)
    said, file = str(raised.value), watch.run.state / "texts-of-step-42-0.jsonl"
    assert said.startswith("the loss is nan at step 42, on texts such as 'The cat ran up a tree.'")
    assert said.endswith("step-00000030") and "lower --learning-rate" in said
    assert f"(all 2 of the step, the worst first: {file})" in said
    records = map(json.loads, file.read_text().splitlines())
    assert [r["text"] for r in records] == ["The cat ran up a tree.", "The dog lay in the sun."]


def test_what_another_process_read_is_not_blamed_on_the_texts_of_this_one(watch: Watch) -> None:
    watch.note(Reading(42, torch.tensor(float("nan")), torch.tensor(1.0)), [0], [torch.tensor(2.0)])
    with pytest.raises(Diverged, match="nan at step 42, on texts of another process than this"):
        watch.check({}, 42)


def test_what_went_wrong_is_said_on_a_full_disk_too(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    note(watch, 42, float("inf"))
    with pytest.raises(Diverged, match=r"is inf at step 42, on texts such as 'The dog[^(]*: lower"):
        watch.check({}, 42)


def test_a_loss_that_jumps_stops_the_run_and_one_that_wavers_does_not(
    watch: Watch,
) -> None:
    progress: dict[str, Any] = {"step": 0}

    def steps(*losses: float) -> None:
        for loss in losses:
            progress["step"] += 1
            note(watch, progress["step"], loss)
        watch.check(progress, progress["step"])

    steps(*[6.0] * WINDOW)
    steps(*[2.0] * WINDOW)
    steps(*[2.5, 1.5, 2.0, 3.9, 2.0] * 2, 5.9)
    steps(*[5.2, 5.2, 5.2, 1.2] * (WINDOW // 4))  # batches of a harder kind, one after the other
    progress = json.loads(json.dumps(progress))  # as a resumed run reads it
    (watch.run.folder / "config.json").touch()
    jumped = r"has jumped from 2.* to 5\.\d+, most at step 91 \(9.00\).*best weights so far are in"
    with pytest.raises(Diverged, match=jumped):
        steps(*[5.0] * (WINDOW - 1), 9.0)
