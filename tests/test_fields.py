"""One `Field` is the component, the JSON schema, the option and the message: they can't differ."""

from __future__ import annotations

import inspect
import json
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmapps import Bounds, Decoding, Messages, Passage, plugin
from lmapps.commands.run import field_parser, read
from lmapps.discovery import discover
from lmapps.errors import FieldError, PluginError
from lmapps.fields import KINDS, Field, fields_of, split_docstring
from lmapps.plugin import Plugin

Colour = Literal["red", "green", "dark blue"]


@plugin(labels={"about": "What about?"})
def every(
    line: str,
    text: Passage,
    colour: Colour,
    colours: list[Colour],
    rhyme: bool,
    lines: Annotated[int, Bounds(1, 9)],
    weight: float,
    messages: Messages,
    about: str = "",
    more: list[Colour] = ("red",),  # type: ignore[assignment]
    share: Annotated[float, Bounds(0, 1)] = 0.5,
    mood: Literal["sad", "glad"] | None = None,
    note: Optional[str] = "hm",  # noqa: UP045
    size: Annotated[int, Bounds(-3, 3)] | None = 2,
    some: list[Colour] | None = None,
    maybe: bool | None = None,
) -> str:
    """Show every kind of field.

    It is used in tests.

    Args:
        line: One line
            of text.
        weight (float): How heavy: in kilograms.

    Returns:
        The prompt.
    """
    return ""


FIELDS = {field.name: field for field in every.fields}
TEXTS = (
    st.sampled_from(["", " ", "\u3000", "\x1c", "red", "dark blue", "yes", "1", "Hi"]) | st.text()
)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
TURNS = st.fixed_dictionaries(
    {},
    optional={"role": st.sampled_from(["user", "system", "robot"]), "content": TEXTS, "id": TEXTS},
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.integers(-4, 10) | TEXTS | TURNS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.parametrize("field", every.fields, ids=lambda field: field.name)
@settings(deadline=None)
@given(VALUES)
def test_parse_takes_just_what_the_schema_takes(field: Field, value: Any) -> None:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if is_number and field.kind == "number" and abs(value) > 1e308:
        return  # JSON's numbers are those that a float holds
    wanted = jsonschema.Draft202012Validator(field.schema()).is_valid(value)
    try:
        field.parse(value)
        taken = True
    except FieldError as error:
        assert str(error).startswith(f"{field.name} ")
        taken = False
    assert taken == wanted


@pytest.mark.parametrize("field", every.fields, ids=lambda field: field.name)
def test_a_schema_is_one_and_takes_its_own_default(field: Field) -> None:
    schema = field.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema
    if not field.required:
        jsonschema.validate(schema["default"], schema)


def test_every_kind_is_on_a_form_and_in_the_table() -> None:
    from lmapps import fields

    assert {type(field.type) for field in every.fields} == set(KINDS)
    table = (fields.__doc__ or "").splitlines()
    for kind in KINDS[:-1]:
        assert any(kind.name in line for line in table), kind
    assert "None" in (fields.__doc__ or "")


def component_of(field: Field) -> Any:
    import gradio as gr

    from lmapps.server.page.widgets import widget

    with gr.Blocks():
        return widget(field)


@pytest.mark.parametrize(
    "field", [f for f in every.fields if f.kind != "messages"], ids=lambda field: field.name
)
def test_a_component_shows_the_field_and_gives_a_value_that_fits(field: Field) -> None:
    from lmapps.server.page.widgets import values_of

    component = component_of(field)
    assert component.label == field.label and (component.info or "") == field.help
    held = component.value
    if field.required and field.kind in ("line", "passage", "choices"):
        with pytest.raises(FieldError, match="is empty"):
            field.parse(held or type(field.parse(["red"] if field.kind == "choices" else "x"))())
        return
    if field.required and field.kind == "number":
        with pytest.raises(FieldError, match="must be a number, got ''"):
            field.parse(values_of([field], [held or ""])[field.name])
        return
    got = values_of([field], [component.preprocess(held)])
    parsed = field.parse(got[field.name])
    if not field.required:
        assert parsed == field.parse(field.default)


def test_what_is_left_empty_is_none_where_it_is_optional_and_else_left_out() -> None:
    from lmapps.server.page.widgets import values_of

    names = ["mood", "note", "some", "size", "maybe", "weight"]
    values = values_of([FIELDS[name] for name in names], ["", "  ", [], "", "", None])
    assert values.keys() == set(names) - {"weight"}
    assert all(FIELDS[name].parse(value) is None for name, value in values.items())
    assert FIELDS["size"].parse(values_of([FIELDS["size"]], [" -2 "])["size"]) == -2


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--lines", "7", "--rhyme", "Yes", "--weight", "2"], (7, True, 2.0)),
        (["--lines", "1e0", "--rhyme", "0", "--weight", "-1.5"], (1, False, -1.5)),
    ],
)
def test_words_of_the_command_line_become_values(words: list[str], values: tuple[Any, ...]) -> None:
    names = ["lines", "rhyme", "weight"]

    def short(lines: Annotated[int, Bounds(1, 9)], rhyme: bool, weight: float) -> str:
        return ""

    app = Plugin(short)
    given_ = field_parser(app, "default").parse_args(words)
    read_values = {f.name: read(f, getattr(given_, f"field_{f.name}")) for f in app.fields}
    assert tuple(app.validate(read_values)[name] for name in names) == values


