"""Revocations: which committed versions of datasets were made with something that is revoked."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "revoked_manifest",
        sa.Column("manifest", sa.String, primary_key=True),
        sa.Column("revocation", sa.String, nullable=False),
    )
