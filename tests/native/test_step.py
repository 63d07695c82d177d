"""The native step against torch: same numbers, same text, for models of every shape."""

from __future__ import annotations

import copy
import math
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmapps.errors import SettingsError
from lmapps.memory import kept_memory
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.config import ModelConfig
from lmapps.model.language_model import LanguageModel
from lmapps.model.state import KeyValueCache
from lmapps.native import WEIGHTS
from lmapps.native import library as library_module
from lmapps.native.compile import CannotCompile, compile_library, find_compiler
from lmapps.native.library import Unavailable, levels
from lmapps.native.pages import untouched_zeros
from lmapps.native.step import NativeStep, TorchStep, choose_step

CONTEXT = 40
ROOT = Path(__file__).parent.parent.parent

try:
    LEVELS = levels()
except Unavailable:
    LEVELS = []

needs_native = pytest.mark.skipif(not LEVELS, reason="no C++ compiler and no native step")
pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype:UserWarning")


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def transformer(**shape: int | bool) -> ModelConfig:
    heads = int(shape.pop("kv_heads", 1))
    width = int(shape.pop("width", 24))
    return ModelConfig(
        body="transformer", embed_size=width, hidden_size=width, num_kv_heads=heads,
        num_heads=heads * int(shape.pop("group", 1)), context=CONTEXT, **shape,
    )  # fmt: skip


def recurrent(**shape: int | str) -> ModelConfig:
    if shape.get("tie_embeddings"):
        shape["hidden_size"] = shape["embed_size"]
    return ModelConfig(context=CONTEXT, **shape)


sizes = st.integers
transformers = st.builds(
    transformer, vocab_size=sizes(2, 70), width=sizes(1, 50), kv_heads=sizes(1, 3),
    group=sizes(1, 9), head_size=sizes(1, 20).map(lambda half: 2 * half),
    intermediate_size=sizes(1, 70), num_layers=sizes(1, 3), qk_norm=st.booleans(),
    tie_embeddings=st.booleans(),
)  # fmt: skip
recurrents = st.builds(
    recurrent, body=st.sampled_from(["rnn", "gru", "lstm"]), vocab_size=sizes(2, 70),
    embed_size=sizes(1, 50), hidden_size=sizes(1, 50), num_layers=sizes(1, 3),
    tie_embeddings=st.booleans(),
)  # fmt: skip


