"""Models of other architectures through transformers: as their own `generate`, in one batch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as RawTokenizer
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from lmapps import Decoding, plugin
from lmapps.engine.application import Application
from lmapps.engine.backends.cache_rows import Part
from lmapps.engine.backends.foreseen import foreseen_bytes
from lmapps.engine.backends.source import (
    USUAL,
    Opening,
    Source,
    open_backend,
    source_of,
)
from lmapps.engine.backends.transformers import ForeignCheckpoint, load
from lmapps.engine.backends.transformers import _tensors as tensors_of
from lmapps.engine.engine import Engine
from lmapps.engine.models import Models
from lmapps.engine.request import Request
from lmapps.engine.scheduler import Scheduler
from lmapps.engine.slots import Slots, most_prefix_bytes
from lmapps.errors import CheckpointError, ModelTooLarge, SettingsError
from lmapps.model.checkpoint import Checkpoint
from lmapps.text.tokenizer import MAX_VALUES

SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 128,
}  # fmt: skip
ROPE = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 2.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
KINDS: dict[str, Callable[..., Any]] = {
    # What our own Llama has not: scaled rotary positions.
    "llama": lambda **ids: LlamaConfig(**SIZES, rope_parameters=ROPE, **ids),
    "qwen2": lambda **ids: Qwen2Config(**SIZES, **ids),
    "gpt2": lambda **ids: GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, **ids),
    "mistral": lambda **ids: MistralConfig(**SIZES, sliding_window=16, **ids),
    "mamba": lambda **ids: MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=8, **ids),
}
OURS: dict[str, Callable[..., Any]] = {
    # As SmolLM2 is published: our own step takes it.
    "smollm2": lambda **ids: LlamaConfig(**SIZES, tie_word_embeddings=True, **ids),
    "qwen3": lambda **ids: Qwen3Config(**SIZES, head_dim=16, **ids),
}
GREEDY = Decoding(temperature=0, max_new_tokens=24)
PROMPTS = ["The cat sat on the mat.", "今天", "The dog ran after the cat, and the cat ran up " * 3]


def make(kind: str, folder: Path, checkpoint: Checkpoint) -> Path:
    """A random model of that kind with the tiny tokenizer, as its authors would publish it."""
    tokenizer = checkpoint.tokenizer
    ids = {"vocab_size": tokenizer.vocab_size, "bos_token_id": tokenizer.bos_id}
    torch.manual_seed(0)
    config = (KINDS | OURS)[kind](**ids, eos_token_id=sorted(tokenizer.end_ids)[0])
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    tokenizer.save(folder)
    checkpoint.template.save(folder)
    return folder


@pytest.fixture(scope="module", params=list(KINDS))
def folder(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Callable[[str], Checkpoint],
) -> Path:
    return make(request.param, tmp_path_factory.mktemp(request.param), tiny_checkpoint("gru"))


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    backend = open_backend(Source("theirs", str(folder)), Opening(slots=4))
    assert isinstance(backend, Engine) and backend.step_name.startswith("transformers")
    with backend:
        yield backend


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def generated(theirs: Any, ids: list[int], count: int) -> list[int]:
    out = theirs.generate(
        torch.tensor([ids]), max_new_tokens=count, do_sample=False, pad_token_id=0
    )
    return out[0, len(ids) :].tolist()


def test_a_greedy_reply_is_what_transformers_own_generate_gives(
    engine: Engine, theirs: Any
) -> None:
    for text in PROMPTS:
        ids = engine.render([{"role": "user", "content": text}])
        assert list(engine.generate(ids, GREEDY).ids) == generated(theirs, ids, 24)


def test_many_at_once_in_chunks_and_from_kept_states_are_what_each_is_alone(
    engine: Engine, theirs: Any
) -> None:
    texts = [*PROMPTS, *(f"{n} {PROMPTS[2][: 7 * n]}" for n in range(5))]
    prompts = [engine.render([{"role": "user", "content": text}]) for text in texts]

    async def all_at_once() -> list[Any]:
        return list(await asyncio.gather(*(engine.complete(ids, GREEDY) for ids in prompts)))

    for _ in range(2):  # the second time, prompts begin where they are known already
        for ids, reply in zip(prompts, asyncio.run(all_at_once()), strict=True):
            assert list(reply.ids) == generated(theirs, ids, 24)
    first = engine.generate(prompts[2], GREEDY)
    following = [*prompts[2], *first.ids[:-1], *engine.tokenizer.encode(" And then?")]
    reply = engine.generate(following, GREEDY)
    assert list(reply.ids) == generated(theirs, following, 24)
    keeps = engine.checkpoint.config.body in ("llama", "qwen2", "gpt2")
    assert (reply.reused >= len(prompts[2]) and first.reused > 0) == keeps


def test_cancelling_seeds_schemas_and_plugins_work_as_on_our_own_models(
    engine: Engine, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    @plugin(reply=bool_or_nothing())
    def weigh(text: str) -> str:
        return f"Is it so? {text}"

    done = asyncio.run(Application(weigh, engine).reply({"text": "The cat sat."}))
    assert done.reply in ("yes", "no")
    drawn = [engine.generate([5, 6, 7], Decoding(seed=3, max_new_tokens=9)).ids for _ in range(2)]
    assert drawn[0] == drawn[1]

    async def leave_early() -> None:
        stream = engine.stream([5, 6, 7], Decoding(max_new_tokens=100, seed=1))
        async for _ in stream:
            break
        await stream.aclose()

    asyncio.run(leave_early())
    wait_until(lambda: engine.running == 0)


def bool_or_nothing() -> Any:
    from typing import Literal

    return Literal["yes", "no"]


def test_its_own_chat_template_renders_the_conversation(engine: Engine, folder: Path) -> None:
    from transformers import AutoTokenizer

    messages: list[Any] = [{"role": "user", "content": "The cat."}]
    own = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        messages, add_generation_prompt=True
    )
    assert engine.render(messages) == list(own["input_ids"])


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_memory_is_foreseen_from_the_files(folder: Path, weights: str) -> None:
    opening = Opening(slots=6, weights=weights)
    foreseen = foreseen_bytes(Source("theirs", str(folder)), opening)
    with open_backend(Source("theirs", str(folder)), opening) as engine:  # type: ignore[attr-defined]
        slots = engine._scheduler.slots
        state = slots.state.bytes()
        parts = engine.bytes - slots.prefixes.most_bytes
        assert state > 7 * 64 and parts > state
        foreseen -= most_prefix_bytes(state)
        assert parts <= foreseen < 1.1 * parts


def test_a_model_of_the_hub_is_refused_for_its_size_before_it_is_loaded(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    source, opened, fetched = source_of("hf:some/model"), list[Source](), list[Source]()

    def fetch(source: Source) -> None:
        place = tmp_path / "cache" / "models--some--model"
        (place / "refs").mkdir(parents=True, exist_ok=True)
        (place / "refs" / "main").write_text("a" * 40)
        fetched.append(source)
        make("gpt2", place / "snapshots" / ("a" * 40), tiny_checkpoint("gru"))

    def models(budget: float) -> Models:
        needs = partial(foreseen_bytes, opening=USUAL)
        return Models([source], lambda one: opened.append(one), needs, budget, fetch=fetch)

    assert foreseen_bytes(source, USUAL) == 0, "nothing is known of it"
    with pytest.raises(ModelTooLarge, match="the model 'model' takes about"):
        models(2**20).load()
    assert fetched and not opened
    known = foreseen_bytes(source, USUAL)
    assert known > 2**26
    with pytest.raises(ModelTooLarge):
        models(known - 1).load()
    assert len(fetched) == 1, "what lies here already is not even fetched"


def test_a_model_without_a_template_gets_a_plain_one(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Checkpoint]
) -> None:
    folder = make("gpt2", tmp_path / "base", tiny_checkpoint("gru"))
    (folder / "chat_template.jinja").unlink()
    with open_backend(Source("base", str(folder))) as engine:  # type: ignore[attr-defined]
        ids = engine.render([{"role": "user", "content": "The cat."}])
        assert engine.tokenizer.decode(ids) == "user: The cat.\n\nassistant:"


def test_on_a_gpu_accelerates_device_map_places_it_and_ids_go_where_it_begins(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU it places all of the model on the CPU: what is asked for is the same."""
    folder = make("llama", tmp_path / "llama", tiny_checkpoint("gru"))
    maps, load_theirs = list[Any](), AutoModelForCausalLM.from_pretrained

    def noted(*args: Any, **options: Any) -> Any:
        maps.append(options.get("device_map"))
        return load_theirs(*args, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", noted)
    plain, spread = load(folder), load(folder, "cuda:0")
    assert maps == [None, "auto"]
    assert spread.model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    ids_BT, logits = torch.tensor([[5, 6, 7]]), list[torch.Tensor]()
    for one in (plain, spread):
        with torch.inference_mode():
            logits.append(one.step(ids_BT, one.step.new_state(1, 8)).cpu())
    torch.testing.assert_close(*logits)


def test_code_pickles_and_what_is_broken_are_refused_with_a_sentence(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Checkpoint]
) -> None:
    folder = make("gpt2", tmp_path / "gpt2", tiny_checkpoint("gru"))
    with pytest.raises(SettingsError, match="runs through transformers, in float32 or bfloat16"):
        open_backend(Source("x", str(folder)), Opening(weights="int8"))
    weights = folder / "model.safetensors"
    torch.save({}, folder / "pytorch_model.bin")
    weights.rename(folder / "aside")
    with pytest.raises(CheckpointError, match="cannot be read with transformers"):
        open_backend(Source("x", str(folder)))
    (folder / "aside").rename(weights)
    config = json.loads((folder / "config.json").read_text())
    custom = config | {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(custom))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: pass")
    with pytest.raises(CheckpointError, match="type 'own' are not supported"):
        open_backend(Source("x", str(folder)))
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_is_not_whole_or_lies_is_refused_with_a_sentence(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Checkpoint]
) -> None:
    folder = make("gpt2", tmp_path / "gpt2", tiny_checkpoint("gru"))
    weights, config = folder / "model.safetensors", folder / "config.json"
    whole, told = weights.read_bytes(), json.loads(config.read_text())
    tensors = load_file(weights)
    del tensors["transformer.h.1.mlp.c_fc.weight"]  # transformers would draw it at random
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"the weights lack transformer\.h\.1\.mlp\.c_fc"):
        open_backend(Source("x", str(folder)))
    weights.write_bytes(whole[:500])
    with pytest.raises(CheckpointError, match=r"cannot be read with transformers: .*header"):
        open_backend(Source("x", str(folder)))
    weights.write_bytes(whole)
    vocabulary = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(f'{{"x": [0{",0" * MAX_VALUES}], {vocabulary[1:]}')
    with pytest.raises(CheckpointError, match="has more than 5,000,000 values"):
        open_backend(Source("x", str(folder)))
    (folder / "tokenizer.json").write_text(vocabulary)
    for wrong in ({"n_embd": "wide"}, {"model_type": ["gpt2"]}):
        config.write_text(json.dumps(told | wrong))
        with pytest.raises(CheckpointError):
            open_backend(Source("x", str(folder)))


