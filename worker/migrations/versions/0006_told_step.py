"""Alerts: which step of an incident people were told of."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "paynotify_alert",
        sa.Column("told_step", sa.Integer(), server_default="0", nullable=False),
    )
    # What got worse before is not told a second time.
    op.execute("UPDATE paynotify_alert SET told_step = step")


def downgrade() -> None:
    op.drop_column("paynotify_alert", "told_step")
