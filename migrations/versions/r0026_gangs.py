"""Gangs: jobs on several machines, the workers that run one together, and checkpoints that travel between them."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import UTC

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.add_column(sa.Column("machines", sa.Integer(), server_default="1", nullable=False))
    with op.batch_alter_table("workers") as batch_op:
        batch_op.add_column(sa.Column("gang_address", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("code", sa.String(length=64), nullable=True))
    with op.batch_alter_table("models") as batch_op:
        batch_op.add_column(sa.Column("state", sa.JSON(), nullable=True))
    op.create_table(
        "gang_members",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(length=128), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(length=256), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("lease_until", UTC, nullable=False),
        sa.Column("plan", sa.JSON(), nullable=True),
        sa.Column("outcome", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_gang_members_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "attempt", "rank", name=op.f("pk_gang_members")),
    )
    op.create_index("ix_gang_members_worker", "gang_members", ["worker"])


def downgrade() -> None:
    op.drop_index("ix_gang_members_worker", table_name="gang_members")
    op.drop_table("gang_members")
    with op.batch_alter_table("models") as batch_op:
        batch_op.drop_column("state")
    with op.batch_alter_table("workers") as batch_op:
        batch_op.drop_column("code")
        batch_op.drop_column("gang_address")
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.drop_column("machines")
