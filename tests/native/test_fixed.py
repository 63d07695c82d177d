"""Steps of a few fixed shapes, as a GPU has them: on the CPU only the capturing is left out."""

from __future__ import annotations

import copy
import queue
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmapps.decoding import Decoding
from lmapps.engine.engine import Engine
from lmapps.engine.request import Delta, Request
from lmapps.engine.slots import Slots
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.config import BODIES
from lmapps.model.state import State
from lmapps.native import torch_step
from lmapps.native.shapes import Shapes
from lmapps.native.step import choose_step
from lmapps.native.torch_step import TorchStep

Tiny = Callable[[str], Checkpoint]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
GREEDY = Decoding(temperature=0, max_new_tokens=40)


@given(
    slots=st.integers(1, 70), capacity=st.integers(2, 9000), tokens=st.integers(1, 9000),
    has_places=st.booleans(),
)  # fmt: skip
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_every_step_that_can_come_has_one_of_the_shapes(
    slots: int, capacity: int, tokens: int, has_places: bool
) -> None:
    shapes = Shapes.fixed(slots, capacity, has_places=has_places)
    rows, tokens = min(slots, tokens), min(capacity - 1, tokens)
    assert rows <= shapes.padded(rows) <= min(slots, 2 * rows)
    left = tokens
    while left:
        piece = shapes.piece(left)
        assert piece in shapes.tokens and piece <= left
        longest = tokens - left + piece
        assert shapes.span(longest) in shapes.spans(piece)
        assert not has_places or longest <= shapes.span(longest) <= capacity
        left -= piece


