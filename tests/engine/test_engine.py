"""One batch for everybody: steps are counted, replies do not depend on neighbours, slots free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as RawTokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from lmapps.decoding import Decoding
from lmapps.engine.engine import Engine
from lmapps.engine.request import Delta
from lmapps.errors import Busy, InputError, LmappsError, PromptTooLong
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.config import BODIES
from lmapps.model.language_model import LanguageModel
from lmapps.native.torch_step import TorchStep
from lmapps.text.template import Template
from lmapps.text.tokenizer import Tokenizer

PROMPTS = [
    "The cat",
    "The dog ran after",
    "A tree",
    "今天",
    '"No," said',
    "the girl",
    "m",
    "Come down",
]
LONG = Decoding(temperature=0.9, max_new_tokens=100_000)


@pytest.fixture(params=BODIES)
def engine(
    request: pytest.FixtureRequest, endless_checkpoint: Callable[[str], Checkpoint]
) -> Iterator[Engine]:
    with Engine(endless_checkpoint(request.param), slots=8) as engine:
        yield engine


@pytest.fixture
def transformer(endless_checkpoint: Callable[[str], Checkpoint]) -> Checkpoint:
    return endless_checkpoint("transformer")


def ids_of(engine: Engine, text: str) -> list[int]:
    return engine.checkpoint.tokenizer.prompt_ids(text)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in 30 seconds"
        time.sleep(0.001)


def test_eight_requests_of_fifty_tokens_take_about_fifty_passes(engine: Engine) -> None:
    async def together() -> list[Any]:
        decoding = Decoding(temperature=1, seed=1, max_new_tokens=50)
        return await asyncio.gather(
            *(engine.complete(ids_of(engine, p), decoding) for p in PROMPTS)
        )

    replies = asyncio.run(together())
    assert [len(reply.ids) for reply in replies] == [50] * 8
    # 49 steps after each one's prompt; eight short prompts to read, by two tokens at a time or more
    # beside the steps of those who are ahead.
    pieces = sum(-(-len(ids_of(engine, prompt)) // 2) for prompt in PROMPTS)
    assert 49 + 8 <= engine.passes <= 49 + 2 * pieces + 5 < 8 * 49 / 2


def test_a_reply_is_the_same_alone_and_in_a_full_batch(
    engine: Engine, same_but_for_rounding: Callable[..., bool]
) -> None:
    async def together() -> list[Any]:
        return await asyncio.gather(
            *(
                engine.complete(ids_of(engine, prompt), Decoding(seed=seed, max_new_tokens=30))
                for seed, prompt in enumerate(PROMPTS)
            )
        )

    batched = asyncio.run(together())
    for seed, prompt in enumerate(PROMPTS):
        ids, decoding = ids_of(engine, prompt), Decoding(seed=seed, max_new_tokens=30)
        alone = engine.generate(ids, decoding)
        assert same_but_for_rounding(engine, ids, decoding, batched[seed].ids, alone.ids)


def test_rounding_does_not_excuse_other_differences(
    transformer: Checkpoint, same_but_for_rounding: Callable[..., bool]
) -> None:
    with Engine(transformer) as engine:
        ids, decoding = ids_of(engine, "The cat"), Decoding(seed=1, max_new_tokens=8)
        reply = engine.generate(ids, decoding).ids
        other = [*reply[:5], (reply[5] + 9) % engine.checkpoint.tokenizer.vocab_size, *reply[6:]]
        assert same_but_for_rounding(engine, ids, decoding, reply, list(reply))
        assert not same_but_for_rounding(engine, ids, decoding, reply, other)


def test_a_seed_repeats_and_no_seed_does_not(engine: Engine) -> None:
    ids = ids_of(engine, "The cat")
    seeded = Decoding(temperature=1.2, seed=7, max_new_tokens=30)
    assert engine.generate(ids, seeded) == engine.generate(ids, seeded)
    free = Decoding(temperature=1.2, max_new_tokens=30)
    assert engine.generate(ids, free).ids != engine.generate(ids, free).ids


def test_temperature_zero_takes_the_most_probable_token(engine: Engine) -> None:
    ids = ids_of(engine, "The dog")
    reply = engine.generate(ids, Decoding(temperature=0, max_new_tokens=12))
    known = engine.checkpoint.tokenizer.vocab_size
    for token_id in reply.ids:
        with torch.inference_mode():
            logits = engine.checkpoint.model(torch.tensor([ids]))[0, -1, :known]
        assert logits[token_id] >= logits.max() - 1e-4
        ids = [*ids, token_id]


def test_a_cancelled_request_frees_its_slot_within_one_step(engine: Engine) -> None:
    arrived: list[Delta] = []
    passes_at_cancel = []

    def deliver(delta: Delta) -> None:
        arrived.append(delta)
        if len(arrived) == 5:
            request.cancel()
            passes_at_cancel.append(engine.passes)

    request = engine.submit(ids_of(engine, "The cat"), LONG, deliver)
    wait_until(lambda: bool(arrived) and arrived[-1].finish is not None)
    assert arrived[-1].finish == "cancelled"
    assert len(arrived) == 6
    assert engine.passes == passes_at_cancel[0]
    wait_until(lambda: engine.running == 0)


def test_closing_a_stream_frees_its_slot(engine: Engine) -> None:
    async def leave() -> None:
        stream = engine.stream(ids_of(engine, "The cat"), LONG)
        async for _ in stream:
            break
        await stream.aclose()

    asyncio.run(leave())
    wait_until(lambda: engine.running == 0)


def test_interrupting_whoever_waits_for_a_reply_frees_its_slot(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(SimpleQueue):  # type: ignore[type-arg]
        def get(self, *args: Any, **options: Any) -> Any:
            if super().get(timeout=30).ids:
                raise KeyboardInterrupt

    monkeypatch.setattr("lmapps.engine.engine.queue", SimpleNamespace(SimpleQueue=Interrupted))
    with pytest.raises(KeyboardInterrupt):
        engine.generate(ids_of(engine, "The cat"), LONG)
    wait_until(lambda: engine.running == 0)
    assert engine.counts.finished == {"cancelled": 1}


def test_a_reader_whose_loop_is_gone_frees_its_slot(engine: Engine) -> None:
    loop = asyncio.new_event_loop()
    stream = engine.stream(ids_of(engine, "The cat"), LONG)
    loop.run_until_complete(anext(stream))
    loop.close()
    wait_until(lambda: engine.running == 0)


def test_a_loop_is_woken_at_most_twice_a_step_however_many_wait_in_it(
    transformer: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken = 0

    async def read(engine: Engine, prompt: str) -> None:
        async for _ in engine.stream(ids_of(engine, prompt), Decoding(max_new_tokens=50)):
            pass

    async def all_of_them() -> None:
        nonlocal woken
        loop = asyncio.get_running_loop()
        call = loop.call_soon_threadsafe

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal woken
            woken += 1
            return call(*args, **kwargs)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        await asyncio.gather(*(read(engine, prompt) for prompt in PROMPTS))

    with Engine(transformer, slots=8) as engine:
        asyncio.run(all_of_them())
        assert engine.counts.generated_tokens == 8 * 50
        assert woken <= 2 * engine.passes


def test_more_requests_than_slots_wait_their_turn_and_hear_their_place(
    transformer: Checkpoint,
) -> None:
    places: list[int] = []
    with Engine(transformer, slots=1) as engine:
        ids = ids_of(engine, "The cat")
        first = engine.submit(ids, LONG, lambda delta: None)
        wait_until(lambda: engine.running == 1)
        second = engine.submit(ids, LONG, lambda delta: places.append(delta.position or 0))
        wait_until(lambda: places == [1])
        first.cancel()
        wait_until(lambda: len(places) > 1)
        second.cancel()


def test_a_full_queue_says_so(transformer: Checkpoint) -> None:
    with Engine(transformer, slots=1, queue=1) as engine:
        ids = ids_of(engine, "The cat")
        engine.submit(ids, LONG, lambda delta: None)
        wait_until(lambda: engine.running == 1)
        engine.submit(ids, LONG, lambda delta: None)
        with pytest.raises(Busy, match="1 requests are waiting already"):
            engine.submit(ids, LONG, lambda delta: None)


def test_a_long_prompt_is_read_in_chunks_while_others_go_on(transformer: Checkpoint) -> None:
    import lmapps.engine.scheduler as scheduler

    prompt = list(range(10, 110))
    with Engine(transformer) as engine:
        whole = engine.generate(prompt, Decoding(temperature=0, max_new_tokens=9))
    before, scheduler.PREFILL_TOKENS = scheduler.PREFILL_TOKENS, 7
    try:
        with Engine(transformer) as engine:
            chunked = engine.generate(prompt, Decoding(temperature=0, max_new_tokens=9))
            assert engine.passes == 15 + 8
    finally:
        scheduler.PREFILL_TOKENS = before
    assert whole.ids == chunked.ids


def test_a_reply_ends_where_the_context_does(engine: Engine) -> None:
    prompt = [20] * (engine.context - 5)
    reply = engine.generate(prompt, LONG)
    assert (len(reply.ids), reply.finish) == (5, "length")
    with pytest.raises(PromptTooLong, match=f"{engine.context} tokens"):
        engine.generate([20] * engine.context, LONG)
    with pytest.raises(InputError, match="empty"):
        engine.generate([], LONG)


def test_stop_strings_end_the_text_before_them(engine: Engine) -> None:
    ids = ids_of(engine, "The cat")
    decoding = Decoding(seed=3, max_new_tokens=60)
    whole = engine.generate(ids, decoding).text
    stop = whole[20:24]
    cut = engine.generate(ids, decoding.replace(stop=stop))
    assert cut.finish == "stop"
    assert cut.text == whole[: whole.index(stop)]


def test_streamed_text_never_splits_a_character(engine: Engine) -> None:
    async def deltas() -> list[Delta]:
        decoding = Decoding(temperature=1.5, seed=5, max_new_tokens=80)
        return [delta async for delta in engine.stream(ids_of(engine, "今天天气"), decoding)]

    streamed = asyncio.run(deltas())
    ids = [token_id for delta in streamed for token_id in delta.ids]
    whole = engine.checkpoint.tokenizer.decode(ids)
    text = "".join(delta.text for delta in streamed)
    assert whole.startswith(text)
    assert set(whole[len(text) :]) <= {"\ufffd"}, "only an unfinished character may be missing"


def test_a_failure_in_a_step_reaches_everyone_and_the_engine_goes_on(
    transformer: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine(transformer) as engine:
        slots = engine._scheduler.slots
        broken = slots.decode

        def fail_once() -> torch.Tensor:
            monkeypatch.setattr(slots, "decode", broken)
            raise ValueError("out of paper")

        monkeypatch.setattr(slots, "decode", fail_once)
        with pytest.raises(LmappsError, match="ValueError: out of paper"):
            engine.generate(ids_of(engine, "The cat"), LONG)
        assert engine.generate(ids_of(engine, "The cat"), Decoding(max_new_tokens=4)).ids


def test_out_of_memory_while_a_prompt_is_read_fails_that_request_only(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = engine._scheduler.slots
    prefill = slots.prefill

    def prefill_short_ones(request: Any, most: int) -> torch.Tensor:
        if len(request.prompt_ids) > 50:
            raise torch.OutOfMemoryError("out of memory")
        return prefill(request, most)

    monkeypatch.setattr(slots, "prefill", prefill_short_ones)

    async def together() -> list[Any]:
        short, long = ids_of(engine, "The cat"), [20] * 60
        asked = [engine.complete(ids, Decoding(seed=1, max_new_tokens=20)) for ids in (short, long)]
        return await asyncio.gather(*asked, return_exceptions=True)

    reply, failure = asyncio.run(together())
    assert len(reply.ids) == 20
    assert isinstance(failure, Busy) and "a prompt of 60 tokens" in str(failure)
    wait_until(lambda: engine.running == 0)
    assert engine.counts.finished == {"length": 1, "error": 1}


def test_out_of_memory_while_a_state_is_kept_costs_nobody_a_reply(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    state, decoding = engine._scheduler.slots.state, Decoding(seed=1, max_new_tokens=20)
    expected = engine.generate([20] * 12, decoding).ids
    wait_until(lambda: engine.prefix_bytes > 0)  # it is told that its reply has ended before that

    def save(row: int) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(state, "save", save)
    assert engine.generate([21] * 12, decoding).finish == "length"
    wait_until(lambda: engine.running == 0)
    assert engine.prefix_bytes == 0, "what was kept is given up first"
    assert engine.generate([20] * 12, decoding).ids == expected


def test_requests_wait_while_steps_are_prepared_and_it_says_what_it_does(
    transformer: Checkpoint,
) -> None:
    step, may_go_on, begun = TorchStep(transformer.model, fixed=True), Event(), Event()

    def prepare(state: Any, tokens: int) -> None:
        begun.set()
        assert may_go_on.wait(30)

    step.prepare = prepare  # type: ignore[method-assign]
    with Engine(transformer, slots=2, step=step, name="slow") as engine:
        assert begun.wait(30)
        count = len(step.shapes.rows) + len(step.shapes.tokens)
        assert engine.why_not_ready() == (
            f"the model 'slow' is being made ready (step 1 of {count}): try again soon"
        )
        arrived: SimpleQueue[Delta] = SimpleQueue()
        engine.submit([20, 21], Decoding(max_new_tokens=2), arrived.put)
        assert engine.waiting == 1
        may_go_on.set()
        while arrived.get(timeout=30).finish is None:
            pass
        assert engine.why_not_ready() is None


def test_an_engine_that_is_closed_while_it_is_made_ready_ends_at_once(
    transformer: Checkpoint,
) -> None:
    step, begun, may_go_on = TorchStep(transformer.model, fixed=True), Event(), Event()
    prepared: list[int] = []

    def prepare(state: Any, tokens: int) -> None:
        prepared.append(tokens)
        begun.set()
        assert may_go_on.wait(30)

    step.prepare = prepare  # type: ignore[method-assign]
    engine = Engine(transformer, slots=2, step=step)
    assert begun.wait(30)
    closing = Thread(target=engine.close)
    closing.start()
    wait_until(lambda: engine._loop.is_closed)
    may_go_on.set()
    closing.join(30)
    assert not closing.is_alive() and len(prepared) == 1


@pytest.mark.parametrize("body", ["transformer", "gru"])
def test_where_memory_ends_while_decoding_the_longest_request_ends_and_the_others_go_on(
    endless_checkpoint: Callable[[str], Checkpoint], stepped: Any, body: str
) -> None:
    checkpoint = endless_checkpoint(body)
    steps = stepped(checkpoint.model, checkpoint.tokenizer, 4)
    slots, decoding = steps.scheduler.slots, Decoding(temperature=0, max_new_tokens=20)
    prompts = [[20] * 5, [30] * 40, [40] * 6]
    asked = [steps.ask(prompt, decoding) for prompt in prompts]
    decode = slots.decode

    def decode_two() -> torch.Tensor:
        """Memory for two: a third fails in the middle of the step, with keys written already."""
        fits = len(slots.running) < 3 or len(asked[2].ids) < 5
        logits = decode() if fits or body == "transformer" else None
        if not fits:
            raise torch.OutOfMemoryError("out of memory")
        return logits

    slots.decode = decode_two
    while not all(one.is_done for one in asked):
        steps.step()
    error = asked[1].last.error
    assert isinstance(error, Busy) and "a prompt of 40 tokens now (after " in str(error)
    slots.decode = decode
    for number in (0, 2):
        alone = steps.ask(prompts[number], decoding)
        while not alone.is_done:
            steps.step()
        assert asked[number].ids == alone.ids and len(alone.ids) == 20


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("body", BODIES)
def test_memory_that_ends_in_the_head_of_a_step_gives_no_neighbour_a_token_twice(
    endless_checkpoint: Callable[[str], Checkpoint],
    stepped: Any,
    same_but_for_rounding: Callable[..., bool],
    body: str,
    fixed: bool,
) -> None:
    """By then hidden vectors and caches are one token further."""
    checkpoint = endless_checkpoint(body)
    model, decoding = checkpoint.model, Decoding(temperature=1, seed=3, max_new_tokens=20)
    steps = stepped(model, checkpoint.tokenizer, 4, TorchStep(model, fixed=fixed))
    prompts = [[20, 21, 22], [30] * 40, [40, 14, 15]]
    asked = [steps.ask(prompt, decoding) for prompt in prompts]
    while any(len(one.ids) < 5 for one in asked):
        steps.step()
    failures = 1

    def fail_once(module: Any, given: Any) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise torch.OutOfMemoryError("out of memory")

    hook = model.head.register_forward_pre_hook(fail_once)
    try:
        steps.step()
    except torch.OutOfMemoryError as error:
        assert body != "transformer", "only the longest has to end"
        steps.scheduler.fail(error)
    asked += [steps.ask(prompt, decoding) for prompt in prompts]
    while not steps.scheduler.idle:
        steps.step()
    hook.remove()
    for one in asked:
        alone = stepped(model, checkpoint.tokenizer, 1).ask(one.request.prompt_ids, decoding)
        while not alone.is_done:
            alone.stepped.step()
        host, known = SimpleNamespace(checkpoint=checkpoint), alone.ids[: len(one.ids)]
        assert same_but_for_rounding(host, one.request.prompt_ids, decoding, one.ids, known)
        assert one.last.error is None or isinstance(one.last.error, LmappsError)
    failed = [one for one in asked if one.last.finish == "error"]
    assert failures == 0 and len(failed) == (1 if body == "transformer" else 3)


def test_ids_behind_one_that_is_left_out_are_read_penalised_and_sampled() -> None:
    words = {f"w{number}": number for number in range(50) if number != 30}
    raw = RawTokenizer(WordLevel(words, unk_token="w0"))
    raw.pre_tokenizer, raw.decoder = Whitespace(), Fuse()
    tokenizer = Tokenizer(raw)
    tokenizer.end_ids = frozenset({1})
    model = LanguageModel(vocab_size=64, embed_size=8, hidden_size=8, num_layers=1).eval()
    with Engine(Checkpoint(model, tokenizer, Template(tokenizer))) as engine:
        decoding = Decoding(repetition_penalty=1.2, logit_bias={49: 100}, max_new_tokens=5)
        for prompt in (engine.read("w49"), engine.read([49])):
            assert engine.generate(prompt, decoding).ids == (49,) * 5
        with pytest.raises(InputError, match="between 0 and 49"):
            engine.read([50])
        held = decoding.replace(regex="(?s:.*)", logit_bias={30: 100})
        assert 30 not in engine.generate([49], held).ids


def test_closing_the_engine_ends_what_is_under_way(transformer: Checkpoint) -> None:
    arrived: list[Delta] = []
    engine = Engine(transformer)
    engine.submit(ids_of(engine, "The cat"), LONG, arrived.append)
    wait_until(lambda: len(arrived) > 2)
    engine.close()
    assert isinstance(arrived[-1].error, Busy)
    with pytest.raises(Busy, match="shutting down"):
        engine.submit([1], LONG, arrived.append)
