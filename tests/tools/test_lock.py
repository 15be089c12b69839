"""The lock can be installed on every Python that the project admits."""

import tomllib
from importlib.metadata import metadata
from pathlib import Path

from packaging.specifiers import SpecifierSet

from tools.lock import pins, wanted

ROOT = Path(__file__).parents[2]


def test_every_locked_package_takes_the_oldest_python() -> None:
    """Debian 12 has 3.11.2: a package that wants a later 3.11 can be installed here, and not there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    oldest = project["requires-python"].removeprefix(">=") + ".0"
    names = [
        line.partition("==")[0] for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines() if "==" in line
    ]
    needs = {name: str(metadata(name).json.get("requires_python", "")) for name in names}
    assert {name: need for name, need in needs.items() if not SpecifierSet(need).contains(oldest)} == {}


def test_the_lock_is_what_is_installed() -> None:
    """As `make lock` would write it now."""
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == pins(wanted())
