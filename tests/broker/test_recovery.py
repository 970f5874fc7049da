"""A store that was rolled back is noticed, the broker does not start from it, and recovering voids what was open."""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest
import yaml
from click.testing import CliRunner, Result

from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.broker.service.anchor import Anchor
from ppml_airflow.broker.service.recovery import describe, recover, require_anchored
from ppml_airflow.broker.store import Store
from ppml_airflow.cli.broker import broker as command
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, PpmlError, UnavailableError, VerificationError
from ppml_airflow.provenance.notes import SignedHead, verify_entry_proof, verify_head
from ppml_airflow.provenance.trust_bundle import make_trust_bundle
from ppml_airflow.provenance.verification import verify_passport
from ppml_airflow.signing import SigningKey
from tests.broker.test_process import write_home
from tests.support.broker_world import Guest, World

STORES = ("sqlite",)
"""The tests roll the database's file back."""


@contextmanager
def refused(error: type[PpmlError], code: str) -> Iterator[None]:
    with pytest.raises(error) as found:
        yield
    assert found.value.code == code


def back_up(world: World) -> Path:
    backup = world.folder / "backup.db"
    with closing(sqlite3.connect(world.folder / "broker.db")) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    return backup


def restart(world: World, *, database: Path | None = None) -> None:
    """Start anew, over another database if one is given."""
    world.broker.store.close()
    if database is not None:
        for name in ("broker.db-wal", "broker.db-shm"):
            (world.folder / name).unlink(missing_ok=True)
        shutil.copy(database, world.folder / "broker.db")
    anchor = Anchor(world.folder / "anchor", key=world.owners.broker)
    store = Store.file(world.folder / "broker.db")
    world.use(dataclasses.replace(world.broker, store=store, anchor=anchor))
    require_anchored(world.broker)


def anchored(world: World) -> tuple[int, int]:
    """Epoch and size."""
    signed = verify_head((world.folder / "anchor").read_text(), keys=[world.owners.broker.public])
    return signed.epoch, signed.head.log_size


def log_size(world: World) -> int:
    with world.broker.decision() as ledger:
        return ledger.log.size


def head_of(world: World) -> SignedHead:
    with world.broker.decision() as ledger:
        return world.broker.head_of(ledger)


# ---------------------------------------------------------------- the anchor


def test_whatever_was_answered_is_anchored(world: World) -> None:
    for act in (lambda: world.publish("plans"), lambda: world.open_run("a"), lambda: world.open_run("b")):
        before = anchored(world)
        act()
        assert anchored(world) == (0, log_size(world)) > before


def test_what_logs_nothing_leaves_the_anchor_alone(world: World) -> None:
    run_id = world.ready_run()
    before = (world.folder / "anchor").stat().st_mtime_ns
    world.status(run_id)
    assert (world.folder / "anchor").stat().st_mtime_ns == before


def test_a_store_ahead_of_the_anchor_starts_and_is_anchored(world: World) -> None:
    """A crash came between the commit and the anchor."""
    old = (world.folder / "anchor").read_bytes()
    world.publish("plans")
    (world.folder / "anchor").write_bytes(old)
    restart(world)
    assert anchored(world) == (0, log_size(world))


def test_a_store_that_was_rolled_back_is_refused(world: World) -> None:
    backup = back_up(world)
    world.publish("plans")
    with refused(VerificationError, "store_behind"):
        restart(world, database=backup)


def test_a_store_that_is_rolled_back_under_a_running_broker_is_refused(world: World) -> None:
    backup = back_up(world)
    world.publish("plans")
    world.broker.store.close()
    shutil.copy(backup, world.folder / "broker.db")
    with refused(VerificationError, "store_behind"):
        world.open_run("a")


def test_an_empty_store_under_an_anchor_is_refused(world: World) -> None:
    sqlite3.connect(world.folder / "empty.db").close()
    with refused(VerificationError, "store_behind"):
        restart(world, database=world.folder / "empty.db")


def test_a_store_that_was_rolled_back_and_has_grown_again_is_refused(world: World) -> None:
    backup, then = back_up(world), (world.folder / "anchor").read_bytes()
    world.publish("plans")
    now = (world.folder / "anchor").read_bytes()
    (world.folder / "anchor").write_bytes(then)
    restart(world, database=backup)
    world.publish("visits")
    world.publish("survey")
    (world.folder / "anchor").write_bytes(now)
    with refused(VerificationError, "store_forked"):
        restart(world)


