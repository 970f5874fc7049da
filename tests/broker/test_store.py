"""The store's schema and its upgrades, and what a database that does not answer looks like."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from ppml_airflow import canonical
from ppml_airflow.broker import store
from ppml_airflow.broker.service.recovery import recover, require_anchored
from ppml_airflow.broker.store import Store, upgrade
from ppml_airflow.errors import ConfigurationError, UnavailableError, VerificationError
from ppml_airflow.provenance.log import LogEntry
from tests.support.broker_world import Guest, World
from tests.support.rfc9162 import mth

OLD_LOG = """
CREATE TABLE chain (position INTEGER PRIMARY KEY, run_id VARCHAR, entry {bytes} NOT NULL, root VARCHAR NOT NULL);
INSERT INTO chain SELECT position, run_id, entry, 'sha256:00' FROM log;
DROP TABLE log;
DROP TABLE log_node;
DROP TABLE recovery;
DROP TABLE seen_number;
DROP TABLE alembic_version;
ALTER TABLE chain RENAME TO log;
DROP TABLE changed;
DROP TABLE enclave_session;
DROP TABLE member_set;
DROP TABLE waiting_member;
DROP TABLE revoked_manifest;
DROP TABLE token_key;
DROP INDEX ix_attempt_set_id;
ALTER TABLE attempt DROP COLUMN set_id;
ALTER TABLE attempt DROP COLUMN member;
CREATE INDEX ix_log_run_id ON log (run_id);
"""
"""Makes a store what the first release wrote: a log that is a hash chain, and no revision."""


def age(opened: Store) -> None:
    """Turn a store back to the first release's."""
    with opened.transaction() as connection:
        kind = "BYTEA" if connection.dialect.name == "postgresql" else "BLOB"
        for statement in OLD_LOG.format(bytes=kind).split(";")[:-1]:
            connection.exec_driver_sql(statement)


def differences(opened: Store) -> list[object]:
    with opened.transaction() as connection:
        return compare_metadata(MigrationContext.configure(connection), store.SCHEMA)


def test_migrations_make_the_tables_that_the_code_names(database: str) -> None:
    opened = Store.open(database)
    assert differences(opened) == []
    opened.close()


def test_the_newest_migration_is_the_one_that_starts_look_for() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(upgrade.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [upgrade.CURRENT]


def test_a_store_is_opened_again_as_it_was(database: str) -> None:
    for _ in range(2):
        opened = Store.open(database)
        with opened.transaction() as connection:
            connection.execute(sa.insert(store.recovery).values(epoch=_ + 1, digest="x"))
            assert connection.execute(sa.select(sa.func.count()).select_from(store.recovery)).scalar_one() == _ + 1
        opened.close()


def test_a_store_of_the_first_release_becomes_a_tree_over_the_same_entries(world: World) -> None:
    world.ready_run()
    with world.broker.decision() as ledger:
        before = list(ledger.connection.execute(sa.select(store.log).order_by(store.log.c.position)))
    age(world.broker.store)
    opened = Store.open(world.database)
    assert differences(opened) == []
    with opened.transaction() as connection:
        after = list(connection.execute(sa.select(store.log).order_by(store.log.c.position)))
        assert after == before
        assert len(after) > 9
    world.use(dataclasses.replace(world.broker, store=opened))
    with world.broker.decision() as ledger:
        assert ledger.log.head().log_root == "sha256:" + mth([bytes(row.entry) for row in before]).hex()
    opened.close()


def test_a_store_of_the_first_release_goes_on_after_it_is_recovered(world: World) -> None:
    """It has no anchor, so nobody knows that it is the newest."""
    world.publish("plans")
    age(world.broker.store)
    (world.folder / "anchor").unlink()
    world.use(dataclasses.replace(world.broker, store=Store.open(world.database)))
    with pytest.raises(ConfigurationError, match="there is no anchor"):
        require_anchored(world.broker)
    recover(world.broker)
    require_anchored(world.broker)
    run_id = world.ready_run()
    world.pass_gate(run_id)
    assert Guest(world, run_id=run_id).ask().lease is not None


def test_an_upgrade_that_fails_leaves_the_store_as_it_was(world: World) -> None:
    age(world.broker.store)
    with world.broker.store.transaction() as connection:
        connection.execute(sa.text("UPDATE log SET entry = :entry WHERE position = 3"), {"entry": b"{"})
    with pytest.raises(json.JSONDecodeError):
        Store.open(world.database)
    with world.broker.store.transaction() as connection:
        assert set(sa.inspect(connection).get_table_names()) >= {"log", "document"}
        assert not {"chain", "log_node", "alembic_version"} & set(sa.inspect(connection).get_table_names())


def test_a_store_of_a_later_release_is_refused(database: str) -> None:
    opened = Store.open(database)
    with opened.transaction() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigurationError, match=f"revision 9999, this release knows up to {upgrade.CURRENT}"):
        Store.open(database)
    opened.close()


def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE log (position INTEGER)")
    with pytest.raises(ConfigurationError, match="no broker's"):
        Store.open(str(tmp_path / "other.db"))


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("postgresql://broker:secret@host/db", "password in its address"),
        ("mysql://host/db", "database is mysql"),
        ("postgresql+asyncpg://host/db", r"postgresql\+asyncpg"),
        ("://", "no address"),
        ("/nowhere/at/all.db", "cannot be opened"),
    ],
)
def test_an_address_that_is_not_served_is_refused(address: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as refused:
        Store.open(address)
    assert "secret" not in str(refused.value)


def test_a_store_that_others_keep_is_unavailable(database: str) -> None:
    first, second = Store.open(database), Store.open(database, wait_s=1)
    with first.transaction(), pytest.raises(UnavailableError, match="store does not answer"), second.transaction():
        pass
    with second.transaction():
        pass
    first.close()
    second.close()


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="store does not answer"):
        Store.open(f"postgresql://nobody@/broker?host={tmp_path}")


def test_an_sqlite_file_is_its_owners_alone(tmp_path: Path) -> None:
    Store.open(str(tmp_path / "broker.db")).close()
    assert (tmp_path / "broker.db").stat().st_mode & 0o077 == 0


def test_entries_of_the_log_are_kept_as_they_were_hashed(world: World) -> None:
    world.publish("plans")
    with world.broker.decision() as ledger:
        for row in ledger.connection.execute(sa.select(store.log)):
            entry = canonical.decode(bytes(row.entry), into=LogEntry)
            assert (entry.index, entry.kind, entry.body, entry.run_id) == (row.position, row.kind, row.body, row.run_id)


def test_an_edited_document_is_refused_though_it_was_verified_before(world: World) -> None:
    """What was verified is remembered by its bytes, never by its digest."""
    run_id = world.ready_run()
    with world.broker.decision() as ledger:
        run = ledger.run(run_id)
        assert ledger.approval(run.approval).pipeline == "nightly"
        envelope = ledger.envelope(run.approval)
        other = msgspec.structs.replace(envelope.signatures[0], sig=bytes(64))
        edited = msgspec.structs.replace(envelope, signatures=(other,))
        values = {"envelope": canonical.encode(edited)}
        table = store.document
        ledger.connection.execute(sa.update(table).where(table.c.digest == run.approval).values(values))
    with pytest.raises(VerificationError, match="wrong signature"):
        world.pass_gate(run_id)
