"""A checkpoint folder from somewhere else is data: whatever it claims, it gets one sentence."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
    "a deep config": lambda f: (f / "config.json").write_text("[" * 10**6) and None,
    "a large config": lambda f: large(f, "config.json", 10**9),
    "a large tokenizer": lambda f: large(f, "tokenizer.json", 10**9),
    "a shard elsewhere": lambda f: (
        (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x"}}') and None
    ),
    "shards that are none": lambda f: (
        (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": [1]}}') and None
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_is_a_sentence_in_time(folder: Path, name: str) -> None:
    HOSTILE[name](folder)
    began = time.monotonic()
    with pytest.raises(LmappsError) as raised:
        Checkpoint.load(folder)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 600
    assert time.monotonic() - began < 20


def test_hostile_folders_take_no_memory(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Checkpoint]
) -> None:
    places = []
    for number, make in enumerate(HOSTILE.values()):
        folder = tmp_path / str(number)
        tiny_checkpoint("transformer").save(folder)
        make(folder)
        places.append(str(folder))
    program = f"""
import resource, sys
from lmapps.errors import LmappsError
from lmapps.model.checkpoint import Checkpoint
from lmapps.model.inventory import stored_in
now = int(open("/proc/self/statm").read().split()[0]) * {resource.getpagesize()}
resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 30), now + (1 << 30)))
for place in sys.argv[1:]:
    try:
        Checkpoint.load(place)
    except LmappsError:
        continue
    sys.exit(place)
"""
    done = subprocess.run([sys.executable, "-c", program, *places], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]


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
