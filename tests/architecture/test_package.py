"""What is installed is what is here: a wheel holds every file that the service reads while it runs."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("app", "worker", "migrations", "permafrost")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy: building leaves its own files beside the sources."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(output),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = output.glob("*.whl")
    return zipfile.ZipFile(file)


def test_every_file_of_the_packages_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    """Modules, templates, static assets and alembic's own files alike; notes for developers need not be."""
    files = {path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()}
    here = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts and path.suffix != ".md"}
    assert sorted(here - set(wheel.namelist())) == []


def test_the_wheel_brings_no_tests(wheel: zipfile.ZipFile) -> None:
    """Nothing under the name `tests` lands in anyone's site-packages."""
    assert not [name for name in wheel.namelist() if name.startswith(("tests/", "benchmarks/", "tools/", "demo/"))]


def test_the_wheel_brings_the_command_and_the_licence(wheel: zipfile.ZipFile) -> None:
    """`permafrost` is a command once installed, torch specs find our architectures, and the licence travels along."""
    (entries,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    text = wheel.read(entries).decode()
    assert "permafrost = app.cli.main:main" in text
    assert "affine = worker.trainer.models.architectures:Affine" in text
    assert [name for name in wheel.namelist() if name.endswith("licenses/LICENSE")]
