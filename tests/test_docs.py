"""The code on the pages of docs/ runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
