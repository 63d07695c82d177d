"""A plugin without code: one TOML file, with the same checks as a function."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmapps import Decoding, load
from lmapps.errors import FieldError, PluginError

POSTCARD = '''title = "Postcard"
help = "Write a postcard."
prompt = """
Write a postcard from {place}, {length}, in {lines} lines{{!}}.
"""
examples = [["Rome", "long"]]

[fields]
place = "line"
length = { type = "choice", choices = ["short", "long"], default = "short" }
lines = { type = "integer", low = 1, high = 9, default = 3 }

[decoding]
temperature = 0.7
stop = ["THE END"]
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "postcard.toml").write_text(POSTCARD)
    return tmp_path / "postcard.toml"


def test_a_toml_file_is_a_plugin_like_any_other(file: Path) -> None:
    plugin = load(file)
    assert (plugin.name, plugin.title, plugin.help) == ("postcard", "Postcard", "Write a postcard.")
    assert plugin("Rome") == "Write a postcard from Rome, short, in 3 lines{!}."
    assert plugin.decoding == Decoding(temperature=0.7, stop=("THE END",))
    schema = plugin.input_schema()
    assert schema["required"] == ["place"]
    assert schema["properties"]["length"]["enum"] == ["short", "long"]
    assert schema["properties"]["lines"]["maximum"] == 9
    with pytest.raises(FieldError, match="between 1 and 9"):
        plugin.validate({"place": "Rome", "lines": 12})


def test_fields_keep_the_order_of_the_file_where_a_required_one_comes_last(file: Path) -> None:
    file.write_text(
        'prompt = "{tone} {place}"\nexamples = [["kind", "Rome"]]\n[fields]\n'
        'tone = { type = "line", default = "warm" }\nplace = "line"\n'
    )
    plugin = load(file)
    assert [field.name for field in plugin.fields] == ["tone", "place"]
    assert plugin.examples == [["kind", "Rome"]] and plugin("kind", "Rome") == "kind Rome"
    assert plugin(place="Rome") == "warm Rome"
    with pytest.raises(TypeError, match="takes 2 values, got 3"):
        plugin("kind", "Rome", "Oslo")


def test_what_a_person_fills_in_is_text_and_no_placeholder(file: Path) -> None:
    assert "{length.__class__}" in load(file)("{length.__class__}")


@pytest.mark.parametrize(
    ("before", "after", "line", "reason"),
    [
        ('title = "Postcard"', "title = ", 1, "not TOML"),
        ("title =", "titel =", 1, "unknown key 'titel'; known: title, help"),
        ("{place}", "{plaec}", 4, "{plaec}, which is no field (fields: place, length, lines)"),
        ("{place}", "{place.x}", 4, "which is no field"),
        ("{place}", "{place", 3, "write {{ and }} for braces"),
        ("{place}", "Rome", 9, "the field 'place' is not in the prompt"),
        ('place = "line"', 'place = "text"', 9, "types: line, passage"),
        ('place = "line"', "place = 3", 9, "must have a type, got 3"),
        ('choices = ["short", "long"]', "choices = 3", 10, "needs 'choices'"),
        ('choices = ["short", "long"]', "choices = []", 10, "needs 'choices', a list of at least"),
        ('title = "Postcard"', "title = 5", 1, "title must be a text"),
        ('[["Rome", "long"]]', '["Rome"]', 6, "a row of values"),
        ("low = 1, ", "", 11, "needs both 'low' and 'high'"),
        ("low = 1", "lo = 1", 11, "unknown key 'lo'"),
        ("temperature = 0.7", "temperature = 7", 14, "temperature must be between 0 and 2, got 7"),
        ("temperature", "temprature", 14, "unknown decoding setting 'temprature'"),
        ('"long"]]', '"huge"]]', None, "does not fit"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    file: Path, before: str, after: str, line: int | None, reason: str
) -> None:
    assert before in POSTCARD
    file.write_text(POSTCARD.replace(before, after, 1))
    with pytest.raises(PluginError) as raised:
        load(file)
    assert reason in str(raised.value), raised.value
    if line:
        assert f"postcard.toml, line {line}:" in str(raised.value), raised.value
