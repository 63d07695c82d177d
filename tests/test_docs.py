"""The code on the pages of docs/ runs."""

from __future__ import annotations

import inspect
import re
import typing
from pathlib import Path

import pytest

import lmapps
from lmapps import load

DOCS = Path(__file__).parent.parent / "docs"


def test_the_article_runs_from_top_to_bottom(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "article.md").read_text(), re.S)
    assert len(blocks) >= 5
    import torch

    torch.manual_seed(0)
    exec(compile("\n".join(blocks), "docs/article.md", "exec"), {})
    assert "perplexity" in capsys.readouterr().out


def test_the_plugins_on_the_page_about_forms_work() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "forms.md").read_text(), re.S)
    assert blocks
    exec(compile("\n".join(blocks), "docs/forms.md", "exec"), {"__name__": "__main__"})


def test_the_page_about_forms_names_every_kind_of_field() -> None:
    from lmapps.fields import KINDS

    rows = (DOCS / "forms.md").read_text().partition("## Fields")[2].partition("\n\n")[2]
    for kind in KINDS[:-1]:
        word = kind.written.replace(" of texts", "[").replace("list of a Literal", "list[Literal[")
        assert f"`{word}" in rows, kind


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_every_file_that_a_page_links_to_exists(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_tab_is_shown_in_a_picture_light_and_dark_on_a_desk_and_on_a_phone() -> None:
    """And there is none that nobody sees."""
    pages = [*DOCS.glob("*.md"), *DOCS.parent.glob("README*.md")]
    sources = re.compile(r'(?:src|srcset)="(?:docs/)?images/([^"]+)"')
    shown = {name for page in pages for name in sources.findall(page.read_text())}
    tabs = {file.stem for file in (DOCS.parent / "plugins").glob("[!_]*.py")}
    tabs |= {"compare", "models", "training", "plugins"}
    wanted = {
        f"{tab}-{scheme}{width}.webp"
        for tab in tabs
        for scheme in ("light", "dark")
        for width in ("", "-phone")
    }
    assert wanted <= shown == {file.name for file in (DOCS / "images").iterdir()}


PLUGINS = (DOCS / "plugins.md").read_text()


def test_the_tutorial_about_plugins_runs_from_top_to_bottom(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(DOCS.parent)
    blocks = re.findall(r"```python\n(.*?)```", PLUGINS, re.S)
    assert len(blocks) >= 4
    exec(compile("\n".join(blocks), "docs/plugins.md", "exec"), {"__name__": "__main__"})
    (toml,) = re.findall(r"```toml\n(title.*?)```", PLUGINS, re.S)
    (tmp_path / "postcard.toml").write_text(toml)
    assert load(tmp_path / "postcard.toml")("Rome") == "Write a postcard from Rome, short."


def test_every_public_name_is_documented_typed_and_has_a_docstring() -> None:
    assert (Path(lmapps.__file__).parent / "py.typed").is_file()
    table = PLUGINS.partition("## Everything that can be imported")[2]
    for name in lmapps.__all__:
        assert f"`{name}`" in table, f"docs/plugins.md does not have {name}"
        value = getattr(lmapps, name)
        assert getattr(value, "__doc__", None), name
        if inspect.isfunction(value):
            hints = typing.get_type_hints(value)
            assert set(inspect.signature(value).parameters) <= hints.keys(), name
    named = re.findall(r"^\| (`.*?) \|", table, re.M)
    assert {word for row in named for word in re.findall(r"`(\w+)`", row)} - {"lmapps"} == set(
        lmapps.__all__
    )


def test_the_tutorial_names_every_type_of_field() -> None:
    from lmapps.fields import KINDS

    told = PLUGINS.partition("A field is")[2].partition("\n\n")[0].replace("\n", " ")
    for kind in KINDS:
        for word in set(re.findall(r"[A-Za-z]+", kind.written)) - {"of", "a", "one", "these"}:
            assert word in told, f"docs/plugins.md, 'A field is', does not have {kind.written}"


def test_the_tutorial_names_every_example_and_every_type_of_a_toml_field() -> None:
    from lmapps.commands.plugins import examples
    from lmapps.toml_plugin import KEYS, TYPES

    for name in [*examples(), *TYPES, "choice", *KEYS]:
        assert re.search(rf"(?<!\w){name}(?!\w)", PLUGINS), name
