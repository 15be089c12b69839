"""Tags, retries, and the labels by which lists of jobs are read."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

from migrations.columns import UTC

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.add_column(sa.Column("tags", sa.JSON(), server_default="[]", nullable=False))
        batch_op.add_column(sa.Column("retries", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("urgency", sa.Integer(), server_default="0", nullable=False))
    op.execute("UPDATE jobs SET urgency = -priority WHERE priority <> 0")
    op.create_index("ix_jobs_project_status_created", "jobs", ["project", "status", "created_at", "id"], unique=False)
    op.create_index("ix_jobs_project_model_created", "jobs", ["project", "model", "created_at", "id"], unique=False)
    waiting = sa.text("status IN ('queued', 'validating_files')")
    op.create_index(
        "ix_jobs_waiting",
        "jobs",
        ["urgency", "created_at", "id"],
        unique=False,
        postgresql_where=waiting,
        sqlite_where=waiting,
    )
    leased = sa.text("lease_until IS NOT NULL")
    op.create_index(
        "ix_jobs_leased", "jobs", ["lease_until"], unique=False, postgresql_where=leased, sqlite_where=leased
    )
    op.drop_index("ix_jobs_status_created", table_name="jobs")
    op.create_table(
        "job_labels",
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(length=512), nullable=False),
        sa.Column("created_at", UTC, nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_labels_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("project", "name", "value", "created_at", "job_id", name=op.f("pk_job_labels")),
    )
    op.create_index("ix_job_labels_job_id", "job_labels", ["job_id"], unique=False)
    _label_what_is_there()


def downgrade() -> None:
    op.drop_table("job_labels")
    op.create_index("ix_jobs_status_created", "jobs", ["status", "created_at"], unique=False)
    op.drop_index("ix_jobs_leased", table_name="jobs")
    op.drop_index("ix_jobs_waiting", table_name="jobs")
    op.drop_index("ix_jobs_project_model_created", table_name="jobs")
    op.drop_index("ix_jobs_project_status_created", table_name="jobs")
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.drop_column("urgency")
        batch_op.drop_column("retries")
        batch_op.drop_column("tags")


def _label_what_is_there() -> None:
    """The metadata of jobs that are older than their labels."""
    connection = op.get_bind()
    found = connection.execute(
        sa.text("SELECT id, project, created_at, metadata FROM jobs WHERE metadata IS NOT NULL")
    ).all()
    insert = sa.text("INSERT INTO job_labels (project, name, value, created_at, job_id) VALUES (:p, :n, :v, :c, :j)")
    for job_id, project, created_at, stored in found:
        metadata: dict[str, Any] = (json.loads(stored) if isinstance(stored, str) else stored) or {}
        for name, value in metadata.items():
            connection.execute(insert, {"p": project, "n": name, "v": value, "c": created_at, "j": job_id})
