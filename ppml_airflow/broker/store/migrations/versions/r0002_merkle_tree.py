"""The log becomes a Merkle tree over the same entries, and recoveries are kept. The old chain's roots are dropped.

Passports of runs that were closed before stay as they are: they are proved by the chain, and only the release that
made them verifies them.
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

from ppml_airflow import merkle

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the tables of the tree and fill them from the entries."""
    nodes = op.create_table(
        "log_node",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "recovery",
        sa.Column("epoch", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("digest", sa.String, nullable=False),
    )
    op.rename_table("log", "chain")
    op.drop_index("ix_log_run_id", "chain")
    entries = op.create_table(
        "log",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("run_id", sa.String),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("body", sa.String, nullable=False),
        sa.Column("entry", sa.LargeBinary, nullable=False),
    )
    _fill(entries, nodes)
    op.drop_table("chain")
    for column in ("run_id", "kind", "body"):
        op.create_index(f"ix_log_{column}", "log", [column])


def _fill(entries: sa.Table, nodes: sa.Table) -> None:
    connection = op.get_bind()
    chain = sa.table("chain", sa.column("position"), sa.column("run_id"), sa.column("entry", sa.LargeBinary))
    peaks: list[bytes] = []
    for row in connection.execute(sa.select(chain).order_by(chain.c.position)).all():
        said = json.loads(row.entry)
        completed = merkle.grow(peaks, size=row.position, leaf=merkle.leaf_hash(bytes(row.entry)))
        connection.execute(
            sa.insert(entries).values(
                position=row.position, run_id=row.run_id, kind=said["kind"], body=said["body"], entry=row.entry
            )
        )
        connection.execute(sa.insert(nodes), [{"id": node, "hash": value} for node, value in completed.items()])
