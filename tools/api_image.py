"""`python -m tools.api_image FOLDER`: takes out of the API's image what nothing in it reads; run by the Dockerfile.

FOLDER has the installed packages, of the Python that runs this. Their libraries lose what only debuggers and linkers
read; of bytecode that stays which modules have that the API imports, at its start or later.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Final

#: Tests of packages; what is there to test against them or to build against them; types and sources for other tools.
UNREAD: Final = (
    "**/tests",
    "alembic/testing",
    "numpy/_core/include",
    "numpy/distutils",
    "numpy/f2py",
    "sqlalchemy/testing",
    *(f"**/*.{ending}" for ending in ("a", "c", "h", "pxd", "pyi", "pyx")),
)
#: The services of AWS that are used: objects, and ways to sign in.
SERVICES: Final = ("s3", "sts", "sso*")
#: Whose modules are imported, all of them.
OWN: Final = ("app", "permafrost", "migrations")
#: A script that only Alembic runs.
SCRIPT: Final = "migrations.env"
#: Modules that are imported when they are needed.
LATER: Final = (
    "alembic.command",
    "celery.loaders.app",
    "joserfc.jwt",
    "kombu.transport.filesystem",
    "kombu.transport.redis",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk.trace.export",
    "psycopg",
    "rich.table",
    "s3fs",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
)


def unread(packages: Path) -> Iterator[Path]:
    """Files and folders that nothing reads; those inside of others among them."""
    for pattern in UNREAD:
        yield from packages.glob(pattern)
    services = [path for path in packages.glob("botocore/data/*") if path.is_dir()]
    yield from (path for path in services if not any(path.match(name) for name in SERVICES))


def remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # it may have gone with its folder


def strip(packages: Path) -> None:
    """Leave in libraries what loading them needs."""
    subprocess.run(["strip", "--strip-unneeded", *map(str, sorted(strippable(packages)))], check=True)


def strippable(packages: Path) -> Iterator[Path]:
    """All but those of wheels that bring libraries along, in a folder `NAME.libs`: to find these, they were edited in a
    way that strip does not understand, and what it writes cannot be loaded.
    """
    edited = {path.name for path in packages.glob("*.libs")}
    edited |= {name.removesuffix(".libs") for name in edited}
    for pattern in ("*/**/*.so", "*/**/*.so.*", "*.so"):
        found = (path for path in packages.glob(pattern) if not path.is_symlink())
        yield from (path for path in found if path.relative_to(packages).parts[0] not in edited)


def imported(own: Iterable[str] = OWN, later: Iterable[str] = LATER) -> Iterator[str]:
    """The modules whose import imports all that the API does."""
    for name in own:
        yield name
        found = walk_packages(import_module(name).__path__, f"{name}.")
        yield from (each.name for each in found if each.name != SCRIPT and not each.name.endswith(".__main__"))
    yield from later


def keep_bytecode(packages: Path, modules: Iterable[str]) -> None:
    """Leave the bytecode of these modules and of what they import, of the packages and not of what else lies around."""
    remove(packages.glob("**/__pycache__"))
    sys.path.insert(0, str(packages))
    sys.dont_write_bytecode = False
    for name in modules:
        import_module(name)


def main() -> None:
    packages = Path(sys.argv[1])
    remove(unread(packages))
    strip(packages)
    keep_bytecode(packages, imported())


if __name__ == "__main__":
    main()
