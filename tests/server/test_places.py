"""Which plugin is in which tab, as plugins come and go."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmapps.discovery import Library
from lmapps.server.page.places import AT_ONCE, SPARE, Places

TEXT = "from lmapps import plugin\n\n\n@plugin\ndef {0}(text: str) -> str:\n    return text\n"


@pytest.fixture
def library(tmp_path: Path) -> Library:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.py").write_text(TEXT.format(name))
    return Library([tmp_path])


def names(places: Places) -> list[str]:
    return [plugin.name for number in places if (plugin := places.at(number))]


def test_only_the_place_of_a_changed_plugin_is_newer(library: Library, tmp_path: Path) -> None:
    places = Places(library.found)
    (tmp_path / "b.py").write_text(TEXT.format("b").replace("@plugin", "@plugin(title='B!')"))
    library.look()
    assert places.follow() == []
    assert names(places) == ["a", "b", "c"]
    assert [places.since(number) > 1 for number in (0, 1, 2)] == [False, True, False]
    assert places.first[1] is not places.at(1)


def test_the_others_stay_where_they_are_when_one_goes_and_another_comes(
    library: Library, tmp_path: Path
) -> None:
    places = Places(library.found)
    (tmp_path / "b.py").unlink()
    library.look()
    places.follow()
    assert (places.at(0).name, places.at(1), places.at(2).name) == ("a", None, "c")  # type: ignore[union-attr]
    (tmp_path / "d.py").write_text(TEXT.format("d"))
    library.look()
    places.follow()
    assert names(places) == ["a", "d", "c"]


def test_when_there_is_no_place_left_the_names_are_told(library: Library, tmp_path: Path) -> None:
    places = Places(library.found)
    for number in range(SPARE + 1):
        (tmp_path / f"new{number:02}.py").write_text(TEXT.format(f"new{number:02}"))
    library.look()
    assert places.follow() == [f"new{SPARE:02}"]
    assert len(names(places)) == 3 + SPARE


def test_of_many_plugins_only_the_first_are_part_of_the_page(tmp_path: Path) -> None:
    for number in range(AT_ONCE + 5):
        (tmp_path / f"p{number}.py").write_text(TEXT.format(f"p{number}"))
    places = Places(Library([tmp_path]).found)
    assert sum(plugin is not None for plugin in places.first) == AT_ONCE
    assert len(names(places)) == AT_ONCE + 5
