"""What the README promises exists, and CI runs the README's test command."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lmapps.__main__ import build_parser
from tests.conftest import missing

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CHINESE = (ROOT / "README.zh.md").read_text()


def commands(text: str) -> list[list[str]]:
    """Every `lmapps ...` line of the code blocks, as words."""
    blocks = re.findall(r"```\n(.*?)```", text, re.S)
    lines = [line.split("&&")[-1].strip() for block in blocks for line in block.splitlines()]
    found = [shlex.split(line) for line in lines if re.match(r"(\.venv/bin/)?lmapps ", line)]
    return [words[1:] for words in found]


def pictures(text: str) -> list[str]:
    return re.findall(r'(?:src|srcset)="([^"]+)"', text)


PAGES = [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL = [(page.name, words) for page in PAGES for words in commands(page.read_text())]


@pytest.mark.parametrize(("page", "words"), ALL, ids=lambda value: str(value)[:60])
def test_every_command_on_a_page_is_one_that_lmapps_takes(page: str, words: list[str]) -> None:
    if words[0] == "run":  # its options come from the plugin
        assert words[1] in {file.stem for file in (ROOT / "plugins").glob("*.py")} | {"haiku"}
        return
    arguments = build_parser(words).parse_args(words)
    assert arguments.command == words[0]


def test_the_readme_has_its_two_commands_and_ci_calls_the_second() -> None:
    blocks = re.findall(r"```\n(.*?)```", README, re.S)
    assert "pip install" in blocks[0] and blocks[0].strip().endswith("lmapps serve")
    second = blocks[1].strip()
    assert (ROOT / shlex.split(second)[0]).is_file()
    ci = (ROOT / ".ci" / "run").read_text()
    assert f"exec {second}" in ci
    assert ".ci/run" not in re.sub(r"#.*", "", (ROOT / "dev").read_text()), "CI must not call CI"


def test_ci_installs_what_tests_need_and_there_nothing_of_it_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    assert set(re.findall(r"missing\+=\(([\w-]+)\)", ci)) == {
        "chromium",
        "curl",
        "nginx-light",
        "postgresql",
        "systemd",
    }
    assert "export CI=true" in ci
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="nginx is not installed"):
        missing("nginx is not installed")
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception):
        missing("nginx is not installed")


@pytest.mark.parametrize("text", [README, CHINESE], ids=["English", "Chinese"])
def test_the_readme_stays_short_and_its_links_lead_somewhere(text: str) -> None:
    assert len(text.splitlines()) <= 200
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text) + pictures(text):
        assert (ROOT / target).exists(), target


def test_every_top_level_part_that_the_tree_names_is_there() -> None:
    tree = README.split("## What is where")[1].split("```")[1]
    for name in re.findall(r"^([\w./]+)", tree, re.M):
        assert (ROOT / name).exists(), name


def test_the_readme_in_chinese_has_the_same_code_and_links_and_names_the_same_tree() -> None:
    def code(text: str) -> list[str]:
        return re.findall(r"```(?:python)?\n(.*?)```", text, re.S)

    def links(text: str) -> set[str]:
        found = re.findall(r"\]\(([^)#]+)", text) + pictures(text)
        return set(found) - {"README.md", "README.zh.md"}

    *english, tree = code(README)
    *chinese, same_tree = code(CHINESE)
    assert chinese == english and links(CHINESE) == links(README)
    assert [line.split()[0] for line in same_tree.splitlines()] == [
        line.split()[0] for line in tree.splitlines()
    ]
