"""The tables of the first release, whose log was a hash chain."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create them."""
    op.create_table(
        "document",
        sa.Column("digest", sa.String, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_document_kind", "document", ["kind"])
    op.create_table(
        "policy_in_force",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
    )
    op.create_table(
        "approval_in_force",
        sa.Column("pipeline", sa.String, primary_key=True),
        sa.Column("digest", sa.String, nullable=False),
    )
    op.create_table(
        "manifest",
        sa.Column("digest", sa.String, primary_key=True),
        sa.Column("dataset", sa.String, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("run_id", sa.String),
        sa.Column("lease_id", sa.String),
        sa.UniqueConstraint("dataset", "version"),
    )
    op.create_index("ix_manifest_run_id", "manifest", ["run_id"])
    op.create_table(
        "run",
        sa.Column("run_id", sa.String, primary_key=True),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("pipeline", sa.String, nullable=False),
        sa.Column("slot", sa.String, nullable=False),
        sa.Column("dag_id", sa.String, nullable=False),
        sa.Column("airflow_run_id", sa.String, nullable=False),
        sa.Column("opened", sa.String, nullable=False),
        sa.Column("counted", sa.Boolean, nullable=False),
        sa.Column("closed", sa.String),
        sa.UniqueConstraint("pipeline", "dag_id", "airflow_run_id"),
    )
    op.create_table(
        "pinned",
        sa.Column("run_id", sa.String, primary_key=True),
        sa.Column("step", sa.String, primary_key=True),
        sa.Column("dataset", sa.String, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("manifest", sa.String, nullable=False),
    )
    op.create_table(
        "pins",
        sa.Column("run_id", sa.String, primary_key=True),
        sa.Column("step", sa.String, primary_key=True),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("job_digest", sa.String, nullable=False, unique=True),
    )
    op.create_table(
        "session",
        sa.Column("session_id", sa.String, primary_key=True),
        sa.Column("nonce", sa.String, nullable=False, unique=True),
        sa.Column("salt", sa.LargeBinary, nullable=False),
        sa.Column("binding", sa.String),
        sa.Column("tee", sa.String, nullable=False),
        sa.Column("expires", sa.String, nullable=False),
        sa.Column("quote", sa.LargeBinary),
        sa.Column("tee_pubkey", sa.LargeBinary),
        sa.Column("spent", sa.Boolean, nullable=False),
        sa.Column("answer", sa.LargeBinary),
    )
    op.create_index("ix_session_expires", "session", ["expires"])
    op.create_table(
        "granted",
        sa.Column("run_id", sa.String, primary_key=True),
        sa.Column("step", sa.String, primary_key=True),
        sa.Column("policy", sa.String, nullable=False),
        sa.Column("approval", sa.String, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("expires", sa.String, nullable=False),
    )
    op.create_table(
        "attempt",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("step", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("time", sa.String, nullable=False),
        sa.Column("evidence", sa.LargeBinary, nullable=False),
        sa.Column("outcome", sa.String, nullable=False),
        sa.Column("binding", sa.String, nullable=False),
        sa.Column("lease_id", sa.String, unique=True),
        sa.Column("lease", sa.String),
        sa.Column("expires", sa.String),
        sa.Column("signing_key", sa.LargeBinary),
        sa.Column("seen", sa.String, nullable=False),
        sa.Column("receipt", sa.String),
    )
    op.create_index("ix_attempt_run_id", "attempt", ["run_id"])
    op.create_index("ix_attempt_binding", "attempt", ["binding"])
    op.create_table(
        "reservation",
        sa.Column("dataset", sa.String, primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("lease_id", sa.String, nullable=False),
    )
    op.create_index("ix_reservation_lease_id", "reservation", ["lease_id"])
    op.create_table(
        "release_key",
        sa.Column("lease_id", sa.String, primary_key=True),
        sa.Column("dataset", sa.String, primary_key=True),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "denial",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("run_id", sa.String),
        sa.Column("step", sa.String),
        sa.Column("time", sa.String, nullable=False),
        sa.Column("code", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("hint", sa.String, nullable=False),
        sa.Column("after_attempt", sa.Integer, nullable=False),
    )
    op.create_index("ix_denial_run_id", "denial", ["run_id"])
    op.create_table(
        "release",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("dataset", sa.String, nullable=False),
        sa.Column("recipient", sa.String, nullable=False),
        sa.Column("time", sa.String, nullable=False),
    )
    op.create_index("ix_release_run_id", "release", ["run_id"])
    op.create_table(
        "collateral",
        sa.Column("digest", sa.String, primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "passport",
        sa.Column("run_id", sa.String, primary_key=True),
        sa.Column("closed", sa.LargeBinary, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "log",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("run_id", sa.String),
        sa.Column("entry", sa.LargeBinary, nullable=False),
        sa.Column("root", sa.String, nullable=False),
    )
    op.create_index("ix_log_run_id", "log", ["run_id"])