def added_to(folder: Path, token: str) -> None:
    file = folder / "tokenizer.json"
    raw = RawTokenizer.from_file(str(file))
    raw.add_special_tokens([token])
    raw.save(str(file))


def test_ids_of_the_tokenizer_that_the_model_has_not_are_told_when_it_is_loaded(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Checkpoint]
) -> None:
    checkpoint = tiny_checkpoint("gru")
    size = checkpoint.tokenizer.vocab_size
    folder = make("gpt2", tmp_path / "gpt2", checkpoint)
    settings = folder / "generation_config.json"
    theirs = json.loads((folder / "tokenizer_config.json").read_text())
    settings.write_text(json.dumps({"eos_token_id": 50256}))
    assert load(folder).tokenizer.end_ids == {checkpoint.tokenizer.id_of(theirs["eos_token"])}
    del theirs["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(theirs))
    with pytest.raises(CheckpointError, match=rf"has \(0 to {size - 1}\), got 50256, so no reply"):
        load(folder)
    added_to(folder, "[PAD]")
    settings.write_text(json.dumps({"eos_token_id": 1}))
    with pytest.raises(CheckpointError, match=f"has ids up to {size}, the model up to {size - 1}"):
        load(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(size + 9)  # rounded up
    model.save_pretrained(folder)
    assert load(folder).tokenizer.vocab_size == size + 1


def test_where_memory_ends_in_the_middle_of_a_row_the_row_goes_on_as_if_it_had_not(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Checkpoint]
) -> None:
    foreign = load(make("gpt2", tmp_path / "gpt2", tiny_checkpoint("gru")))
    slots = Slots(foreign.model, 2, foreign.step)
    requests = [asked(foreign, text) for text in ("The cat sat.", "The dog ran after it.")]
    layer = foreign.model.inner.transformer.h[1]
    with torch.inference_mode():
        for request in requests:
            logits_V = slots.prefill(request, 100)
            request.take(int(logits_V.argmax()))
            slots.join(request)
        expected_BV = slots.decode()
        assert slots.take_back(), "one step back, to where both rows were"
        forward, layer.forward = layer.forward, no_memory
        with pytest.raises(torch.OutOfMemoryError):
            slots.decode()
        layer.forward = forward
        assert slots.take_back()
        assert torch.equal(slots.decode(), expected_BV)
        slots.leave(1)
        assert slots.state[1] is None, "who leaves takes no memory"  # type: ignore[index]


def test_a_step_that_fails_leaves_no_cache_of_those_whom_it_ended(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Checkpoint]
) -> None:
    foreign = load(make("gpt2", tmp_path / "gpt2", tiny_checkpoint("gru")))
    scheduler = Scheduler(Slots(foreign.model, 3, foreign.step), foreign.tokenizer.vocab_size)
    rows: Any = scheduler.slots.state
    with torch.inference_mode():
        scheduler.waiting += [asked(foreign, text) for text in ("The cat sat.", "The dog", "A")]
        for _ in range(3):
            scheduler.step()
        assert all(rows[row] is not None for row in range(3))
        scheduler.fail(ValueError("out of paper"))
    assert all(rows[row] is None for row in range(3)) and not rows.lengths[:3].any()


