"""Brings a database to this release's schema, in the transaction that opens it: upgraded whole, or left as it was.

Refuses a database of a later release, and one that is not a broker's. There is no way back: keep a backup.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ppml_airflow.errors import ConfigurationError

CURRENT = "0008"
"""The newest revision under `migrations/versions`."""

_FIRST = "0001"
_MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(connection: Connection) -> None:
    """Create or upgrade the tables.

    Raises:
        ConfigurationError: the database is of a later release, or holds something else.
    """
    found = _revision(connection)
    if found == CURRENT:
        return
    # Imported here: it takes longer than all the rest of the start, and is needed once.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        if found == _FIRST:
            command.stamp(config, _FIRST)
        command.upgrade(config, "head")
    except CommandError as error:
        raise ConfigurationError(
            f"database is of revision {found}, this release knows up to {CURRENT}",
            code="store_version",
            hint="start the release that wrote it, or a newer one",
        ) from error


def _revision(connection: Connection) -> str | None:
    """The revision of a database; None if it is empty. Those from before revisions were kept are the first."""
    inspector = sa.inspect(connection)
    tables = set(inspector.get_table_names())
    if "alembic_version" in tables:
        return str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one())
    if not tables:
        return None
    if "log" in tables and "root" in {column["name"] for column in inspector.get_columns("log")}:
        return _FIRST
    raise ConfigurationError("database holds tables that are no broker's", code="store_version")
