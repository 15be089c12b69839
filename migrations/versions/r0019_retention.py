"""Retention: jobs by the time of their end, and up to where events, logs and points are deleted."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import UTC

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_jobs_finished", "jobs", ["finished_at", "id"])
    op.create_table(
        "retention_places",
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("ended_at", UTC, nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("next_id", sa.String(length=64), nullable=True),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("kind", name=op.f("pk_retention_places")),
    )


def downgrade() -> None:
    op.drop_table("retention_places")
    op.drop_index("ix_jobs_finished", table_name="jobs")
