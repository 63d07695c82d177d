"""A run that is killed, at any moment, ends as one that never was; a full disk loses nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lmapps.model.checkpoint import Checkpoint
from lmapps.training.settings import TrainSettings

TIMES = ("seconds", "tokens_per_second")

# A process that has imported everything and forks for each run: a run starts in milliseconds.
forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["lmapps.training.start", "lmapps.training.examples"])

KILLED_BEFORE_CHANGE = """
import os, signal, sys
left = [changes]
def count(event, args):
    writes = event == "open" and isinstance(args[1], str) and set("wa+") & set(args[1])
    if writes or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"):
        left[0] -= folder in str(args[0])
    if left[0] < 0 and event != "os.kill":
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
"""
"""Dies in front of a change to the folder that it numbers: between any two of a checkpoint."""

NO_ROOM = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
"""

NOT_ROOT = """
import ctypes, os
nothing = (ctypes.c_uint32 * 6)()
ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), nothing)  # root writes everywhere
"""

READ_ONLY = f"""{NOT_ROOT}
os.chmod(folder, 0o500)
"""

CLOSED_AFTER_STEP_20 = f"""{NOT_ROOT}
from lmapps.training.run import Run
log = Run.log
def log_and_close(run, entry):
    log(run, entry)
    if entry["step"] == 20:
        for place in (folder, os.path.join(folder, "run")):
            os.chmod(place, 0o500)
Run.log = log_and_close
"""

ASKED_AT_STEP_20 = """
import os, signal
from lmapps.training.run import Run
log = Run.log
def log_and_ask(run, entry):
    log(run, entry)
    if entry["step"] == 20:
        os.kill(os.getpid(), signal.SIGTERM)
Run.log = log_and_ask
"""

RUN = """
import os, sys, torch
sys.stdout = sys.stderr = open(os.devnull, "w")
torch.set_num_threads(1)  # two processes that spin on the same cores take minutes
from lmapps.errors import LmappsError
from lmapps.training.settings import TrainSettings
from lmapps.training.start import run_training
try:
    run_training(TrainSettings.from_values(settings))
except LmappsError as error:
    open(said, "w").write(str(error))
    sys.exit(error.exit_code)
"""


def settings_in(folder: Path) -> Callable[..., TrainSettings]:
    """A run of 40 steps with dropout, evaluations and saves that fall together and apart."""
    story = "\n\n".join(
        f"Chapter {n}. The old man lived by the sea. Every morning he took his boat and went "
        "out to fish. The boy from the village came to help him with the nets."
        for n in range(60)
    )
    (folder / "story.txt").write_text(story)

    def settings(name: str, **changes: Any) -> TrainSettings:
        values: dict[str, Any] = {
            "data": [str(folder / "story.txt")], "out": str(folder / name), "steps": 40,
            "vocab_size": 320, "context": 32, "layers": 2, "width": 32, "batch_tokens": 256,
            "micro_batch_tokens": 128, "evaluations": 8, "saves": 13, "dropout": 0.1,
            "mixed_precision": "no",
        }  # fmt: skip
        return TrainSettings.from_values(values | changes)

    return settings


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., TrainSettings]:
    return settings_in(tmp_path)


def start(settings: TrainSettings, before: str = "", **names: Any) -> Any:
    """The run in a process of its own, which first does what `before` says."""
    folder = Path(settings.out)
    values = {"settings": settings.as_dict(), "folder": str(folder), **names}
    values["said"] = str(said(settings))
    process = forks.Process(target=exec, args=(before + RUN, values))
    process.start()
    return process


def said(settings: TrainSettings) -> Path:
    """Where a process writes the sentence that it failed with."""
    return Path(settings.data[0]).with_name("said")


def finish(process: Any) -> int:
    process.join(120)
    assert process.exitcode is not None, "the run hangs"
    return int(process.exitcode)