def test_options_for_lists_and_empty_words() -> None:
    assert FIELDS["more"].parse(read(FIELDS["more"], ["dark blue", "red"])) == ["red", "dark blue"]
    assert FIELDS["mood"].parse(read(FIELDS["mood"], "")) is None
    for name, word in (
        ("rhyme", "perhaps"),
        ("lines", "many"),
        ("lines", "inf"),
        ("weight", "nan"),
    ):
        with pytest.raises(FieldError, match=f"{name} must be"):
            FIELDS[name].parse(read(FIELDS[name], word))


def test_a_word_that_begins_with_an_at_sign_is_written_with_two(tmp_path: Path) -> None:
    (tmp_path / "rain.txt").write_text("rain")
    assert read(FIELDS["line"], f"@{tmp_path}/rain.txt") == "rain"
    assert read(FIELDS["line"], "@@alice") == "@alice" and read(FIELDS["line"], "@@") == "@"
    assert read(FIELDS["line"], "alice@@home") == "alice@@home"
    assert "@@alice" in field_parser(every, "default").format_help()


def test_help_comes_from_the_docstring_and_labels_from_the_plugin() -> None:
    assert every.help == "Show every kind of field.\n\nIt is used in tests."
    assert FIELDS["line"].help == "One line of text."
    assert FIELDS["weight"].help == "How heavy: in kilograms."
    assert FIELDS["about"].label == "What about?" and FIELDS["mood"].label == "Mood"
    assert FIELDS["line"].schema()["description"] == "One line of text."
    option = " ".join(field_parser(every, "default").format_help().split())
    assert "One line of text.; text" in option or "One line of text; text" in option
    assert "What about?; text (default: '')" in option


@pytest.mark.parametrize(
    ("docstring", "help", "helps"),
    [
        ("", "", {}),
        ("Write.", "Write.", {}),
        ("Write.\n\nArgs:\n  a: 1\n  b: Two\n    lines", "Write.", {"a": "1", "b": "Two lines"}),
        ("Args:\n  a: One.\nAfter.", "After.", {"a": "One."}),
        ("A.\n\nArgs:\n  a: 1\n\n  b: 2\n\nNote: x", "A.\n\nNote: x", {"a": "1", "b": "2"}),
    ],
)  # fmt: skip
def test_a_docstring_is_help_and_help_per_field(
    docstring: str, help: str, helps: dict[str, str]
) -> None:
    assert split_docstring(docstring) == (help, helps)


def test_help_or_a_label_for_no_field_is_an_error() -> None:
    def poem(topic: str) -> str:
        """Write.

        Args:
            topics: What about.
        """
        return topic

    with pytest.raises(PluginError, match=r"Args of poem names 'topics'; its fields: topic"):
        plugin(poem)
    poem.__doc__ = ""
    with pytest.raises(PluginError, match="labels of poem names 'x'"):
        plugin(labels={"x": "X"})(poem)


