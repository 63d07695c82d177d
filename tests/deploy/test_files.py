"""The files of deploy/ fit the program: metrics, settings and paths that they name are there."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lmapps.__main__ import build_parser, main
from lmapps.errors import SettingsError
from lmapps.server.accounts.access import access_of
from lmapps.server.configured import settings_of
from lmapps.server.store.database import Database
from tests.conftest import missing
from tests.deploy.conftest import LMAPPS, ROOT, free_port

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
        missing("systemd-analyze is not installed: `apt-get install systemd` for this test")
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


def command_of_the_image() -> list[str]:
    """The words after `lmapps`."""
    (command,) = re.findall(r"^CMD (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.M)
    return [str(word) for word in json.loads(command)]


def test_the_image_runs_a_command_that_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    text, command = (DEPLOY / "Dockerfile").read_text(), command_of_the_image()
    assert command[:1] == ["serve"]
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    options = capsys.readouterr().out
    assert all(word in options for word in command if word.startswith("--"))
    for folder in re.findall(r"cp -r /source/(\S+)", text):
        assert (ROOT / folder).is_dir()
    extras = re.findall(r"/source\[([\w,]+)\]", text)[0].split(",")
    project = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[$", project, re.M) for extra in extras)


def test_the_image_refuses_to_start_until_the_documented_step_was_done(
    programs: Any, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = r"docker run -it .*-v lmapps:/data (lmapps users add ann)\b"
    places = (DEPLOY / "Dockerfile", ROOT / "docs" / "operations.md")
    (documented,) = {word for place in places for word in re.findall(step, place.read_text())}
    command, port = command_of_the_image(), free_port()
    settings = settings_of(build_parser(command).parse_args(command), {})
    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path))
    database = Database()
    with pytest.raises(SettingsError) as refused:
        access_of(settings, database)
    assert "`lmapps users add NAME`" in str(refused.value)
    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse\n"))
    assert main(documented.split()[1:]) == 0
    access = access_of(settings, database)
    assert access.users and not access.admins
    access.close()
    database.close()
    command[command.index("--checkpoint") + 1] = str(tiny_folder)
    words = [*LMAPPS, *command, "--port", str(port)]
    running = programs("image", words, port, LMAPPS_HOME=str(tmp_path))
    running.wait("/ready")
    assert httpx.get(f"{running.url}/ready").status_code == 200
    assert httpx.get(f"{running.url}/v1/models").status_code == 401


def test_the_image_runs_as_the_user_that_it_makes() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    ((user, group),) = re.findall(r"^USER (\d+):(\d+)$", text, re.M)
    assert f"groupadd --system --gid {group} lmapps" in text
    assert f"useradd --system --uid {user} --gid {group} " in text


def test_the_image_leaves_it_to_the_server_whether_it_goes_out_to_the_hub() -> None:
    assert "HF_HUB_OFFLINE" not in (DEPLOY / "Dockerfile").read_text(), "hf: models are fetched"


RULES = [rule for rule in (ROOT / ".dockerignore").read_text().split("\n") if rule[:1] not in "#"]


def taken_along(path: str) -> bool:
    """Whether `COPY .` takes a file: of the rules the last one that fits it, or a folder above it,
    decides."""
    taken = True
    for rule in RULES:
        pattern = re.escape(rule.lstrip("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if re.match(rf"{pattern}(/|$)", path):
            taken = rule.startswith("!")
    return taken


def left_out(folder: str, names: list[str]) -> list[str]:
    here = Path(folder).relative_to(ROOT)
    return [name for name in names if not taken_along(str(here / name))]


def test_the_image_is_made_of_the_project_and_nothing_else_that_lies_there(tmp_path: Path) -> None:
    for foreign in (
        ".git/config", ".venv/bin/python", "checkpoints/mine/model.safetensors", "data/lmapps.db",
        "runs/one/log.jsonl", "tests/conftest.py", "lmapps/__pycache__/errors.cpython-311.pyc",
        "lmapps/native/libstep.so", "settings.toml", ".env",
    ):  # fmt: skip
        assert not taken_along(foreign), foreign
    source = tmp_path / "source"
    for name in (rule[1:] for rule in RULES if rule.startswith("!")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=left_out)
        else:
            shutil.copy(ROOT / name, source / name)
    assert (source / "checkpoints" / "default" / "config.json").is_file()
    ours, theirs = wheel_names(ROOT, tmp_path / "ours"), wheel_names(source, tmp_path / "theirs")
    assert ours == theirs and "lmapps/bundled/plugins/chat.py" in theirs


def wheel_names(source: Path, folder: Path) -> list[str]:
    """What a wheel has in it that is built from a folder, without the native step."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", str(folder)]
    quick = {**os.environ, "CXX": "false"}
    subprocess.run(build, cwd=source, check=True, capture_output=True, env=quick)
    (wheel,) = folder.glob("*.whl")
    return sorted(zipfile.ZipFile(wheel).namelist())
