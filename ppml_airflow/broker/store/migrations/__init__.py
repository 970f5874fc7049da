"""Alembic's migrations of the broker's database; `broker.store.upgrade` runs them."""
