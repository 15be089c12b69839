"""The transparency log: entries, its state, and which entry is about a job's statement."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import UTC

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "log_entries",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("created_at", UTC, nullable=False),
        sa.Column("leaf", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("entry", sa.LargeBinary(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_log_entries")),
    )
    op.create_index("ix_log_entries_leaf", "log_entries", ["leaf"], unique=True)
    op.create_index("ix_log_entries_position", "log_entries", ["position"], unique=True)
    op.create_index(op.f("ix_log_entries_subject"), "log_entries", ["subject"])
    op.create_table(
        "log_state",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("sequenced", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("checkpoint", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_log_state")),
    )
    with op.batch_alter_table("evidence") as batch_op:
        batch_op.add_column(sa.Column("log_leaf", sa.String(length=64), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("evidence") as batch_op:
        batch_op.drop_column("log_leaf")
    op.drop_table("log_state")
    op.drop_index(op.f("ix_log_entries_subject"), table_name="log_entries")
    op.drop_index("ix_log_entries_position", table_name="log_entries")
    op.drop_index("ix_log_entries_leaf", table_name="log_entries")
    op.drop_table("log_entries")
