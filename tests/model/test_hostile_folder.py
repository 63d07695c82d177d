"""A checkpoint folder from somewhere else is data: whatever it claims, it gets one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as RawTokenizer

from lmapps.errors import CheckpointError, LmappsError
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.inventory import stored_in
from lmapps.text import rendering
from lmapps.text.rendering import Rendering


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint: Callable[[str], Checkpoint]) -> Path:
    tiny_checkpoint("transformer").save(tmp_path / "it")
    return tmp_path / "it"


def change(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def header(folder: Path, text: bytes, length: int | None = None) -> None:
    size = len(text) if length is None else length
    (folder / "model.safetensors").write_bytes(size.to_bytes(8, "little") + text + b"\0" * 64)


def tensor(**values: Any) -> bytes:
    usual = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    return json.dumps({"a": {**usual, **values}}).encode()


def large(folder: Path, name: str, size: int) -> None:
    with (folder / name).open("wb") as file:
        file.truncate(size)


def write(folder: Path, name: str, content: Any) -> None:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))


def endless(folder: Path, name: str) -> None:
    write(folder, name, "")
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")


def pipe(folder: Path, name: str) -> None:
    write(folder, name, "")
    (folder / name).unlink()
    os.mkfifo(folder / name)


def added_to(folder: Path, token: str) -> None:
    file = folder / "tokenizer.json"
    raw = RawTokenizer.from_file(str(file))
    raw.add_special_tokens([token])
    raw.save(str(file))


def settings(folder: Path, **values: Any) -> None:
    (folder / TEMPLATE).unlink()
    write(folder, "tokenizer_config.json", values)


INDEX = "model.safetensors.index.json"
TEMPLATE, IDS = "chat_template.jinja", "generation_config.json"
DEEP = "[" * 10**6
LARGE = 12 * 10**8
"""Bytes: more than the memory that `LIMITED` leaves; of a log all of them are read."""
HOSTILE: dict[str, Callable[[Path], None]] = {
    "a million million parameters": lambda f: change(f, num_hidden_layers=10**12),
    "a wide layer": lambda f: change(f, hidden_size=10**9, intermediate_size=10**9),
    "a vocabulary": lambda f: change(f, vocab_size=10**12),
    "negative": lambda f: change(f, intermediate_size=-5),
    "no number": lambda f: change(f, num_attention_heads="many"),
    "nothing": lambda f: change(f, hidden_size=None),
    "zero heads": lambda f: change(f, num_attention_heads=0),
    "infinite": lambda f: change(f, rope_parameters={"rope_theta": 1e999}),
    "a longer header": lambda f: header(f, b"{}", 10**18),
    "a header of nothing": lambda f: header(f, b"", 0),
    "a header that is no JSON": lambda f: header(f, b"\xff" * 50),
    "a deep header": lambda f: header(f, b"[" * 100_000),
    "a tensor behind the end": lambda f: header(f, tensor(data_offsets=[0, 10**15])),
    "a tensor that is too short": lambda f: header(f, tensor(shape=[10**9, 10**9])),
    "negative places": lambda f: header(f, tensor(data_offsets=[-16, 0])),
    "another type": lambda f: header(f, tensor(dtype="OBJECT")),
    "a deep config": lambda f: write(f, "config.json", DEEP),
    "a deep value": lambda f: change(f, bos_token_id=json.loads("[" * 200 + "]" * 200)),
    "half of a character": lambda f: settings(f, chat_template="\ud800"),
    "a config that is a pipe": lambda f: pipe(f, "config.json"),
    "a text for a number": lambda f: change(f, intermediate_size="ab" * 9),
    "a list for a number": lambda f: change(f, rms_norm_eps=[1]),
    "a text for positions": lambda f: change(f, rope_parameters={"rope_theta": "x"}),
    "a text for yes": lambda f: change(f, tie_word_embeddings="yes"),
    "a number without end": lambda f: change(f, hidden_size=10**4000),
    "a long context": lambda f: change(f, max_position_embeddings=10**11),
    "a long kind": lambda f: change(f, model_type="x" * 10**6),
    "an end that is an object": lambda f: write(f, IDS, {"eos_token_id": {}}),
    "an end that is a list of lists": lambda f: write(f, IDS, {"eos_token_id": [[1]]}),
    "an end that is a text": lambda f: write(f, IDS, {"eos_token_id": "x"}),
    "a beginning that is a list": lambda f: write(f, IDS, {"bos_token_id": [1]}),
    "an end that is no token": lambda f: write(f, IDS, {"eos_token_id": [1, 400]}),
    "a beginning that is no token": lambda f: write(f, IDS, {"bos_token_id": 400}),
    "a token that the model has not": lambda f: added_to(f, "[PAD]"),
    "a large template": lambda f: large(f, TEMPLATE, LARGE),
    "a template without end": lambda f: endless(f, TEMPLATE),
    "a template that is a pipe": lambda f: pipe(f, TEMPLATE),
    "a template that is a number": lambda f: settings(f, chat_template=5),
    "templates without a usual one": lambda f: settings(f, chat_template=[{"name": "tools"}]),
    "a usual template that is none": lambda f: settings(
        f, chat_template=[{"name": "default", "template": 5}]
    ),
    "a token that is a number": lambda f: settings(f, bos_token=5),
    "a token without a text": lambda f: settings(f, eos_token={"lstrip": True}),
    "a large config": lambda f: large(f, "config.json", 10**9),
    "a large tokenizer": lambda f: large(f, "tokenizer.json", 10**9),
    "a shard elsewhere": lambda f: write(f, INDEX, {"weight_map": {"a": "../x"}}),
    "shards that are none": lambda f: write(f, INDEX, {"weight_map": {"a": [1]}}),
    "a shard of a long name": lambda f: write(f, INDEX, {"weight_map": {"a": "\u4e00" * 10**6}}),
    "a long activation": lambda f: change(f, hidden_act="x" * 10**6),
    "shards in a list": lambda f: write(f, INDEX, {"weight_map": ["a"]}),
    "no shards": lambda f: write(f, INDEX, {"weight_map": None}),
    "an index of nothing": lambda f: write(f, INDEX, {"weight_map": {}}),
}

ENTRY = {"step": 1, "tokens": 1, "loss": 1.0, "seconds": 1.0, "share": 0.5, "tokens_per_second": 9}


def entries(*entries: dict[str, Any]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


LOG, ENDED, KEPT, PROMPTS = "run/log.jsonl", "run/ended.json", "run/compared.json", "prompts.json"
BESIDE: dict[str, Callable[[Path], None]] = {
    **{
        f"{name}, {kind.__name__}": lambda f, kind=kind, name=name: kind(f, name)
        for name in ("report.json", "README.md", LOG, ENDED, KEPT, PROMPTS, "run/settings.json",
                     "run/output.log", "run/process.json")
        for kind in (endless, pipe)
    },
    **{
        f"a large {name}": lambda f, name=name: write(f, name, "") or large(f, name, LARGE)
        for name in ("report.json", LOG, ENDED, KEPT, PROMPTS, "run/settings.json")
    },
    **{
        f"a deep {name}": lambda f, name=name: write(f, name, DEEP + "\n")
        for name in ("report.json", LOG, ENDED, KEPT, PROMPTS, "run/settings.json")
    },
    **{
        f"an odd {name}, {number}": lambda f, name=name, odd=odd: write(f, name, odd)
        for name in ("report.json", LOG, ENDED, KEPT, PROMPTS, "run/settings.json")
        for number, odd in enumerate(([], 5, [[]], {"scores": 5}, "null"))
    },
    **{
        f"a log with an odd {name}": lambda f, name=name: write(
            f, LOG, entries(ENTRY, *({**ENTRY, name: odd} for odd in (
                "x", None, [], {}, 10**400, -(10**400), 1e308, 5e-324, float("nan"), float("inf"),
                {"a": "x"}, {"loss": "x", "accuracy": []}, {"a": 10**400}, {"a": float("nan")},
            )))
        )
        for name in (*ENTRY, "validation", "metrics", "samples", "learning_rate", "done")
    },
    **{
        f"a log of losses {losses}": lambda f, losses=losses: write(
            f, LOG, entries(*({**ENTRY, "step": n, "loss": loss} for n, loss in enumerate(losses)))
        )
        for losses in ((-1e308, 1e308), (0.0, 5e-324), (float("nan"), float("inf")))
    },
    "a log without what belongs to it": lambda f: write(f, LOG, entries({"loss": 1}, {"step": 1})),
    "scores of every kind": lambda f: write(
        f, "report.json", {"scores": {"a": {"b": 10**400, "c": [], "d": "x"}, "e": 5}}
    ),
    "an end of another kind": lambda f: write(f, ENDED, {"state": [], "why": {}}),
    "a table that is ragged": lambda f: write(f, KEPT, [["a", "b", "c", "d"], [["x", "y", "z"]]]),
    "a table of numbers": lambda f: write(f, KEPT, [["a", "b", "c"], [[1, 2, 3]]]),
    "prompts that are none": lambda f: write(f, PROMPTS, {"plugins": {"greet": [5, {}]}}),
    "prompts of other things": lambda f: write(
        f, PROMPTS, {"plugins": {"greet": [{"fields": {"text": 5}, "prompt": [[5]]}]}}
    ),
    "a config of another kind": lambda f: change(
        f, model_type="other", vocab_size="x", max_position_embeddings=[1], torch_dtype={}
    ),
}  # fmt: skip
"""What lies beside a checkpoint: it is looked at, and is no reason not to load it."""


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_is_a_sentence_in_time(folder: Path, name: str) -> None:
    HOSTILE[name](folder)
    began = time.monotonic()
    with pytest.raises(LmappsError) as raised:
        Checkpoint.load(folder)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 600
    assert time.monotonic() - began < 20


LOAD = """
from lmapps.model.checkpoint import Checkpoint
def look(folder):
    try:
        Checkpoint.load(folder)
    except LmappsError:
        return
    sys.exit(f"{folder} was loaded")
