"""Logs of trainers, and points of curves in the order in which they came."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import UTC

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.add_column(sa.Column("points_count", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("log_lines", sa.Integer(), server_default="0", nullable=False))
    with op.batch_alter_table("job_metrics") as batch_op:
        batch_op.add_column(sa.Column("seq", sa.Integer(), server_default="0", nullable=False))
    op.execute(_NUMBER_POINTS)
    op.execute(
        "UPDATE jobs SET points_count = (SELECT count(*) FROM job_metrics AS m WHERE m.job_id = jobs.id) "
        "WHERE id IN (SELECT job_id FROM job_metrics)"
    )
    op.create_index("ix_job_metrics_seq", "job_metrics", ["job_id", "seq"], unique=False)
    op.create_table(
        "job_logs",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("first", sa.Integer(), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("created_at", UTC, nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_logs_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "first", name=op.f("pk_job_logs")),
    )


def downgrade() -> None:
    op.drop_table("job_logs")
    op.drop_index("ix_job_metrics_seq", table_name="job_metrics")
    with op.batch_alter_table("job_metrics") as batch_op:
        batch_op.drop_column("seq")
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.drop_column("log_lines")
        batch_op.drop_column("points_count")


#: Points that are there already, in the order of their steps.
_NUMBER_POINTS = """
UPDATE job_metrics SET seq = numbered.seq
FROM (
    SELECT job_id, step, split, row_number() OVER (PARTITION BY job_id ORDER BY step, split) AS seq FROM job_metrics
) AS numbered
WHERE job_metrics.job_id = numbered.job_id AND job_metrics.step = numbered.step
  AND job_metrics.split = numbered.split
"""
