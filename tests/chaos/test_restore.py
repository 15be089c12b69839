"""An older database beside newer files: what it does not know is put aside, nothing is deleted, and work goes on."""

import os
import subprocess
import sys

import psycopg
import pytest
from sqlalchemy import make_url

from tests.chaos.cluster import Cluster
from tests.chaos.runs import Gates, in_a_step, order
from tests.end_to_end.conftest import ROOT
from tests.servers import plain


@pytest.mark.fault(34)
def test_older_database_is_restored(cluster: Cluster, gates: Gates) -> None:
    """The doctor moves blobs and checkpoints of unknown jobs into quarantine; the next job runs as ever."""
    _stop(cluster)
    _sql(cluster, "CREATE DATABASE older TEMPLATE {}")
    _start(cluster)
    done = cluster.ended(cluster.submit(order(cluster, gates, suffix="later")))
    result = cluster.get(f"models/{done['fine_tuned_model']}")
    caught = in_a_step(cluster, gates)
    assert caught is not None
    cluster.post(f"fine_tuning/jobs/{caught.job_id}/pause")
    caught.go_on()
    cluster.until(caught.job_id, lambda job: job["status"] == "paused")

    _stop(cluster)
    _sql(cluster, "DROP DATABASE {} WITH (FORCE)", "ALTER DATABASE older RENAME TO {}")
    cluster.jobs.clear()
    said = _doctor(cluster)
    assert caught.job_id in said and result["id"], said
    work, blobs = cluster.settings.work, cluster.settings.home / "blobs"
    aside = list((work / "quarantine").glob(f"{caught.job_id}*/checkpoints/step-*/manifest.json"))
    assert aside, said
    assert not (work / caught.job_id).exists()
    assert any(path.is_file() for path in (blobs / "quarantine").rglob("*")), said

    _start(cluster)
    assert cluster.ended(cluster.submit(order(cluster, gates)))["status"] == "succeeded"


def _stop(cluster: Cluster) -> None:
    cluster.api.stop()
    for each in cluster.workers:
        cluster.retire(each)
    cluster.workers = []
    cluster.db.close()


def _start(cluster: Cluster) -> None:
    cluster.api = cluster.start_api()
    cluster.workers = [cluster.start_worker()]


def _sql(cluster: Cluster, *statements: str) -> None:
    url = make_url(cluster.postgres.url)
    with psycopg.connect(plain(cluster.postgres.url), dbname="template1", autocommit=True) as connection:
        for each in statements:
            connection.execute(each.format(f'"{url.database}"'))


def _doctor(cluster: Cluster) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PERMAFROST_")}
    command = [sys.executable, "-m", "app.cli.main", "doctor", "--repair", "--older-than", "0"]
    done = subprocess.run(
        command, cwd=ROOT, env=inherited | cluster.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
