"""The manifests name what is there: settings, commands, ports, columns. `make check` holds them against the schemas."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import text
from typer.testing import CliRunner

from app.cli.commands import make_app
from app.db import Database
from app.settings import Settings

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
ROOT = KUBERNETES.parents[1]


def resources() -> list[dict[str, Any]]:
    return [each for path in sorted(KUBERNETES.rglob("*.yaml")) for each in yaml.safe_load_all(path.read_text("utf-8"))]


def pods() -> Iterator[dict[str, Any]]:
    for resource in resources():
        spec = resource.get("spec", {})
        template = spec.get("template") or spec.get("jobTargetRef", {}).get("template")
        if template:
            yield template


def test_the_kustomization_lists_every_file() -> None:
    """What is in a folder of its own is chosen by hand."""
    listed = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text("utf-8"))["resources"]
    assert {*listed, "kustomization.yaml"} == {path.name for path in KUBERNETES.glob("*.yaml")}


def test_settings_are_settings() -> None:
    """A variable that the service does not know would be ignored in silence."""
    known = {f"PERMAFROST_{name.upper()}" for name in Settings.model_fields}
    (values,) = (each["data"] for each in resources() if each["kind"] == "ConfigMap")
    own = {entry["name"] for pod in pods() for each in pod["spec"]["containers"] for entry in each.get("env", [])}
    assert {*values, *own} - known == set()
    Settings(**{name.removeprefix("PERMAFROST_").lower(): value for name, value in values.items()})


def test_commands_and_options_exist() -> None:
    """`permafrost ARGS…`, the entry point of both images."""
    for pod in pods():
        (container,) = pod["spec"]["containers"]
        name, *options = container["args"]
        done = CliRunner().invoke(make_app(), [name, *options, "--help"])
        assert done.exit_code == 0, done.output


def test_pods_are_confined() -> None:
    """No root, no new rights, a file system that stays as it is, no token of the cluster; the images' own user."""
    assert "--uid 10001" in (ROOT / "Dockerfile").read_text("utf-8")
    count = 0
    for pod in pods():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] == 10001
        assert spec["automountServiceAccountToken"] is False
        assert pod["metadata"]["labels"]["permafrost/uses"] == "database"  # the network policies' selector
        for container in spec["containers"]:
            confined = container["securityContext"]
            assert confined["readOnlyRootFilesystem"] and not confined["allowPrivilegeEscalation"]
            assert confined["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            mounted = {each["name"] for each in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in spec["volumes"]}
            count += 1
    assert count == 4


def test_workers_have_time_to_save_their_state() -> None:
    """More than a trainer's own time after SIGTERM, which the evidence follows."""
    workers = [pod["spec"] for pod in pods() if pod["spec"]["containers"][0]["args"][0] == "worker"]
    assert len(workers) == 2
    assert all(spec["terminationGracePeriodSeconds"] > 2 * Settings().grace_seconds for spec in workers)


def test_the_autoscalers_query_counts_waiting_jobs(db: Database) -> None:
    """On the tables of this version."""
    (scaled,) = (each for each in resources() if each["kind"] == "ScaledJob")
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    with db.read() as session:
        assert session.scalar(text(query)) == 0
