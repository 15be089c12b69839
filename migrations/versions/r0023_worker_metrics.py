"""Metrics of workers: the memory of their devices, and how often a job was taken over from one that was gone."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.add_column(sa.Column("takeovers", sa.Integer(), server_default="0", nullable=False))
    with op.batch_alter_table("workers") as batch_op:
        batch_op.add_column(sa.Column("memory", sa.JSON(), server_default="{}", nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("workers") as batch_op:
        batch_op.drop_column("memory")
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.drop_column("takeovers")
