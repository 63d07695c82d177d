"""What reads something from outside, as functions of its bytes that raise only what is expected.

The tests beside this file give them made-up bytes. With atheris, which is guided by coverage:

    pip install atheris
    python tests/fuzz/harness.py NAME [FOLDER_OF_SEEDS] -max_total_time=60
    python tests/fuzz/harness.py all FOLDER_OF_SEEDS_BY_NAME -runs=3000
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

from lmapps.errors import LmappsError

Harness = Callable[[bytes], None]
_FOLDER = Path(tempfile.mkdtemp(prefix="lmapps-fuzz-"))


def _file(name: str, data: bytes) -> Path:
    file = _FOLDER / name
    file.write_bytes(data)
    return file


def safetensors(data: bytes) -> None:
    """The header of a weights file."""
    from lmapps.model.header import bytes_of

    assert bytes_of(_file("model.safetensors", data)) >= 0


def config(data: bytes) -> None:
    """The `config.json` of a checkpoint, and what it says of memory."""
    from lmapps.model.folder import read_json, understand
    from lmapps.model.header import check_size

    file = _file("config.json", data)
    understood = understand(read_json(file.parent, file.name), file.parent)
    check_size(understood, 10**9, file.parent)


def names(data: bytes) -> None:
    """The other settings of a checkpoint: ids that end a reply, the chat template, the shards."""
    from lmapps.model.checkpoint import load_tokenizer
    from lmapps.model.folder import INDEX, _files
    from lmapps.text.tokenizer import Tokenizer

    folder = _FOLDER / "names"
    if not folder.exists():
        folder.mkdir()
        Tokenizer.train(["A text."], vocab_size=300).save(folder)
        (folder / "config.json").write_text("{}")
    files = [folder / name for name in ("generation_config.json", "tokenizer_config.json", INDEX)]
    for file, read in zip(files, (load_tokenizer, _template_of, _files), strict=True):
        file.write_bytes(data)
        try:
            read(folder)
        except LmappsError as error:
            assert str(error)
        file.unlink()


def _template_of(folder: Path) -> None:
    from lmapps.model.checkpoint import load_template
    from lmapps.text.tokenizer import Tokenizer

    assert load_template(folder, Tokenizer.load(folder)).hash


def run(data: bytes) -> None:
    """What lies beside a checkpoint: the log of its run, its report, its prompts."""
    from lmapps.model.inventory import stored_in
    from lmapps.prompts import _read
    from lmapps.server.page.workshop.modelview import _scores
    from lmapps.server.page.workshop.runview import compared_html, run_html
    from lmapps.training.against import compared
    from lmapps.training.log import Log
    from lmapps.training.look import look_at

    folder = _FOLDER / "beside"
    (folder / "run").mkdir(parents=True, exist_ok=True)
    beside = ("report.json", "prompts.json", "README.md")
    for name in (*beside, *(f"run/{name}.json" for name in ("settings", "ended", "compared"))):
        (folder / name).write_bytes(data)
    (folder / "run" / "log.jsonl").write_bytes(data + b"\n")
    look = look_at(folder, Log())
    assert run_html(look)
    table = compared(look)
    assert table is None or compared_html(*table)
    scores = stored_in(folder).report.get("scores")
    _scores(scores if isinstance(scores, dict) else {})
    _read(folder)


def gguf(data: bytes) -> None:
    """A whole GGUF file."""
    from lmapps.model.gguf_file import read_gguf

    read_gguf(_file("model.gguf", data))


def recipe(data: bytes) -> None:
    """A recipe of data, one of training, and a settings file: TOML."""
    from lmapps.text.recipe import read_data_recipe
    from lmapps.training.settings import TrainSettings, read_recipe

    file = _file("it.toml", data)
    _file("a.txt", b"A text.")
    try:
        TrainSettings.from_values(read_recipe(file))
    except LmappsError:
        read_data_recipe(file)


def plugin(data: bytes) -> None:
    """A plugin that is data: TOML."""
    from lmapps.loading import failure_of
    from lmapps.toml_plugin import read_toml_plugin

    try:
        read_toml_plugin(_file("it.toml", data))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        assert str(failure_of("it.toml", error))


def template(data: bytes) -> None:
    """A foreign chat template, as its process renders it."""
    from lmapps.text.foreign import _answer

    values = {"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": True}
    answer = _answer({"template": data.decode(errors="replace"), "values": values})
    assert answer.keys() in ({"text"}, {"error"})


def document(data: bytes) -> None:
    """An upload: the first byte says which kind it claims to be."""
    from lmapps.text.readers import READERS, Bounds, Unreadable, text_of

    kinds = sorted(READERS)
    suffix = kinds[data[0] % len(kinds)] if data else ".txt"
    try:
        text_of(io.BytesIO(data[1:]), suffix, Bounds(10**6, 10, 10**5))
    except Unreadable as error:
        assert str(error)


def conversation(data: bytes) -> None:
    """A conversation that somebody brings back."""
    from lmapps.server.store.conversation import conversation_from
    from lmapps.server.store.exported import read_export

    found = conversation_from(read_export(_file("it.json", data)))
    json.dumps(found.as_data()).encode()
    assert found.as_markdown().encode()


def request(data: bytes) -> None:
    """The body of a request for a reply."""
    from lmapps.decoding import Decoding
    from lmapps.errors import InputError
    from lmapps.server.api.protocol import decoding_of, messages_of, model_of, replies_of

    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(values, dict):
        for read in (messages_of, model_of, replies_of, lambda v: decoding_of(v, Decoding())):
            try:
                read(values)
            except InputError as error:
                assert str(error)


HARNESSES: dict[str, Harness] = {
    one.__name__: one
    for one in (
        safetensors, config, names, run, gguf, recipe, plugin, template, document, conversation,
        request,
    )
}  # fmt: skip


def expected(harness: Harness, data: bytes) -> None:
    """Run it. What is wrong with the bytes must be told as one sentence, if at all."""
    try:
        harness(data)
    except LmappsError as error:
        assert str(error) and "\n" not in str(error)[:-1], "one sentence"


def main(words: list[str]) -> None:
    import atheris

    names = list(HARNESSES) if words[1] == "all" else [words[1]]
    others = ["gguf", "tomllib", "jinja2"] if len(names) == 1 else []  # which take a while
    with atheris.instrument_imports(include=["lmapps", *others]):
        for name in names:
            expected(HARNESSES[name], b"")
    for name in names if len(names) > 1 else []:  # imports take the most time: once for all
        child = os.fork()
        if not child:
            words[2] += f"/{name}"
            names = [name]
            break
        if status := os.waitpid(child, 0)[1]:
            sys.exit(f"{name}: {status}")
    if len(names) == 1:
        harness = HARNESSES[names[0]]
        atheris.Setup([words[0], *words[2:]], lambda data: expected(harness, data))
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
