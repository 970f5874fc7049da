"""Token keys: they sign tokens about accepted evidence."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "token_key",
        sa.Column("kid", sa.String, primary_key=True),
        sa.Column("created", sa.String, nullable=False),
        sa.Column("public", sa.LargeBinary, nullable=False),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
    )
