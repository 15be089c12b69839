"""The OpenSSF bundle beside a job's attestation; how tensors had changed at checkpoints."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("evidence") as batch_op:
        batch_op.add_column(sa.Column("model_sig", sa.LargeBinary(), nullable=True))
    with op.batch_alter_table("job_parameters") as batch_op:
        batch_op.add_column(sa.Column("history", sa.JSON(), server_default="[]", nullable=False))


def downgrade() -> None:
    with op.batch_alter_table("job_parameters") as batch_op:
        batch_op.drop_column("history")
    with op.batch_alter_table("evidence") as batch_op:
        batch_op.drop_column("model_sig")
