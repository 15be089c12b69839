"""The fair queue: the order of jobs inside their project, and what each project uses of the devices."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import UTC

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

#: As text: with the states as parameters no database would see that the partial index covers the query.
WAITING = sa.text("status IN ('queued', 'validating_files')")
#: An hour for each point of priority. Fractions of a second stay as they are: SQLite's own functions have milliseconds.
QUEUE_TIME = {
    "postgresql": "created_at - priority * interval '1 hour'",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%S', created_at, (-3600 * priority) || ' seconds') || substr(created_at, 20)",
}


def upgrade() -> None:
    # Jobs that an API of an earlier version submits from now on get the default.
    default = "1970-01-01 00:00:00.000000"
    op.add_column("jobs", sa.Column("queue_time", UTC, server_default=default, nullable=False))
    ended = "('succeeded', 'failed', 'cancelled')"
    op.execute(f"UPDATE jobs SET queue_time = {QUEUE_TIME[op.get_context().dialect.name]} WHERE status NOT IN {ended}")
    op.create_index(
        "ix_jobs_queue", "jobs", ["project", "queue_time", "id"], postgresql_where=WAITING, sqlite_where=WAITING
    )
    op.drop_index("ix_jobs_waiting", table_name="jobs")

    op.create_table(
        "project_usage",
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("running", sa.Integer(), nullable=False),
        sa.Column("smoothed", sa.Double(), nullable=False),
        sa.Column("at", UTC, nullable=False),
        sa.PrimaryKeyConstraint("project", name=op.f("pk_project_usage")),
    )
    moment = {"postgresql": "clock_timestamp()", "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now')"}
    op.execute(
        "INSERT INTO project_usage (project, running, smoothed, at) "
        f"SELECT project, sum(devices), 0.0, {moment[op.get_context().dialect.name]} FROM jobs "
        "WHERE lease_until IS NOT NULL AND status IN ('running', 'pausing') GROUP BY project"
    )


def downgrade() -> None:
    op.drop_table("project_usage")
    op.create_index(
        "ix_jobs_waiting",
        "jobs",
        ["urgency", "created_at", "id"],
        postgresql_where=WAITING,
        sqlite_where=WAITING,
    )
    op.drop_index("ix_jobs_queue", table_name="jobs")
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.drop_column("queue_time")
