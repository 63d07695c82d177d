"""Data flows one way: a module imports only what stands before it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lmapps"
ORDER = [
    *("sentence", "errors", "paths", "machine", "memory", "failures", "interrupt", "small_file"),
    *("decoding", "passage"),
    *("kinds", "number", "messages", "fields", "options"),
    *("replies", "words", "metrics", "reply", "steps", "examples", "plugin", "prompts"),
    *("toml_plugin", "switches", "loading", "discovery"),
    *(
        "text",
        "model",
        "pull",
        "native",
        "engine",
        "evaluation",
        "training",
        "server",
        "doctor",
        "commands",
    ),
    "__main__",
]
MODULES = sorted(PACKAGE.rglob("*.py"))
OUTSIDE_LIMITS = {"train"}  # the training loop


def layer(module: str) -> int:
    return ORDER.index(module.split(".")[1])


def imports_of(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [name.name for name in node.names]
    return [name for name in found if name.startswith("lmapps.")]


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_module_imports_only_what_stands_before_it(file: Path) -> None:
    name = "lmapps." + ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
    if name == "lmapps.__init__":
        return
    for imported in imports_of(ast.parse(file.read_text())):
        assert layer(imported) <= layer(name), f"{name} imports {imported}"


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_module_says_what_it_does_and_stays_short(file: Path) -> None:
    text = file.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f"{file} has no docstring"
    assert len(text.splitlines()) <= 300, f"{file} is over 300 lines: a noun is missing"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 60 or node.name in OUTSIDE_LIMITS, f"{node.name} has {length} lines"


def test_the_plugins_use_the_public_api_only() -> None:
    import sys

    allowed = set(sys.stdlib_module_names) | {"lmapps"}
    for file in (PACKAGE.parent / "plugins").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.module and node.module in allowed, f"{file.name}: {node.module}"
            elif isinstance(node, ast.Import):
                assert all(name.name in allowed for name in node.names), file.name
