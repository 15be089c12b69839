"""What stays of a job that was deleted: the digest of its attestation."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import UTC

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "deleted_jobs",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("created_at", UTC, nullable=False),
        sa.Column("deleted_at", UTC, nullable=False),
        sa.Column("verdict", sa.String(length=12), nullable=True),
        sa.Column("base_root", sa.String(length=64), nullable=True),
        sa.Column("result_root", sa.String(length=64), nullable=True),
        sa.Column("attestation_sha256", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deleted_jobs")),
    )


def downgrade() -> None:
    op.drop_table("deleted_jobs")
