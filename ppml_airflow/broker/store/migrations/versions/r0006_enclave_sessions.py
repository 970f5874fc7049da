"""Long-lived enclaves have a session that they renew."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "enclave_session",
        sa.Column("session_id", sa.String, primary_key=True),
        sa.Column("binding", sa.String, nullable=False, unique=True),
        sa.Column("approval", sa.String, nullable=False),
        sa.Column("step", sa.String, nullable=False),
        sa.Column("signing_key", sa.LargeBinary, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("expires", sa.String, nullable=False),
    )
