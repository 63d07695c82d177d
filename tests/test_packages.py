"""What is installed with pip, in an environment that has nothing of this project but its wheel."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "plugins.md").read_text()


def imported() -> Iterator[tuple[str, str]]:
    """Every package of others that our code imports, wherever in a file, and the file."""
    for file in sorted((ROOT / "lmapps").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in {name.partition(".")[0] for name in names}:
                if name not in sys.stdlib_module_names and name != "lmapps":
                    yield name, str(file.relative_to(ROOT))


def test_every_package_that_is_imported_is_listed_as_a_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in project["project"]["optional-dependencies"].values():
        listed += extra
    names = {canonicalize_name(Requirement(line).name) for line in listed}
    distributions, unlisted = packages_distributions(), dict[str, str]()
    for module, file in imported():
        if not {canonicalize_name(one) for one in distributions.get(module, [module])} & names:
            unlisted[module] = file
    assert not unlisted, "a package that another one happens to bring may be gone tomorrow"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the project."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", str(folder)]
    quick = {**os.environ, "CXX": "false"}  # without the native step
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, env=quick)
    return next(folder.glob("lmapps-*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel. Its dependencies are read from this environment, whose
    own lmapps is not seen there."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    install(folder, wheel)
    return folder


def install(environment: Path, what: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "install"]
    options = ["--no-deps", "--force-reinstall", "--no-index", "--no-build-isolation", "--quiet"]
    subprocess.run([*pip, *options, str(what)], check=True, capture_output=True, text=True)


def run(environment: Path, folder: Path, *words: str) -> str:
    """The output of a command, run from another folder and with an empty data folder."""
    hidden = ("PYTHONPATH", "LMAPPS_HOME")
    outside = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [environment / "bin" / words[0], *words[1:]],
        cwd=folder,
        env=outside | {"LMAPPS_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.long
def test_a_wheel_from_a_machine_with_a_compiler_has_the_native_step_of_its_platform(
    environment: Path, tmp_path: Path
) -> None:
    if not shutil.which("c++"):
        pytest.skip("needs a C++ compiler")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = tmp_path.glob("*.whl")
    assert re.search(r"-py3-none-(manylinux|linux|macosx)\w+\.whl$", built.name), built.name
    assert "lmapps/native/libstep.so" in zipfile.ZipFile(built).namelist()
    asked = "from lmapps.native import library; print(library.__file__, library.levels())"
    assert "Unavailable" in run(environment, tmp_path, "python", "-c", asked), "the other wheel"
    own = tmp_path / "environment"
    shutil.copytree(environment, own, symlinks=True)
    install(own, built)
    told = run(own, tmp_path, "python", "-c", asked)
    assert str(own) in told and "baseline" in told, told


def test_the_wheel_carries_plugins_examples_and_the_marker_of_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    plugins = {f"lmapps/bundled/plugins/{file.name}" for file in (ROOT / "plugins").glob("*.py")}
    examples = {
        f"lmapps/bundled/examples/{file.name}" for file in (ROOT / "docs/examples").glob("*.py")
    }
    assert plugins | examples | {"lmapps/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests", "docs", "plugins"))]


def test_installed_from_the_wheel_the_plugins_are_found_from_any_folder(
    environment: Path, tmp_path: Path
) -> None:
    listed = run(environment, tmp_path, "lmapps", "plugins")
    assert {"chat", "code", "news", "summarize"} <= set(re.findall(r"^(\w+) ", listed, re.M))
    assert str(environment) in listed and str(ROOT / "lmapps") not in listed
    written = run(environment, tmp_path, "lmapps", "plugins", "new", "verse", "--like", "haiku")
    assert "wrote" in written
    assert "verse" in run(environment, tmp_path, "lmapps", "plugins")


def test_a_plugin_published_as_a_package_is_found_once_it_is_installed(
    environment: Path, tmp_path: Path
) -> None:
    """The package of the tutorial, as it stands there."""
    package = tmp_path / "package"
    package.mkdir()
    (settings,) = re.findall(r"```toml\n(\[build-system\].*?)```", DOCS, re.S)
    (package / "pyproject.toml").write_text(settings)
    (package / "lmapps_haiku.py").write_text((ROOT / "docs/examples/haiku.py").read_text())
    install(environment, package)
    listed = run(environment, tmp_path, "lmapps", "plugins")
    assert "package entry point haiku (lmapps_haiku:haiku)" in listed
    assert "not loaded" not in listed