"""
LOOK = """
from lmapps import plugin
from lmapps.engine.entry import Description
from lmapps.model.inventory import stored_in
from lmapps.prompts import changed_prompts
from lmapps.server.page.workshop.modelview import model_html
from lmapps.server.page.workshop.runview import compared_html, run_html
from lmapps.training.against import compare, compared
from lmapps.training.report import charts, report_of, _history
from lmapps.training.run import Run
from lmapps.training.runs import Runs
@plugin(title="Greet")
def greet(text: str) -> str:
    "Greet."
    return f"Hello {text}"
def look(folder):
    about = Description(folder.name, str(folder), "not loaded", "", None, 0, 0)
    model_html(about, stored_in(folder), False)
    seen = Runs([folder.parent]).look(folder.name)
    run_html(seen)
    table = compared(seen)
    compared_html(*table) if table else None
    changed_prompts([greet], folder)
    charts(Run(folder).entries())
    list(_history(report_of(str(folder))))
    try:
        compare(seen)
    except LmappsError:
        return
    sys.exit(f"{folder} was compared")
"""
LIMITED = """
import faulthandler, resource, sys
from pathlib import Path
from lmapps.errors import LmappsError
faulthandler.dump_traceback_later(100, exit=True)
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 30), now + (1 << 30)))
for place in sys.argv[1:]:
    print(place, flush=True)
    look(Path(place))
