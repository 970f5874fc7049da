"""Delivering: from a genuine sealed output to the sink, and everything that somebody between could put in its place."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ppml_airflow import canonical
from ppml_airflow.agent.agent import Agent
from ppml_airflow.agent.settings import load_settings
from ppml_airflow.agent.tasks import Outcome, Progress
from ppml_airflow.errors import ConfigurationError, PolicyDeniedError, UnavailableError, VerificationError
from ppml_airflow.protocol.messages import AgentTask, ReleaseAnswer, ReleaseRequest
from ppml_airflow.sealing.datasets import open_released_key
from ppml_airflow.sealing.wrapping import SealingKey, hpke_seal, new_key, release_info
from ppml_airflow.signing import SigningKey
from tests.support.agent_home import DELIVER_REPORT, write_agent
from tests.support.enclave_output import EnclaveOutput
from tests.support.fake_broker import FakeBroker
from tests.support.owners import Owners

MITTE = pa.table({"clinic": ["Mitte"], "cost": [17.75]})
NORD = pa.table({"clinic": ["Nord"], "cost": [20.0]})


@pytest.fixture
def owners() -> Owners:
    return Owners("visits", "report", "salaries")


@pytest.fixture
def broker(owners: Owners) -> Iterator[FakeBroker]:
    with FakeBroker(owners) as broker:
        yield broker


@pytest.fixture
def folder(tmp_path: Path, owners: Owners, broker: FakeBroker) -> Path:
    write_agent(tmp_path / "agent", owners=owners, broker=broker.url, delivers=DELIVER_REPORT)
    return tmp_path / "agent"


@pytest.fixture
def output(folder: Path, owners: Owners, broker: FakeBroker) -> EnclaveOutput:
    """A committed output of two parts, released to whom asks."""
    output = EnclaveOutput(owners=owners, run_id=broker.open_run(), storage=folder / "storage")
    output.seal(MITTE, NORD)
    broker.releases[output.run_id, "report"] = output.answer
    return output


def deliver(folder: Path, run_id: str, *, stopping: bool = False) -> Outcome:
    event = threading.Event()
    if stopping:
        event.set()
    with Agent.start(load_settings(folder / "agent.yaml")) as agent:
        return agent.perform(AgentTask(verb="deliver", name="report", run_id=run_id), Progress(event))


def opened(folder: Path) -> list[str]:
    """What lies beside the sink, hidden files too."""
    place = folder / "opened"
    return sorted(path.name for path in place.iterdir()) if place.exists() else []


def scratch(folder: Path) -> list[Path]:
    return list((folder / "state" / "scratch").rglob("*"))


Change = Callable[[ReleaseAnswer], ReleaseAnswer]


def refuse(folder: Path, output: EnclaveOutput, broker: FakeBroker, change: Change) -> VerificationError:
    """Deliver once as it should be, then with a changed answer, which must leave the first result untouched."""
    deliver(folder, output.run_id)
    before = (folder / "opened" / "report.parquet").read_bytes()
    broker.releases[output.run_id, "report"] = lambda request: change(output.answer(request))
    with pytest.raises(VerificationError) as raised:
        deliver(folder, output.run_id)
    assert (folder / "opened" / "report.parquet").read_bytes() == before
    assert opened(folder) == ["report.parquet"]
    assert scratch(folder) == []
    return raised.value


# ---------------------------------------------------------------- as it should go


def test_output_is_opened_into_the_sink(folder: Path, output: EnclaveOutput) -> None:
    outcome = deliver(folder, output.run_id)
    assert outcome.published.manifest == output.sealed.digest
    assert outcome.location == str(folder / "opened" / "report.parquet")
    table = pq.read_table(folder / "opened" / "report.parquet")
    assert table.to_pydict() == {"clinic": ["Mitte", "Nord"], "cost": [17.75, 20.0]}
    assert scratch(folder) == []


def test_output_is_opened_into_csv(folder: Path, owners: Owners, broker: FakeBroker, output: EnclaveOutput) -> None:
    delivers = DELIVER_REPORT.replace(".parquet", ".csv")
    write_agent(folder, owners=owners, broker=broker.url, delivers=delivers)
    deliver(folder, output.run_id)
    assert (folder / "opened" / "report.csv").read_text() == '"clinic","cost"\n"Mitte",17.75\n"Nord",20\n'


def test_delivering_again_gives_the_same(folder: Path, output: EnclaveOutput) -> None:
    first = deliver(folder, output.run_id)
    before = (folder / "opened" / "report.parquet").read_bytes()
    assert deliver(folder, output.run_id) == first
    assert (folder / "opened" / "report.parquet").read_bytes() == before


def test_output_of_files_is_opened_into_a_folder(
    folder: Path, owners: Owners, broker: FakeBroker, output: EnclaveOutput
) -> None:
    delivers = DELIVER_REPORT.replace("report.parquet", "report/")
    write_agent(folder, owners=owners, broker=broker.url, delivers=delivers)
    output.seal_files({"weights/a.bin": b"1", "model.json": b"{}"})
    deliver(folder, output.run_id)
    output.seal_files({"model.json": b"[]"})
    deliver(folder, output.run_id)
    assert {path.name: path.read_bytes() for path in (folder / "opened" / "report").iterdir()} == {"model.json": b"[]"}
    assert opened(folder) == ["report"]


@pytest.mark.parametrize(("sink", "holds"), [("report.csv", "is files"), ("report/", "is a table")])
def test_sink_of_the_wrong_kind_is_refused_before_anything_is_written(
    sink: str, holds: str, folder: Path, owners: Owners, broker: FakeBroker, output: EnclaveOutput
) -> None:
    delivers = DELIVER_REPORT.replace("report.parquet", sink)
    write_agent(folder, owners=owners, broker=broker.url, delivers=delivers)
    if holds == "is files":
        output.seal_files({"model.json": b"{}"})
    with pytest.raises(ConfigurationError, match=holds) as raised:
        deliver(folder, output.run_id)
    assert raised.value.code == "sink_unfit"
    assert opened(folder) == []


def test_file_in_the_place_of_a_folder_is_not_overwritten(
    folder: Path, owners: Owners, broker: FakeBroker, output: EnclaveOutput
) -> None:
    delivers = DELIVER_REPORT.replace("report.parquet", "report/")
    write_agent(folder, owners=owners, broker=broker.url, delivers=delivers)
    output.seal_files({"model.json": b"{}"})
    (folder / "opened").mkdir()
    (folder / "opened" / "report").write_text("mine")
    with pytest.raises(ConfigurationError, match="is a file"):
        deliver(folder, output.run_id)
    assert (folder / "opened" / "report").read_text() == "mine"
    assert opened(folder) == ["report"]


def test_output_without_rows_keeps_its_columns(folder: Path, owners: Owners, broker: FakeBroker) -> None:
    output = EnclaveOutput(owners=owners, run_id=broker.open_run(), storage=folder / "storage")
    output.seal(MITTE.slice(0, 0))
    broker.releases[output.run_id, "report"] = output.answer
    deliver(folder, output.run_id)
    table = pq.read_table(folder / "opened" / "report.parquet")
    assert (table.num_rows, table.column_names) == (0, ["clinic", "cost"])


def test_key_that_was_certified_anew_still_opens_what_was_sealed_before(
    folder: Path, owners: Owners, broker: FakeBroker, output: EnclaveOutput
) -> None:
    owners.certify(
        "recipient",
        subject="analyst",
        key=owners.recipient.public,
        datasets=("report",),
        expires_in=timedelta(days=999),
    )

    def answer(request: ReleaseRequest) -> ReleaseAnswer:
        if request.recipient != output.recipient.serial:
            raise PolicyDeniedError("analyst is not a recipient", code="not_a_recipient")
        return output.answer(request)

    broker.releases[output.run_id, "report"] = answer
    assert deliver(folder, output.run_id).published.version == 1


# ---------------------------------------------------------------- not allowed


def test_output_that_is_not_committed_is_not_delivered(folder: Path, broker: FakeBroker) -> None:
    with pytest.raises(PolicyDeniedError) as raised:
        deliver(folder, broker.open_run())
    assert raised.value.code == "not_committed"
    assert opened(folder) == []


def test_run_of_another_pipeline_is_refused_before_the_broker_is_asked_for_a_key(
    folder: Path, owners: Owners, broker: FakeBroker
) -> None:
    run_id = broker.open_run(owners.run(pipeline="other"))
    with pytest.raises(PolicyDeniedError) as raised:
        deliver(folder, run_id)
    assert raised.value.code == "not_in_map"


def test_key_that_no_owner_certified_as_recipient_asks_for_nothing(
    folder: Path, owners: Owners, broker: FakeBroker, output: EnclaveOutput
) -> None:
    broker.certificates = [owners.root.sign(owners.broker_certificate)]
    with pytest.raises(VerificationError, match="recipient of report"):
        deliver(folder, output.run_id)


def test_refused_recipient_is_told_so(folder: Path, broker: FakeBroker, output: EnclaveOutput) -> None:
    def refuse_all(request: ReleaseRequest) -> ReleaseAnswer:
        raise PolicyDeniedError("analyst is not a recipient of report", code="not_a_recipient")

    broker.releases[output.run_id, "report"] = refuse_all
    with pytest.raises(PolicyDeniedError, match="not a recipient of report"):
        deliver(folder, output.run_id)


def test_agent_without_a_recipient_key_delivers_nothing(folder: Path, output: EnclaveOutput) -> None:
    settings = dataclasses.replace(load_settings(folder / "agent.yaml"), recipient=None)
    with Agent.start(settings) as agent, pytest.raises(ConfigurationError, match="no recipient_key"):
        agent.perform(AgentTask(verb="deliver", name="report", run_id=output.run_id), Progress(threading.Event()))


# ---------------------------------------------------------------- attacks between broker and recipient


def test_result_by_a_key_that_no_lease_covers_is_rejected(
    folder: Path, owners: Owners, broker: FakeBroker, output: EnclaveOutput
) -> None:
    """An attacker on the wire: his own enclave key, data and release key, and the genuine lease."""
    forged = EnclaveOutput(owners=owners, run_id=output.run_id, storage=folder / "storage", lease_id=output.lease_id)
    forged.seal(NORD)
    lease = owners.broker.sign(output.lease)
    error = refuse(
        folder,
        output,
        broker,
        lambda answer: msgspec.structs.replace(
            forged.answer(ReleaseRequest(run_id=output.run_id, dataset="report", recipient=forged.recipient.serial)),
            lease=lease,
        ),
    )
    assert error.code == "other_binding"


def test_manifest_by_another_key_than_the_bindings_is_rejected(
    folder: Path, broker: FakeBroker, output: EnclaveOutput
) -> None:
    manifest = SigningKey.generate(scheme="p256").sign(output.sealed.manifest)
    error = refuse(folder, output, broker, lambda answer: msgspec.structs.replace(answer, manifest=manifest))
    assert error.code == "unknown_signer"


def test_lease_that_no_certified_broker_signed_is_rejected(
    folder: Path, broker: FakeBroker, output: EnclaveOutput
) -> None:
    lease = SigningKey.generate().sign(output.lease)
    error = refuse(folder, output, broker, lambda answer: msgspec.structs.replace(answer, lease=lease))
    assert error.code == "unknown_signer"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"run_id": "f" * 32}, "other_run"),
        ({"outputs": ()}, "other_lease"),
        ({"lease_id": "f" * 32}, "other_manifest"),
        ({"binding": "sha256:" + "f" * 64}, "other_binding"),
    ],
    ids=["run", "outputs", "lease", "binding"],
)
def test_genuine_lease_of_something_else_is_rejected(
    folder: Path, owners: Owners, broker: FakeBroker, output: EnclaveOutput, changes: dict[str, object], code: str
) -> None:
    lease = owners.broker.sign(msgspec.structs.replace(output.lease, **changes))
    error = refuse(folder, output, broker, lambda answer: msgspec.structs.replace(answer, lease=lease))
    assert error.code == code


@pytest.mark.parametrize(
    "changes",
    [{"run_id": "f" * 32}, {"dataset": "salaries"}, {"version": 2, "prev": "sha256:" + "1" * 64}],
    ids=["run", "dataset", "version"],
)
def test_manifest_of_something_else_is_rejected(
    folder: Path, broker: FakeBroker, output: EnclaveOutput, changes: dict[str, object]
) -> None:
    manifest = output.key.sign(msgspec.structs.replace(output.sealed.manifest, **changes))
    error = refuse(folder, output, broker, lambda answer: msgspec.structs.replace(answer, manifest=manifest))
    assert error.code == "other_manifest"


def test_binding_of_another_domain_is_rejected(
    folder: Path, owners: Owners, broker: FakeBroker, output: EnclaveOutput
) -> None:
    binding = msgspec.structs.replace(output.binding, domain_id=Owners().domain.domain_id)
    lease = owners.broker.sign(msgspec.structs.replace(output.lease, binding=canonical.digest(binding)))
    error = refuse(folder, output, broker, lambda answer: msgspec.structs.replace(answer, lease=lease, binding=binding))
    assert error.code == "other_binding"


def test_lease_for_another_recipient_is_rejected(
    folder: Path, owners: Owners, broker: FakeBroker, output: EnclaveOutput
) -> None:
    reserved = msgspec.structs.replace(output.lease.outputs[0], recipient_certificates=("f" * 32,))
    lease = owners.broker.sign(msgspec.structs.replace(output.lease, outputs=(reserved,)))
    error = refuse(folder, output, broker, lambda answer: msgspec.structs.replace(answer, lease=lease))
    assert error.code == "other_lease"


def test_release_key_of_another_run_does_not_open(folder: Path, broker: FakeBroker, output: EnclaveOutput) -> None:
    info = release_info(run_id="f" * 32, dataset="report", serial=output.recipient.serial)
    sealed = hpke_seal(output.release_key, to=output.recipient.key, info=info)
    error = refuse(folder, output, broker, lambda answer: msgspec.structs.replace(answer, sealed_release_key=sealed))
    assert error.code == "wrong_wrap"


def test_other_release_key_does_not_open(folder: Path, broker: FakeBroker, output: EnclaveOutput) -> None:
    info = release_info(run_id=output.run_id, dataset="report", serial=output.recipient.serial)
    sealed = hpke_seal(new_key(), to=output.recipient.key, info=info)
    error = refuse(folder, output, broker, lambda answer: msgspec.structs.replace(answer, sealed_release_key=sealed))
    assert error.code == "wrong_release_key"


def test_broker_alone_cannot_open_an_output(output: EnclaveOutput) -> None:
    """The release key without the recipient's private key opens nothing."""
    with pytest.raises(VerificationError):
        open_released_key(
            output.sealed.manifest,
            key=SealingKey.generate(),
            serial=output.recipient.serial,
            release_key=output.release_key,
        )


