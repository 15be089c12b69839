"""Timestamps over the signatures of statements, and when to ask for one that is missing."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import UTC

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("evidence") as batch_op:
        batch_op.add_column(sa.Column("timestamp", sa.LargeBinary(), nullable=True))
        batch_op.add_column(sa.Column("timestamp_due", UTC, nullable=True))
        batch_op.create_index("ix_evidence_timestamp_due", ["timestamp_due"])


def downgrade() -> None:
    with op.batch_alter_table("evidence") as batch_op:
        batch_op.drop_index("ix_evidence_timestamp_due")
        batch_op.drop_column("timestamp_due")
        batch_op.drop_column("timestamp")
