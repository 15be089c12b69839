"""Sessions of people are checked again with their provider, by a sealed refresh token."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import UTC

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("person_sessions") as batch_op:
        batch_op.add_column(sa.Column("refresh_token", sa.LargeBinary(), nullable=True))
        batch_op.add_column(sa.Column("checked_at", UTC, nullable=True))
        batch_op.add_column(sa.Column("check_at", UTC, nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("person_sessions") as batch_op:
        batch_op.drop_column("check_at")
        batch_op.drop_column("checked_at")
        batch_op.drop_column("refresh_token")
