"""One server for Compare, Models and Training: with a data folder of its own, one checkpoint with a
report and one to compare with, and what people thought of a chat's replies."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmapps.__main__ import build_parser
from lmapps.commands.train import _settings
from lmapps.discovery import discover
from lmapps.server.store.store import Store
from lmapps.training.runs import Runs
from lmapps.training.settings import TrainSettings

BEGUN_WITH = ("old", "gru")
"""Checkpoints that are there from the beginning."""
QUICK = Path(__file__).with_name("quick_run.py")


@pytest.fixture(scope="package")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder with a run that is finished; nothing that is started lives on."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMAPPS_HOME", str(home))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield home


@pytest.fixture(scope="package")
def served(
    serve: Callable[..., Any], home: Path, tiny_checkpoint: Callable[[str], Any]
) -> Iterator[Any]:
    from lmapps.engine.backends.source import found_sources

    for name in BEGUN_WITH:
        tiny_checkpoint("gru").save(home / "checkpoints" / name)
    old = home / "checkpoints" / "old"
    (old / "README.md").write_text("---\nlicence: mit\n---\n# An old one\n\nIt knows little.")
    (old / "run").mkdir()
    (old / "run" / "settings.json").write_text("{}")
    scores = {"validation": {"loss": 2.5, "accuracy": 0.5}}
    (old / "report.json").write_text(json.dumps({"scores": scores}))
    (old / "report.html").write_text("<h1>The report</h1><script>document.title = 'x'</script>")
    log = [
        {"step": n, "tokens": 100 * n, "loss": 3 - n / 10, "seconds": float(n), "share": n / 5,
         "tokens_per_second": 100}
        for n in range(1, 6)
    ]  # fmt: skip
    (old / "run" / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))
    with serve(discover(), 0.005, prepare=liked, find=found_sources) as running:
        yield running


@pytest.fixture(autouse=True)
def _nothing_left(home: Path, wait_until: Callable[..., None]) -> Iterator[None]:
    """A run under way, or a checkpoint of a name, would be in the way of a further try."""
    yield
    runs = Runs()
    if live := runs.live():
        runs.pause(live)
        wait_until(lambda: not runs.live())
    for folder in (home / "checkpoints").glob("*"):
        if folder.name not in BEGUN_WITH:
            shutil.rmtree(folder)


@pytest.fixture
def quick(
    served: Any, home: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Callable[[str], Any]
) -> list[TrainSettings]:
    """Runs that learn nothing, quickly; the settings of those that were started."""
    weights, started = home / "weights", list[TrainSettings]()
    if not weights.exists():
        tiny_checkpoint("gru").save(weights)

    def program(*words: str) -> list[str]:
        settings = _settings(build_parser(words).parse_args(words))
        started.append(settings)
        told = json.dumps(settings.as_dict())
        steps = str(settings.steps or 100_000)
        return [sys.executable, str(QUICK), settings.out, str(weights), steps, told]

    monkeypatch.setattr("lmapps.training.runs.program", program)
    return started


def liked(store: Store) -> None:
    """Two conversations whose replies somebody liked."""
    for text in ("Hello", "Who is there?"):
        made = store.begin("somebody", "chat", text)
        asked = store.add("somebody", made, None, "user", text, "person")
        answer = store.add("somebody", made, asked.id, "assistant", f"{text}!", "model")
        store.rate("somebody", made, answer.id, 1)
