"""int8 weights on disk: written, read back exactly, and refused where they are not whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lmapps.__main__ import main
from lmapps.errors import CheckpointError, SettingsError
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.quantize import pack, quantize_rows, unpack
from tests.conftest import brought


@given(outputs=st.integers(1, 9), inputs=st.integers(1, 30), seed=st.integers(0, 99))
def test_packing_keeps_each_row_within_half_a_step_and_repeats_exactly(
    outputs: int, inputs: int, seed: int
) -> None:
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))
    weight[0] = 0
    restored = unpack(pack("a.weight", weight))["a.weight"]
    step = weight.abs().amax(1, keepdim=True) / 127
    # A scale in bf16 is off by up to 1/512, which moves the largest number by a quarter of a step.
    assert ((restored - weight).abs() <= 0.76 * step + 1e-9).all()
    again = unpack(pack("a.weight", restored))["a.weight"]
    assert torch.equal(again, restored)
    whole, scale = quantize_rows(restored)
    assert torch.equal(whole * scale, restored), "the native step would round a second time"


@pytest.fixture
def exported(tiny_checkpoint: Callable[[str], Checkpoint], tmp_path: Path) -> Path:
    tiny_checkpoint("transformer").save(tmp_path / "whole")
    words = ["checkpoints", "export", str(tmp_path / "whole"), str(tmp_path / "int8")]
    assert main([*words, "--weights", "int8"]) == 0
    return tmp_path / "int8"


def test_an_exported_folder_is_smaller_and_predicts_nearly_the_same(
    exported: Path, tiny_checkpoint: Callable[[str], Checkpoint]
) -> None:
    model = tiny_checkpoint("transformer").model
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        before, after = model(ids), Checkpoint.load(exported).model(ids)
    assert 0 < (before - after).norm() / before.norm() < 0.1
    tensors = load_file(exported / "model.safetensors")
    for name, parameter in model.body.named_parameters():
        if parameter.dim() == 2:
            stored = tensors[f"model.{name}_packed"]
            assert stored.nbytes == parameter.nbytes / 4


def test_transformers_reads_the_same_numbers(exported: Path) -> None:
    brought("compressed_tensors")
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        ours = Checkpoint.load(exported).model(ids)
        assert (theirs(ids).logits - ours).abs().max() < 1e-4


def test_a_packed_folder_that_is_not_whole_is_refused(exported: Path) -> None:
    file = exported / "model.safetensors"
    tensors = load_file(file)
    scale = next(name for name in tensors if name.endswith("_scale"))
    save_file({**tensors, scale: tensors[scale][1:]}, file)
    with pytest.raises(CheckpointError, match="do not fit"):
        Checkpoint.load(exported)
    save_file({name: part for name, part in tensors.items() if name != scale}, file)
    with pytest.raises(CheckpointError, match="lacks its scale"):
        Checkpoint.load(exported)


def test_other_forms_of_quantization_are_refused_by_name(exported: Path) -> None:
    config = json.loads((exported / "config.json").read_text())
    config["quantization_config"]["format"] = "int-quantized"
    (exported / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="'int-quantized'"):
        Checkpoint.load(exported)


def test_a_recurrent_model_is_not_stored_as_int8(
    tiny_checkpoint: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="body gru"):
        tiny_checkpoint("gru").save(tmp_path / "gru", dtype=torch.int8)


def test_an_export_never_writes_over_what_is_there(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checkpoints", "export", str(exported), str(exported)]) == 2
    assert "exists already" in capsys.readouterr().err
