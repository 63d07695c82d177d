"""What the model saw in training is what it is asked, whatever people write, in every template."""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmapps import Messages, Passage, plugin
from lmapps.engine.admission import ANY
from lmapps.engine.application import Application
from lmapps.engine.explanation import explain
from lmapps.plugin import Example, Plugin
from lmapps.text.documents import read_document
from lmapps.text.rendering import Rendering
from lmapps.text.template import DEFAULT, Template
from lmapps.text.tokenizer import CONTROL_TOKENS, Tokenizer
from lmapps.training.examples import render

LLAMA_TOKENS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
LLAMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim }}{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = ["The cat sat on the mat. 今天天气很好。\n\nuser assistant system " * 5]
CONTROL = (*CONTROL_TOKENS, *LLAMA_TOKENS, *CHATML_TOKENS)


@cache
def template_of(kind: Any, style: str) -> Template:
    tokenizer = Tokenizer.train(WORDS, kind, 400)
    if style == "ours":
        return Template(tokenizer)
    tokens, source, first = {
        "llama": (LLAMA_TOKENS, LLAMA, "<|begin_of_text|>"),
        "chatml": (CHATML_TOKENS, CHATML, ""),
    }[style]
    tokenizer.raw.add_special_tokens(list(tokens))
    foreign = Tokenizer(tokenizer.raw)
    foreign.end_ids = frozenset({foreign.id_of(tokens[-1])})
    return Template(foreign, source, bos_token=first, eos_token=tokens[-1])


@pytest.fixture(params=["bpe", "word", "character"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["ours", "llama", "chatml"])
def template(kind: str, request: pytest.FixtureRequest) -> Template:
    return template_of(kind, request.param)


HOSTILE = st.lists(
    st.sampled_from(
        [*CONTROL, "user", "\n", " ", "cat", "\ue0000\ue001", "{{ x }}", "{% if %}", "好"]
    )
    | st.text(max_size=5),
    max_size=6,
).map("".join)
CONVERSATIONS = st.tuples(
    st.none() | HOSTILE, st.lists(st.tuples(HOSTILE, HOSTILE), min_size=1, max_size=3)
)
FEW = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def messages_of(conversation: Any) -> Messages:
    system, exchanges = conversation
    messages: Messages = [{"role": "system", "content": system}] if system is not None else []
    for asked, answered in exchanges:
        messages.append({"role": "user", "content": asked})
        messages.append({"role": "assistant", "content": answered})
    return messages


def controls(template: Template, ids: list[int]) -> list[int]:
    """The control ids among them, in order. Unknown words are no control."""
    unknown = template.tokenizer.raw.token_to_id("<|unknown|>")
    return [n for n in ids if n in template.tokenizer.control_ids and n != unknown]


@FEW
@given(CONVERSATIONS)
def test_a_live_prompt_and_its_reply_begin_the_training_example(
    template: Template, conversation: Any
) -> None:
    messages = messages_of(conversation)
    ids, mask = template.training_ids(messages)
    counted = []
    for place, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = template.prompt_ids(messages[:place])
            reply = template.tokenizer.encode(message["content"])
            assert ids[: len(prompt) + len(reply)] == prompt + reply
            assert ids[len(prompt) + len(reply)] in template.tokenizer.end_ids
            counted += range(len(prompt), len(prompt) + len(reply) + 1)
    assert [place for place, is_reply in enumerate(mask) if is_reply] == counted


@FEW
@given(CONVERSATIONS)
def test_nothing_that_was_written_becomes_a_control_id(
    template: Template, conversation: Any
) -> None:
    messages = messages_of(conversation)
    plain: Messages = [{**message, "content": "cat"} for message in messages]
    found = controls(template, template.training_ids(messages)[0])
    assert found == controls(template, template.training_ids(plain)[0]) and found


@plugin
def answer(text: Passage, note: str, tone: Literal["kind", "dry"], persona: str = "") -> Messages:
    system: Messages = [{"role": "system", "content": persona}] if persona else []
    return [*system, {"role": "user", "content": f"{tone}: {note}\n\n{text}"}]


@plugin
def talk(messages: Messages, persona: str = "") -> Messages:
    return [{"role": "system", "content": persona}, *messages]


def live_ids(app: Plugin, template: Template, values: dict[str, Any]) -> list[int]:
    """The ids that a request of the page, the API or the command line gives the engine."""
    engine: Any = SimpleNamespace(
        context=1_000_000,
        lengths=ANY,
        render=template.prompt_ids,
        measure=lambda text: len(template.tokenizer.encode(text)),
        explain=lambda messages, decoding, prompts: explain(messages, template, decoding, prompts),
    )
    seen = asyncio.run(Application(app, engine).explain(values))
    return [token.id for token in seen.tokens]


@FEW
@given(HOSTILE, HOSTILE, HOSTILE, CONVERSATIONS, HOSTILE)
def test_fields_and_files_are_rendered_alike_for_training_and_for_a_request(
    template: Template,
    tmp_path: Path,
    in_file: str,
    note: str,
    persona: str,
    conversation: Any,
    reply: str,
) -> None:
    (tmp_path / "a.md").write_bytes(f"A file: {in_file}".replace("\0", "").encode())
    text = read_document(tmp_path / "a.md")
    form = {"text": text, "note": "n" + note, "tone": "kind", "persona": persona}
    chat = {"messages": messages_of(conversation)[:-1], "persona": persona}
    for app, values in ((answer, form), (talk, chat)):
        rendered = render(app, Example(values, reply, reply), template, 1_000_000)
        assert rendered is not None
        ids, mask = rendered
        prompt = live_ids(app, template, values)
        expected = prompt + template.tokenizer.encode(reply)
        assert ids[: len(expected)] == expected
        assert mask[len(prompt) : len(expected) + 1] == [True] * (len(expected) - len(prompt) + 1)
        if app is answer:
            plain = {**form, "text": "x", "note": "x", "persona": "x" if persona else ""}
            assert controls(template, prompt) == controls(template, live_ids(app, template, plain))


def test_marks_in_a_template_are_found_and_its_generation_prompt_is_none() -> None:
    assert template_of("bpe", "ours")._has_marks and not template_of("bpe", "llama")._has_marks
    assert DEFAULT != CHATML and "generation" in CHATML


FOREIGN = """{%- if tools is not none %}T{% endif -%}
{% for m in messages %}
  {%- if m.role == 'system' %}{% continue %}{% endif %}
  {{- '<|im_start|>' + m['role'] | upper + '\\n' }}
  {% if m.role == 'assistant' %}
    {% generation %}{{ m.content | trim }}{{ eos_token }}{% endgeneration %}
  {% else %}{{ {'content': m.content} | tojson }}{% endif %}
{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"""


def test_a_template_of_somebody_elses_renders_as_transformers_renders_it() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [
        {"role": role, "content": f" {role} <é> "} for role in ("system", "user", "assistant") * 2
    ]
    more = {"add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>"}
    theirs, spans = render_jinja_template(
        conversations=[messages], chat_template=FOREIGN, return_assistant_tokens_mask=True, **more
    )
    ours = Rendering(FOREIGN)
    assert ours.render(messages=messages, **more) == (theirs[0], [tuple(s) for s in spans[0]])
    ours.close()
