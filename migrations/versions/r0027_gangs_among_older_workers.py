"""Gangs among workers of earlier versions, which do not find jobs on several machines any more; and counts of gangs."""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.add_column(sa.Column("gangs", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("forming_seconds", sa.Double(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("lost_members", sa.Integer(), server_default="0", nullable=False))
    op.execute("UPDATE jobs SET desired = 'gang' WHERE machines > 1 AND desired = 'run'")


def downgrade() -> None:
    op.execute("UPDATE jobs SET desired = 'run' WHERE desired = 'gang'")
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.drop_column("lost_members")
        batch_op.drop_column("forming_seconds")
        batch_op.drop_column("gangs")
