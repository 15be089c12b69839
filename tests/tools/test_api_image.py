"""What the API's image does without is nothing that the API imports."""

import json
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import api_image
from tools.lock import pins

ROOT = Path(__file__).parents[2]
#: What packages of the API use where it is there.
OPTIONAL: Final = {"greenlet", "psutil", "sniffio"}


@pytest.fixture(scope="module")
def files() -> dict[str, Path]:
    """Every module, of ours and of others, that importing the API's own and those for later brings."""
    code = (
        "import sys; before = {*sys.modules}\n"  # those of a *.pth, such as setuptools'
        "import json; from importlib import import_module; from tools.api_image import imported\n"
        "for name in imported(): import_module(name)\n"
        "modules = {n: m for n, m in sys.modules.items() if n not in before}\n"
        "found = {n: m.__file__ for n, m in modules.items() if getattr(m, '__file__', None)}\n"
        "json.dump(found, sys.stdout)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name: Path(file) for name, file in json.loads(run.stdout).items()}


def test_nothing_is_taken_out_that_is_imported(files: dict[str, Path]) -> None:
    """And our own modules are among what is imported."""
    packages = files["numpy"].parents[1]
    gone = {*api_image.unread(packages)}
    assert gone and "app.main" in files
    assert [str(file) for file in files.values() if gone & {file, *file.parents}] == []


def test_whatever_the_api_imports_is_installed_with_it(files: dict[str, Path]) -> None:
    """By what its packages require, not by chance: a worker has more, and so has this environment."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [Requirement(line) for line in project["dependencies"] + extras["s3"] + extras["otel"]]
    installed = {line.partition("==")[0] for line in pins(wanted)}
    owners = packages_distributions()
    brought = {name.partition(".")[0] for name in files} & owners.keys() - {*api_image.OWN}
    strangers = {name for name in brought if not installed & {canonicalize_name(owner) for owner in owners[name]}}
    assert strangers - OPTIONAL == set()


def test_what_nothing_reads_goes(tmp_path: Path) -> None:
    """With folders in folders, and services of AWS that are not used; the rest stays."""
    gone = [
        "numpy/tests/tests/test_one.py",
        "numpy/f2py/__init__.py",
        "numpy/_core/include/numpy/arrayobject.h",
        "one/_fast.pyx",
        "one/__init__.pyi",
        "botocore/data/ec2/2016-11-15/service-2.json.gz",
    ]
    stays = [
        "numpy/__init__.py",
        "numpy/testing/__init__.py",
        "one/testing/__init__.py",
        "botocore/data/endpoints.json",
        "botocore/data/s3/2006-03-01/service-2.json.gz",
        "botocore/data/sso-oidc/2019-06-10/service-2.json.gz",
    ]
    for name in gone + stays:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    api_image.remove(api_image.unread(tmp_path))
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*") if path.is_file()) == sorted(stays)


@pytest.mark.skipif(shutil.which("strip") is None, reason="no strip here (Debian's binutils)")
def test_a_stripped_library_loads(tmp_path: Path) -> None:
    """Ours are other people's builds: this one has symbols for debuggers."""
    import yaml

    (tmp_path / "yaml").mkdir()
    for file in Path(yaml.__file__).parent.glob("*.py"):
        shutil.copy(file, tmp_path / "yaml")
    (library,) = Path(yaml.__file__).parent.glob("_yaml*.so")
    copy = Path(shutil.copy(library, tmp_path / "yaml"))
    api_image.strip(tmp_path)
    assert copy.stat().st_size < library.stat().st_size / 2
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import yaml._yaml; print(yaml._yaml.__file__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(copy)


def test_libraries_that_were_edited_stay_as_they_are(tmp_path: Path) -> None:
    """Those of a wheel with libraries of its own: stripped, numpy's could not be loaded."""
    names = ["numpy.libs/libscipy_openblas64_-32a4b2a6.so", "numpy/_core/_simd.cpython-311-x86_64-linux-gnu.so"]
    others = ["_cffi_backend.cpython-311-x86_64-linux-gnu.so", "aiohttp/_websocket/reader_c.so", "one/libone.so.3"]
    for name in names + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "one" / "libone.so").symlink_to("libone.so.3")
    found = [str(path.relative_to(tmp_path)) for path in api_image.strippable(tmp_path)]
    assert sorted(found) == others


def test_bytecode_stays_of_what_is_imported(tmp_path: Path) -> None:
    """Directly or by another module; of the packages, not of a checkout; what was there of anything else goes."""
    packages, checkout = tmp_path / "packages", tmp_path / "checkout"
    files = {"one.py": "import two", "two.py": "", "three.py": "", "__pycache__/three.cpython-311.pyc": ""}
    for name, text in files.items():
        (packages / name).parent.mkdir(exist_ok=True, parents=True)
        (packages / name).write_text(text)
    shutil.copytree(packages, checkout)
    code = (
        f"import sys; sys.path[:0] = [{str(checkout)!r}, {str(ROOT)!r}]\n"
        "from pathlib import Path; from tools import api_image\n"
        f"api_image.keep_bytecode(Path({str(packages)!r}), ['one'])"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert sorted(path.name.partition(".")[0] for path in packages.glob("__pycache__/*")) == ["one", "two"]
