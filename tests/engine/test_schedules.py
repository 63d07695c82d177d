"""The same seed gives the same text alone, in any batch, and after a neighbour was cancelled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmapps.decoding import Decoding
from lmapps.engine.prefixes import Prefixes
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.config import BODIES
from lmapps.native.shapes import Shapes
from lmapps.native.torch_step import TorchStep

HOLDING = tuple(f"{letter}~" for letter in "aeiou nrst,.h")
"""Stop strings that hardly ever come, and whose beginnings are held back all the time."""
DECODINGS = st.builds(
    Decoding,
    temperature=st.sampled_from([0, 0.7, 1.3]),
    top_k=st.sampled_from([0, 5]),
    top_p=st.sampled_from([0.8, 1.0]),
    min_p=st.sampled_from([0.0, 0.05]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    presence_penalty=st.sampled_from([0.0, 1.5]),
    no_repeat_ngram=st.sampled_from([0, 2]),
    logit_bias=st.sampled_from([{}, {20: 3.0}]),
    logprobs=st.sampled_from([None, 2]),
    regex=st.sampled_from([None, None, "[a-z ]+", "(The|A) (cat|dog)[a-z .]*"]),
    stop=st.sampled_from([(), ("e", "an"), HOLDING]),
    max_new_tokens=st.integers(1, 14),
    seed=st.integers(0, 5),
)
PROMPTS = st.lists(st.integers(10, 14), min_size=1, max_size=20)  # few ids: they often begin alike
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), PROMPTS, DECODINGS, st.sampled_from([None, "a", "b", "c"])),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("step"), st.integers(1, 6)),
        st.tuples(st.just("pace"), st.sampled_from([4, 7, 64])),
    ),
    min_size=4,
    max_size=24,
)


FEW_SHAPES = Shapes(rows=(1, 2, 5), tokens=(1, 2, 4, 8), places=(16, 32, 128))
"""As those of a GPU, but small, so that a short schedule meets many."""


@pytest.fixture(scope="module", params=BODIES)
def checkpoint(
    request: pytest.FixtureRequest, tiny_checkpoint: Callable[[str], Checkpoint]
) -> Checkpoint:
    return tiny_checkpoint(request.param)


def run(steps: Any, moves: list[Any]) -> list[Any]:
    """Play the moves, then step until nobody waits; all that was asked."""
    asked: list[Any] = []
    for kind, *rest in moves:
        if kind == "ask":
            asked.append(steps.ask(*rest))
        elif kind == "cancel" and asked:
            asked[rest[0] % len(asked)].request.cancel()
        elif kind == "pace":
            steps.scheduler.pace.tokens = partial(in_pieces_of, rest[0])
        elif kind == "step":
            for _ in range(rest[0]):
                steps.step()
    while not steps.scheduler.idle:
        steps.step()
    return asked


def in_pieces_of(size: int, rows: int, read: int, spent: float, most: int) -> int:
    """A pace of one piece in each step, whatever time it takes."""
    return 0 if read else min(size, most)


def alone(steps: Any, prompt: list[int], decoding: Decoding) -> Any:
    """One request in an engine of its own, which keeps nothing."""
    steps.scheduler.slots.prefixes = Prefixes(0, divisible=False)
    return run(steps, [("ask", prompt, decoding, None)])[0]


def check(
    checkpoint: Checkpoint, stepped: Any, same: Callable[..., bool], moves: Any, step: Any = None
) -> None:
    class Host:
        pass

    host: Any = Host()
    host.checkpoint = checkpoint
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    crowded = stepped(model, tokenizer, 5 if step else 3, step)
    if step:
        step.shapes = FEW_SHAPES
    for asked in run(crowded, moves):
        request, decoding = asked.request, asked.request.decoding
        assert asked.is_done
        if is_cut := request.finish == "cancelled":
            if not asked.ids:
                assert asked.text == ""
                continue
            decoding = decoding.replace(max_new_tokens=len(asked.ids))
        single = alone(stepped(model, tokenizer, 1), request.prompt_ids, decoding)
        assert same(host, request.prompt_ids, decoding, asked.ids, single.ids)
        if asked.ids == single.ids:
            assert asked.text == single.text
            assert is_cut or request.finish == single.request.finish
    counts = crowded.scheduler.counts
    assert counts.reused_tokens + counts.read_tokens <= counts.prompt_tokens
    assert len(crowded.scheduler.slots.running) == 0


FEW = settings(
    max_examples=25, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


@FEW
@given(moves=MOVES)
def test_a_seed_gives_the_same_text_in_any_schedule(
    checkpoint: Checkpoint, stepped: Any, same_but_for_rounding: Callable[..., bool], moves: Any
) -> None:
    check(checkpoint, stepped, same_but_for_rounding, moves)


@FEW
@given(moves=MOVES)
def test_a_seed_gives_the_same_text_in_the_fixed_shapes_of_a_gpu(
    checkpoint: Checkpoint, stepped: Any, same_but_for_rounding: Callable[..., bool], moves: Any
) -> None:
    step = TorchStep(checkpoint.model, fixed=True)
    check(checkpoint, stepped, same_but_for_rounding, moves, step)


@pytest.mark.long
@pytest.mark.parametrize("fixed", [False, True])
@settings(FEW, max_examples=500)
@given(moves=MOVES)
def test_a_seed_gives_the_same_text_in_many_schedules(
    checkpoint: Checkpoint,
    stepped: Any,
    same_but_for_rounding: Callable[..., bool],
    fixed: bool,
    moves: Any,
) -> None:
    step = TorchStep(checkpoint.model, fixed=True) if fixed else None
    check(checkpoint, stepped, same_but_for_rounding, moves, step)