def test_a_store_without_its_anchor_is_refused(world: World) -> None:
    (world.folder / "anchor").unlink()
    with refused(ConfigurationError, "anchor_missing"):
        restart(world)


def test_an_anchor_by_another_key_is_refused(world: World) -> None:
    Anchor(world.folder / "anchor", key=SigningKey.generate()).replace(head_of(world))
    with refused(VerificationError, "unknown_signer"):
        restart(world)


def test_an_anchor_of_another_domain_is_refused(world: World) -> None:
    head = msgspec.structs.replace(head_of(world), domain_id="sha256:" + "0" * 64)
    Anchor(world.folder / "anchor", key=world.owners.broker).replace(head)
    with refused(ConfigurationError, "other_domain"):
        restart(world)


def test_an_anchor_that_is_a_folder_is_refused(world: World) -> None:
    (world.folder / "anchor").unlink()
    (world.folder / "anchor").mkdir()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        restart(world)


def test_a_decision_that_cannot_be_anchored_is_not_answered_and_stands(world: World) -> None:
    world.publish("plans")
    good, folder = world.broker.anchor, world.folder / "gone"
    anchor = Anchor(folder / "anchor", key=world.owners.broker)
    world.use(dataclasses.replace(world.broker, anchor=anchor))
    with refused(UnavailableError, "anchor_failed"):
        world.open_run("a")
    world.use(dataclasses.replace(world.broker, anchor=good))
    size = log_size(world)
    world.open_run("a")
    assert log_size(world) == size


# ---------------------------------------------------------------- recovery


def test_recovery_is_refused_where_nothing_is_lost(world: World) -> None:
    assert describe(world.broker) == ""
    with refused(ConfigurationError, "not_behind"):
        recover(world.broker)


