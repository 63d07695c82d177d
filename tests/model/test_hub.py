"""Checkpoint folders are read by transformers, and theirs by ours; the text is the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as RawTokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import lmapps.model
from lmapps.decoding import Decoding
from lmapps.engine.engine import Engine
from lmapps.errors import CheckpointError
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.config import BODIES, ModelConfig
from lmapps.model.folder import load_model
from lmapps.model.language_model import LanguageModel
from lmapps.text.template import Template
from lmapps.text.tokenizer import Tokenizer

PROMPT = "The cat sat on the mat. The dog"
assert lmapps.model


@pytest.fixture(params=BODIES)
def checkpoint(
    request: pytest.FixtureRequest, tiny_checkpoint: Callable[[str], Checkpoint]
) -> Checkpoint:
    return tiny_checkpoint(request.param)


def test_greedy_text_of_transformers_equals_ours_for_every_body(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    checkpoint.save(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = checkpoint.tokenizer.prompt_ids(PROMPT)
    with Engine(checkpoint, slots=2) as engine:
        ours = engine.generate(ids, Decoding(temperature=0, max_new_tokens=40))
    out = theirs.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=40)
    assert tuple(out[0, len(ids) :].tolist()) == ours.ids
    assert len(ours.ids) == 40 or ours.finish == "stop"


def test_left_padding_changes_nothing_in_transformers(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    checkpoint.save(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, padding_side="left")
    batch = tokenizer([PROMPT, "A tree"], return_tensors="pt", padding=True)
    assert not batch["attention_mask"].all()
    together = theirs.generate(**batch, do_sample=False, max_new_tokens=12)
    alone = tokenizer("A tree", return_tensors="pt")
    one = theirs.generate(**alone, do_sample=False, max_new_tokens=12)
    assert together[1, -12:].tolist() == one[0, -12:].tolist()


@pytest.mark.parametrize("body", ["rnn", "gru", "lstm"])
def test_beam_search_and_labels_work_in_transformers(
    body: str, tiny_checkpoint: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    checkpoint = tiny_checkpoint(body)
    checkpoint.save(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = torch.tensor([checkpoint.tokenizer.prompt_ids(PROMPT)])
    beams = theirs.generate(ids, num_beams=3, do_sample=False, max_new_tokens=8)
    assert beams.shape[1] > ids.shape[1]
    loss = theirs(input_ids=ids, labels=ids).loss
    ours = checkpoint.model(ids[:, :-1], ids[:, 1:]) / (ids.shape[1] - 1)
    torch.testing.assert_close(loss, ours)


def test_a_llama_folder_that_we_did_not_write_gives_the_same_logits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=3,
        num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=64,
        tie_word_embeddings=False, rms_norm_eps=1e-6,
    )  # fmt: skip
    theirs = LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    ids = torch.randint(0, 97, (2, 33))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_plain_transformers_reads_our_transformer(
    qk_norm: bool, tied: bool, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    config = ModelConfig(
        body="transformer", vocab_size=80, embed_size=32, hidden_size=32, num_layers=2,
        num_heads=4, num_kv_heads=2, context=32, qk_norm=qk_norm, tie_embeddings=tied,
    )  # fmt: skip
    ours = LanguageModel(config).eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    from lmapps.model.folder import save_model

    save_model(ours, tmp_path, dtype=torch.float32, bos_id=0, end_ids=[0])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert type(theirs).__name__ == ("Qwen3ForCausalLM" if qk_norm else "LlamaForCausalLM")
    ids = torch.randint(0, 80, (2, 20))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=0)


def test_the_chat_template_gives_transformers_the_same_ids(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    checkpoint.save(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "The cat?"},
        {"role": "assistant", "content": "On the mat."},
    ]
    theirs = tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, mask = checkpoint.template.training_ids(messages)  # type: ignore[arg-type]
    assert theirs["input_ids"] == ids
    assert [bool(value) for value in theirs["assistant_masks"]] == mask
    asked = tokenizer.apply_chat_template(messages[:2], add_generation_prompt=True)
    asked = asked if isinstance(asked, list) else asked["input_ids"]
    assert asked == checkpoint.template.prompt_ids(messages[:2])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", "{", "cannot be read"),
        ("config.json", '{"model_type": "gpt2", "vocab_size": 9}', "vocab|hidden|supported"),
        ("model.safetensors", "rubbish", "is broken"),
        ("tokenizer.json", "{}", "cannot be read"),
    ],
)
def test_a_broken_or_foreign_folder_is_named_in_one_sentence(
    file: str,
    content: str,
    words: str,
    tiny_checkpoint: Callable[[str], Checkpoint],
    tmp_path: Path,
) -> None:
    tiny_checkpoint("gru").save(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        Checkpoint.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_foreign_tokenizers_tokens_come_through_a_copy(
    tiny_checkpoint: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    """Of ChatML: the token that opens a text also opens each turn, so it must not be padding."""
    source = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    made = tiny_checkpoint("transformer")
    tokenizer = Tokenizer(RawTokenizer.from_str(made.tokenizer.raw.to_str()))
    tokenizer.raw.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    foreign = Tokenizer(tokenizer.raw)
    foreign.bos_id = foreign.id_of("<|im_start|>")
    foreign.end_ids = frozenset({foreign.id_of("<|im_end|>")})
    template = Template(foreign, source, bos_token="<|im_start|>", eos_token="<|im_end|>")
    torch.manual_seed(0)
    model = LanguageModel(made.config.changed(vocab_size=foreign.vocab_size)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    checkpoint = Checkpoint(model, foreign, template)
    checkpoint.save(tmp_path / "one")
    Checkpoint.load(tmp_path / "one").save(tmp_path / "two")
    for name in ("tokenizer_config.json", "config.json", "generation_config.json"):
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "two" / name).read_text()
    ids = template.prompt_ids([{"role": "user", "content": "A cat?"}])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "two", dtype=torch.float32).eval()
    out = theirs.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=20)
    with Engine(Checkpoint.load(tmp_path / "two"), slots=1) as engine:
        ours = engine.generate(ids, Decoding(temperature=0, max_new_tokens=20))
    assert tuple(out[0, len(ids) :].tolist())[: len(ours.ids)] == ours.ids
    read = AutoTokenizer.from_pretrained(tmp_path / "two")
    assert (read.bos_token, read.eos_token, read.pad_token) == (
        "<|im_start|>", "<|im_end|>", "<|im_end|>",
    )  # fmt: skip
