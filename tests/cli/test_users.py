"""Who the parties of a home are, and that root gives each only what is its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ppml_airflow.cli.agents import write_agent_files
from ppml_airflow.cli.home import Home, write_private
from ppml_airflow.cli.owner import Owner
from ppml_airflow.cli.users import VARIABLE, as_party, describe, hand_over, sources_file, users_of
from ppml_airflow.confinement import can_confine
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.users import Users

as_root = pytest.mark.skipif(not can_confine(), reason="users of their own need root with CAP_SYS_ADMIN")


@pytest.fixture
def users(home: Home, owner: Owner) -> Users:
    hand_over(home)
    found = users_of(home)
    assert found is not None
    return found


@as_root
def test_each_party_has_its_own_and_the_owner_has_the_keys(home: Home, users: Users) -> None:
    airflow, owners_agent = users.of("airflow"), users.of("owner-agent")
    wanted = {
        home.path: (0, 0, 0o711),
        home.owner: (0, 0, 0o700),
        home.broker: (users.of("broker"), users.of("broker"), 0o700),
        home.broker / "passphrase": (users.of("broker"), users.of("broker"), 0o600),
        home.airflow: (airflow, airflow, 0o700),
        home.passports: (airflow, airflow, 0o700),
        home.dags: (0, airflow, 0o750),
        home.storage: (0, users.storage_group, 0o2770),
        home.agent("owner"): (0, owners_agent, 0o750),
        home.agent("owner") / "producer.pem": (0, owners_agent, 0o640),
        home.agent("owner") / "state": (owners_agent, owners_agent, 0o700),
        home.tee / "pck.key": (0, 0, 0o600),
    }
    found = {path: path.stat() for path in wanted}
    assert {path: (one.st_uid, one.st_gid, one.st_mode & 0o7777) for path, one in found.items()} == wanted


@as_root
def test_what_is_written_for_a_party_later_is_its_own_at_once(home: Home, users: Users) -> None:
    write_private(home.broker / "tokens.json", b"{}")
    write_private(home.broker / "dataset-keys" / "x.wrapped", b"")
    for path in (home.broker / "tokens.json", home.broker / "dataset-keys", home.broker / "dataset-keys" / "x.wrapped"):
        assert path.stat().st_uid == users.of("broker")


@as_root
def test_root_gives_nothing_through_a_link_and_nothing_that_is_not_its_own(home: Home, users: Users) -> None:
    secret, other = home.owner / "root.pem", home.path / "other"
    other.write_text("another user's")
    os.chown(other, 65534, 65534)
    (home.airflow / "soft").symlink_to(secret)
    (home.airflow / "folder").symlink_to(home.owner)
    os.link(secret, home.airflow / "hard")
    os.link(other, home.airflow / "other")
    hand_over(home)
    assert secret.stat().st_uid == 0
    assert home.owner.stat().st_uid == 0
    assert other.stat().st_uid == 65534
    assert secret.stat().st_mode & 0o777 == 0o600


@as_root
def test_root_writes_into_no_folder_that_a_party_has_made_a_link(home: Home, users: Users) -> None:
    (home.airflow / "logs").symlink_to(home.owner)
    with pytest.raises(ConfigurationError, match="not a folder of this user's"):
        write_private(home.airflow / "logs" / "root.pem", b"other")


@as_root
def test_a_source_that_only_root_may_read_is_named_before_anything_starts(
    home: Home, users: Users, tmp_path: Path
) -> None:
    source = tmp_path / "visits.csv"
    source.write_text("a\n1\n")
    source.chmod(0o600)
    with pytest.raises(ConfigurationError, match=f"{source} is closed to the user of the owner agent") as refused:
        write_agent_files(home, broker="unix:/b", pipeline="p", sources={"visits": source}, sinks={})
    assert VARIABLE in str(refused.value.hint)
    source.chmod(0o644)
    write_agent_files(home, broker="unix:/b", pipeline="p", sources={"visits": source}, sinks={})
    assert sources_file(home, "owner-agent").read_text() == f"{source}\n"


@as_root
def test_people_are_told_who_is_who(home: Home, users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"airflow {users.of('airflow')}" in describe(home)
    monkeypatch.setenv(VARIABLE, "shared")
    assert describe(home) == "one user for all parties (PPML_USERS=shared): nothing here is kept from that user"


def test_shared_users_change_no_command_and_no_folder(
    home: Home, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "shared")
    before = home.path.stat().st_mode
    hand_over(home)
    assert home.path.stat().st_mode == before
    assert as_party(home, "airflow", ["/bin/true"]) == ("/bin/true",)


def test_another_word_than_own_or_shared_is_refused(home: Home, owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "each")
    with pytest.raises(ConfigurationError, match="'each'; wanted own or shared"):
        users_of(home)