def test_recovery_voids_leases_gates_and_runs(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.ask()
    backup = back_up(world)
    world.publish("survey")
    with refused(VerificationError, "store_behind"):
        restart(world, database=backup)
    made = recover(world.broker)
    assert made is not None
    assert (made.epoch, made.found_size) == (1, made.anchored_size - 1)
    restart(world)
    guest.client = world.connect()
    with refused(PolicyDeniedError, "lease_fenced"):
        guest.commit()
    assert guest.client.lease_status(guest.lease.lease_id).state == "fenced"
    with refused(PolicyDeniedError, "epoch_passed"):
        Guest(world, run_id=run_id).ask()
    assert not world.status(run_id).granted
    assert anchored(world) == (1, log_size(world))


def test_after_recovery_new_runs_are_served(world: World, platform: SimulatedPlatform) -> None:
    backup = back_up(world)
    world.publish("plans")
    with refused(VerificationError, "store_behind"):
        restart(world, database=backup)
    recover(world.broker)
    restart(world)
    run_id = world.ready_run()
    world.pass_gate(run_id)
    for step in ("aggregate", "summarise"):
        guest = Guest(world, run_id=run_id, step=step)
        guest.ask()
        assert guest.commit().state == "committed"
    world.client.close_run(run_id)
    trust = make_trust_bundle(world.owners.domain, tee_roots=[platform.root])
    assert verify_passport(world.client.passport(run_id), trust=trust, now=world.now).outcome == "succeeded"


def test_a_recovered_log_does_not_pass_for_the_one_that_was_pinned(world: World, platform: SimulatedPlatform) -> None:
    world.publish("plans")
    backup = back_up(world)
    world.publish("survey")
    pinned = verify_head(world.client.checkpoint(), keys=[world.owners.broker.public]).head
    with refused(VerificationError, "store_behind"):
        restart(world, database=backup)
    recover(world.broker)
    restart(world)
    run_id = world.open_run()
    world.client.close_run(run_id)
    trust = make_trust_bundle(world.owners.domain, tee_roots=[platform.root], checkpoints=[pinned])
    passport = world.client.passport(run_id)
    size = verify_head(world.client.checkpoint(), keys=[world.owners.broker.public]).head.log_size - 1
    proof = world.client.log_consistency(pinned.log_size, size)
    with refused(VerificationError, "checkpoint"):
        verify_passport(passport, trust=trust, now=world.now, log_proofs=(proof,))


def test_another_instance_follows_a_recovery_without_raising_the_epoch_again(world: World) -> None:
    (world.folder / "anchor").unlink()
    recover(world.broker)
    other = world.folder / "other"
    Anchor(other, key=world.owners.broker).replace(msgspec.structs.replace(head_of(world), epoch=0))
    second = dataclasses.replace(world.broker, anchor=Anchor(other, key=world.owners.broker))
    with refused(VerificationError, "anchor_epoch"):
        require_anchored(second)
    assert recover(second) is None
    require_anchored(second)
    assert anchored(world) == (1, log_size(world))


def test_a_recovery_that_the_broker_did_not_sign_is_not_followed(world: World) -> None:
    (world.folder / "anchor").unlink()
    recover(world.broker)
    Anchor(world.folder / "anchor", key=world.owners.broker).replace(msgspec.structs.replace(head_of(world), epoch=0))
    with world.broker.store.transaction() as connection:
        connection.exec_driver_sql("UPDATE document SET envelope = replace(envelope, 'c', 'd') WHERE kind = 'recovery'")
    with pytest.raises(PpmlError):
        recover(world.broker)


def test_the_command_shows_what_is_lost_and_goes_on_only_when_told(tmp_path: Path, world: World) -> None:
    home = tmp_path / "home"
    home.mkdir()
    config = write_home(home, platform=world.platform, owners=world.owners)
    shutil.copy(back_up(world), home / "broker.db")
    shutil.copy(world.folder / "anchor", home / "anchor")
    assert "nothing to recover" in invoke("recover", "--config", str(config)).output
    world.publish("plans")
    shutil.copy(world.folder / "anchor", home / "anchor")
    found = invoke("recover", "--config", str(config))
    assert "trust: SIMULATED" in found.output
    assert "the last 1 are lost" in found.output
    assert isinstance(found.exception, VerificationError)
    assert "epoch: 1" in invoke("recover", "--config", str(config), "--accept").output
    assert "nothing to recover" in invoke("recover", "--config", str(config)).output
    assert yaml.safe_load(config.read_text())["anchor"] == "anchor"


def test_a_backup_is_the_store_as_it_was_and_its_owners_alone(tmp_path: Path, world: World) -> None:
    home = tmp_path / "home"
    home.mkdir()
    config = write_home(home, platform=world.platform, owners=world.owners)
    settings = yaml.safe_load(config.read_text()) | {"database": world.database}
    config.write_text(yaml.safe_dump(settings))
    world.publish("plans")
    backup, size = tmp_path / "backup.db", log_size(world)
    assert invoke("backup", str(backup), "--config", str(config)).output == f"backup: {backup}\n"
    assert backup.stat().st_mode & 0o077 == 0
    restart(world, database=backup)
    assert log_size(world) == size
    world.publish("survey")
    with refused(VerificationError, "store_behind"):
        restart(world, database=backup)
    assert isinstance(invoke("backup", str(backup), "--config", str(config)).exception, ConfigurationError)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


# ---------------------------------------------------------------- what the broker shows of its log


def test_a_receipt_is_proved_to_stand_in_the_log(world: World) -> None:
    run_id = world.ready_run()
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.ask()
    manifests = guest.manifests()
    receipt = guest.receipt(manifests)
    guest.hand_in(receipt, manifests=manifests)
    digest = guest.key.sign(receipt).digest
    entry, signed = verify_entry_proof(world.client.log_proof(digest), keys=[world.owners.broker.public])
    assert (entry.kind, entry.body, entry.run_id) == ("receipt", digest, run_id)
    assert signed.head.log_size == log_size(world)


def test_a_document_that_was_never_accepted_has_no_proof(world: World) -> None:
    with refused(ConfigurationError, "not_found"):
        world.client.log_proof("sha256:" + "0" * 64)


def test_a_longer_log_than_there_is_has_no_proof(world: World) -> None:
    for first, second in ((0, 10_000), (2, 1)):
        with refused(ConfigurationError, "log_size"):
            world.client.log_consistency(first, second)


def test_a_damaged_tree_is_said_to_be_damaged(world: World) -> None:
    with world.broker.store.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM log_node")
    with refused(ConfigurationError, "store_damaged"):
        world.open_run("a")
