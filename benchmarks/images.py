"""What the two images hold, without building them: the wheels of each as they are installed here, with their bytecode.

Debian's own part (Python, certificates, compilers of the worker) is not in it. Each wheel set is what the Dockerfile
installs beside the one before; torch is this machine's build.
"""

import tomllib
from collections.abc import Iterable, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from benchmarks.figure import Figure
from tools.lock import pins

ROOT: Final = Path(__file__).parents[1]
#: Megabytes that the API's image may have above its base.
LIMIT: Final = 250
#: The largest packages of each image that are named.
NAMED: Final = 5


def figures() -> Iterable[Figure]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    api = project["dependencies"]
    images = api + extras["s3"] + extras["otel"]
    own = sum(path.stat().st_size for path in (ROOT / "app").rglob("*") if path.is_file()) / 1e6

    yield Figure("api: wheels", megabytes(api), "MB")
    for name in ("s3", "otel"):
        yield Figure(
            f"api: wheels of the extra {name} beside them", megabytes(api + extras[name]) - megabytes(api), "MB"
        )
    yield Figure("api: own code, pages and guide", own, "MB")
    yield Figure(
        "api: all of these",
        megabytes(images) + own,
        "MB",
        f"the image leaves out a part (tools/api_image.py), and may have {LIMIT} with Debian's Python",
    )
    yield from largest("api", images)
    yield Figure("worker: all wheels", megabytes(images + extras["worker"]), "MB")
    yield from largest("worker", images + extras["worker"])


def largest(image: str, requirements: Sequence[str]) -> Iterable[Figure]:
    sizes = sorted(((size(name), name) for name in wheels(requirements)), reverse=True)
    for nbytes, name in sizes[:NAMED]:
        yield Figure(f"{image}: of which {name}", nbytes / 1e6, "MB")


def megabytes(requirements: Sequence[str]) -> float:
    return sum(size(name) for name in wheels(requirements)) / 1e6


def wheels(requirements: Sequence[str]) -> list[str]:
    """Names of everything that these requirements install."""
    return [pin.partition("==")[0] for pin in pins([Requirement(line) for line in requirements])]


def size(name: str) -> int:
    """Bytes of a package's files, with the bytecode that pip compiles."""
    paths = [Path(str(file.locate())) for file in distribution(name).files or ()]
    return sum(path.stat().st_size for path in paths if path.is_file())
