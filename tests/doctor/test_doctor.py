"""Each problem is made, and the doctor says what it is and what to do."""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lmapps.doctor import data, machine, serving, software
from lmapps.doctor.finding import Finding
from lmapps.failures import Failure
from lmapps.server.accounts.users import Users
from lmapps.server.configured import add_settings, settings_of
from lmapps.server.settings import ServeSettings
from lmapps.server.store.database import Database
from tests.server.test_database import older


class Version(NamedTuple):
    major: int
    minor: int


def troubles(findings: Iterable[Finding]) -> dict[str, Finding]:
    """Those with something to do, by what they are about."""
    return {finding.subject: finding for finding in findings if finding.way_out}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LMAPPS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return tmp_path / "home"


def full(_: Any) -> Any:
    return type("Usage", (), {"free": 10**6})


MACHINE: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], dict[str, str], str]] = {
    "system": (lambda m: m.setattr(sys, "version_info", Version(3, 9)), {}, "install Python"),
    "threads": (lambda m: None, {"OMP_NUM_THREADS": "999"}, "unset it"),
    "memory": (
        lambda m: m.setattr(machine, "memory_limit", lambda: 2**29), {}, "raise the"
    ),
    "disk": (lambda m: m.setattr(machine.shutil, "disk_usage", full), {}, "LMAPPS_HOME"),
    "temporary": (lambda m: m.setattr(tempfile, "TemporaryFile", refused), {}, "TMPDIR"),
    "open files": (
        lambda m: m.setattr("resource.getrlimit", lambda _: (256, 256)), {}, "LimitNOFILE"
    ),
    "clock": (lambda m: m.setattr(time, "time", lambda: 0.0), {}, "set it"),
    "proxy": (lambda m: None, {"HTTP_PROXY": "http://proxy"}, "NO_PROXY=localhost"),
    "terminal": (
        lambda m: m.setattr(sys, "stdout", type("Out", (), {"encoding": "ascii"})), {}, "UTF-8"
    ),
}  # fmt: skip


def refused(*_: Any) -> Any:
    raise OSError(30, "Read-only file system")


@pytest.mark.parametrize("name", MACHINE)
def test_what_is_wrong_with_the_machine_is_found(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, environment, way_out = MACHINE[name]
    before = troubles(machine.look_at_machine({}))
    with monkeypatch.context() as patch:
        make(patch)
        found = troubles(machine.look_at_machine(environment))
    assert way_out in found[name].way_out
    assert name not in before or name in ("memory", "disk", "temporary", "terminal", "open files")


def test_packages_that_are_missing_or_old_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"gradio": "3.0", "fastapi": None}
    usual = software._installed
    monkeypatch.setattr(software, "_installed", lambda name: versions.get(name, usual(name)))
    monkeypatch.setattr(software, "find_spec", lambda name: None)
    found = troubles(software.look_at_software())
    assert "pip install 'gradio" in found["gradio"].way_out and found["gradio"].fatal
    assert "not installed" in found["fastapi"].told
    assert "lmapps[documents]" in found["documents"].way_out


def test_a_gpu_that_torch_cannot_use_and_a_step_that_is_not_built_are_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(software, "has_nvidia", lambda: True)
    monkeypatch.delenv("LMAPPS_NATIVE", raising=False)
    monkeypatch.setattr("lmapps.native.library.LIBRARY", tmp_path / "libstep.so")
    monkeypatch.setattr("lmapps.evaluation.sandbox.why_not", lambda: "the kernel refuses")
    found = troubles(software.look_at_software())
    assert "pytorch.org" in found["GPU"].way_out
    assert "kernel refuses" in found["sandbox"].told
    assert found["decoding"].told.endswith("slower: the native step is not built")
    assert "compile.py" in found["decoding"].way_out and not found["decoding"].fatal


