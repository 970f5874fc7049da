"""Both agents against the real broker over a real Unix socket, with a guest between them that attests and commits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn

from ppml_airflow.agent.agent import Agent
from ppml_airflow.agent.settings import load_settings
from ppml_airflow.agent.tasks import Outcome, Progress
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.errors import PolicyDeniedError
from ppml_airflow.keys.keystore import KeystoreFile
from ppml_airflow.protocol.listening import listening_socket
from ppml_airflow.protocol.messages import AgentTask, Commit
from tests.support.agent_home import DELIVER_REPORT, SEAL_VISITS, write_agent
from tests.support.broker_world import Guest, World
from tests.support.enclave_output import EnclaveOutput

MITTE = pa.table({"clinic": ["Mitte"], "cost": [17.75]})


@pytest.fixture
def world(tmp_path: Path, platform: SimulatedPlatform, keystore: KeystoreFile) -> World:
    return World(folder=tmp_path, platform=platform, keystore=keystore)


@pytest.fixture
def config(tmp_path: Path, world: World) -> Iterator[Path]:
    """The file of an agent whose broker is served while the test runs."""
    address = f"unix:{tmp_path}/broker.sock"
    with listening_socket(address) as sock:
        server = uvicorn.Server(uvicorn.Config(world.app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield write_agent(
            tmp_path / "agent", owners=world.owners, broker=address, seals=SEAL_VISITS, delivers=DELIVER_REPORT
        )
        server.should_exit = True
        thread.join()


def perform(config: Path, verb: str, name: str, run_id: str) -> Outcome:
    with Agent.start(load_settings(config)) as agent:
        task = AgentTask(verb=verb, name=name, run_id=run_id)  # type: ignore[arg-type]
        return agent.perform(task, Progress(threading.Event()))


def leased_guest(world: World, run_id: str) -> Guest:
    world.pass_gate(run_id)
    guest = Guest(world, run_id=run_id)
    guest.ask()
    return guest


def compute(guest: Guest, storage: Path) -> Commit:
    """Seal a real output under the guest's lease."""
    reserved = guest.lease.outputs[0]
    output = EnclaveOutput(
        owners=guest.world.owners,
        run_id=guest.lease.run_id,
        storage=storage,
        version=reserved.version,
        prev=reserved.prev,
        key=guest.key,
        release_key=guest.keys.release_keys["report"],
        lease_id=guest.lease.lease_id,
    )
    manifests = (output.seal(MITTE).envelope,)
    return Commit(receipt=guest.key.sign(guest.receipt(manifests)), manifests=manifests)


def test_one_night_from_source_to_sink(world: World, config: Path) -> None:
    world.publish("plans")
    run_id = world.open_run()
    assert world.status(run_id).waiting_for == "inputs: visits"
    sealed = perform(config, "seal", "visits", run_id).published
    assert perform(config, "seal", "visits", run_id).published == sealed
    guest = leased_guest(world, run_id)
    assert sealed.manifest in [pinned.manifest for pinned in guest.lease.inputs]
    guest.client.commit(compute(guest, config.parent / "storage"))
    delivered = perform(config, "deliver", "report", run_id)
    assert delivered.published.manifest == world.client.head("report").digest  # type: ignore[union-attr]
    assert pq.read_table(delivered.location).to_pydict() == MITTE.to_pydict()
    assert perform(config, "deliver", "report", run_id) == delivered


def test_output_is_not_opened_before_its_receipt_is_committed(world: World, config: Path) -> None:
    world.publish("plans")
    run_id = world.open_run()
    perform(config, "seal", "visits", run_id)
    guest = leased_guest(world, run_id)
    compute(guest, config.parent / "storage")
    with pytest.raises(PolicyDeniedError) as raised:
        perform(config, "deliver", "report", run_id)
    assert raised.value.code == "not_committed"
    assert not (config.parent / "opened").exists()


def test_closed_run_gets_no_sealed_version(world: World, config: Path) -> None:
    world.publish("plans")
    run_id = world.open_run()
    world.client.close_run(run_id)
    with pytest.raises(PolicyDeniedError) as raised:
        perform(config, "seal", "visits", run_id)
    assert raised.value.code == "run_closed"
    assert list((config.parent / "storage" / "visits").iterdir()) == []


def test_dataset_is_sealed_on_top_of_the_head(world: World, config: Path) -> None:
    world.publish("plans")
    head = world.publish("visits")
    published = perform(config, "seal", "visits", world.open_run()).published
    assert published.version == 2
    assert world.client.head("visits").digest == published.manifest != head.digest  # type: ignore[union-attr]