"""


@pytest.mark.parametrize("kinds, look", [(HOSTILE, LOAD), (BESIDE, LOOK)], ids=["load", "look"])
def test_hostile_folders_take_no_memory(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Checkpoint], kinds: Any, look: str
) -> None:
    places = []
    for number, make in enumerate(kinds.values()):
        folder = tmp_path / str(number)
        tiny_checkpoint("transformer").save(folder)
        write(folder, "run/settings.json", {"apps": ["chat"], "data": 5})
        write(folder, "run/output.log", "")
        make(folder)
        places.append(str(folder))
    program = [sys.executable, "-c", look + LIMITED, *places]
    done = subprocess.run(program, capture_output=True, text=True)
    last = int(Path((done.stdout.split() or ["0"])[-1]).name)
    assert done.returncode == 0, (list(kinds)[last], done.stderr[-800:])


def test_of_several_templates_the_usual_one_counts(folder: Path) -> None:
    several = [{"name": "tools", "template": "no"}, {"name": "default", "template": "yes"}]
    settings(folder, chat_template=several)
    assert Checkpoint.load(folder).template.source == "yes"


TEMPLATES = {
    "for ever": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "too much": "{% set ns = namespace(x='aaaaaaaa') %}"
    "{% for a in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "wide": "{{ '%1000000000d' % 1 }}",
    "recursion": "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "broken": "{% for %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_hostile_template_is_a_sentence_in_time(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "SECONDS", 2)
    made = Rendering(TEMPLATES[name])
    with pytest.raises(CheckpointError, match="does not render: ") as raised:
        made.render(messages=[{"role": "user", "content": "x"}])
    assert "uid=" not in str(raised.value)
    made.close()


def test_a_template_goes_on_after_one_that_failed_and_marks_its_replies() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('none') }}"
        "{% endif %}<{{ m.role }}>{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    )
    made = Rendering(source)
    with pytest.raises(CheckpointError, match="does not render: TemplateError: none"):
        made.render(messages=[{"role": "system", "content": "x"}])
    text, spans = made.render(messages=[{"role": "user", "content": "abc"}])
    assert text == "<user>abc" and [text[low:high] for low, high in spans] == ["abc"]
    assert made._process is not None
    made._process.kill()
    made._process.wait()
    assert made.render(messages=[])[0] == ""
    made.close()


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_list_of_checkpoints_holds_it_too(folder: Path, hostile: str) -> None:
    HOSTILE[hostile](folder)
    assert stored_in(folder).folder == folder