# ---------------------------------------------------------------- attacks on the storage


def tamper_delete(version: Path) -> None:
    (version / "part-00001").unlink()


def tamper_flip(version: Path) -> None:
    data = bytearray((version / "part-00001").read_bytes())
    data[len(data) // 2] ^= 1
    (version / "part-00001").write_bytes(data)


def tamper_swap(version: Path) -> None:
    one, two = (version / "part-00000").read_bytes(), (version / "part-00001").read_bytes()
    (version / "part-00000").write_bytes(two)
    (version / "part-00001").write_bytes(one)


def tamper_cut(version: Path) -> None:
    with (version / "part-00001").open("r+b") as file:
        file.truncate(1000)


def tamper_plain(version: Path) -> None:
    pq.write_table(NORD, version / "part-00001")


@pytest.mark.parametrize("tamper", [tamper_delete, tamper_flip, tamper_swap, tamper_cut, tamper_plain])
def test_part_that_is_not_whole_leaves_the_previous_result(
    folder: Path, output: EnclaveOutput, tamper: Callable[[Path], None]
) -> None:
    deliver(folder, output.run_id)
    before = (folder / "opened" / "report.parquet").read_bytes()
    tamper(output.sealed.folder)
    with pytest.raises(VerificationError):
        deliver(folder, output.run_id)
    assert (folder / "opened" / "report.parquet").read_bytes() == before
    assert opened(folder) == ["report.parquet"]
    assert scratch(folder) == []


def test_genuine_output_of_an_earlier_run_is_not_taken_for_this_one(
    folder: Path, owners: Owners, broker: FakeBroker, output: EnclaveOutput
) -> None:
    later = EnclaveOutput(
        owners=owners, run_id=broker.open_run(), storage=folder / "storage", version=2, prev=output.sealed.digest
    )
    later.seal(NORD)
    broker.releases[later.run_id, "report"] = output.answer
    with pytest.raises(VerificationError) as raised:
        deliver(folder, later.run_id)
    assert raised.value.code == "other_run"


def test_parts_of_different_columns_are_rejected(folder: Path, owners: Owners, broker: FakeBroker) -> None:
    output = EnclaveOutput(owners=owners, run_id=broker.open_run(), storage=folder / "storage")
    output.seal(MITTE, pa.table({"clinic": ["Nord"]}))
    broker.releases[output.run_id, "report"] = output.answer
    with pytest.raises(VerificationError, match="different columns"):
        deliver(folder, output.run_id)
    assert opened(folder) == []


# ---------------------------------------------------------------- sinks and ends


def test_column_that_the_sink_cannot_hold_is_refused_without_leaving_anything(
    folder: Path, owners: Owners, broker: FakeBroker
) -> None:
    delivers = DELIVER_REPORT.replace(".parquet", ".csv")
    write_agent(folder, owners=owners, broker=broker.url, delivers=delivers)
    output = EnclaveOutput(owners=owners, run_id=broker.open_run(), storage=folder / "storage")
    output.seal(pa.table({"tags": [["a"]]}))
    broker.releases[output.run_id, "report"] = output.answer
    with pytest.raises(ConfigurationError, match="column tags"):
        deliver(folder, output.run_id)
    assert opened(folder) == []


def test_stopping_agent_leaves_nothing(folder: Path, output: EnclaveOutput) -> None:
    with pytest.raises(UnavailableError):
        deliver(folder, output.run_id, stopping=True)
    assert opened(folder) == []
    assert scratch(folder) == []


def test_start_sweeps_what_a_killed_delivery_left(folder: Path) -> None:
    (folder / "opened").mkdir()
    (folder / "opened" / ".report.parquet.ppml-00").write_bytes(b"plain")
    (folder / "opened" / "notes.txt").write_text("the recipient's own")
    left = folder / "state" / "scratch" / "tmp1"
    left.mkdir(parents=True)
    (left / "part-00000").write_bytes(b"sealed")
    with Agent.start(load_settings(folder / "agent.yaml")):
        pass
    assert opened(folder) == ["notes.txt"]
    assert scratch(folder) == []


def test_manifest_is_not_needed_in_the_storage(folder: Path, output: EnclaveOutput) -> None:
    """The manifest comes from the broker; the storage's copy is never believed."""
    other = msgspec.structs.replace(output.sealed.manifest, parts=output.sealed.manifest.parts[:1])
    (output.sealed.folder / "manifest.json").write_bytes(canonical.encode(output.key.sign(other)))
    deliver(folder, output.run_id)
    assert pq.read_table(folder / "opened" / "report.parquet").num_rows == 2