@pytest.mark.parametrize(
    "annotation",
    [
        bytes, list, vars(typing)["List"], list[str], dict[str, str], Literal[()], Literal[1, 2],
        list[Literal[1]], str | int, str | int | None, Messages | None, None,
        tuple[str, ...], complex, Any,
    ],
)  # fmt: skip
def test_a_type_without_a_widget_is_named_with_all_that_have_one(annotation: Any) -> None:
    def odd(field: Any) -> str:
        return ""

    odd.__annotations__["field"] = annotation
    with pytest.raises(PluginError, match="field 'field' has no widget for ") as raised:
        fields_of(odd)
    assert all(kind.written in str(raised.value) for kind in KINDS)
    assert raised.value.line == inspect.getsourcelines(odd)[1]


@pytest.mark.parametrize("annotation", ["list[]", "nowhere", "Literal.x", "int[3]"])
def test_an_annotation_that_is_no_type_is_one_sentence(annotation: str) -> None:
    def odd(field: Any) -> str:
        return ""

    odd.__annotations__["field"] = annotation
    with pytest.raises(PluginError, match="an annotation of odd is unknown: "):
        fields_of(odd)


def test_no_field_is_in_the_way_of_an_option_of_the_command() -> None:
    for name in ("checkpoint", "decoding", "explain", "help", "stream"):
        with pytest.raises(PluginError, match=f"'{name}' is taken by lmapps: rename the field"):
            plugin(with_field(name))
    for name in (*vars(Decoding()), "plugin", "fields", "h", "user"):
        given = field_parser(plugin(with_field(name)), "default").parse_args(
            ["--" + name.replace("_", "-"), "x"]
        )
        assert vars(given)[f"field_{name}"] == "x"


def with_field(name: str) -> Any:
    names: dict[str, Any] = {}
    exec(f"def odd({name}: str) -> str:\n    return ''", names)
    return names["odd"]


def test_a_type_without_a_widget_is_reported_with_its_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(
        "from lmapps import plugin\n\n\n@plugin(\n    title='Odd',\n)\ndef odd(\n    topic: str,\n"
        "    size: bytes = b'',\n) -> str:\n    return topic\n"
    )
    (failure,) = discover([tmp_path]).failures
    assert str(failure).startswith(f"{tmp_path / 'odd.py'}, line 9: field 'size' has no widget")


def test_a_default_is_not_shared_between_calls() -> None:
    first = every.validate(VALID)["more"]
    first.append("green")
    assert every.validate(VALID)["more"] == ["red"]


VALID = {
    "line": "a", "text": "b", "colour": "red", "colours": ["red"], "rhyme": True, "lines": 1,
    "weight": 1, "messages": "Hi",
}  # fmt: skip


LANGUAGES = {"zh": {"Topic": "主题", "What about.": "关于什么。", "red": "红", "Poem": "诗"}}


def poem_in(languages: Any) -> Plugin:
    @plugin(languages=languages)
    def poem(topic: str, colour: Colour | None = None) -> str:
        """Write.

        Args:
            topic: What about.
        """
        return topic

    return poem


def test_the_texts_of_a_form_are_shown_in_the_visitors_language_and_its_values_stay() -> None:
    import gradio as gr

    from lmapps.server.page.languages import languages, plugin_word
    from lmapps.server.page.widgets import widget

    poem = poem_in(LANGUAGES)
    known = languages([poem, every]).translations
    assert known["zh"]["poem: Topic"] == "主题" and known["en"]["poem: Topic"] == "Topic"
    with gr.Blocks():
        topic, colour = (
            widget(field, lambda text: plugin_word(poem, text)) for field in poem.fields
        )
    assert (topic.label.key, topic.info.key) == ("poem: Topic", "poem: What about.")
    assert colour.label == "Colour", "what is not translated stays"
    assert [value for _, value in colour.choices] == ["", "red", "green", "dark blue"]
    assert colour.choices[1][0].key == "poem: red"


@pytest.mark.parametrize(
    ("languages", "words"),
    [
        ({"zh": {"Topics": "x"}}, "translates 'Topics' to zh, but the form says only: 'Poem'"),
        ({"Chinese": {}}, r"as browsers do \(zh, pt-BR\), got 'Chinese'"),
    ],
)
def test_a_translation_of_nothing_is_an_error(languages: Any, words: str) -> None:
    with pytest.raises(PluginError, match=words):
        poem_in(languages)
