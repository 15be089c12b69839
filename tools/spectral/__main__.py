"""Makes the documents, installs Spectral where the lock file is newer than what is installed, and lints."""

import filecmp
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from app.auth import api_keys
from app.db import Database
from app.main import create_app
from app.settings import Settings
from migrations.upgrade import upgrade

HERE = Path(__file__).parent
HOME = Path(sys.prefix) / "spectral"
NODE = Path(sys.prefix) / "bin"


def main() -> int:
    if not installed() and install() != 0:
        print("Spectral could not be installed: see npm's message above", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="permafrost-openapi-") as folder:
        files = [write(Path(folder) / f"openapi-auth-{auth}.json", auth) for auth in ("off", "required")]
        command = [str(HOME / "node_modules/.bin/spectral"), "lint", "--ruleset", str(HERE / ".spectral.yaml")]
        command += ["--fail-severity=warn", *map(str, files)]
        return subprocess.run(command, env=environment(), check=False).returncode


def installed() -> bool:
    lock = HOME / "package-lock.json"
    return lock.exists() and filecmp.cmp(lock, HERE / "package-lock.json", shallow=False)


def install() -> int:
    """Exactly the locked packages, running none of their scripts. The lock is copied last: half is not installed."""
    HOME.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOME) as folder:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, folder)
        command = [str(NODE / "npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        status = subprocess.run(command, cwd=folder, env=environment(), check=False).returncode
        if status == 0:
            shutil.rmtree(HOME / "node_modules", ignore_errors=True)
            (Path(folder) / "node_modules").rename(HOME / "node_modules")
            shutil.copy(HERE / "package-lock.json", HOME)
    return status


def environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{NODE}{os.pathsep}{os.environ.get('PATH', '')}"}


def write(path: Path, auth: str) -> Path:
    """The document as a service with `PERMAFROST_AUTH=auth` serves it."""
    path.write_text(json.dumps(document(auth)), encoding="utf-8")
    return path


def document(auth: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="permafrost-openapi-") as folder:
        settings = Settings.model_validate({"data_dir": folder, "auth": auth})
        upgrade(settings.database)
        db = Database(settings.database)
        with db.write() as session:  # a service that asks for keys does not start without one
            api_keys.make(session, project="default", role="admin", name="lint", expires_at=None)
        db.close()
        return create_app(settings).openapi()


if __name__ == "__main__":
    sys.exit(main())
