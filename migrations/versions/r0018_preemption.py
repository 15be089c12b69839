"""Preemption: the job for which a running one is to make room, how often it did, and where its attempt began."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.add_column(sa.Column("attempt_step", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("preempted_for", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("preemptions", sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.drop_column("preemptions")
        batch_op.drop_column("preempted_for")
        batch_op.drop_column("attempt_step")
