"""Fine-tuning: conversations kept apart, text mixed in, adapters merged when saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lmapps.errors import SettingsError
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.language_model import LanguageModel
from lmapps.text.batches import (
    IGNORED,
    ExampleBatches,
    MixedBatches,
    PackedBatches,
    PackedExamples,
)
from lmapps.training import compiled, loop
from lmapps.training.adapters import add_adapters, merge_adapters
from lmapps.training.settings import TrainSettings
from lmapps.training.start import run_training
from tests.conftest import brought
from tests.engine.test_transformers import make

PLUGIN = '''"""Answer."""
from lmapps import plugin

@plugin
def answer(text: str) -> str:
    """Answer."""
    return text

@answer.dataset(fields=("number",))
def pairs(record):
    yield {"text": f"Who is {record['number']}?"}, "The cat."
'''


@pytest.fixture
def settings(
    tmp_path: Path,
    tiny_checkpoint: Callable[[str], Checkpoint],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., TrainSettings]:
    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "plugins").mkdir(parents=True)
    (tmp_path / "home" / "plugins" / "answer.py").write_text(PLUGIN)
    for body in ("transformer", "gru"):
        tiny_checkpoint(body).save(tmp_path / body)
    records = "\n".join(json.dumps({"number": number}) for number in range(200))
    (tmp_path / "records.jsonl").write_text(records)
    (tmp_path / "text.txt").write_text("The dog ran after the cat. " * 300)

    def settings(name: str, **changes: Any) -> TrainSettings:
        values: dict[str, Any] = {
            "apps": ["answer"], "data": [f"answer={tmp_path / 'records.jsonl'}"], "steps": 12,
            "start_from": str(tmp_path / "transformer"), "out": str(tmp_path / name),
            "batch_tokens": 128, "micro_batch_tokens": 128, "evaluations": 1, "saves": 4,
            "learning_rate": 0.003, "mixed_precision": "no", "dropout": 0.1,
        }  # fmt: skip
        return TrainSettings.from_values(values | changes)

    return settings


def losses_of(run: Path) -> list[float]:
    lines = (run / "run" / "log.jsonl").read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


def test_conversations_do_not_see_each_other_and_little_is_padding() -> None:
    """A row is one conversation, beside others of about its length."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(4.5, 0.8, 3000), 8, 512).astype(int)
    examples = [([number] * int(n), [True] * int(n)) for number, n in enumerate(lengths)]
    batches = ExampleBatches(examples, 4096, 0, pad_id=-1)
    positions = used = 0
    for number in range(batches.batches_per_epoch):
        batch = batches.batch(number)
        for row in batch.ids_BT:
            assert len(set(row.tolist()) - {-1}) == 1
        positions += batch.ids_BT.numel()
        used += int((batch.targets_BT != IGNORED).sum())
    assert used / positions > 0.9, used / positions
    shapes = {batches.batch(number).ids_BT.shape for number in range(batches.batches_per_epoch)}
    assert len(shapes) < 40, "the CPU's library keeps code for each"


