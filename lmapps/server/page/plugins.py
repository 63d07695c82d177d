"""What was found in the plugin folders -> the tab that lists it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from lmapps.discovery import Found
from lmapps.failures import remembered
from lmapps.prompts import changed_prompts
from lmapps.server.page.languages import plugin_word, word

FENCE = "`" * 8


def plugins_page(
    found: Found, left_over: Sequence[str] = (), checkpoint: Path | None = None
) -> str:
    """What was found, what is worded otherwise than in the checkpoint's training, and what failed
    and why, as Markdown."""
    lines = [word("A plugin is code that runs in this server: add only what you trust."), ""]
    lines += [f"| {word('Name')} | {word('What it does')} | {word('File')} |", "|---|---|---|"]
    for name, plugin in found.plugins.items():
        row = name, plugin_word(plugin, plugin.help), found.sources.get(name, "")
        lines.append(f"| {' | '.join(map(cell, row))} |")
    for name, source in found.off.items():
        lines.append(f"| {cell(name)} | {word('(switched off)')} | {cell(source)} |")
    if left_over:
        names = ", ".join(map(cell, left_over))
        lines += ["", word(
            "So many came that the page has no tab for {names}: start the server again.",
            names=names,
        )]  # fmt: skip
    for name, change in changed_prompts(found.plugins.values(), checkpoint).items():
        title = word("{name}: its prompt has changed since the model was trained", name=cell(name))
        lines += ["", f"### {title}", "", FENCE + "diff", change.replace(FENCE, "```"), FENCE]
    for title, failures in (
        (word("Not loaded"), found.failures),
        (word("Failed in use"), remembered()),
    ):
        lines += ["", f"### {title}", ""] if failures else []
        for failure in failures:
            line = word("line {number}", number=failure.line) if failure.line else ""
            name = ", ".join(filter(None, (Path(failure.file).name, line)))
            told = f"{failure.reason}. {failure.fix} ({failure.file})"
            lines.append(f"- **{cell(name)}**: {cell(told)}")
    return "\n".join(lines)


def cell(text: str) -> str:
    """A text inside a Markdown table, with nothing that would be markup."""
    plain = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#<>!" else letter for letter in plain)
