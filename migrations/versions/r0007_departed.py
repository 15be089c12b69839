"""Where in their lists deleted objects stood."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import UTC

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "departed",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("created_at", UTC, nullable=False),
        sa.Column("left_at", UTC, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_departed")),
    )
    op.create_index("ix_departed_project_left", "departed", ["project", "left_at"])


def downgrade() -> None:
    op.drop_table("departed")
