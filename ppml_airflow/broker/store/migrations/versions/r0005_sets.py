"""Sets: members wait for each other, and have their leases together."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the tables; attempts from before are of no set."""
    op.add_column("attempt", sa.Column("set_id", sa.String))
    op.add_column("attempt", sa.Column("member", sa.Integer))
    op.create_index("ix_attempt_set_id", "attempt", ["set_id"])
    op.create_table(
        "member_set",
        sa.Column("set_id", sa.String, primary_key=True),
        sa.Column("run_id", sa.String, nullable=False, index=True),
        sa.Column("step", sa.String, nullable=False),
        sa.Column("attempt", sa.Integer),
        sa.Column("secret", sa.LargeBinary),
    )
    op.create_table(
        "waiting_member",
        sa.Column("set_id", sa.String, primary_key=True),
        sa.Column("member", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("session_id", sa.String, nullable=False),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("seen", sa.String, nullable=False),
    )
