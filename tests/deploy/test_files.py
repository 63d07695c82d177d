"""The files of deploy/ fit the program: metrics, settings and paths that they name are there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmapps.__main__ import main
from tests.deploy.conftest import ROOT

DEPLOY = ROOT / "deploy"


def expressions(found: Any) -> Iterator[str]:
    """Whatever a board asks Prometheus for."""
    if isinstance(found, dict):
        yield from (value for key, value in found.items() if key in ("expr", "query") and value)
        found = list(found.values())
    for inside in found if isinstance(found, list) else []:
        yield from expressions(inside)


def test_every_metric_of_the_grafana_board_is_exported_with_its_labels(served: Any) -> None:
    httpx.post(f"{served.url}/v1/completions", json={"prompt": "a", "max_tokens": 2})
    told = httpx.get(f"{served.url}/metrics").text
    exported = set(re.findall(r"^(lmapps_\w+)", told, re.M))
    exported |= set(re.findall(r"^# TYPE (lmapps_\w+) gauge", told, re.M))
    board = json.loads((DEPLOY / "grafana.json").read_text())
    asked = [str(one) for one in expressions(board) if "lmapps_" in str(one)]
    assert len(asked) > 20
    for one in asked:
        for name in re.findall(r"lmapps_\w+", one):
            assert name in exported, one
        labels = set(re.findall(r"[{,](\w+)[=!]", one))
        labels |= {word for by in re.findall(r"by \(([^)]*)\)", one) for word in by.split(", ")}
        labels -= {"instance"}  # Prometheus adds it
        for label in labels:
            assert re.search(rf"lmapps_\w+{{[^}}]*\b{label}=", told), f"{label} in {one}"


def test_every_panel_has_a_title_a_unit_and_a_place_of_its_own() -> None:
    board = json.loads((DEPLOY / "grafana.json").read_text())
    taken = set[tuple[int, int]]()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert panel["title"] and not cells & taken and place["x"] + place["w"] <= 24
        assert panel["type"] == "row" or panel["fieldConfig"]["defaults"]["unit"]
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if not program:
        pytest.skip("systemd-analyze is not installed")
    unit = (DEPLOY / "lmapps.service").read_text()
    assert "ExecStart=/opt/lmapps/.venv/bin/lmapps serve\n" in unit
    (tmp_path / "lmapps.service").write_text(
        unit.replace("/opt/lmapps/.venv/bin/lmapps", "/bin/true")
    )
    done = subprocess.run(
        [program, "verify", "--man=no", str(tmp_path / "lmapps.service")],
        capture_output=True, text=True,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "lmapps.service" in line]
    ours = [line for line in ours if "postgresql.service" not in line]
    assert ours == [] and done.returncode == 0, done.stderr


def test_a_user_of_the_unit_can_reload_it() -> None:
    assert "ExecReload=/bin/kill -HUP $MAINPID\n" in (DEPLOY / "lmapps.service").read_text()


def test_the_image_runs_a_command_that_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    (command,) = re.findall(r"^CMD (\[.*\])$", text, re.M)
    assert json.loads(command)[:1] == ["serve"]
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    options = capsys.readouterr().out
    assert all(word in options for word in json.loads(command) if word.startswith("--"))
    for folder in re.findall(r"cp -r /source/(\S+)", text):
        assert (ROOT / folder).is_dir()
    extras = re.findall(r"/source\[([\w,]+)\]", text)[0].split(",")
    project = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[$", project, re.M) for extra in extras)
