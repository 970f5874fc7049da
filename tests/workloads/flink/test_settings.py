"""What is fixed of a cluster before it starts: loopback, TLS, nobody's code, state in the private directory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

from ppml_airflow.domain.documents import Limits
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.workloads.flink import settings
from ppml_airflow.workloads.flink.tls import make_key_store

LIMITS = Limits(wall_s=60, memory_mib=2048, cores=3)


def chosen(
    approved: dict[str, str] | None = None, *, private: Path = Path("/private"), members: int = 1
) -> dict[str, str | int | bool]:
    return settings.flink_settings(
        private,
        limits=LIMITS,
        approved=approved or {},
        rpc_port=4711,
        python=Path("/env/bin/python"),
        members=members,
    )


def test_every_address_is_of_this_machine() -> None:
    addresses = {name: value for name, value in chosen().items() if re.search(r"address|host", name)}
    assert len(addresses) == 6
    assert set(addresses.values()) == {"127.0.0.1"}


def test_both_sides_speak_tls_with_certificates_and_nobody_submits() -> None:
    found = chosen()
    assert found["security.ssl.internal.enabled"] is True
    assert found["security.ssl.rest.enabled"] is True
    assert found["security.ssl.rest.authentication-enabled"] is True
    assert found["security.ssl.protocol"] == "TLSv1.3"
    assert found["web.submit.enable"] is False
    assert found["restart-strategy.type"] == "disable"


def test_every_folder_is_in_the_private_directory(tmp_path: Path) -> None:
    folders = {
        name: str(value).removeprefix("file://")
        for name, value in chosen(private=tmp_path).items()
        if isinstance(value, str) and ("/" in value and "python" not in name)
    }
    assert "execution.checkpointing.dir" in folders
    assert all(folder.startswith(str(tmp_path)) for folder in folders.values()), folders


def test_the_settings_are_yaml_and_hold_what_the_step_chose() -> None:
    text = settings.format_settings(chosen({"execution.checkpointing.interval": "1 s", "MINE": "x"}))
    read = yaml.safe_load(text)
    assert read["execution.checkpointing.interval"] == "1 s"
    assert read["parallelism.default"] == 3
    assert "MINE" not in read


def test_the_memory_of_both_machines_is_within_the_steps() -> None:
    read = {name: str(value) for name, value in chosen().items() if name.startswith("taskmanager.memory")}
    parts = [
        int(value.removesuffix("m")) for name, value in read.items() if not name.endswith((".max", "overhead.min"))
    ]
    assert sum(parts) + settings._OVERHEAD_MIB + settings._JOB_MANAGER_MIB == LIMITS.memory_mib


def test_too_little_memory_is_refused(tmp_path: Path) -> None:
    little = Limits(wall_s=60, memory_mib=1024, cores=1)
    with pytest.raises(ConfigurationError, match="Flink needs at least 1536"):
        settings.task_manager_options(tmp_path, limits=little, input_bytes=0)


@pytest.mark.parametrize("value", ["at", "at five", "at 5 6", "", "a b 5"])
def test_an_event_time_that_is_no_column_and_seconds_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationError, match="wanted the column and the seconds of an input: clicks"):
        settings.event_times({"event_time.clicks": value}, views=("clicks",))


def test_an_event_time_of_no_input_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"event_time\.plans"):
        settings.event_times({"event_time.plans": "at 5"}, views=("clicks",))


def test_a_set_has_a_slot_for_each_core_of_its_workers_and_saves_state_with_its_leader() -> None:
    found = chosen(members=3)
    assert (found["parallelism.default"], found["taskmanager.numberOfTaskSlots"]) == (6, 3)
    assert found["execution.checkpointing.storage"] == "jobmanager"
    assert not [name for name, value in found.items() if "checkpoints" in str(value)]


def test_the_key_store_is_new_for_each_job() -> None:
    keys = [load_pkcs12(store, password.encode()).key for store, password in (make_key_store(), make_key_store())]
    assert keys[0] is not None
    assert keys[1] is not None
    assert keys[0].public_key() != keys[1].public_key()
