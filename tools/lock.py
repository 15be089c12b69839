"""Prints requirements.lock: the exact versions, in this environment, of all that pyproject.toml asks for."""

import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def main() -> None:
    print("# Exact versions, for `pip install -c requirements.lock`; rewritten by `make lock`.")
    print("\n".join(pins(wanted())))


def wanted() -> list[Requirement]:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in project["dependencies"] + extras]


def pins(requirements: list[Requirement]) -> list[str]:
    """Follows requirements to their own; a build's local version (`+cpu`) is the machine's choice and left out."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = list(requirements)
    while todo:
        requirement = todo.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found = distribution(name)
        versions[name] = found.version.partition("+")[0]
        todo += [dependency for line in found.requires or [] if applies(dependency := Requirement(line), extras)]
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""})


if __name__ == "__main__":
    main()