def outcome(settings: TrainSettings) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """The best weights, the last weights with the optimizer's state, and the log but its times."""
    folder = Path(settings.out)
    last = sorted((folder / "run").glob("step-*"))
    assert [step.name for step in last] == ["step-00000040"]
    tensors = {f"best {n}": t for n, t in load_file(folder / "model.safetensors").items()}
    for file in ("model", "optimizer"):
        stored = load_file(last[0] / f"{file}.safetensors")
        tensors |= {f"{file} {name}": tensor for name, tensor in stored.items()}
    lines = (folder / "run" / "log.jsonl").read_text().splitlines()
    entries = [
        {key: value for key, value in json.loads(line).items() if key not in TIMES}
        for line in lines
    ]
    return tensors, entries


def assert_same_outcome(one: TrainSettings, other: TrainSettings) -> None:
    (tensors, log), (tensors_too, log_too) = outcome(one), outcome(other)
    assert log == log_too
    assert tensors.keys() == tensors_too.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, tensors_too[name]), name
    assert not list(Path(other.out).rglob("*.part")), "something half-written is left"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TrainSettings:
    """A run that nothing interrupted."""
    chosen = settings_in(tmp_path_factory.mktemp("whole"))("whole")
    assert finish(start(chosen)) == 0
    return chosen


def killed_at_changes(settings: TrainSettings, moments: Iterable[int]) -> int:
    """Each start gets further by so many changes to the folder, and is killed there; how many
    were, until the run was at its end."""
    kills = 0
    for changes in moments:
        code = finish(start(settings, KILLED_BEFORE_CHANGE, changes=changes))
        if code == 0:
            return kills
        assert code == -signal.SIGKILL
        kills += 1
    assert finish(start(settings)) == 0
    return kills


def test_a_run_killed_while_it_writes_ends_with_the_same_weights_and_log(
    whole: TrainSettings, settings: Callable[..., TrainSettings]
) -> None:
    chosen = settings("killed")
    assert killed_at_changes(chosen, [45, 83, 60]) == 3
    assert_same_outcome(whole, chosen)


def killed_at_times(settings: TrainSettings, times: Iterable[float]) -> list[bool]:
    """Killed so many seconds after it started, or at once when a step folder is being written; of
    each kill until the run was at its end, whether that left such a folder."""
    kills: list[bool] = []
    parts = Path(settings.out) / "run"
    for number, seconds in enumerate(times):
        process = start(settings)
        deadline = time.monotonic() + seconds
        while process.is_alive() and time.monotonic() < deadline + 60:
            half_written = number % 2 and any(parts.glob("step-*.part/*"))
            if half_written or (not number % 2 and time.monotonic() > deadline):
                break
            time.sleep(0.0005)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        code = finish(process)
        if code == 0:
            return kills
        assert code == -signal.SIGKILL
        kills.append(any(parts.glob("step-*.part")))
    assert finish(start(settings)) == 0
    return kills


def test_a_run_killed_at_any_time_ends_with_the_same_weights_and_log(
    whole: TrainSettings, settings: Callable[..., TrainSettings]
) -> None:
    chosen = settings("killed")
    kills = killed_at_times(chosen, [random.uniform(0.1, 0.5), 0.0, random.uniform(0.1, 1.0)])
    assert len(kills) >= 2
    assert_same_outcome(whole, chosen)


