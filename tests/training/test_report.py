"""A run's report: one page that opens offline, beside the same numbers as data."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from lmapps.commands.train import summary
from lmapps.training.chart import line_chart, ticks
from lmapps.training.compare import compare_page, compare_text
from lmapps.training.course import curves_of, gap_of, samples_of
from lmapps.training.report import charts, report_of, report_page
from lmapps.training.settings import TrainSettings
from lmapps.training.start import run_training

REPORT = {
    "settings": {"out": "m", "data": ["a.txt"]}, "steps": 1, "tokens": 1, "seconds": 1.0,
    "model": {"body": "gru", "parameters": 1}, "finished": "", "scores": {}, "data": {},
    "data_sha256": "", "machine": {}, "lmapps": "", "code": None, "before": None,
}  # fmt: skip


def test_a_run_writes_a_page_with_its_scores_curves_and_samples(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The cat sat on the mat, and the dog sat on the cat. " * 200)
    settings = TrainSettings.from_values(
        {"data": [str(tmp_path / "a.txt")], "out": str(tmp_path / "m"), "steps": 20,
         "vocab_size": 300, "context": 32, "batch_tokens": 256, "micro_batch_tokens": 256}
    )  # fmt: skip
    report = run_training(settings)
    page = (tmp_path / "m" / "report.html").read_text(encoding="utf-8")
    assert f"{report['scores']['test']['loss']:.5g}" in page
    assert page.count("<svg") == 5, "loss, accuracy, learning rate, gradient norm, speed"
    assert "step 20" in page and report["data_sha256"] in page
    assert not re.findall(r"(?:src|href)=|url\(|@import", page), "nothing is fetched"
    stored = json.loads((tmp_path / "m" / "report.json").read_text())
    assert stored == json.loads(json.dumps(report)) and len(json.dumps(stored)) < 20_000
    curves = stored["curves"]
    assert {"loss", "validation.loss", "learning_rate", "gradient_norm"} < curves.keys()
    assert {"tokens_per_second"} < curves.keys()
    assert len(curves["loss"]["tokens"]) == len(curves["loss"]["values"]) == 3, "1, 10 and 20"
    assert [sample["step"] for sample in stored["samples"]] == list(range(2, 21, 2))
    assert f"{abs(stored['gap']):.3f}" in page and "training loss" in page


def test_a_long_runs_report_keeps_a_thinned_part_of_all_of_it() -> None:
    asked = [f"a: {number}" for number in range(4)]
    log: list[dict[str, Any]] = [
        {"step": step, "tokens": 10 * step, "loss": 1 / step, "learning_rate": 1e-3}
        for step in range(1, 20_001)
    ]
    for step in range(100, 20_001, 100):
        log.append({"step": step, "validation": {"loss": 0.5, "accuracy": 0.9}, "metrics": {"b": 1},
                    "samples": {a: f"{a} {step}" for a in asked}})  # fmt: skip
    log.append({"step": 20_000, "tokens": 200_000, "loss": float("nan")})
    curves = curves_of(log)
    assert list(curves) == [
        "loss", "validation.loss", "validation.accuracy", "learning_rate", "metrics.b",
    ]  # fmt: skip
    for name, ends in (("loss", [10, 200_000]), ("validation.loss", [1000, 200_000])):
        tokens = curves[name]["tokens"]
        assert [tokens[0], tokens[-1]] == ends and tokens == sorted(set(tokens))
        assert len(tokens) == len(curves[name]["values"]) <= 500
    assert len(json.dumps(curves, indent=2)) < 100_000
    samples = samples_of(log)
    assert [sample["asked"] for sample in samples] == asked * 3, "all of an evaluation's"
    steps = [sample["step"] for sample in samples[::4]]
    assert steps[0] == 100 and 9_900 <= steps[1] <= 10_200 and steps[2] == 20_000
    page = report_page(REPORT | {"gap": gap_of(log[:-1])}, log)
    assert [page.count(f"step {step}<") for step in steps] == [4, 4, 4]
    assert gap_of(log[:-1]) == pytest.approx(0.5, abs=0.001) and gap_of(log) is None
    assert gap_of([]) is None and samples_of([]) == [] and curves_of([]) == {}


def test_the_history_goes_along_without_its_curves_and_old_reports_still_load(
    tmp_path: Path,
) -> None:
    older = {"steps": 1, "scores": {"validation": {"loss": 1.5}}}
    newer = {"steps": 2, "curves": {"loss": {}}, "samples": [], "gap": 0.5, "before": older}
    (tmp_path / "report.json").write_text(json.dumps(newer))
    before = report_of(str(tmp_path))
    assert before == {"steps": 2, "gap": 0.5, "before": older}
    assert report_of("") is None and report_of(str(tmp_path / "none")) is None
    folders = sorted((Path(__file__).parents[2] / "checkpoints").iterdir())
    for folder in folders:
        page = report_page(REPORT | {"before": report_of(str(folder))}, [])
        assert "Runs before this one" in page
        report = json.loads((folder / "report.json").read_text())
        assert report_page(report, []) and summary(report)


def test_what_a_model_or_a_person_wrote_is_inert_in_the_page() -> None:
    evil = "<script>alert(1)</script>"
    log = [{"step": 1, "validation": {"loss": 1.0}, "samples": {evil: evil}, "metrics": {evil: 1}}]
    report = REPORT | {"settings": {"out": evil, "data": [evil]}}
    assert "<script" not in report_page(report, log)


def test_where_tokens_are_unknown_a_dash_stands_for_bits_per_byte_and_is_explained() -> None:
    loss = {"loss": 0.1, "accuracy": 0.9, "perplexity": 1.1}
    scores = {"test": {**loss, "bits_per_byte": None, "unknown_rate": 0.989}}
    trigram = {"loss": 0.2, "bits_per_byte": None, "unknown_rate": 0.989}
    report = REPORT | {"scores": scores, "baselines": {"test": {"trigram model": trigram}}}
    page = report_page(report, [])
    assert page.count('<td class="short">-</td>') == 2 and "98.9%" in page
    table = {"m": {"text": {**scores["test"], "baselines": {"trigram model": trigram}}}}
    told = compare_text(table)
    assert told.splitlines()[1].split()[-2:] == ["-", "0.989"] and "98.9%" in told
    assert "98.9%" in compare_page(table, {})
    assert "no bits per byte: 98.9% of" in summary(report)
    known = {"m": {"text": {**loss, "bits_per_byte": 2.5, "unknown_rate": None}}}
    assert compare_text(known).splitlines()[1].split()[-1] == "2.5"
    assert len(compare_text(known).splitlines()) == 2


def test_curves_are_drawn_over_the_tokens_seen() -> None:
    log = [
        {"step": 10, "tokens": 1000, "loss": 3.0, "learning_rate": 1e-3},
        {"step": 20, "tokens": 2000, "loss": 2.0, "learning_rate": 1e-4},
        {"step": 20, "validation": {"loss": 2.5, "accuracy": 0.5}, "metrics": {"chat.f1": 0.25}},
    ]
    drawn = charts(log)
    assert drawn["Tokens a second"] == "", "nothing was logged of it"
    tree = ElementTree.fromstring(drawn["Loss, nats a token"])
    assert {element.text for element in tree.iter("title")} == {
        "training: 3 at 1k", "training: 2 at 2k", "validation: 2.5 at 2k",
    }  # fmt: skip
    assert "chat.f1: 0.25 at 2k" in drawn["Metrics"]


def test_a_chart_leaves_out_what_cannot_be_drawn_and_stays_small() -> None:
    nan, infinite = float("nan"), float("inf")
    assert line_chart("x", "steps", {"a": [(1, nan), (2, infinite)]}) == ""
    long = line_chart("x", "steps", {"a": [(x, float(x % 7)) for x in range(100_000)]})
    assert len(long) < 20_000
    assert "NaN" not in line_chart("x", "steps", {"a": [(1, 2.0)]}), "one point has no width"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0, 80_000, [0, 20e3, 40e3, 60e3, 80e3]), (3, 3, [3])],
)
def test_ticks_are_round_numbers_that_span_the_values(
    low: float, high: float, expected: list[float]
) -> None:
    assert ticks(low, high) == pytest.approx(expected)
