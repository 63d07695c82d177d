"""What is seen beside the loss: samples over time, and metrics that choose the best weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lmapps.commands.train import summary
from lmapps.errors import PluginError, SettingsError
from lmapps.evaluation.sandbox import NoSandbox, why_not
from lmapps.evaluation.tasks import score
from lmapps.model.checkpoint import Checkpoint
from lmapps.training.examples import split_of
from lmapps.training.observe import Observation, observe_text
from lmapps.training.settings import TrainSettings
from lmapps.training.start import run_training

PLUGIN = '''"""Say yes."""
from lmapps import Decoding, plugin

@plugin(decoding=Decoding(max_new_tokens=24), examples=[["Is it so?"]])
def agree(text: str) -> str:
    """Say yes."""
    return text

@agree.dataset(fields=("number",))
def pairs(record):
    yield {"text": f"Is it {record['number']}?"}, "yes"

@agree.metric
def length(reply, reference, fields):
    return len(reply)

@agree.metric
def right(reply, reference, fields):
    return float(reply == reference)
'''


@pytest.fixture
def settings(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., TrainSettings]:
    """Fine-tuning of a tiny model on a plugin whose metrics are known by heart."""
    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "plugins").mkdir(parents=True)
    (tmp_path / "home" / "plugins" / "agree.py").write_text(PLUGIN)
    records = "\n".join(json.dumps({"number": number}) for number in range(400))
    (tmp_path / "records.jsonl").write_text(records)
    tiny_checkpoint("transformer").save(tmp_path / "start")

    def settings(name: str, **changes: Any) -> TrainSettings:
        values: dict[str, Any] = {
            "apps": ["agree"], "data": [f"agree={tmp_path / 'records.jsonl'}"], "steps": 48,
            "start_from": str(tmp_path / "start"), "out": str(tmp_path / name), "judged": 4,
            "evaluations": 6, "saves": 2, "batch_tokens": 256, "micro_batch_tokens": 256,
            "learning_rate": 0.003, "mixed_precision": "no",
        }  # fmt: skip
        return TrainSettings.from_values(values | changes)

    return settings


def evaluations(settings: TrainSettings) -> list[dict[str, Any]]:
    lines = (Path(settings.out) / "run" / "log.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if "validation" in entry]


def test_the_best_weights_are_those_of_the_metric_that_was_named(
    settings: Callable[..., TrainSettings],
) -> None:
    by_loss, by_length = settings("by_loss"), settings("by_length", best="agree.length")
    run_training(by_loss)
    run_training(by_length)
    seen = evaluations(by_length)
    losses = [entry["validation"]["loss"] for entry in seen]
    lengths = [entry["metrics"]["agree.length"] for entry in seen]
    longest, lowest = lengths.index(max(lengths)), losses.index(min(losses))
    assert longest < lowest, (lengths, losses)
    assert [n for n, entry in enumerate(seen) if entry["is_best"]][-1] == longest
    one, other = (load_file(Path(s.out) / "model.safetensors") for s in (by_loss, by_length))
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert lengths[-1] == 3 and seen[-1]["metrics"]["agree.right"] == 1
    assert seen[-1]["samples"] == {"agree: Is it so?": "yes"}
    assert [entry["metrics"] for entry in evaluations(by_loss)] == [e["metrics"] for e in seen]


def test_a_metric_may_end_the_run(settings: Callable[..., TrainSettings]) -> None:
    report = run_training(settings("short", best="agree.length", patience=2))
    seen = evaluations(settings("short"))
    assert report["steps"] < 48 and len(seen) < 6
    assert [entry["is_best"] for entry in seen[-2:]] == [False, False]


def test_an_evaluation_without_the_metric_is_worse_than_any_with_it(
    settings: Callable[..., TrainSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([{"agree.length": -1.0}, {}, {"agree.length": -0.5}])
    see = "lmapps.training.examples.observe_apps"
    monkeypatch.setattr(see, lambda *_: Observation(metrics=next(scores)))
    run_training(missing := settings("missing", best="agree.length", steps=3, evaluations=3))
    assert [entry["is_best"] for entry in evaluations(missing)] == [True, False, True]


def test_a_metric_that_gives_no_number_ends_the_run_with_a_sentence(
    settings: Callable[..., TrainSettings], tmp_path: Path
) -> None:
    plugin = PLUGIN.replace("return len(reply)", 'return float("nan")')
    (tmp_path / "home" / "plugins" / "agree.py").write_text(plugin)
    with pytest.raises(PluginError, match="the metric 'length' of plugin 'agree' gave nan"):
        run_training(settings("nan", steps=1, evaluations=1))


def test_a_run_without_held_out_examples_says_what_validation_is_on(
    settings: Callable[..., TrainSettings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "few.jsonl").write_text(json.dumps({"number": 1}))
    for name, data, told in (
        ("few", {"data": [f"agree={tmp_path / 'few.jsonl'}"]}, True),
        ("many", {}, False),
    ):
        report = run_training(settings(name, steps=1, evaluations=1, judged=0, **data))
        printed, page = capsys.readouterr().out, (tmp_path / name / "report.html").read_text()
        assert ("held out: validation is on examples that are trained on" in printed) == told
        for text in (page.lower(), summary(report)):
            assert ("validation is on examples that were trained on" in text) == told
        assert (report["gap"] is None) == told


@pytest.mark.parametrize("numbers", [range(400), [37]])
def test_scores_at_the_end_are_on_examples_that_chose_nothing_or_it_is_said(
    settings: Callable[..., TrainSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    numbers: Sequence[int],
) -> None:  # fmt: skip
    """Of these numbers 37 is for validation."""
    records = "\n".join(json.dumps({"number": number}) for number in (*numbers, 500, 501))
    (tmp_path / "records.jsonl").write_text(records)
    seen: dict[str, set[str]] = {}

    def noting(part: str) -> None:
        def noted(plugin: Any, engine: Any, examples: Any, *rest: Any, **named: Any) -> Any:
            seen[part] = {split_of(plugin, example) for example in examples}
            return score(plugin, engine, examples, *rest, **named)

        monkeypatch.setattr(f"lmapps.training.{part}.score", noted)

    noting("observe")
    noting("scores")
    report = run_training(settings("tested", steps=1, evaluations=1))
    is_tested = len(numbers) > 1
    assert seen == {"observe": {"validation"}, "scores": {"test" if is_tested else "validation"}}
    assert ("test" in report["scores"]) == is_tested
    assert report["scored_on_validation"] == ([] if is_tested else ["agree"])
    page = (tmp_path / "tested" / "report.html").read_text()
    assert ("The scores of agree are on examples or problems that chose" in page) != is_tested


PROBLEMS = [
    {"task_id": 1, "text": "Is it so?", "test_list": ["assert yes == 1"]},
    {"task_id": 2, "text": "Is it 4?", "test_list": ["assert yes == 2"]},
]
"""For a plugin that always replies "yes = 1": the first passes once that is learned."""


@pytest.fixture
def coder(settings: Callable[..., TrainSettings], tmp_path: Path) -> Callable[..., TrainSettings]:
    plugin = PLUGIN.replace('"yes"', '"yes = 1"')
    (tmp_path / "home" / "plugins" / "agree.py").write_text(plugin)
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, PROBLEMS)))
    given = {"problems": [f"agree={tmp_path / 'problems.jsonl'}"], "judged": 0}
    return lambda name, **changes: settings(name, **{**given, **changes})


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_programs_that_pass_choose_the_best_weights(coder: Callable[..., TrainSettings]) -> None:
    chosen = coder("coder", best="agree.pass@1", learning_rate=0.005)
    report = run_training(chosen)
    passed = [entry["metrics"]["agree.pass@1"] for entry in evaluations(chosen)]
    assert passed[0] == 0 and passed[-1] == 0.5
    is_best = [entry["is_best"] for entry in evaluations(chosen)]
    assert is_best.index(True, 1) == passed.index(0.5) and is_best.count(True) == 2
    assert report["scores"]["agree"] == {"pass@1": 0.5}
    assert report["scored_on_validation"] == ["agree"], "these problems chose the weights"


def test_where_programs_cannot_be_confined_pass_at_k_is_left_out_and_said(
    coder: Callable[..., TrainSettings],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("lmapps.training.examples.why_not", lambda: "the kernel refuses")
    left_out = coder("left_out", steps=2, evaluations=1)
    run_training(left_out)
    assert "pass@k is left out: programs are not run here: the kernel" in capsys.readouterr().out
    assert evaluations(left_out)[0]["metrics"] == {}
    with pytest.raises(NoSandbox, match=r"best is agree.pass@1, and programs are not run here"):
        run_training(coder("refused", best="agree.pass@1"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"best": "agree.pass@1"}, r"examples or problems \(agree.length, agree.right\), got"),
        ({"problems": ["code=x.jsonl"]}, "problems are given as NAME=FILE with NAME one of agree"),
        ({"best": "agree.beauty"}, r"\(agree.length, agree.right\), got 'agree.beauty'"),
        ({"best": "agree.right", "judged": 0}, "need examples to score: give --judged"),
    ],
)
def test_a_metric_that_will_not_be_there_is_refused(
    settings: Callable[..., TrainSettings], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        run_training(settings("refused", **changes))


def test_a_sample_is_repeatable_and_leaves_the_model_as_it_was(
    tiny_checkpoint: Callable[[str], Checkpoint],
) -> None:
    checkpoint = tiny_checkpoint("gru")
    checkpoint.model.train()
    before = torch.get_rng_state()
    first, second = observe_text(checkpoint), observe_text(checkpoint)
    assert first == second and first.samples[""]
    assert checkpoint.model.training and torch.equal(before, torch.get_rng_state())
    checkpoint.model.eval()