def some_examples(count: int, longest: int) -> list[tuple[list[int], list[bool]]]:
    """Examples of different lengths, each of one id of its own, all of it counted."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(4, 0.8, count), 2, longest + 1).astype(int)
    return [([number] * int(n), [True] * int(n)) for number, n in enumerate(lengths)]


def test_packed_rows_are_full_and_every_example_is_there_once_an_epoch() -> None:
    examples = some_examples(1000, 256)
    batches = PackedExamples(examples, 256, 4, seed=3, pad_id=-1)
    orders = []
    for epoch in range(2):
        seen: list[int] = []
        used = positions = 0
        for number in range(batches.batches_per_epoch):
            batch = batches.batch(epoch * batches.batches_per_epoch + number)
            assert batch.ids_BT.shape == (4, 256) and batch.places_BT is not None
            for ids, targets, places in zip(
                batch.ids_BT, batch.targets_BT, batch.places_BT, strict=True
            ):
                starts = (places == 0).nonzero().flatten().tolist()
                for start, stop in zip(starts, [*starts[1:], 256], strict=True):
                    own = ids[start:stop]
                    assert len(set(own.tolist())) == 1, "one example, or padding"
                    assert places[start:stop].tolist() == list(range(stop - start))
                    if own[0] >= 0:
                        seen.append(int(own[0]))
                        assert stop - start == len(examples[seen[-1]][0]) - 1
                        assert targets[start:stop].eq(own).all()
                    else:
                        assert targets[start:stop].eq(IGNORED).all()
            used += batch.target_count
            positions += batch.ids_BT.numel()
        assert sorted(seen) == list(range(1000))
        assert used / positions > 0.97, used / positions
        orders.append(seen)
    assert orders[0] != orders[1]
    again = PackedExamples(examples, 256, 4, seed=3, pad_id=-1)
    for number in (batches.batches_per_epoch + 1, 0):
        one, other = batches.batch(number), again.batch(number)
        assert torch.equal(one.ids_BT, other.ids_BT)


@pytest.mark.parametrize("grouped", [False, True])
def test_packed_conversations_have_the_loss_and_the_gradients_of_separate_ones(
    grouped: bool,
) -> None:
    torch.manual_seed(0)
    shape = {"body": "transformer", "vocab_size": 50, "hidden_size": 32, "num_heads": 4}
    model = LanguageModel(**shape, num_kv_heads=2 if grouped else 4, num_layers=2, qk_norm=True)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    random = np.random.default_rng(1)
    examples = []
    for length in random.integers(2, 33, 12):
        ids, counted = random.integers(0, 50, length), random.random(length) < 0.7
        examples.append((ids.tolist(), counted.tolist()))
    packed = PackedExamples(examples, 32, 4, seed=0, pad_id=0)
    apart = ExampleBatches(examples, 1, seed=0, pad_id=0)
    found = []
    for batches in (packed, apart):
        model.zero_grad()
        loss = torch.zeros(())
        for number in range(batches.batches_per_epoch):
            batch = batches.batch(number)
            loss = loss + model(batch.ids_BT, batch.targets_BT, batch.places_BT)
        loss.backward()
        found.append((loss, [weight.grad.clone() for weight in model.parameters()]))
    assert packed.batches_per_epoch < 4 and apart.batches_per_epoch == 12
    (loss, gradients), (other_loss, other_gradients) = found
    assert loss.item() == pytest.approx(other_loss.item(), rel=1e-5) and loss > 1
    for one, other in zip(gradients, other_gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-4, rtol=1e-4)


def test_text_is_mixed_in_evenly_and_each_batch_is_a_function_of_its_number() -> None:
    main = ExampleBatches([([1, 2, 3], [False, True, True])] * 40, 12, 0, 0)
    text = PackedBatches(np.arange(100, 200), 4, 3, 0)
    mixed = MixedBatches(main, text, 0.25)
    is_text = [int(mixed.batch(number).ids_BT.max()) >= 100 for number in range(40)]
    assert is_text == [number % 4 == 3 for number in range(40)]
    assert torch.equal(mixed.batch(7).ids_BT, text.batch(1).ids_BT)
    assert torch.equal(mixed.batch(8).ids_BT, main.batch(6).ids_BT)
    assert mixed.batches_per_epoch == round(main.batches_per_epoch / 0.75)


def test_a_compiled_run_is_tuned_on_packed_conversations(
    settings: Callable[..., TrainSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[Any] = []

    def eager(graph: Any, inputs: Any) -> Any:
        shapes.append([tuple(tensor.shape) for tensor in inputs if tensor.dtype == torch.int64])
        return graph.forward

    monkeypatch.setattr(compiled, "BACKEND", eager)
    torch.compiler.reset()
    run_training(settings("packed", compile="yes", steps=30, batch_tokens=256))
    run_training(settings("rows", steps=30, batch_tokens=256))
    assert shapes == [[(1, 128)] * 3], "ids, targets and places, of one shape throughout"
    for name in ("packed", "rows"):
        first, *_ = map(json.loads, (tmp_path / name / "run" / "log.jsonl").open())
        report = json.loads((tmp_path / name / "report.json").read_text())
        assert report["scores"]["validation"]["loss"] < first["loss"] - 2, name


def test_a_recurrent_model_is_tuned_on_conversations_in_rows_of_their_own(
    settings: Callable[..., TrainSettings], tmp_path: Path
) -> None:
    report = run_training(settings("tuned", start_from=str(tmp_path / "gru"), steps=30))
    losses = losses_of(tmp_path / "tuned")
    assert report["model"]["body"] == "gru" and losses[-1] < losses[0] - 0.5


def test_a_model_that_goes_on_reading_forgets_less(
    settings: Callable[..., TrainSettings], tmp_path: Path
) -> None:
    from lmapps.evaluation.language import evaluate_documents
    from lmapps.text.sources import read_documents

    text = str(tmp_path / "text.txt")
    losses = {}
    for name, mixed in {"alone": {}, "mixed": {"mix_data": [text], "mix": 0.5}}.items():
        run_training(settings(name, steps=12, **mixed))
        checkpoint = Checkpoint.load(tmp_path / name)
        losses[name] = evaluate_documents(checkpoint, read_documents([text])).loss
    assert losses["mixed"] < losses["alone"] - 0.5, losses


def test_adapters_learn_and_are_merged_into_a_plain_checkpoint(
    settings: Callable[..., TrainSettings], tmp_path: Path
) -> None:
    brought("peft")
    report = run_training(settings("lora", lora=4, steps=40, learning_rate=0.02))
    before, after = (
        load_file(tmp_path / folder / "model.safetensors") for folder in ("transformer", "lora")
    )
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj" in name}
    name = next(name for name in changed if "q_proj" in name)
    difference = after[name] - before[name]
    assert torch.linalg.matrix_rank(difference, rtol=1e-4) == 4
    losses = losses_of(tmp_path / "lora")
    assert losses[-1] < losses[0] - 0.5
    assert report["scores"]["validation"]["loss"] < losses[0]


@torch.inference_mode()
def test_merged_weights_are_the_model_with_its_adapters(
    settings: Callable[..., TrainSettings],
) -> None:
    brought("peft")
    chosen = settings("lora", lora=4)
    adapted, plain = add_adapters(chosen).eval(), Checkpoint.load(chosen.start_from).model.eval()
    ids = torch.arange(5, 25)[None]
    assert torch.allclose(adapted(ids), before := plain(ids))
    for name, weight in adapted.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    merge_adapters(adapted, plain.state_dict())
    assert torch.allclose(adapted(ids), plain(ids), atol=1e-4)
    assert not torch.allclose(before, plain(ids), atol=0.1)


@pytest.mark.parametrize(("kind", "lora"), [("smollm2", 0), ("qwen3", 4)])
def test_a_folder_that_others_wrote_is_tuned_and_stays_one_that_they_load(
    settings: Callable[..., TrainSettings], tmp_path: Path, kind: str, lora: int,
    tiny_checkpoint: Callable[[str], Checkpoint],
) -> None:  # fmt: skip
    if lora:
        brought("peft")
    folder = make(kind, tmp_path / kind, tiny_checkpoint("transformer"))
    changes = {"start_from": str(folder), "steps": 40, "learning_rate": 0.02 if lora else 0.003}
    run_training(settings("tuned", lora=lora, **changes))
    losses = losses_of(tmp_path / "tuned")
    assert losses[-1] < losses[0] - 0.5
    theirs, before = (AutoModelForCausalLM.from_pretrained(f) for f in (tmp_path / "tuned", folder))
    assert type(theirs) is type(before)
    with torch.inference_mode():
        ids = torch.arange(5, 25)[None]
        ours = Checkpoint.load(tmp_path / "tuned").model.eval()(ids)
        assert torch.allclose(theirs.eval()(ids).logits, ours, atol=1e-4)
        assert not torch.allclose(before.eval()(ids).logits, ours, atol=0.1)


def test_a_run_with_adapters_resumes_exactly(
    settings: Callable[..., TrainSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought("peft")
    run_training(settings("whole", lora=4))

    class Interrupted(loop.Meter):
        def after_step(self, progress: Any, *rest: Any) -> Any:
            if progress["step"] == 8:
                raise KeyboardInterrupt
            return super().after_step(progress, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "Meter", Interrupted)
        run_training(settings("stopped", lora=4))
    run_training(settings("stopped", lora=4))
    for file in ("model.safetensors", "run/step-00000012/optimizer.safetensors"):
        one, other = (load_file(tmp_path / name / file) for name in ("whole", "stopped"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lora": 4, "start_from": "gru"}, "transformer, .*gru is a gru"),
        ({"lora": 4, "shard": True}, "one of --lora and --shard"),
        ({"lora": 4, "start_from": "", "apps": []}, "--lora fine-tunes a checkpoint"),
        ({"mix_data": ["x"], "apps": []}, "--mix-data goes with --apps"),
        ({"mix": 1.5}, "mix must be between 0 and 0.99, got 1.5"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(
    settings: Callable[..., TrainSettings], tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    if changes.get("start_from"):
        changes = {**changes, "start_from": str(tmp_path / changes["start_from"])}
    with pytest.raises(SettingsError, match=words):
        run_training(settings("m", **changes))
