"""The broker's tables. They use nothing that one of SQLite and PostgreSQL lacks; a change comes with a migration.

Rows hold signed documents as they came; their signatures are verified at every use, so editing this database gives
nobody a key.
"""

from __future__ import annotations

import sqlalchemy as sa

SCHEMA = sa.MetaData()
EVERY_RUN = "*"
"""Stands for all runs in `changed`; no run is called so."""

document = sa.Table(
    "document",
    SCHEMA,
    sa.Column("digest", sa.String, primary_key=True),
    sa.Column("kind", sa.String, nullable=False, index=True),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
)
policy_in_force = sa.Table(
    "policy_in_force",
    SCHEMA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("digest", sa.String, nullable=False),
)
approval_in_force = sa.Table(
    "approval_in_force",
    SCHEMA,
    sa.Column("pipeline", sa.String, primary_key=True),
    sa.Column("digest", sa.String, nullable=False),
)
manifest = sa.Table(
    "manifest",
    SCHEMA,
    sa.Column("digest", sa.String, primary_key=True),
    sa.Column("dataset", sa.String, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("run_id", sa.String, index=True),
    sa.Column("lease_id", sa.String),
    sa.UniqueConstraint("dataset", "version"),
)
run = sa.Table(
    "run",
    SCHEMA,
    sa.Column("run_id", sa.String, primary_key=True),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("pipeline", sa.String, nullable=False),
    sa.Column("slot", sa.String, nullable=False),
    sa.Column("dag_id", sa.String, nullable=False),
    sa.Column("airflow_run_id", sa.String, nullable=False),
    sa.Column("opened", sa.String, nullable=False),
    sa.Column("counted", sa.Boolean, nullable=False, default=False),
    sa.Column("closed", sa.String),
    sa.UniqueConstraint("pipeline", "dag_id", "airflow_run_id"),
)
pinned = sa.Table(
    "pinned",
    SCHEMA,
    sa.Column("run_id", sa.String, primary_key=True),
    sa.Column("step", sa.String, primary_key=True),
    sa.Column("dataset", sa.String, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("manifest", sa.String, nullable=False),
)
pins = sa.Table(
    "pins",
    SCHEMA,
    sa.Column("run_id", sa.String, primary_key=True),
    sa.Column("step", sa.String, primary_key=True),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("job_digest", sa.String, nullable=False, unique=True),
)
session = sa.Table(
    "session",
    SCHEMA,
    sa.Column("session_id", sa.String, primary_key=True),
    sa.Column("nonce", sa.String, nullable=False, unique=True),
    sa.Column("salt", sa.LargeBinary, nullable=False),
    sa.Column("binding", sa.String),
    sa.Column("tee", sa.String, nullable=False),
    sa.Column("expires", sa.String, nullable=False, index=True),
    sa.Column("quote", sa.LargeBinary),
    sa.Column("tee_pubkey", sa.LargeBinary),
    sa.Column("spent", sa.Boolean, nullable=False, default=False),
    sa.Column("answer", sa.LargeBinary),
)
granted = sa.Table(
    "granted",
    SCHEMA,
    sa.Column("run_id", sa.String, primary_key=True),
    sa.Column("step", sa.String, primary_key=True),
    sa.Column("policy", sa.String, nullable=False),
    sa.Column("approval", sa.String, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("expires", sa.String, nullable=False),
)
attempt = sa.Table(
    "attempt",
    SCHEMA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("run_id", sa.String, nullable=False, index=True),
    sa.Column("step", sa.String, nullable=False),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("time", sa.String, nullable=False),
    sa.Column("evidence", sa.LargeBinary, nullable=False),
    sa.Column("outcome", sa.String, nullable=False),
    sa.Column("binding", sa.String, nullable=False, index=True),
    sa.Column("lease_id", sa.String, unique=True),
    sa.Column("lease", sa.String),
    sa.Column("expires", sa.String),
    sa.Column("signing_key", sa.LargeBinary),
    sa.Column("seen", sa.String, nullable=False),
    sa.Column("receipt", sa.String),
    sa.Column("set_id", sa.String, index=True),
    sa.Column("member", sa.Integer),
)
member_set = sa.Table(
    "member_set",
    SCHEMA,
    sa.Column("set_id", sa.String, primary_key=True),
    sa.Column("run_id", sa.String, nullable=False, index=True),
    sa.Column("step", sa.String, nullable=False),
    sa.Column("attempt", sa.Integer),
    sa.Column("secret", sa.LargeBinary),
)
"""A set by its id. `attempt` once it was whole and has its leases; `secret` wrapped by the KMS while that is open."""
waiting_member = sa.Table(
    "waiting_member",
    SCHEMA,
    sa.Column("set_id", sa.String, primary_key=True),
    sa.Column("member", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("session_id", sa.String, nullable=False),
    sa.Column("request", sa.LargeBinary, nullable=False),
    sa.Column("seen", sa.String, nullable=False),
)
"""Members whose evidence was accepted and who wait for the rest of their set."""
enclave_session = sa.Table(
    "enclave_session",
    SCHEMA,
    sa.Column("session_id", sa.String, primary_key=True),
    sa.Column("binding", sa.String, nullable=False, unique=True),
    sa.Column("approval", sa.String, nullable=False),
    sa.Column("step", sa.String, nullable=False),
    sa.Column("signing_key", sa.LargeBinary, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("expires", sa.String, nullable=False),
)
"""Long-lived enclaves that have attested as such. What has expired stays, so that it is never renewed."""
reservation = sa.Table(
    "reservation",
    SCHEMA,
    sa.Column("dataset", sa.String, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("lease_id", sa.String, nullable=False, index=True),
)
release_key = sa.Table(
    "release_key",
    SCHEMA,
    sa.Column("lease_id", sa.String, primary_key=True),
    sa.Column("dataset", sa.String, primary_key=True),
    sa.Column("wrapped", sa.LargeBinary, nullable=False),
)
denial = sa.Table(
    "denial",
    SCHEMA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("run_id", sa.String, index=True),
    sa.Column("step", sa.String),
    sa.Column("time", sa.String, nullable=False),
    sa.Column("code", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("hint", sa.String, nullable=False),
    sa.Column("after_attempt", sa.Integer, nullable=False),
)
release = sa.Table(
    "release",
    SCHEMA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("run_id", sa.String, nullable=False, index=True),
    sa.Column("dataset", sa.String, nullable=False),
    sa.Column("recipient", sa.String, nullable=False),
    sa.Column("time", sa.String, nullable=False),
)
collateral = sa.Table(
    "collateral",
    SCHEMA,
    sa.Column("digest", sa.String, primary_key=True),
    sa.Column("content", sa.LargeBinary, nullable=False),
)
seen_number = sa.Table(
    "seen_number",
    SCHEMA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
)
"""The highest numbers of collateral that verified here (`attestation.collateral.memory`)."""
revoked_manifest = sa.Table(
    "revoked_manifest",
    SCHEMA,
    sa.Column("manifest", sa.String, primary_key=True),
    sa.Column("revocation", sa.String, nullable=False),
)
"""Committed versions of datasets that were made with something that is revoked."""
passport = sa.Table(
    "passport",
    SCHEMA,
    sa.Column("run_id", sa.String, primary_key=True),
    sa.Column("closed", sa.LargeBinary, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
)
token_key = sa.Table(
    "token_key",
    SCHEMA,
    sa.Column("kid", sa.String, primary_key=True),
    sa.Column("created", sa.String, nullable=False),
    sa.Column("public", sa.LargeBinary, nullable=False),
    sa.Column("wrapped", sa.LargeBinary, nullable=False),
)
"""Keys that sign tokens: public half as a JWK, private half wrapped by the KMS."""
log = sa.Table(
    "log",
    SCHEMA,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("run_id", sa.String, index=True),
    sa.Column("kind", sa.String, nullable=False, index=True),
    sa.Column("body", sa.String, nullable=False, index=True),
    sa.Column("entry", sa.LargeBinary, nullable=False),
)
log_node = sa.Table(
    "log_node",
    SCHEMA,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
)
"""The hash of each complete subtree of the log, by its number (`merkle.node`)."""
recovery = sa.Table(
    "recovery",
    SCHEMA,
    sa.Column("epoch", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("digest", sa.String, nullable=False),
)
changed = sa.Table(
    "changed",
    SCHEMA,
    sa.Column("run_id", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, nullable=False, unique=True),
)
"""When the state of a run's steps last changed, in numbers that only grow."""