def test_a_run_that_is_asked_to_end_saves_its_step_and_ends_with_the_same_weights_and_log(
    whole: TrainSettings, settings: Callable[..., TrainSettings]
) -> None:
    chosen = settings("asked")
    assert finish(start(chosen, ASKED_AT_STEP_20)) == 128 + signal.SIGTERM
    # A step's line is written while the next one is computed.
    paused = re.search(r"paused after step (20|21):", said(chosen).read_text())
    assert paused
    kept = [step.name for step in Path(chosen.out).glob("run/step-*")]
    assert kept == [f"step-{int(paused[1]):08d}"]
    assert finish(start(chosen)) == 0
    assert_same_outcome(whole, chosen)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_a_run_killed_twenty_times_ends_with_the_same_weights_and_log(
    whole: TrainSettings, settings: Callable[..., TrainSettings], seed: int
) -> None:
    """Twenty that hit a run under way: where it came to its end, the next one is killed too."""
    draw = random.Random(seed)
    kills, number = 0, 0
    while kills < 20:
        number += 1
        chosen = settings(f"by_change {number}")
        kills += killed_at_changes(chosen, [draw.randrange(120) for _ in range(20 - kills)])
        assert_same_outcome(whole, chosen)
    timed: list[bool] = []
    while len(timed) < 20:
        number += 1
        chosen = settings(f"by_time {number}")
        timed += killed_at_times(chosen, [draw.uniform(0, 1.2) for _ in range(20 - len(timed))])
        assert_same_outcome(whole, chosen)
    assert sum(timed) >= 3, "so many checkpoints were being written"


@pytest.mark.long
@pytest.mark.parametrize("body", ["transformer", "gru"])
def test_so_does_one_in_bf16(settings: Callable[..., TrainSettings], body: str) -> None:
    changes = {"mixed_precision": "bf16", "model": body}
    whole, killed = settings("whole", **changes), settings("killed", **changes)
    assert finish(start(whole)) == 0
    assert killed_at_changes(killed, [45, 83, 60]) == 3
    assert_same_outcome(whole, killed)


@pytest.mark.parametrize("file", ["tokenizer.json", "model.safetensors", "optimizer.safetensors"])
def test_a_full_disk_is_one_sentence_and_what_was_whole_is_kept(
    whole: TrainSettings, settings: Callable[..., TrainSettings], file: str
) -> None:
    """No file may be as large as `file` is."""
    room = (Path(whole.out) / "run" / "step-00000040" / file).stat().st_size - 1
    chosen, folder = settings("full"), Path(settings("full").out)
    process = start(chosen, KILLED_BEFORE_CHANGE, changes=90)
    assert finish(process) == -signal.SIGKILL
    steps = [step.name for step in (folder / "run").glob("step-????????")]
    assert len(steps) == 1
    process = start(chosen, NO_ROOM, room=room)
    assert finish(process) == 1
    words = said(chosen).read_text()
    assert "cannot write" in words and "give the same command again" in words, words
    assert steps[0] in words and "whole and kept" in words
    Checkpoint.load(folder / "run" / steps[0])
    Checkpoint.load(folder)
    assert not list(folder.rglob("*.part"))
    assert finish(start(chosen)) == 0
    assert_same_outcome(whole, chosen)


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_a_folder_that_cannot_be_written_is_one_sentence(
    settings: Callable[..., TrainSettings],
) -> None:
    folder = Path(settings("closed").out)
    folder.mkdir()
    chosen = settings("closed/model")
    process = start(chosen, READ_ONLY.replace("folder", "parent"), parent=str(folder))
    code = finish(process)
    folder.chmod(0o700)
    assert code == 1
    words = said(chosen).read_text()
    assert "cannot write to" in words and "Permission denied" in words


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities")
def test_a_folder_that_is_closed_on_the_way_keeps_its_last_checkpoint(
    whole: TrainSettings, settings: Callable[..., TrainSettings]
) -> None:
    chosen, folder = settings("closed"), Path(settings("closed").out)
    code = finish(start(chosen, CLOSED_AFTER_STEP_20))
    kept = [step.name for step in (folder / "run").glob("step-????????")]
    for place in (folder, folder / "run"):
        place.chmod(0o700)
    assert code == 1 and len(kept) == 1
    words = said(chosen).read_text()
    assert "cannot write" in words and f"{kept[0]} is whole and kept" in words, words
    Checkpoint.load(folder / "run" / kept[0])
    Checkpoint.load(folder)
    assert finish(start(chosen)) == 0
    assert_same_outcome(whole, chosen)
