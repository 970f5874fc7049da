"""Runs migrations on the connection that `broker.store.upgrade` hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

from ppml_airflow.broker.store.tables import SCHEMA

context.configure(connection=context.config.attributes["connection"], target_metadata=SCHEMA)
context.run_migrations()
