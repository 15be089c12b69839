"""`/healthz`, `/readyz` and `/metrics`: what they say with a database, and without one."""

from pathlib import Path

from fastapi import FastAPI
from sqlalchemy import text
from starlette.testclient import TestClient

from app.main import create_app
from app.ops.health import database_problem
from app.settings import Settings
from migrations.upgrade import head, upgrade
from tests.app.conftest import AFFINE, rows, upload_to


def test_a_database_without_tables_is_not_ready(tmp_path: Path) -> None:
    """503, with the command that would help; the process is alive all the same."""
    application = create_app(Settings(data_dir=tmp_path / "data"))
    with TestClient(application) as client:
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "unready")
        assert "permafrost migrate" in answer.json()["problems"]["database"]
        assert client.get("/healthz").json() == {"status": "ok"}


def test_tables_of_another_version_are_named(tmp_path: Path) -> None:
    """Both versions, and the command that would help."""
    settings = Settings(data_dir=tmp_path / "data")
    upgrade(settings.database)
    application = create_app(settings)
    db = application.state.backends.database
    assert database_problem(db) is None
    with db.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    problem = database_problem(db)
    assert problem is not None and "0001" in problem and head() in problem and "permafrost migrate" in problem
    db.close()


def test_metrics_count_jobs_of_the_whole_service(api: TestClient, application: FastAPI) -> None:
    """From the database, on each of the two."""
    file = upload_to(api)(rows())
    assert api.post("fine_tuning/jobs", json={"model": AFFINE, "training_file": file}).status_code == 200
    metrics = api.get("http://testserver/metrics").text
    assert 'permafrost_jobs{status="queued"} 1.0' in metrics
    gangs = ("gangs_formed", "gang_forming_seconds", "gang_members_lost")
    for name in (*gangs, "attempts", "crashes", "oldest_queued_seconds", "lease_overdue_seconds", "disk_free_bytes"):
        assert f"\npermafrost_{name} " in metrics, name