class Noted(TorchStep):
    """Fixed shapes, and a note of each that was prepared and of each that came."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, fixed=True, **settings)
        self.prepared: set[Any] = set()
        self.came: set[Any] = set()

    def prepare(self, state: State, tokens: int) -> None:
        super().prepare(state, tokens)
        rows = len(state.lengths)
        self.prepared |= {(rows, tokens, span) for span in self.shapes.spans(tokens)}

    def __call__(self, ids_BT: torch.Tensor, state: State) -> torch.Tensor:
        span = self.shapes.span(int(state.lengths.max()) + ids_BT.shape[1])
        self.came.add((*ids_BT.shape, span))
        return super().__call__(ids_BT, state)


class Replayed:
    """Stands for a captured graph: as with one, all of them write logits to the same memory."""

    logits = torch.empty(0)

    def __init__(self, run: Any, rows: int, tokens: int, device: Any, pool: Any) -> None:
        self.run, self.shape = run, (rows, tokens)
        run(torch.zeros(self.shape, dtype=torch.int64), torch.zeros(rows, dtype=torch.int64))

    def __call__(self, ids_BT: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        assert ids_BT.shape == self.shape and lengths_B.shape == self.shape[:1]
        logits_BV = self.run(ids_BT, lengths_B.clone())
        if Replayed.logits.numel() < logits_BV.numel():
            Replayed.logits = torch.empty(logits_BV.numel())
        Replayed.logits.fill_(torch.nan)
        return Replayed.logits[: logits_BV.numel()].view_as(logits_BV).copy_(logits_BV)


def replies(
    step: TorchStep, checkpoint: Checkpoint, texts: list[str], slots: int = 5
) -> list[list[int]]:
    """Greedy ids of all texts at once."""
    ended: queue.SimpleQueue[Delta] = queue.SimpleQueue()

    def deliver(delta: Delta) -> None:
        if delta.finish:
            ended.put(delta)

    with Engine(checkpoint, slots=slots, step=step) as engine:
        prompts = [checkpoint.tokenizer.prompt_ids(text) for text in texts]
        requests = [engine.submit(prompt, GREEDY, deliver) for prompt in prompts]
        for _ in requests:
            assert ended.get(timeout=120).error is None
    return [request.generated for request in requests]


TEXTS = ["The cat sat on the mat. " * n + "A tree" for n in (0, 1, 2, 3, 4, 0, 1)]


@pytest.mark.parametrize("body", BODIES)
def test_fixed_shapes_give_the_tokens_of_any_shape_and_all_were_prepared(
    endless_checkpoint: Tiny, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = endless_checkpoint(body)
    plain = replies(TorchStep(checkpoint.model), checkpoint, TEXTS)
    monkeypatch.setattr("lmapps.native.shapes.FEWEST_PLACES", 16)
    monkeypatch.setattr("lmapps.native.shapes.GROWTH", 2)
    step = Noted(checkpoint.model)
    assert replies(step, checkpoint, TEXTS) == plain
    assert len(step.came) > 5 and step.came <= step.prepared
    monkeypatch.setattr(torch_step, "Graph", Replayed)
    captured = Noted(checkpoint.model)
    captured._is_captured = True
    assert replies(captured, checkpoint, TEXTS) == plain
    shapes = {(len(rows.lengths), tokens, span) for rows, tokens, span in captured._graphs}
    assert shapes == step.prepared


@pytest.mark.long
@pytest.mark.parametrize("name", ["default", "default-gru"])
def test_what_is_shipped_is_served_in_the_shapes_that_a_gpu_has(name: str) -> None:
    checkpoint = Checkpoint.load(CHECKPOINTS / name)
    checkpoint.tokenizer.end_ids = frozenset()
    texts = ["Water runs down from the hills. " * n + "It" for n in (0, 45, *range(0, 42, 2))]
    plain = replies(TorchStep(checkpoint.model), checkpoint, texts, 16)
    step = Noted(checkpoint.model)
    assert replies(step, checkpoint, texts, 16) == plain
    rows, tokens, spans = map(set, zip(*step.came, strict=True))
    assert step.came <= step.prepared and rows >= {1, 4, 8} and tokens >= {1, 2, 256}
    assert spans == ({256, 1024} if name == "default" else {0})


@pytest.mark.parametrize("body", BODIES)
@torch.inference_mode()
def test_a_padded_step_leaves_the_row_where_a_prompt_is_read_alone(
    tiny_checkpoint: Tiny, body: str
) -> None:
    checkpoint = tiny_checkpoint(body)
    slots = Slots(checkpoint.model, 5, TorchStep(checkpoint.model, fixed=True))
    for _ in slots.warm_up():
        pass
    assert slots.state.lengths.tolist() == [0] * 6, "nothing is left of the warm-up"
    asked = [
        Request(checkpoint.tokenizer.prompt_ids(text), GREEDY, 9, checkpoint.tokenizer, print)
        for text in TEXTS[:4]
    ]
    for request in asked:
        while request.prefilled < len(request.prompt_ids):
            slots.prefill(request, 64)
        if request is not asked[-1]:
            slots.join(request)
            request.generated.append(5)
    assert slots.step.shapes.padded(3) == 4, "one row is nobody's"
    before = [part.clone() for part in slots.state.save(slots.count)]
    assert slots.step.shapes.padded(3) == 4
    slots.decode()
    after = slots.state.save(slots.count)
    assert all(map(torch.equal, before, after)) and any(part.any() for part in after)
    read = [len(request.prompt_ids) for request in asked]
    assert slots.state.lengths.tolist() == [*(length + 1 for length in read[:3]), 0, 0, read[3]]


def test_what_cannot_be_compiled_is_run_as_it_is_and_its_name_says_so(
    endless_checkpoint: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = endless_checkpoint("transformer")

    def compile(run: Any, **_: Any) -> Any:
        def fail(*args: Any) -> Any:
            raise RuntimeError("no compiler here")

        return fail

    monkeypatch.setattr(torch, "compile", compile)
    step = TorchStep(checkpoint.model, fixed=True, compiled=True)
    assert step.name == "torch, float32, compiled"
    plain = replies(TorchStep(checkpoint.model), checkpoint, TEXTS[:2])
    assert replies(step, checkpoint, TEXTS[:2]) == plain
    assert step.name == "torch, float32 (RuntimeError: no compiler here)"


@pytest.mark.parametrize("body", ["transformer", "gru"])
def test_a_model_on_a_gpu_that_is_served_is_prepared_and_a_sample_in_training_is_not(
    tiny_checkpoint: Tiny, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_checkpoint(body).model
    monkeypatch.setattr(type(model), "device", torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    compiled = ", compiled" if body == "transformer" else ""
    served = choose_step(model, served=True)
    assert served.name == f"torch on cuda:0, float32{compiled}, CUDA graphs"
    assert choose_step(model).name == "torch on cuda:0, float32"


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@torch.inference_mode()
def test_a_compiled_step_gives_the_logits_of_the_step(endless_checkpoint: Tiny) -> None:
    """Of one shape; the others, and what a whole reply is, are in the long tier."""
    model = endless_checkpoint("transformer").model
    plain, step = TorchStep(model), TorchStep(model, fixed=True, compiled=True)
    states = [one.new_state(1, 32) for one in (plain, step)]
    step.prepare(states[1], 1)
    assert step.name == "torch, float32, compiled", "nothing of it was left to Python"
    for token_id in (5, 6, 7):
        logits = [
            one(torch.tensor([[token_id]]), state)
            for one, state in zip((plain, step), states, strict=True)
        ]
        torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)


@pytest.mark.long
def test_compiled_steps_give_the_same_tokens_and_nothing_is_compiled_after_the_warm_up(
    endless_checkpoint: Tiny,
) -> None:
    checkpoint = endless_checkpoint("transformer")
    plain = replies(TorchStep(checkpoint.model), checkpoint, TEXTS)
    step = TorchStep(checkpoint.model, fixed=True, compiled=True)
    slots = Slots(checkpoint.model, 5, step)
    with torch.inference_mode():
        for _ in slots.warm_up():
            pass
    torch._dynamo.config.error_on_recompile = True
    try:
        assert replies(step, checkpoint, TEXTS) == plain
    finally:
        torch._dynamo.config.error_on_recompile = False
    assert step.name == "torch, float32, compiled"


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("body", BODIES)
def test_on_a_gpu_every_step_is_the_replay_of_a_graph(
    endless_checkpoint: Tiny, body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmapps.engine.backends.source import Opening, Source, open_backend

    endless_checkpoint(body).save(tmp_path)
    opening = Opening(slots=5, weights="bfloat16", devices=("cuda:0",))
    engine: Any = open_backend(Source("on a GPU", str(tmp_path)), opening)
    try:
        step = engine._scheduler.slots.step
        engine.generate([20, 21, 22], Decoding(temperature=0, max_new_tokens=2))
        assert engine.why_not_ready() is None
        assert step.name.endswith("CUDA graphs"), step.name  # no reason why something is left out
        assert step.model.head.weight.dtype == torch.bfloat16
        monkeypatch.setattr(step, "_run", None)  # whatever is not captured fails now
        torch._dynamo.config.error_on_recompile = True
        for length in (1, 3, 17, 60, 90):
            reply = engine.generate(list(range(20, 20 + length)), GREEDY)
            assert reply.finish == "length"
    finally:
        torch._dynamo.config.error_on_recompile = False
        engine.close()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("body", BODIES)
def test_on_a_gpu_captured_steps_in_fp32_give_the_tokens_of_plain_torch(
    endless_checkpoint: Tiny, body: str
) -> None:
    checkpoint = endless_checkpoint(body)
    plain = replies(TorchStep(checkpoint.model), checkpoint, TEXTS)
    model = copy.deepcopy(checkpoint.model).to("cuda:0")
    there = Checkpoint(model, checkpoint.tokenizer, checkpoint.template)
    step = TorchStep(model, fixed=True, compiled=body == "transformer")
    agree = zip(plain, replies(step, there, TEXTS), strict=True)
    # A GPU adds in another order: most replies are the same to the end, each begins the same.
    assert all(one[:4] == other[:4] for one, other in agree)
    assert step.name.endswith("CUDA graphs"), step.name