def test_a_data_folder_that_is_none_or_on_a_network_is_found(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.write_text("a file")
    assert troubles(data._home())["data folder"].fatal
    home.unlink()
    (home.parent / "mounts").write_text(f"server:/x {home.parent} nfs4 rw 0 0\n")
    monkeypatch.setattr(data, "MOUNTS", home.parent / "mounts")
    assert "SQLite" in troubles(data._home())["data folder"].told


def test_plugins_checkpoints_and_databases_that_do_not_work_are_found(home: Path) -> None:
    (home / "plugins").mkdir(parents=True)
    (home / "plugins" / "bad.py").write_text("1 / 0")
    found = troubles(data.look_at_data([str(home / "nowhere")], "sqlite:////nowhere/x.db"))
    assert "bad.py, line 1" in found["plugin"].told
    assert found["checkpoint"].fatal and found["database"].fatal


def test_a_model_larger_than_memory_is_found(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_checkpoint("gru").save(tmp_path / "it")
    assert not data._checkpoint(tmp_path / "it").way_out
    monkeypatch.setattr(data, "memory_limit", lambda: 1000)
    assert "smaller" in data._checkpoint(tmp_path / "it").way_out


def test_a_port_in_use_and_the_user_root_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = troubles(serving.look_at_serving(ServeSettings(port=taken.getsockname()[1])))
    assert "--port" in found["address"].way_out and "deploy/" in found["user"].way_out


def test_a_setting_with_a_mistake_is_found_with_its_place(home: Path) -> None:
    home.mkdir()
    (home / "settings.toml").write_text("prot = 80")
    parser = argparse.ArgumentParser()
    add_settings(parser)
    settings, findings = serving.look_at_settings(lambda: settings_of(parser.parse_args([]), {}))
    assert (
        settings == ServeSettings() and "did you mean port" in troubles(findings)["settings"].told
    )
    (home / "settings.toml").write_text("port = 8005")
    settings, findings = serving.look_at_settings(lambda: settings_of(parser.parse_args([]), {}))
    assert settings.port == 8005 and not troubles(findings)
    for name in ("http://lm.example.org", "lm.example.org:port", "lm.example.org/lmapps", "*.org"):
        (home / "settings.toml").write_text(f"hosts = [{name!r}]")
        told = serving.look_at_settings(lambda: settings_of(parser.parse_args([]), {}))[1]
        assert "without http:// or a path" in troubles(told)["settings"].told


def test_a_server_that_would_be_open_to_all_is_found(home: Path) -> None:
    found = troubles(serving.look_at_serving(ServeSettings(host="0.0.0.0", port=1)))
    assert "lmapps users add" in found["accounts"].way_out and found["accounts"].fatal
    found = troubles(serving.look_at_serving(ServeSettings(host="0.0.0.0", port=1, public=True)))
    assert "without a limit" in found["accounts"].told and not found["accounts"].fatal
    assert "accounts" not in troubles(serving.look_at_serving(ServeSettings(port=1)))


def content(folder: Path) -> dict[str, bytes]:
    """Every file, but where SQLite keeps who reads just now."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file): file.read_bytes() for file in files if not file.name.endswith("-shm")}


@pytest.mark.parametrize("is_open", [False, True])
def test_the_doctor_leaves_the_database_as_it_is(
    home: Path, monkeypatch: pytest.MonkeyPatch, is_open: bool
) -> None:
    def look() -> dict[str, Finding]:
        public = ServeSettings(host="0.0.0.0", port=1)
        before = content(home)
        told = troubles([data._database(""), *serving.look_at_serving(public)])
        assert content(home) == before
        return told

    home.mkdir()
    assert look()["accounts"].fatal
    older("", "0001")
    found = look()
    assert "database backup" in found["database"].way_out and found["accounts"].fatal
    database = Database()
    Users(database).add("ann", "a long password")
    if not is_open:
        database.close()
    assert look().keys() <= {"user", "address"}
    with database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    assert "newer lmapps" in look()["database"].told


def test_a_server_of_a_remote_model_that_does_not_answer_is_found(served: Any) -> None:
    found = troubles([data._model("far=http://127.0.0.1:9/v1")])
    assert "does not answer" in found["model"].told and found["model"].fatal
    assert not data._model(f"far={served.url}/v1").way_out
    found = troubles([data._model(f"far={served.url}/v1,http://127.0.0.1:9/v1")])
    assert "127.0.0.1:9/v1 does not answer" in found["model"].told and not found["model"].fatal
    assert "holds a password" in data._model("far=http://me:secret@far/v1").told


def test_a_plugin_that_failed_in_use_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = Failure("/x/bad.py", 7, "the plugin divides by zero", "Correct it.", "")
    monkeypatch.setattr(data, "remembered", lambda: [failure])
    found = troubles(data._plugins())
    assert "bad.py, line 7 failed in use" in found["plugin"].told


def test_a_checkpoint_that_is_broken_is_found(
    tmp_path: Path, tiny_checkpoint: Callable[[str], Any]
) -> None:
    tiny_checkpoint("gru").save(tmp_path / "it")
    (tmp_path / "it" / "model.safetensors").write_bytes(b"x" * 99)
    assert data._checkpoint(tmp_path / "it").fatal


def test_twenty_problems_are_tried_at_least() -> None:
    """Each of `MACHINE`, and the subjects that the other tests find something about."""
    text = Path(__file__).read_text()
    subjects = set(re.findall(r'(?:found|troubles\([^\n]*\))\["([\w ]+)"\]', text)) | set(MACHINE)
    assert len(subjects) >= 20, sorted(subjects)
