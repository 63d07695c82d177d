"""Fairness and limits, counted in steps: people take turns, streams go on, no wait is endless."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import lmapps.engine.scheduler as scheduling
from lmapps.decoding import Decoding
from lmapps.engine.engine import Engine
from lmapps.engine.pace import FEWEST_TOKENS, UNNOTICED, Pace
from lmapps.engine.prefixes import Prefixes
from lmapps.engine.request import Request
from lmapps.engine.turns import in_turn, left_waiting, next_place, subdivided
from lmapps.errors import Busy
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.config import ModelConfig
from lmapps.model.language_model import LanguageModel
from lmapps.text.tokenizer import Tokenizer


def test_who_holds_least_comes_first_then_whose_turn_is_longest_ago_then_who_came_first() -> None:
    assert in_turn(["a", "b", "c"], {"a": 1}, {}) == [1, 2, 0]
    assert in_turn(["a", "b", "c"], {}, {"a": 3, "b": 1, "c": 2}) == [1, 2, 0]
    assert in_turn(["a", "a", "a", "b"], {}, {}) == [0, 3, 1, 2], "one each, then the next ones"
    assert in_turn(["a", "a", "b", "b"], {"a": 1}, {}) == [2, 0, 3, 1]
    assert in_turn([None, "a", None], {}, {}) == [0, 1, 2], "the program takes turns too"


def test_one_person_takes_half_of_the_slots_at_most_while_others_are_there() -> None:
    assert next_place(["a"], {"a": 6}, {}, 8) == 0, "alone: nearly all of them"
    assert next_place(["a"], {"a": 7}, {}, 8) is None, "one is there for whoever comes"
    assert next_place(["a"], {"a": 6}, {}, 7) == 0, "of a few slots none is kept free"
    assert next_place(["a"], {"a": 3, "b": 1}, {}, 8) == 0
    assert next_place(["a"], {"a": 4, "b": 1}, {}, 8) is None
    assert next_place(["a", "b"], {"a": 4}, {}, 8) == 1
    assert next_place([None], {None: 7, "b": 1}, {}, 8) == 0, "the program has no limit"
    assert next_place([], {"a": 1}, {}, 8) is None


def test_a_new_name_in_each_request_gives_no_larger_share() -> None:
    held = {subdivided("flood", f"name {n}"): 1 for n in range(4)}
    waiting = [subdivided("flood", "name 9"), "ann"]
    assert next_place(waiting, held, {}, 8) == 1, "ann first"
    assert next_place(waiting[:1], {**held, "ann": 1}, {}, 8) is None, "half are taken"
    assert next_place(waiting[:1], held, {}, 8) == 0, "nobody else is there"
    names = [subdivided("firm", name) for name in ("x", "x", "y")]
    assert [names[n] for n in in_turn(names, {}, {})] == [names[0], names[2], names[1]]


def test_who_finds_a_free_slot_does_not_wait() -> None:
    assert left_waiting(["a"] * 4, {}, 8) == []
    assert left_waiting(["a"] * 9, {}, 8) == ["a"] * 2, "one is left free"
    assert left_waiting(["a"] * 6 + ["b"], {}, 8) == ["a"] * 2, "half of them, where others are"
    assert left_waiting(["a", None, "b"], {"a": 3}, 4) == ["b", "a"]
    assert left_waiting(["a", "b"], {"a": 1, "c": 3}, 4) == ["a", "b"], "none is free"
    assert left_waiting([None] * 9, {None: 1}, 8) == [None] * 2


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.train(["abc def"], "character", 16)
    tokenizer.end_ids = frozenset()
    return tokenizer


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> LanguageModel:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"embed_size": 8, "hidden_size": 8, "num_layers": 1, "context": 4096}
    return LanguageModel(ModelConfig(body="gru", vocab_size=tokenizer.vocab_size, **shape)).eval()


def submit(steps: Any, user: str | None, tokens: int, prompt: int = 2) -> Any:
    return steps.ask([6] * prompt, Decoding(max_new_tokens=tokens, seed=1), user)


def waits_of_others(steps: Any, floods: bool) -> list[float]:
    """31 people who ask, read the answer and ask again, and one who asks without pause: how many
    steps each request of the 31 waits for its first token."""
    rng = random.Random(3)
    asking: dict[int, Any] = {}
    again_at = {person: rng.randrange(30) for person in range(31)}
    flood: list[Any] = []
    waits = []
    for now in range(700):
        for person in again_at:
            asked = asking.get(person)
            if asked and asked.is_done:
                waits.append(asked.steps[0] - asked.at)
                del asking[person]
                again_at[person] = now + rng.randrange(5, 40)
            elif not asked and now >= again_at[person]:
                asking[person] = submit(steps, f"person {person}", rng.randrange(20, 60))
        if floods:
            flood = [asked for asked in flood if not asked.is_done]
            flood += [submit(steps, "flood", 60) for _ in range(100 - len(flood))]
        steps.step()
    return sorted(waits)


def test_a_flood_does_not_double_the_wait_of_31_others(
    model: LanguageModel, tokenizer: Tokenizer, stepped: Any
) -> None:
    quiet = waits_of_others(stepped(model, tokenizer, 16), floods=False)
    flooded = waits_of_others(stepped(model, tokenizer, 16), floods=True)
    assert len(flooded) > 150 and quiet[len(quiet) // 2] > 3, "there was a queue to wait in"
    for share in (0.5, 0.95):
        assert flooded[int(share * len(flooded))] <= 2 * quiet[int(share * len(quiet))]


def test_a_flood_gets_its_turns_too(
    model: LanguageModel, tokenizer: Tokenizer, stepped: Any
) -> None:
    steps = stepped(model, tokenizer, 4)
    flood = [submit(steps, "flood", 5) for _ in range(20)]
    others = [submit(steps, f"person {n % 5}", 5) for n in range(20)]
    while not all(asked.is_done for asked in [*flood, *others]):
        steps.step()
    assert max(asked.steps[0] for asked in flood) >= max(asked.steps[0] for asked in others)
    assert flood[0].steps[0] <= 1, "who floods is not shut out either"


def test_the_place_in_the_queue_is_that_of_the_turn(
    model: LanguageModel, tokenizer: Tokenizer, stepped: Any
) -> None:
    steps = stepped(model, tokenizer, 1)
    submit(steps, "flood", 50)
    steps.step()
    flood = [submit(steps, "flood", 3) for _ in range(3)]
    person = submit(steps, "person", 3)
    steps.step()
    assert person.last.position == 1
    assert [asked.last.position for asked in flood] == [2, 3, 4]


def test_a_stream_gets_a_token_at_every_step_while_long_prompts_are_read(
    model: LanguageModel, tokenizer: Tokenizer, stepped: Any
) -> None:
    steps = stepped(model, tokenizer, 4)
    streams = [submit(steps, "reader", 300) for _ in range(2)]
    steps.step()
    long = [submit(steps, "writer", 5, prompt=3000) for _ in range(2)]
    while not all(asked.is_done for asked in streams):
        steps.step()
    for asked in streams:
        gaps = [b - a for a, b in itertools.pairwise(asked.steps)]
        assert max(gaps) == 1
    while not all(asked.is_done for asked in long):
        steps.step()
    assert all(len(asked.steps) == 5 for asked in long)


@dataclass(frozen=True)
class Cost:
    """What passes take, in seconds of a clock that only they move."""

    reading: float
    """Of a pass over a prompt, whatever its length."""
    token: float
    """Of each token of it."""
    step: float
    """Of a decoding step, whatever its rows."""
    row: float
    """Of each row of it."""
    growth: float = 0
    """The token after so many costs twice as much; 0 = all cost the same."""

    def of(self, before: int, tokens: int) -> float:
        grown = 1 + (before + tokens / 2) / self.growth if self.growth else 1
        return self.reading + self.token * tokens * grown

    def most(self, rows: int) -> int:
        """Tokens that one pass can read in the time of two steps, or in what nobody notices."""
        left = max(2 * (self.step + self.row * rows), UNNOTICED) - self.reading
        return min(scheduling.PREFILL_TOKENS, int(left / self.token))


COSTS = {
    "dozens of tokens a step": Cost(1e-2, 2e-4, 9e-3, 1e-3),
    "much for each pass, little for a token": Cost(9e-3, 2e-5, 9e-3, 1e-3),
    "much for each row": Cost(1e-3, 2e-5, 1e-3, 5e-3),
    "two or three tokens a step": Cost(1e-3, 4e-3, 6e-3, 2e-3),
    "one token a step": Cost(0, 1e-2, 1e-2, 0),
    "ever more for a token": Cost(5e-3, 2e-4, 9e-3, 1e-3, 1000),
    "steps that nobody notices": Cost(2e-4, 5e-5, 3e-4, 5e-5),
}


class Priced:
    """Steps whose passes take what they cost.

    copying  seconds for each token of a state that is kept or given back; None = none is
    """

    def __init__(self, steps: Any, cost: Cost, copying: float | None = None) -> None:
        self.steps, self.cost = steps, cost
        self.took: dict[float, float] = {}
        """When a decoding step ended -> the seconds it took."""
        self.batches = set[int]()
        """How many rows steps had."""
        slots = steps.scheduler.slots
        self.copied = 0
        """Tokens of states that were kept or given back."""
        if copying is None:
            slots.prefixes = Prefixes(0, divisible=False)  # everything is read
        else:
            self._price_copies(slots, copying)
        self._prefill, self._decode = slots.prefill, slots.decode
        slots.prefill, slots.decode = self._read, self._step

    def _price_copies(self, slots: Any, seconds: float) -> None:
        keep, restore, share = slots._keep, slots.state.restore, slots.state.share

        def copied(tokens: int) -> None:
            self.copied += tokens
            self.steps.now += seconds * tokens

        slots._keep = lambda ids, *rest: (keep(ids, *rest), copied(len(ids)))
        slots.state.restore = lambda *given: (restore(*given), copied(given[-1]))
        slots.state.share = lambda *given: (share(*given), copied(given[-1]))

    def _read(self, request: Request, most: int) -> torch.Tensor:
        before = request.prefilled
        logits_V = self._prefill(request, most)
        self.steps.now += self.cost.of(before, request.prefilled - before)
        return logits_V

    def _step(self) -> torch.Tensor:
        rows = len(self.steps.scheduler.slots.running)
        self.batches.add(rows)
        seconds = self.cost.step + self.cost.row * rows
        self.steps.now += seconds
        self.took[self.steps.now] = seconds
        return self._decode()

    def step(self) -> None:
        with torch.inference_mode():
            self.steps.scheduler.step()

    def longest_stall(self, streams: list[Any]) -> float:
        """The longest time between two tokens of a stream, as a share of what it may be: the step
        at its end, and two as long before it, or what nobody notices."""

        def allowed(step: float) -> float:
            return step + max(2 * step, UNNOTICED)

        gaps = [pair for asked in streams for pair in itertools.pairwise(asked.steps)]
        return max((end - begin) / allowed(self.took[end]) for begin, end in gaps)


@pytest.mark.parametrize("cost", COSTS.values(), ids=list(COSTS))
def test_no_stream_stalls_for_more_than_two_decoding_steps(
    model: LanguageModel, tokenizer: Tokenizer, stepped: Any, cost: Cost
) -> None:
    """Between any two tokens of a stream lie three steps at most: two for reading and its own. From
    the first round on, and as the batch grows and shrinks."""
    priced = Priced(stepped(model, tokenizer, 16), cost)
    rng = random.Random(1)
    asked = [submit(priced.steps, f"person {n}", 400, 30) for n in range(3)]
    for now in range(600):
        if now % 40 == 20:
            asked.append(submit(priced.steps, f"person {now}", 200, prompt=1500))
        if now % 100 == 50:
            for n in range(9):
                asked.append(submit(priced.steps, f"guest {now + n}", 12, rng.randrange(2, 60)))
        priced.step()
    assert max(priced.batches) >= 3 * min(priced.batches), "it grew and shrank"
    assert priced.longest_stall(asked) <= 1 + 1e-9


@pytest.mark.parametrize("cost", COSTS.values(), ids=list(COSTS))
def test_when_all_but_one_leave_the_pace_that_was_theirs_stalls_nobody(
    model: LanguageModel, tokenizer: Tokenizer, stepped: Any, cost: Cost
) -> None:
    """And a prompt is read nearly as fast as that allows, before and after."""
    priced = Priced(stepped(model, tokenizer, 16), cost)
    scheduler = priced.steps.scheduler
    streams = [submit(priced.steps, f"person {n}", 3000) for n in range(14)]
    while len(scheduler.slots.running) < 14:
        priced.step()
    for _ in range(12):
        submit(priced.steps, None, 1, prompt=4000)
    for rows in (14, 1):
        for asked in streams[rows:]:
            asked.request.cancel()
        for _ in range(20):
            priced.step()
        before = scheduler.counts.read_tokens
        for _ in range(20):
            priced.step()
        assert len(scheduler.slots.running) == rows and scheduler.reading
        read = (scheduler.counts.read_tokens - before) / 20
        assert cost.growth or read >= 0.6 * cost.most(rows)
    assert priced.longest_stall(streams) <= 1 + 1e-9


@pytest.mark.parametrize("steps_of_copy", [0.3, 0.5])
def test_states_that_are_kept_and_given_back_stall_nobody(
    tokenizer: Tokenizer, stepped: Any, steps_of_copy: float
) -> None:
    """A long chat that comes again and again, beside others. To copy its state takes a while: to
    keep it, to give it back, and to move it to another row."""
    shape: dict[str, Any] = {"embed_size": 8, "hidden_size": 8, "num_layers": 1, "context": 4096}
    vocab_size = tokenizer.vocab_size
    config = ModelConfig(body="transformer", vocab_size=vocab_size, num_heads=1, **shape)
    torch.manual_seed(0)
    model = LanguageModel(config).eval()
    cost = COSTS["dozens of tokens a step"]
    copying = steps_of_copy * (cost.step + 3 * cost.row) / 1500
    priced = Priced(stepped(model, tokenizer, 16), cost, copying)
    asked = [submit(priced.steps, f"person {n}", 700, 30 + n) for n in range(3)]
    chat = submit(priced.steps, "chat", 9, 1400)
    for now in range(600):
        if chat.is_done and now % 7 < 5:
            asked.append(chat)
            chat = submit(priced.steps, "chat", 9 + now % 5, 1400 + 30 * len(asked))
        if now % 30 == 10:
            ids = [7 + now // 30 % 5] * 700
            asked.append(priced.steps.ask(ids, Decoding(max_new_tokens=4 + now % 9), "guest"))
        priced.step()
    assert priced.copied > 10 * 1400
    assert priced.longest_stall(asked) <= 1 + 1e-9


def test_a_short_prompt_is_read_at_once_where_steps_are_shorter_than_anybody_notices() -> None:
    pace = Pace()
    for _ in range(12):
        pace.read(32, 2e-4 + 5e-5 * 32)
        pace.decoded(2, 4e-4)
    assert pace.tokens(2, 0, 0, 512) >= 32
    assert pace.tokens(2, 64, 0.004, 512) == 0, "and then it is the streams' turn"


def test_a_disturbed_pass_or_step_is_soon_forgotten() -> None:
    pace = Pace()

    def settle(rounds: int = 12) -> int:
        for _ in range(rounds):
            tokens = pace.tokens(4, 0, 0, 512)
            pace.read(tokens, 0.01 + 2e-4 * tokens)
            pace.decoded(4, 0.013)
        return pace.tokens(4, 0, 0, 512)

    pace.read(30, 0.5)  # the first one ever
    assert pace.tokens(4, 0, 0, 512) == FEWEST_TOKENS, "nothing is known of the others' steps"
    usual = settle(30)
    assert usual > 50
    pace.decoded(4, 1)
    assert pace.tokens(4, 0, 0, 512) == usual, "one slow step is no reason to read on for long"
    pace.decoded(4, 0.013)
    pace.read(usual, 1)
    assert pace.tokens(4, 0, 0, 512) < usual / 2
    assert settle() > 0.8 * usual
    pace.read(1, 0.0102)
    assert pace.tokens(4, 0, 0, 512) > 0.6 * usual, "a prompt's rest says little about long pieces"


def test_whoever_waits_too_long_is_told_and_a_long_reply_is_cut(
    model: LanguageModel, tokenizer: Tokenizer, stepped: Any
) -> None:
    steps = stepped(model, tokenizer, 1)
    running, waiting = submit(steps, "a", 100_000), submit(steps, "b", 5)
    program = submit(steps, None, 5)
    steps.step()
    steps.now = scheduling.LONGEST_SECONDS + 0.5
    steps.step()
    assert running.last.finish == "length" and len(running.steps) == 2
    assert isinstance(waiting.last.error, Busy) and "no slot became free" in str(waiting.last.error)
    assert not program.is_done
    for _ in range(6):
        steps.step()
    assert program.last.finish == "length" and len(program.steps) == 5


def test_nobody_fills_the_queue_alone(
    endless_checkpoint: Callable[[str], Checkpoint], wait_until: Callable[..., None]
) -> None:
    long = Decoding(max_new_tokens=100_000)
    with Engine(endless_checkpoint("gru"), slots=1, queue=4) as engine:

        def ask(user: str | None) -> Request:
            return engine.submit([6, 7], long, lambda delta: None, user)

        ask("flood")
        wait_until(lambda: engine.running == 1)
        ask("flood"), ask("flood")
        with pytest.raises(Busy, match="2 of your requests are waiting already") as refused:
            ask("flood")
        assert 1 <= refused.value.retry_after <= 60
        ask("person")
        ask(None)
        with pytest.raises(Busy, match="4 requests are waiting already"):
            ask("other")
        assert engine.counts.refused == 2 and engine.counts.accepted == 5


def test_as_many_as_find_a_slot_come_at_once_however_short_the_queue_is(
    endless_checkpoint: Callable[[str], Checkpoint],
) -> None:
    with Engine(endless_checkpoint("gru"), slots=16, queue=8) as engine:

        def ask(user: str) -> Request:
            return engine.submit([6, 7], Decoding(max_new_tokens=4), lambda delta: None, user)

        with engine._loop.turn:  # its thread takes nothing up meanwhile
            for _ in range(14 + 4):
                ask("one")
            assert engine.waiting == 18
            with pytest.raises(Busy, match="4 of your requests are waiting already"):
                ask("one")
            assert engine.why_not_ready() is None and ask("other")
