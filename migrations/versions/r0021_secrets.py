"""Secrets of projects for other services: tokens of hubs, keys of object stores."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import UTC

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "secrets",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("created_at", UTC, nullable=False),
        sa.Column("updated_at", UTC, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("scope", sa.String(length=256), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_secrets")),
        sa.UniqueConstraint("project", "name", name=op.f("uq_secrets_project")),
        sa.UniqueConstraint("project", "kind", "scope", name="uq_secrets_project_kind_scope"),
    )
    op.create_index("ix_secrets_project_created", "secrets", ["project", "created_at", "id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_secrets_project_created", table_name="secrets")
    op.drop_table("secrets")
