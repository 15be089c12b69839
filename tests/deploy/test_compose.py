"""The compose files name what is there: settings, commands, stages of the Dockerfile. `make check` has their schema."""

import re
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from app.cli.commands import make_app
from app.settings import Settings

ROOT = Path(__file__).parents[2]
FILES = [yaml.safe_load(path.read_text("utf-8")) for path in sorted(ROOT.glob("docker-compose*.yml"))]
(MAIN,) = (each for each in FILES if "name" in each)


def ours() -> dict[str, dict[str, Any]]:
    return {name: service for name, service in MAIN["services"].items() if "build" in service}


def test_settings_are_settings() -> None:
    """A variable that the service does not know would be ignored in silence."""
    known = {f"PERMAFROST_{name.upper()}" for name in Settings.model_fields}
    assert {name for service in ours().values() for name in service["environment"]} - known == set()


def test_commands_exist() -> None:
    """`permafrost COMMAND`, the entry point of both images."""
    for service in ours().values():
        for name in service.get("command", []):
            assert CliRunner().invoke(make_app(), [name, "--help"]).exit_code == 0, name


def test_images_are_stages_of_the_dockerfile() -> None:
    """Each service is built from the stage that its image is named for."""
    stages = set(re.findall(r"^FROM .* AS (\S+)$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE))
    for service in ours().values():
        target = service["build"]["target"]
        assert target in stages and service["image"] == f"permafrost-{target}"


def test_services_and_volumes_that_are_named_are_there() -> None:
    """Also those that another file adds to."""
    services, volumes = MAIN["services"], MAIN["volumes"]
    for file in FILES:
        assert file["services"].keys() <= services.keys()
    for service in services.values():
        assert set(service.get("depends_on", ())) <= services.keys()
        names = (volume.partition(":")[0] for volume in service.get("volumes", ()))
        assert {name for name in names if not name.startswith((".", "/"))} <= volumes.keys()


def test_a_worker_has_time_to_save() -> None:
    """The engine kills it later than the worker kills its trainer."""
    seconds = int(MAIN["services"]["worker"]["stop_grace_period"].removesuffix("s"))
    assert seconds >= 2 * Settings().grace_seconds
