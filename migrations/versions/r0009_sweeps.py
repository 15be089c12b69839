"""Sweeps, which sweep a job belongs to, and by which rule the sweep may stop it."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import UTC

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

OF_SWEEP = sa.text("sweep_id IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "sweeps",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("created_at", UTC, nullable=False),
        sa.Column("cancelled_at", UTC, nullable=True),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("task", sa.String(length=40), nullable=False),
        sa.Column("training_file", sa.String(length=64), nullable=False),
        sa.Column("validation_file", sa.String(length=64), nullable=True),
        sa.Column("metadata", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("variations", sa.JSON(), nullable=False),
        sa.Column("metric", sa.JSON(), nullable=False),
        sa.Column("early_stopping", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("warnings", sa.JSON(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("idempotency_key", sa.String(length=255), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweeps")),
        sa.UniqueConstraint("project", "idempotency_key", name=op.f("uq_sweeps_project")),
    )
    op.create_index("ix_sweeps_project_created", "sweeps", ["project", "created_at", "id"])
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.add_column(sa.Column("sweep_id", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("early_stopping", sa.JSON(none_as_null=True), nullable=True))
    op.create_index(
        "ix_jobs_sweep",
        "jobs",
        ["sweep_id", "created_at", "id"],
        postgresql_where=OF_SWEEP,
        sqlite_where=OF_SWEEP,
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_sweep", table_name="jobs")
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.drop_column("early_stopping")
        batch_op.drop_column("sweep_id")
    op.drop_table("sweeps")