def random_model(config: ModelConfig, seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    model = LanguageModel(config).eval()
    for name, parameter in model.named_parameters():
        # A recurrence that is not contracting is chaotic: it would magnify the last bit.
        std = 0.5 / config.hidden_size**0.5 if "weight_hh" in name else 0.3
        torch.nn.init.normal_(parameter, std=std)
        if "norm" in name:
            parameter += 1
    return model


def calm_model(config: ModelConfig) -> LanguageModel:
    """Random weights of the size that training starts from: sharper attention would magnify the
    rounding of the weights themselves."""
    torch.manual_seed(0)
    model = LanguageModel(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return model


def errors(
    model: LanguageModel, step: NativeStep | TorchStep, rows: int, seed: int
) -> tuple[float, float]:
    """Relative error of the logits against float64: of the worst step, and of all together.
    Prompts of different lengths, then tokens one by one and in pairs up to the context's end."""
    torch.manual_seed(seed)
    exact = copy.deepcopy(model).double()
    ours, theirs = step.new_state(rows, CONTEXT), exact.new_state(rows, CONTEXT)
    prompts = [int(length) for length in torch.randint(1, CONTEXT - 8, (rows,))]
    worst, difference, size = 0.0, 0.0, 0.0

    def compare(a: int, b: int, tokens: int) -> None:
        nonlocal worst, difference, size
        ids = torch.randint(0, model.config.vocab_size, (b - a, tokens))
        logits = step(ids, ours.rows(a, b)).double()
        wanted = exact.step(ids, theirs.rows(a, b))[0]
        squares = [float((part**2).sum()) for part in (logits - wanted, wanted)]
        worst = max(worst, (squares[0] / max(squares[1], 1e-6)) ** 0.5)
        difference, size = difference + squares[0], size + squares[1]

    for row, length in enumerate(prompts):
        compare(row, row + 1, length)
    for tokens in (1, 1, 2, 1):
        compare(0, rows, tokens)
    longest = int(ours.lengths.argmax())
    while ours.lengths[longest] < CONTEXT:
        compare(longest, longest + 1, 1)
    assert torch.equal(ours.lengths, theirs.lengths)
    return worst, (difference / size) ** 0.5


@needs_native
@settings(max_examples=25, deadline=None)
@given(
    config=transformers | recurrents, level=st.sampled_from(range(len(LEVELS) or 1)),
    threads=sizes(1, 4), rows=sizes(1, 11), seed=sizes(0, 1000),
)  # fmt: skip
def test_fp32_logits_are_torchs_for_models_of_any_shape(
    config: ModelConfig, level: int, threads: int, rows: int, seed: int
) -> None:
    model = random_model(config, seed)
    step = NativeStep(model, level=level, threads=threads)
    worst = errors(model, step, rows, seed)[0]
    # Of a width of 1 or 2 the logits may nearly cancel: then fp32 itself, torch's too, is off, and
    # whose last bits are the luckier ones is chance.
    times = 3 if config.hidden_size <= 2 else 1
    assert worst < 1e-5 or worst < times * errors(model, TorchStep(model), rows, seed)[0]


@needs_native
@pytest.mark.parametrize("level", range(len(LEVELS)))
@pytest.mark.parametrize("body", ["transformer", "rnn", "gru", "lstm"])
def test_bf16_logits_are_within_a_hundredth_and_int8_ones_within_a_twentieth(
    body: str, level: int
) -> None:
    config = ModelConfig.from_size("tiny", body=body, vocab_size=203, context=CONTEXT)
    model = calm_model(config.changed(num_layers=2))
    in_bf16 = errors(model, NativeStep(model, "bfloat16", level=level), 9, 0)[1]
    assert in_bf16 < 1e-2
    assert in_bf16 < errors(model, TorchStep(model, "bfloat16"), 9, 0)[1]
    assert errors(model, NativeStep(model, "int8", level=level), 9, 0)[1] < 5e-2


@needs_native
@pytest.mark.parametrize("rows", [64, 65, 130])
def test_more_rows_than_one_pass_takes_are_done_in_several(rows: int) -> None:
    for config in (transformer(vocab_size=31, head_size=8), recurrent(vocab_size=31, body="gru")):
        model = random_model(config)
        assert errors(model, NativeStep(model), rows, 1)[0] < 1e-5


@needs_native
@pytest.mark.parametrize("level", range(len(LEVELS)))
@pytest.mark.parametrize(("head_size", "group"), [(10, 2), (64, 4), (128, 7)])
def test_a_state_in_bf16_is_read_and_written(head_size: int, group: int, level: int) -> None:
    model = calm_model(
        transformer(vocab_size=31, width=40, head_size=head_size, kv_heads=2, group=group)
    )
    step = NativeStep(model, level=level)
    layers = [tuple(part.bfloat16() for part in layer) for layer in step.new_state(3, 16).layers]
    narrow = KeyValueCache(layers, torch.zeros(3, dtype=torch.int64), 16)
    wide = step.new_state(3, 16)
    for tokens in (3, 1, 1):
        ids = torch.randint(0, 31, (3, tokens))
        error = (step(ids, narrow) - step(ids, wide)).norm() / step(
            ids, step.new_state(3, 16)
        ).norm()
    assert 0 < error < 1e-2


def greedy(
    step: NativeStep | TorchStep, config: ModelConfig, tokens: int
) -> tuple[list[int], list[float]]:
    """So many ids, and how far the best candidate was ahead each time."""
    state = step.new_state(1, config.context)
    ids, leads = [1], []
    for _ in range(tokens):
        logits = step(torch.tensor([ids[-1:]]), state)[0]
        best = logits.topk(2).values
        leads.append(float(best[0] - best[1]))
        ids.append(int(logits.argmax()))
    return ids, leads


@needs_native
@pytest.mark.parametrize("body", ["transformer", "rnn", "gru", "lstm"])
def test_512_greedy_tokens_are_torchs(body: str) -> None:
    for seed in range(2):
        config = ModelConfig.from_size("tiny", body=body, vocab_size=301, context=513)
        config = config.changed(num_layers=2, tie_embeddings=False)
        model = random_model(config, seed)
        ours, leads = greedy(NativeStep(model), config, 512)
        theirs, _ = greedy(TorchStep(model), config, 512)
        differ = next(
            (i for i, pair in enumerate(zip(ours, theirs, strict=True)) if len({*pair}) > 1), None
        )
        assert differ is None or leads[differ - 1] < 1e-4, f"token {differ} of {body}, seed {seed}"
        assert len(set(ours)) > 8, "a model that repeats itself proves nothing"


def take_the_same_ids(
    config: ModelConfig, prompts: list[int], level: int, threads: int, seed: int
) -> None:
    """Greedy rows after prompts of these lengths, each up to the context's end. Where the native
    step takes another id than torch, both are as good but for 1e-4; all go on from torch's."""
    model, prompts = random_model(config, seed), sorted(prompts, reverse=True)
    steps = NativeStep(model, level=level, threads=threads), TorchStep(model)
    states = [step.new_state(len(prompts), config.context) for step in steps]

    def taken(first: int, last: int, ids: torch.Tensor) -> torch.Tensor:
        ours, theirs = (
            step(ids, state.rows(first, last)) for step, state in zip(steps, states, strict=True)
        )
        best = theirs.max(1, keepdim=True)
        behind = best.values - theirs.gather(1, ours.argmax(1, keepdim=True))
        assert behind.max() < 1e-4, f"rows {first} to {last}, lengths {states[1].lengths}"
        return best.indices

    asked = [torch.randint(0, config.vocab_size, (1, length)) for length in prompts]
    ids = torch.cat([taken(row, row + 1, prompt) for row, prompt in enumerate(asked)])
    for place in range(config.context - prompts[-1]):
        first = sum(length + place >= config.context for length in prompts)  # these have ended
        ids[first:] = taken(first, len(prompts), ids[first:])
    assert states[0].lengths.tolist() == [config.context] * len(prompts)


@needs_native
@pytest.mark.parametrize("body", ["transformer", "rnn", "gru", "lstm"])
@pytest.mark.parametrize(
    ("examples", "tokens"), [(8, 30), pytest.param(40, 512, marks=pytest.mark.long)]
)
def test_greedy_ids_of_models_of_any_shape_are_torchs(
    body: str, examples: int, tokens: int
) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(
        config=transformers if body == "transformer" else recurrents,
        prompts=st.lists(sizes(1, 24), min_size=1, max_size=5), threads=sizes(1, 4),
        level=st.sampled_from(range(len(LEVELS))), seed=sizes(0, 1000),
    )  # fmt: skip
    def check(config: ModelConfig, prompts: list[int], level: int, threads: int, seed: int) -> None:
        config = config.changed(body=body, context=max(prompts) + tokens)
        take_the_same_ids(config, prompts, level, threads, seed)

    check()


@needs_native
def test_the_same_row_gives_the_same_logits_alone_and_in_company() -> None:
    model = random_model(transformer(vocab_size=61, width=48, kv_heads=2, group=2, head_size=12))
    step = NativeStep(model)
    company = step.new_state(13, CONTEXT)
    alone = step.new_state(1, CONTEXT)
    for _ in range(5):
        ids = torch.randint(0, 61, (13, 1))
        together, single = step(ids, company), step(ids[4:5], alone)
        assert (together[4] - single[0]).abs().max() < 1e-5


@needs_native
def test_what_does_not_fit_is_refused_before_the_native_code_sees_it() -> None:
    model = random_model(transformer(vocab_size=31, head_size=8))
    step, state = NativeStep(model), model.new_state(2, 4)
    for bad in (31, -1):
        with pytest.raises(IndexError):
            step(torch.tensor([[0], [bad]]), state)
    with pytest.raises(ValueError, match="tokens 0 to 5 in a state of 4"):
        step(torch.zeros(2, 5, dtype=torch.int64), state)
    with pytest.raises(ValueError, match="3 rows of ids for 2"):
        step(torch.zeros(3, 1, dtype=torch.int64), state)
    with pytest.raises(ValueError, match="no ids"):
        step(torch.zeros(2, 0, dtype=torch.int64), state)
    doubles = [tuple(part.double() for part in layer) for layer in state.layers]
    with pytest.raises(ValueError, match="float64"):
        step(torch.zeros(2, 1, dtype=torch.int64), KeyValueCache(doubles, state.lengths, 4))
    other = random_model(transformer(vocab_size=31, head_size=10)).new_state(2, 4)
    with pytest.raises(ValueError, match=r"a tensor of \(2, 1, 4, 10\)"):
        step(torch.zeros(2, 1, dtype=torch.int64), other)
    with pytest.raises(ValueError, match="more places than positions"):
        step(torch.zeros(2, 1, dtype=torch.int64), model.new_state(2, CONTEXT + 1))


@needs_native
@pytest.mark.parametrize("body", ["rnn", "gru", "lstm", "transformer"])
def test_what_is_no_number_is_noticed(body: str) -> None:
    model = random_model(
        transformer(vocab_size=31) if body == "transformer" else recurrent(body=body, vocab_size=31)
    )
    for weights in WEIGHTS:
        for level in range(len(LEVELS)):
            step = NativeStep(model, weights, level=level)
            good, bad = model.embedding.weight.clone(), torch.tensor([[3], [4]])
            try:
                model.embedding.weight[3] = torch.nan
                logits_BV = step(bad, step.new_state(2, 4))
            finally:
                model.embedding.weight.copy_(good)
            assert logits_BV[0].isnan().any(), (weights, LEVELS[level])
            assert logits_BV[1].isfinite().all(), (weights, LEVELS[level])
    next(iter(model.body.parameters())).flatten()[0] = torch.inf
    with pytest.raises(Unavailable, match="weights that are no numbers"):
        NativeStep(model)


@needs_native
def test_threads_sleep_when_there_is_nothing_to_do() -> None:
    def fields(task: str) -> list[str]:
        """What Linux says of a thread of this process, from its state on (``man 5 proc``)."""
        return Path("/proc/self/task", task, "stat").read_text().rsplit(")", 1)[1].split()

    def ticks(task: str) -> int:
        """Its time on a core so far, its own and the kernel's (other threads' do not count)."""
        return sum(map(int, fields(task)[11:13]))

    if not Path("/proc/self/task").is_dir():
        pytest.skip("needs Linux's /proc")
    model = random_model(transformer(vocab_size=31, head_size=8))
    before = set(os.listdir("/proc/self/task"))
    step = NativeStep(model, threads=3)
    step(torch.zeros(1, 1, dtype=torch.int64), step.new_state(1, 8))
    ours = set(os.listdir("/proc/self/task")) - before
    assert len(ours) == 2
    deadline = time.monotonic() + 20
    while any(fields(task)[0] != "S" for task in ours):
        assert time.monotonic() < deadline, "a thread still runs after 20 seconds"
    used = sum(map(ticks, ours))
    time.sleep(1)
    assert sum(map(ticks, ours)) - used <= 1, "nobody looks out for work that does not come"


@needs_native
def test_an_engine_uses_the_native_step_unless_it_is_turned_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = random_model(transformer(vocab_size=31, head_size=8))
    assert choose_step(model).name.startswith(f"native {LEVELS[0]}, float32")
    monkeypatch.setenv("LMAPPS_NATIVE", "0")
    assert choose_step(model).name == "torch, float32 (LMAPPS_NATIVE=0 turns the native step off)"


def test_without_a_library_or_with_one_of_other_sources_torch_takes_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = random_model(transformer(vocab_size=31, head_size=8))
    monkeypatch.setattr(library_module, "LIBRARY", tmp_path / "libstep.so")
    library_module._load.cache_clear()
    assert "is not built" in choose_step(model).name
    (tmp_path / "libstep.so").write_bytes(b"not a library")
    assert "cannot be loaded" in choose_step(model).name
    if LEVELS:
        monkeypatch.undo()
        monkeypatch.setattr(library_module, "fingerprint", lambda: 0)
        assert "built from other sources" in choose_step(model).name
        monkeypatch.undo()
        assert choose_step(model).name.startswith("native")


@needs_native
@pytest.mark.parametrize("weights", WEIGHTS)
def test_torch_and_native_round_weights_alike(weights: str) -> None:
    config = ModelConfig.from_size("tiny", body="transformer", vocab_size=203, context=CONTEXT)
    model = calm_model(config)
    ids = torch.randint(0, 203, (2, 5))
    results = [
        step(ids, step.new_state(2, 8)).float()
        for step in (NativeStep(model, weights), TorchStep(model, weights))
    ]
    difference = (results[0] - results[1]).norm() / results[1].norm()
    assert difference < {"float32": 1e-5, "bfloat16": 3e-2, "int8": 5e-2}[weights]


BODIES = ("transformer", "rnn", "gru", "lstm")


@needs_native
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_served_model_takes_the_memory_of_one_copy(weights: str, body: str) -> None:
    """A byte a weight in int8, two in bf16; what is computed stays the same."""
    model, ids = random_model(ModelConfig.from_size("tiny", body=body, vocab_size=203)), _ids()
    expected = (before := NativeStep(model, weights))(ids, before.new_state(2, 8))
    matrices = sum(part.numel() for part in model.parameters() if part.dim() == 2)
    rest = sum(part.nbytes for part in model.parameters() if part.dim() == 1)
    rest += model.embedding.weight.nbytes
    matrices -= 0 if model.config.tie_embeddings else model.embedding.weight.numel()
    step = choose_step(model, weights, served=True)
    assert torch.equal(step(ids, step.new_state(2, 8)), expected)
    assert step.bytes == matrices * {"float32": 4, "bfloat16": 2, "int8": 1}[weights]
    assert sum(part.nbytes for part in model.parameters()) == rest


@pytest.mark.parametrize("tie", [True, False])
def test_torch_keeps_a_transformers_layers_in_a_byte_a_weight(
    tie: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMAPPS_NATIVE", "0")
    model = random_model(transformer(vocab_size=203, head_size=8, tie_embeddings=tie))
    ids = _ids()
    matrices = [
        part.weight.numel() for part in model.modules() if isinstance(part, torch.nn.Linear)
    ]
    expected = (before := TorchStep(model, "int8"))(ids, before.new_state(2, 8))
    step = choose_step(model, "int8", served=True)
    assert isinstance(step, TorchStep) and torch.equal(step(ids, step.new_state(2, 8)), expected)
    scales = sum(part.numel() for part in step.model.buffers() if part.dtype == torch.float32)
    assert sum(matrices) < step.bytes <= sum(matrices) + 4 * scales
    assert isinstance(model.body.layers[0].mlp.up_proj, torch.nn.Linear)  # it is still itself
    assert model.body.layers[0].mlp.up_proj.weight.numel() == 0


def _ids() -> torch.Tensor:
    return torch.randint(0, 203, (2, 5), generator=torch.Generator().manual_seed(0))


@needs_native
def test_int8_costs_the_default_checkpoint_less_than_half_a_percent_of_perplexity() -> None:
    checkpoint = Checkpoint.load(ROOT / "checkpoints" / "default")
    pages = "\n\n".join(file.read_text() for file in sorted((ROOT / "docs").glob("*.md")))
    # Prose, and enough of it: of 2,048 tokens with tables it is 0.7%.
    text = "\n\n".join(re.findall(r"^[A-Z][a-z ].*?(?=\n\n)", pages, re.MULTILINE | re.DOTALL))
    rows, length = 64, 128
    ids = checkpoint.tokenizer.encode(text)[: rows * length + 1]
    windows = torch.tensor(ids[:-1]).view(rows, length), torch.tensor(ids[1:]).view(rows, length)

    def loss(weights: str) -> float:
        step = NativeStep(checkpoint.model, weights)
        state, total = step.new_state(rows, length), 0.0
        for inputs, targets in zip(*(window.split(1, dim=1) for window in windows), strict=True):
            logits = step(inputs, state)
            total += float(torch.nn.functional.cross_entropy(logits, targets[:, 0]))
        return total / length

    assert abs(math.exp(loss("int8") - loss("bfloat16")) - 1) < 5e-3


@needs_native
def test_a_model_with_adapters_in_its_layers_is_left_to_torch() -> None:
    class Adapted(torch.nn.Linear):
        """As peft does it: `weight` is the one without the adapter."""

    model = random_model(transformer(vocab_size=31, head_size=8))
    mlp: Any = model.body.layers[0].mlp
    mlp.up_proj = Adapted(24, model.config.intermediate_size, bias=False)
    assert "body.layers.0.mlp.up_proj is a Adapted" in choose_step(model).name
    mlp.up_proj = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(24, 64, bias=False))
    assert "ParametrizedLinear" in choose_step(model).name


def test_an_unknown_precision_is_refused_by_name() -> None:
    model = random_model(transformer(vocab_size=31, head_size=8))
    with pytest.raises(
        SettingsError, match="weights must be one of float32, bfloat16, int8, got 'int4'"
    ):
        choose_step(model, "int4")


def test_a_machine_without_a_compiler_gets_a_reason_and_no_half_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotCompile, match=r"no C\+\+ compiler"):
        find_compiler()
    monkeypatch.undo()
    for broken in ("/nowhere/c++", "false"):
        with pytest.raises(CannotCompile, match=r"could not be run|failed"):
            compile_library(tmp_path / "libstep.so", compiler=broken)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="memory is read from /proc")
def test_a_long_context_takes_memory_only_as_it_is_filled() -> None:
    """SmolLM2's 8192 tokens for 16 people would else be gigabytes from the first moment on; so too
    where the process has freed as much before, as one that trained a model has."""
    with kept_memory(torch.device("cpu")):
        freed = torch.ones(1 << 27)
        above = torch.ones(1 << 16)
        del freed
    before = _resident()
    made = [untouched_zeros((64, 1 << 20), dtype) for dtype in (torch.float32, torch.bfloat16)]
    assert _resident() - before < 40e6, "of 400 MB"
    assert not any(part[::7, ::4096].any() for part in made)
    assert [part.dtype for part in made] == [torch.float32, torch.bfloat16]
    assert above.all()
    with pytest.raises(MemoryError, match=r"1,152,921,504,606,846,976 bytes"):
        untouched_zeros((1 << 58,), torch.float32)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
