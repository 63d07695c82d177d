"""What was read once is not read again: found by ids, exact, bounded in memory, and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmapps.decoding import Decoding
from lmapps.engine.engine import Engine
from lmapps.engine.prefixes import MOST_ENTRIES, Prefixes
from lmapps.fields import Message
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.config import BODIES, ModelConfig
from lmapps.model.language_model import LanguageModel
from lmapps.text.template import Template
from lmapps.text.tokenizer import Tokenizer

TEXT = "The cat sat on the mat. Where is the dog? It ran home, up a tree!"
# No control token is sampled: the reply has the length asked for, and its text all of its ids.
ENDLESS = Decoding(seed=1, max_new_tokens=30, logit_bias=dict.fromkeys(range(6), -100))


@pytest.fixture(scope="module", params=BODIES)
def body(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def character_checkpoint(body: str) -> Checkpoint:
    """Characters, so that a reply's text is always encoded as the ids that were sampled."""
    tokenizer = Tokenizer.train([TEXT], "character", 100)
    torch.manual_seed(2)
    config = ModelConfig.from_size(
        "tiny", body=body, vocab_size=tokenizer.vocab_size, context=512  # type: ignore[arg-type]
    )  # fmt: skip
    model = LanguageModel(config.changed(num_layers=2)).eval()
    return Checkpoint(model, tokenizer, Template(tokenizer))


@pytest.fixture(scope="module")
def checkpoint(body: str) -> Checkpoint:
    return character_checkpoint(body)


@pytest.fixture
def engine(checkpoint: Checkpoint) -> Iterator[Engine]:
    with Engine(checkpoint, slots=3) as engine:
        yield engine


def forget(engine: Engine) -> None:
    """Make an engine read everything."""
    prefixes = engine._scheduler.slots.prefixes
    engine._scheduler.slots.prefixes = Prefixes(0, divisible=prefixes.divisible)


def read_tokens(engine: Engine, prompt: list[int], decoding: Decoding) -> tuple[Any, int]:
    before = engine.counts.read_tokens
    reply = engine.generate(prompt, decoding)
    return reply, engine.counts.read_tokens - before


def turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}  # type: ignore[typeddict-item]


def test_the_second_turn_of_a_long_chat_reads_only_what_is_new(engine: Engine) -> None:
    template = engine.checkpoint.template
    decoding = ENDLESS.replace(max_new_tokens=60)
    talk = [turn("system", TEXT), turn("user", TEXT)]
    first_prompt = template.prompt_ids(talk)
    first, read = read_tokens(engine, first_prompt, decoding)
    assert read == len(first_prompt) and first.reused == 0
    for text in ("Where?", "The cat?", "Up a tree?"):
        talk += [turn("assistant", first.text), turn("user", text)]
        prompt = template.prompt_ids(talk)
        # New: the reply's last id, which nothing followed; the end token; the user's turn.
        new = 1 + 1 + 1 + len(text) + 1 + 1
        first, read = read_tokens(engine, prompt, decoding)
        assert read == new
        assert first.reused == len(prompt) - new


def test_the_same_prompt_again_is_not_read_again(engine: Engine) -> None:
    prompt = engine.checkpoint.tokenizer.prompt_ids(TEXT)
    decoding = Decoding(seed=1, max_new_tokens=20)
    first, read = read_tokens(engine, prompt, decoding)
    assert read == len(prompt)
    again, read = read_tokens(engine, prompt, decoding)
    assert read <= 1, "a hidden vector knows the logits; a cache reads the last id once more"
    assert again.ids == first.ids


def test_a_reply_that_came_back_as_other_ids_is_read_from_its_beginning(engine: Engine) -> None:
    tokenizer = engine.checkpoint.tokenizer
    prompt = tokenizer.prompt_ids(TEXT)
    reply, _ = read_tokens(engine, prompt, ENDLESS)
    changed = [*reply.ids[:10], (reply.ids[10] + 1) % tokenizer.vocab_size, *reply.ids[11:]]
    again, read = read_tokens(engine, [*prompt, *changed], Decoding(seed=1, max_new_tokens=5))
    divisible = engine._scheduler.slots.prefixes.divisible
    assert read == (20 if divisible else 30)
    forget(engine)
    whole, read = read_tokens(engine, [*prompt, *changed], Decoding(seed=1, max_new_tokens=5))
    assert read == len(prompt) + 30 and again.ids == whole.ids


def test_a_stopped_reply_is_kept_as_far_as_it_came(
    engine: Engine, wait_until: Callable[..., None]
) -> None:
    prompt = engine.checkpoint.tokenizer.prompt_ids(TEXT)
    ids: list[int] = []

    def deliver(delta: Any) -> None:
        ids.extend(delta.ids)
        if len(ids) == 25:
            request.cancel()

    request = engine.submit(prompt, ENDLESS.replace(max_new_tokens=400), deliver)
    wait_until(lambda: request.finish is not None)
    _, read = read_tokens(engine, [*prompt, *ids, 7, 8], Decoding(max_new_tokens=2))
    assert read == 3, "its last id, and the two new ones"


