"""Runs as somebody outside sees them: they outlive who started them, pause, go on and end."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmapps.errors import SettingsError
from lmapps.training.log import Log
from lmapps.training.process import EARLY, Paused, Request, held, holder
from lmapps.training.run import Run
from lmapps.training.runs import NoSuchRun, OneAtATime, Runs
from lmapps.training.settings import TrainSettings

STARTER = """
import json, os, signal, sys
from lmapps.training.runs import Runs
from lmapps.training.settings import TrainSettings
Runs().start(TrainSettings.from_values(json.loads(sys.argv[1])))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def settings(home: Path, name: str = "cats", **changes: Any) -> TrainSettings:
    text = home / "cats.txt"
    text.write_text("The cat sat on the mat, and the dog sat on the cat. " * 200)
    values: dict[str, Any] = {
        "data": [str(text)], "out": str(home / "checkpoints" / name), "steps": 100_000,
        "vocab_size": 300, "context": 32, "layers": 1, "width": 32, "batch_tokens": 64,
        "micro_batch_tokens": 64, "evaluations": 100, "saves": 2, "mixed_precision": "no",
    }  # fmt: skip
    return TrainSettings.from_values(values | changes)


def wait_until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not check():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.02)


def test_a_run_outlives_who_started_it_and_is_paused_resumed_and_ended_early(home: Path) -> None:
    words = [sys.executable, "-c", STARTER, json.dumps(settings(home).as_dict())]
    starter = subprocess.run(words, stdout=subprocess.DEVNULL)
    assert starter.returncode == -signal.SIGKILL
    runs, other = Runs(), Runs()
    assert runs.look("cats").is_live and other.live() == "cats"
    with pytest.raises(OneAtATime, match="cats is being trained"):
        runs.start(settings(home, "dogs"))
    wait_until(lambda: len(runs.look("cats").log) > 2)
    version = other.version()
    runs.pause("cats")
    wait_until(lambda: not runs.look("cats").is_live)
    paused = other.look("cats")
    assert paused.state == "paused" and paused.why.startswith("paused after step")
    assert 0 < paused.share < 1 and paused.seconds_left is not None
    assert other.version() != version
    stopped_at = int(paused.why.split()[3].rstrip(":"))
    assert (paused.folder / "run" / f"step-{stopped_at:08d}").is_dir()

    runs.resume("cats")
    wait_until(lambda: runs.look("cats").last["step"] > stopped_at)
    runs.stop("cats")
    wait_until(lambda: not runs.look("cats").is_live)
    ended = runs.look("cats")
    assert ended.state == "finished" and ended.has_weights and ended.report is not None
    assert stopped_at < ended.report["steps"] < 100_000
    steps = [entry["step"] for entry in ended.log if "loss" in entry]
    assert steps == sorted(set(steps)), "no step was logged twice"
    with pytest.raises(SettingsError, match="is finished"):
        runs.resume("cats")


