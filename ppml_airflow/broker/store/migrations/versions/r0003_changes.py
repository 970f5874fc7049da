"""When runs last changed: what a triggerer asks for once, instead of every gate for itself."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the table. A client that knows a number from before, none, starts from the first change."""
    op.create_table(
        "changed",
        sa.Column("run_id", sa.String, primary_key=True),
        sa.Column("number", sa.Integer, nullable=False, unique=True),
    )
