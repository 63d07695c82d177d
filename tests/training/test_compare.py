"""Several checkpoints in one table and one page, whatever their bodies."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lmapps.__main__ import main
from lmapps.evaluation.sandbox import why_not
from lmapps.model.checkpoint import Checkpoint
from lmapps.training.chart import bar_chart
from lmapps.training.settings import TrainSettings
from lmapps.training.start import run_training


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "a.txt").write_text("The cat sat on the mat, and the dog sat on the cat. " * 200)
    for body in ("rnn", "transformer"):
        values = {
            "data": [str(folder / "a.txt")], "out": str(folder / body), "model": body, "steps": 8,
            "vocab_size": 300, "context": 32, "layers": 1, "width": 32, "batch_tokens": 128,
            "micro_batch_tokens": 128, "evaluations": 2, "mixed_precision": "no",
        }  # fmt: skip
        run_training(TrainSettings.from_values(values))
    return folder


def test_rnn_and_transformer_stand_in_one_table_and_one_page_beside_a_baseline(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "held.txt").write_text("The dog sat on the mat. " * 40)
    words = ["evaluate", str(runs / "rnn"), str(runs / "transformer"), "--data"]
    words += [str(runs / "held.txt"), "--html", str(runs / "compare.html")]
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["checkpoint", "scored", "on"]
    assert len(lines) == 6 and len({line.index("text") for line in lines[1:5]}) == 1
    page = (runs / "compare.html").read_text()
    for body in ("rnn", "transformer"):
        scores = results[str(runs / body)]
        assert scores["model"]["body"] == body
        own, trigram = scores["text"], scores["text"]["baselines"]["trigram model"]
        assert own["tokens"] == trigram["tokens"]
        for values in (own, trigram):
            assert f"{values['bits_per_byte']:.5g}" in page
    assert "text: trigram model" in page and "Validation, bits per byte" in page
    assert page.count("<polyline") == 4, "two runs, in bits per byte and in nats"
    assert not re.findall(r"(?:src|href)=|url\(|@import", page), "nothing is fetched"


def test_a_runs_report_has_the_baseline_beside_its_scores(runs: Path) -> None:
    report = json.loads((runs / "rnn" / "report.json").read_text())
    trigram = report["baselines"]["test"]["trigram model"]
    assert trigram["bits_per_byte"] > 0
    page = (runs / "rnn" / "report.html").read_text()
    assert "test: trigram model" in page and f"{trigram['loss']:.5g}" in page


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_generated_programs_are_run_and_counted(
    tiny_checkpoint: Callable[[str], Checkpoint],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_checkpoint("gru").save(tmp_path / "tiny")
    problem = {"task_id": 1, "text": "Anything.", "test_list": ["assert 1 == 1", "undefined"]}
    (tmp_path / "problems.jsonl").write_text(json.dumps(problem))
    words = ["evaluate", str(tmp_path / "tiny"), "--json", "--samples", "2"]
    assert main([*words, "--problems", str(tmp_path / "problems.jsonl")]) == 0
    scores = json.loads(capsys.readouterr().out)[str(tmp_path / "tiny")]["programs"]
    assert scores == {"examples": 1, "parses": 0.0, "pass@1": 0.0}


def test_bars_begin_at_zero_and_names_are_inert() -> None:
    drawn = bar_chart("x", {"<b>": 2.0, "other": 1.0, "none": float("nan"), "less": -1.0})
    widths = [float(width) for width in re.findall(r'width="([\d.]+)" height="16"', drawn)]
    assert widths[0] == 2 * widths[1] > 0 and widths[2] == 0
    assert "<b>" not in drawn and "none" not in drawn
    assert bar_chart("x", {"none": float("nan")}) == ""