@settings(
    max_examples=12, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(data=st.data())
def test_replies_are_the_same_with_and_without_reuse(
    checkpoint: Checkpoint, same_but_for_rounding: Callable[..., bool], data: Any
) -> None:
    """Random conversations that branch: each goes on from a beginning of an earlier one."""
    size = checkpoint.tokenizer.vocab_size
    token = st.integers(6, size - 1)
    with Engine(checkpoint, slots=2) as reusing, Engine(checkpoint, slots=2) as reading:
        forget(reading)
        known: list[list[int]] = [[]]
        for number in range(5):
            start = data.draw(st.sampled_from(known))
            cut = data.draw(st.integers(0, len(start)))
            prompt = start[:cut] + data.draw(st.lists(token, min_size=1, max_size=25))
            decoding = Decoding(seed=number, temperature=0.9, max_new_tokens=12)
            one, other = reusing.generate(prompt, decoding), reading.generate(prompt, decoding)
            assert same_but_for_rounding(reading, prompt, decoding, one.ids, other.ids)
            assert other.reused == 0
            known.append([*prompt, *one.ids])
        prompts = reusing.counts.reused_tokens + reusing.counts.read_tokens
        assert prompts == reusing.counts.prompt_tokens == reading.counts.read_tokens


def test_memory_is_bounded_and_what_was_used_last_stays(engine: Engine) -> None:
    prompts = [[n] * 40 for n in range(6, 16)]
    once = Decoding(max_new_tokens=1)
    engine.generate(prompts[0], once)
    prefixes = engine._scheduler.slots.prefixes
    prefixes.most_bytes = 4 * prefixes.bytes
    for prompt in prompts[1:4]:
        engine.generate(prompt, once)
    assert len(prefixes) == 4
    _, read = read_tokens(engine, prompts[0], once)  # used again: the next to go is prompts[1]
    assert read <= 1
    engine.generate(prompts[4], once)
    assert engine.prefix_bytes <= prefixes.most_bytes and len(prefixes) == 4
    assert read_tokens(engine, prompts[0], once)[1] <= 1
    assert read_tokens(engine, prompts[1], once)[1] == 40


def entry(size: int) -> list[torch.Tensor]:
    return [torch.zeros(size, 4)]


def test_a_longer_entry_replaces_its_beginning_where_it_can_be_cut() -> None:
    for divisible in (True, False):
        prefixes = Prefixes(10**6, divisible=divisible)
        prefixes.keep(range(10), entry(10))
        prefixes.keep(range(20), entry(20))
        assert len(prefixes) == (1 if divisible else 2)
        assert prefixes.find([*range(10), 99]) is not None
        found = prefixes.find([*range(15), 99])
        assert found is not None and found[1] == (15 if divisible else 10)
        assert prefixes.find(range(50, 90)) is None
    bytes_now = prefixes.bytes
    prefixes.keep(range(20), entry(20))
    assert prefixes.bytes == bytes_now, "the same ids are kept once"


def test_no_entry_spares_the_last_id_unless_the_logits_are_known() -> None:
    for divisible in (True, False):
        prefixes = Prefixes(10**6, divisible=divisible)
        prefixes.keep(range(10), entry(10))
        found = prefixes.find(range(10))
        assert (found and found[1]) == (9 if divisible else None)
        prefixes.keep(range(10), entry(10), torch.zeros(3))
        found = prefixes.find(range(10))
        assert found is not None and found[1] == 10


def test_the_number_of_entries_is_bounded_and_large_ones_are_left_out() -> None:
    prefixes = Prefixes(10**9, divisible=False)
    for number in range(MOST_ENTRIES + 9):
        prefixes.keep([number] * 10, entry(1))
    assert len(prefixes) == MOST_ENTRIES
    small = Prefixes(100, divisible=True)
    small.keep(range(10), entry(100))
    assert len(small) == small.bytes == 0


@pytest.mark.parametrize("common", ["all of it", "its beginning"])
def test_a_prompt_begins_with_what_one_that_is_being_answered_has_read(
    checkpoint: Checkpoint, stepped: Any, body: str, common: str
) -> None:
    """Of a hidden vector only the whole prompt can be used."""
    steps = stepped(checkpoint.model, checkpoint.tokenizer, 3)
    prompt = checkpoint.tokenizer.prompt_ids(TEXT)
    other = [*prompt[: 20 if common == "its beginning" else None], 7, 8, 9]
    asked = [steps.ask(prompt, ENDLESS)]
    while len(asked[0].ids) < 5:
        steps.step()
    asked.append(steps.ask(other, ENDLESS))
    while not asked[1].is_done:
        steps.step()
    divisible = steps.scheduler.slots.state.divisible
    spared = len(other) - 3 if divisible or common == "all of it" else 0
    assert asked[1].request.reused == spared
    assert asked[0].ids == alone(steps, prompt) and asked[1].ids == alone(steps, other)


def alone(steps: Any, prompt: list[int]) -> list[int]:
    """What it is answered where nothing is kept and nobody else asks."""
    own = type(steps)(steps.scheduler.slots.model, steps.tokenizer, 1)
    own.scheduler.slots.prefixes = Prefixes(0, divisible=own.scheduler.slots.state.divisible)
    asked = own.ask(prompt, ENDLESS)
    while not asked.is_done:
        own.step()
    return list(asked.ids)


def test_a_row_saved_and_restored_is_the_row(tiny_checkpoint: Callable[[str], Checkpoint]) -> None:
    for name in BODIES:
        model = tiny_checkpoint(name).model
        state = model.new_state(3, 64)
        with torch.inference_mode():
            model.step(torch.tensor([[5, 6, 7, 8]]), state.rows(0, 1))
            saved = state.save(0)
            state.restore(2, saved, 4)
            one, _ = model.step(torch.tensor([[9]]), state.rows(0, 1))
            other, _ = model.step(torch.tensor([[9]]), state.rows(2, 3))
        assert np.array_equal(one.numpy(), other.numpy())
        assert state.lengths.tolist() == [5, 0, 5]
