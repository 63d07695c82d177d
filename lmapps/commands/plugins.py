"""Command line -> plugins listed, written, switched off and on: `lmapps plugins`."""

from __future__ import annotations

import argparse
import builtins
import keyword
import re
import textwrap
from pathlib import Path

from lmapps.discovery import Found, discover
from lmapps.errors import PluginError, StorageError
from lmapps.failures import remembered
from lmapps.paths import example_folder, find_checkpoint, home, plugin_folders
from lmapps.prompts import changed_prompts
from lmapps.switches import switch

START = "haiku"
"""The example that a new plugin begins as."""

TEST = '''"""The plugin {name}: run `python -m pytest {file}`. No model is needed."""

from pathlib import Path

from lmapps import load

{name} = load(Path(__file__).with_name("{name}.py"))


def test_the_prompt_says_what_was_filled_in():
    names = [field.name for field in {name}.fields]
    for row in {name}.examples:
        steps = {name}.steps({name}.validate(dict(zip(names, row))))
        assert str(row[0]) in "\\n".join(turn["content"] for turn in next(steps))


def test_every_example_has_a_prompt_and_a_reply():
    for example in {name}.own_examples():
        *asked, reply = {name}.conversation(example)
        assert asked[-1]["content"].strip() and reply["content"].strip()
'''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", default="default", help="whose training the prompts are compared with"
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", help="(none: list them)")
    new = actions.add_parser("new", help="write a plugin and its test")
    new.add_argument("name", help="of the plugin: the function, the file, the endpoint")
    new.add_argument("--like", default=START, choices=examples(), help=f"an example ({START})")
    new.add_argument("--folder", type=Path, help="where to write (the person's plugin folder)")
    for action in ("on", "off"):
        turn = actions.add_parser(action, help=f"switch a plugin {action}; the server follows")
        turn.add_argument("name", help="of the plugin")


def main(args: argparse.Namespace) -> int:
    if args.action == "new":
        return write(args.name, args.like, args.folder or home() / "plugins")
    found = discover()
    if args.action:
        return turn(found, args.name, args.action)
    checkpoint = find_checkpoint(args.checkpoint)
    changed = changed_prompts(found.plugins.values(), checkpoint)
    for name, plugin in found.plugins.items():
        fields = ", ".join(field.name for field in plugin.fields)
        print(f"{name:12} {plugin.help.splitlines()[0] if plugin.help else ''}")
        print(f"{'':12} fields: {fields}; file: {found.sources[name]}")
        if name in changed:
            print(f"{'':12} its prompt has changed since {args.checkpoint} was trained:")
            print(textwrap.indent(changed[name], " " * 15))
    for name, source in found.off.items():
        print(f"{name:12} switched off; file: {source}")
    for failure in found.failures:
        print(f"not loaded   {failure}")
    for failure in remembered():
        print(f"failed       {failure}")
    print(f"looked in: {', '.join(map(str, plugin_folders()))}")
    return 0


def examples() -> list[str]:
    """The names of the plugins that a new one can begin as."""
    return sorted(file.stem for file in example_folder().glob("[!_]*.py"))


def write(name: str, like: str, folder: Path) -> int:
    """Write the plugin and its test; nothing that is there is replaced."""
    check_name(name)
    files = [folder / f"{name}.py", folder / f"test_{name}.py"]
    for file in files:
        if file.exists():
            raise PluginError(f"{file} is there already: choose another name, or move it away")
    text = named((example_folder() / f"{like}.py").read_text(encoding="utf-8"), like, name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files[0].write_text(text, encoding="utf-8")
        files[1].write_text(TEST.format(name=name, file=files[1]), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {error.strerror}") from None
    print(f"wrote {files[0]} and its test, {files[1].name}")
    if folder.resolve() in [place.resolve() for place in plugin_folders()]:
        print(f"a running server shows the tab now; `lmapps run {name} --help` lists its fields")
    else:
        print(f"to use it, copy it to {home() / 'plugins'}")
    return 0


def check_name(name: str) -> None:
    """Raises `PluginError` for a name that a plugin cannot have."""
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name):
        likely = re.sub(r"\W+", "_", name).strip("_").lower()
        hint = f", such as {likely}" if likely.isidentifier() and likely != name else ""
        raise PluginError(f"a plugin's name is letters, digits and _{hint}; got {name!r}")
    if hasattr(builtins, name):
        raise PluginError(f"the name {name!r} hides Python's own {name}(): choose another")
    if name.startswith(("_", "test_")) or name == "conftest":
        raise PluginError(f"a file named {name}.py is not looked at: choose another name")
    found = discover()
    taken = found.sources.get(name) or found.off.get(name)
    if taken:
        raise PluginError(f"the name {name!r} is taken by {taken}: choose another")


def named(text: str, old: str, name: str) -> str:
    """An example under another name. Only the function's name and the title change."""
    text = re.sub(rf"(?<=def ){old}(?=\()|(?<=^@){old}(?=\.)", name, text, flags=re.M)
    title = name.replace("_", " ").capitalize()
    return re.sub(r'(?<=title=")[^"]*(?=")', title, text, count=1)


def turn(found: Found, name: str, action: str) -> int:
    """Switch a plugin on or off, in the data folder."""
    if name not in found.plugins and name not in found.off:
        found.get(name)
    changed = switch(name, on=action == "on")
    print(f"{name} is {'now' if changed else 'already'} {action}")
    return 0