@pytest.fixture
def process_that(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`lmapps train` does what a few lines say, in `folder`; it takes no seconds to import."""

    def process_that(does: str) -> None:
        script = (
            f"import sys; from pathlib import Path; from lmapps.training.process import *\n{does}"
        )
        monkeypatch.setattr(
            "lmapps.training.runs.program",
            lambda *words: [sys.executable, "-c", script, words[words.index("--out") + 1]],
        )

    return process_that


def test_what_a_run_fails_with_is_told_and_it_can_be_forgotten(
    home: Path, process_that: Callable[[str], None]
) -> None:
    process_that(
        "with held(Path(sys.argv[1])):\n"
        "    print('reading', flush=True)\n"
        "    raise SettingsError('there is no such text')"
    )
    runs = Runs()
    runs.start(settings(home))
    wait_until(lambda: not runs.look("cats").is_live)
    failed = runs.look("cats")
    assert failed.state == "failed" and failed.why == "there is no such text"
    assert "reading" in failed.output and "there is no such text" in failed.output
    with pytest.raises(SettingsError, match="already a checkpoint 'cats'"):
        runs.start(settings(home))
    runs.forget("cats")
    assert runs.names() == [] and not failed.folder.exists()


def test_a_process_that_does_not_start_leaves_its_last_words_and_no_folder(
    home: Path, process_that: Callable[[str], None]
) -> None:
    process_that("sys.exit('lmapps: not with these options')")
    with pytest.raises(SettingsError, match="did not start: not with these options"):
        Runs().start(settings(home))
    assert not (home / "checkpoints" / "cats").exists()


@pytest.mark.parametrize("name", ["", "../cats", "a/b", ".hidden", "-o", "x" * 81])
def test_a_run_has_a_name_that_is_no_path(home: Path, name: str) -> None:
    with pytest.raises(NoSuchRun):
        Runs().look(name)
    with pytest.raises(SettingsError):
        Runs().start(settings(home, name))
    assert not list((home / "checkpoints").glob("*"))


def test_options_say_the_same_as_the_settings(home: Path) -> None:
    from lmapps.__main__ import build_parser
    from lmapps.commands.train import _settings

    chosen = settings(home, apps=["chat", "news"], start_from=str(home), shard=True, data=["a=b"])
    words = ["train", *chosen.as_words()]
    assert _settings(build_parser(words).parse_args(words)) == chosen


def test_two_processes_do_not_train_in_one_folder(home: Path) -> None:
    folder = home / "run-of-two"
    (folder / "run").mkdir(parents=True)
    (folder / "run" / "settings.json").write_text("{}")
    context = multiprocessing.get_context("fork")
    ready, go = context.Event(), context.Event()

    def hold() -> None:
        with held(folder):
            ready.set()
            go.wait(60)

    process = context.Process(target=hold)
    process.start()
    assert ready.wait(60) and holder(folder) == process.pid
    with pytest.raises(SettingsError, match=f"trained by process {process.pid}"), held(folder):
        pass
    process.kill()
    process.join()
    assert holder(folder) is None, "a lock goes with its process"
    with held(folder):
        assert holder(folder) == os.getpid()


def test_of_a_run_that_never_began_nothing_stays(home: Path) -> None:
    with pytest.raises(SettingsError), held(home / "never"):
        raise SettingsError("no such thing")
    assert not (home / "never").exists()


def test_how_a_run_ended_is_known_by_its_files(home: Path) -> None:
    state = home / "checkpoints" / "cats" / "run"
    state.mkdir(parents=True)
    (state / "settings.json").write_text("{}")
    runs = Runs()
    assert runs.look("cats").state == "paused" and "from outside" in runs.look("cats").why
    for error, expected in (
        (Paused("after step 3"), "paused"),
        (SettingsError("bad"), "failed"),
        (KeyError("x"), "failed"),
    ):
        with pytest.raises(type(error)), held(state.parent):
            assert runs.look("cats").state == "starting"
            raise error
        assert runs.look("cats").state == expected
    with held(state.parent):
        pass
    runs.stop("cats")
    assert runs.look("cats").state == "stopped"
    (state.parent / "report.json").write_text("{}")
    assert runs.look("cats").state == "finished"


def test_the_command_lists_runs_of_this_folder_too_and_stops_one(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lmapps.__main__ import main

    monkeypatch.chdir(home)
    assert main(["runs"]) == 0 and "there are no runs yet" in capsys.readouterr().out
    state = home / "cats" / "run"
    state.mkdir(parents=True)
    assert main(["runs"]) == 0 and "there are no runs yet" in capsys.readouterr().out
    (state / "settings.json").write_text("{}")
    entry = {"step": 10, "tokens": 640, "loss": 2.5, "share": 0.25, "seconds": 3.0}
    (state / "log.jsonl").write_text(json.dumps(entry) + "\n")
    assert main(["runs", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["name"], shown["state"], shown["seconds_left"]) == ("cats", "paused", 9.0)
    assert main(["runs", "stop", "cats"]) == 0
    assert "cats: stopped, 25%, step 10, loss 2.500" in capsys.readouterr().out
    assert main(["runs", "watch", "cats"]) == 0
    assert main(["runs", "pause", "dogs"]) == 2
    assert "there is no run 'dogs'" in capsys.readouterr().err


def test_a_log_is_read_on_and_read_anew_when_it_was_rewound(tmp_path: Path) -> None:
    file, log = tmp_path / "log.jsonl", Log()
    assert log.read(file) == []
    file.write_text('{"step": 1}\n{"step": 2')
    assert [entry["step"] for entry in log.read(file)] == [1]
    with file.open("a") as stream:
        stream.write('}\nnonsense\n[]\n{"step": 3}\n')
    assert [entry["step"] for entry in log.read(file)] == [1, 2, 3]
    (tmp_path / "new").write_text('{"step": 1}\n')
    os.replace(tmp_path / "new", file)
    assert [entry["step"] for entry in log.read(file)] == [1]


def test_of_a_long_log_somebody_outside_sees_the_end_and_its_own_run_keeps_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path)
    run.state.mkdir()
    lines = [f'{{"step": {step}, "note": "kept as it is"}}\n' for step in range(1, 101)]
    run.log_file.write_text("".join(lines) + "[" * 10**5 + '\n{"step": 101')
    monkeypatch.setattr("lmapps.training.log.MOST", 10**5 + 500)
    seen = [entry["step"] for entry in Log().read(run.log_file)]
    assert 3 < len(seen) < 20 and seen == list(range(101 - len(seen), 101))
    assert [entry["step"] for entry in run.entries()] == list(range(1, 101))
    run.rewind_log(90)
    assert run.log_file.read_text() == "".join(lines[:90])


def test_who_trains_on_is_not_ended_by_what_was_asked_of_the_one_before(tmp_path: Path) -> None:
    folder = tmp_path / "cats"
    with held(folder):
        (folder / "run" / "settings.json").write_text("{}")
    Runs([tmp_path]).stop("cats")
    assert Runs([tmp_path]).look("cats").state == "stopped"
    with held(folder):
        assert not Request(folder).is_early, "a SIGTERM from here on means a pause"
        (folder / "run" / EARLY).touch()
        assert Request(folder).is_early, "in every process, not only the one that got the signal"