@pytest.mark.parametrize("kind", ["gpt2", "mistral", "mamba"])
def test_who_would_need_more_memory_than_is_counted_waits_and_nobody_overtakes(
    tmp_path: Path,
    tiny_checkpoint: Callable[[str], Checkpoint],
    monkeypatch: pytest.MonkeyPatch,
    stepped: Any,
    kind: str,
) -> None:
    monkeypatch.setattr("lmapps.engine.backends.transformers.TOKENS_COUNTED", 100)
    foreign = load(make(kind, tmp_path / kind, tiny_checkpoint("gru")))
    foreign.tokenizer.end_ids = frozenset()
    steps = stepped(foreign.model, foreign.tokenizer, 6, foreign.step)
    slots, rows = steps.scheduler.slots, steps.scheduler.slots.state

    def ask(user: str, prompt: int, tokens: int) -> Any:
        return steps.ask([20] * prompt, Decoding(max_new_tokens=tokens, temperature=0), user)

    small = [ask(f"person {n}", 5, 20) for n in range(5)]
    large = ask("large", 10, 110)
    late = [ask(f"late {n}", 5, 20) for n in range(5)]
    with_large, without = set[int](), set[int]()
    while not steps.scheduler.idle:
        steps.step()
        (with_large if large.request in slots.running else without).add(len(slots.running))
        # Who has left stays in the cache that was shared until the next step makes another.
        assert taken(rows) <= 1.25 * rows.bytes()
    assert all(len(one.ids) == 20 for one in (*small, *late)) and len(large.ids) == 110
    if kind == "mamba":
        assert max(with_large) == 6, "its states do not grow"
    else:
        assert with_large == {1}, "one that is larger than all has it to itself"
        assert max(without) == 4
        assert small[4].steps[0] < large.steps[0] < min(one.steps[0] for one in late)


def taken(rows: Any) -> int:
    """Bytes of all caches, each counted once."""
    caches = [one.cache if isinstance(one, Part) else one for one in rows._caches if one]
    layers = [layer for cache in {id(c): c for c in caches}.values() for layer in cache.layers]
    return sum(part.nbytes for layer in layers for part in tensors_of(layer))


def asked(foreign: ForeignCheckpoint, text: str) -> Request:
    ids = foreign.tokenizer.encode(text)
    return Request(ids, GREEDY, 24, foreign.tokenizer, lambda _: None)


def no_memory(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("out of memory")
