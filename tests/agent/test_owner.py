"""Sealing, against a broker over real HTTP that keeps heads, and can be told to misbehave."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

from ppml_airflow import canonical
from ppml_airflow.agent.agent import Agent
from ppml_airflow.agent.journal import Journal, Unfinished
from ppml_airflow.agent.owner import MAX_RACES
from ppml_airflow.agent.settings import load_settings
from ppml_airflow.agent.tasks import Progress
from ppml_airflow.errors import (
    ConfigurationError,
    PolicyDeniedError,
    PpmlError,
    UnavailableError,
    VerificationError,
)
from ppml_airflow.protocol.messages import AgentTask, Published
from ppml_airflow.sealing.datasets import open_data_key, open_table, read_files
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.sealing.wrapping import SealingKey
from ppml_airflow.signing import Envelope, SigningKey, verify_envelope
from tests.support.agent_home import SEAL_VISITS, VISITS, write_agent
from tests.support.fake_broker import FakeBroker
from tests.support.owners import Owners


@pytest.fixture
def owners() -> Owners:
    return Owners("visits", "payroll", "report")


@pytest.fixture
def broker(owners: Owners) -> Iterator[FakeBroker]:
    with FakeBroker(owners) as broker:
        yield broker


@pytest.fixture
def folder(tmp_path: Path, owners: Owners, broker: FakeBroker) -> Path:
    write_agent(tmp_path / "agent", owners=owners, broker=broker.url, seals=SEAL_VISITS)
    return tmp_path / "agent"


def perform(folder: Path, run_id: str, *, name: str = "visits", verb: str = "seal") -> Published:
    with Agent.start(load_settings(folder / "agent.yaml")) as agent:
        task = AgentTask(verb=verb, name=name, run_id=run_id)  # type: ignore[arg-type]
        return agent.perform(task, Progress(threading.Event())).published


def lying(folder: Path) -> list[str]:
    """What lies in the storage, by path below it."""
    storage = folder / "storage"
    return sorted(str(path.relative_to(storage)) for path in storage.rglob("*") if path.is_file())


def versions(folder: Path) -> list[str]:
    return sorted({path.split("/")[1] for path in lying(folder)})


def manifest_of(broker: FakeBroker, published: Published) -> Manifest:
    return canonical.decode(broker.manifests[published.manifest].payload, into=Manifest)


# ---------------------------------------------------------------- as it should go


def test_sealed_dataset_opens_with_its_dataset_key_only(folder: Path, owners: Owners, broker: FakeBroker) -> None:
    run_id = broker.open_run()
    published = perform(folder, run_id)
    manifest = verify_envelope(broker.manifests[published.manifest], into=Manifest, keys=(owners.producer.public,))
    assert (manifest.version, manifest.prev, manifest.run_id) == (1, None, run_id)
    assert [(wrap.to, wrap.serial) for wrap in manifest.wraps] == [
        ("dataset", owners.dataset_certificates["visits"].serial)
    ]
    kek_id = owners.dataset_certificates["visits"].kek_id
    data_key = open_data_key(manifest, key=owners.dataset_keys["visits"], kek_id=kek_id)
    version = folder / "storage" / "visits" / versions(folder)[0]
    table = pa.Table.from_batches(open_table(manifest, folder=version, data_key=data_key))
    assert table.to_pydict() == {
        "person": [1, 2, 3],
        "clinic": ["Mitte", "Nord", "Mitte"],
        "cost": [10.5, 20.0, 7.25],
    }
    with pytest.raises(VerificationError):
        open_data_key(manifest, key=owners.dataset_keys["payroll"], kek_id=kek_id)


def test_storage_holds_no_plaintext(folder: Path, broker: FakeBroker) -> None:
    perform(folder, broker.open_run())
    stored = b"".join((folder / "storage" / path).read_bytes() for path in lying(folder))
    assert b"Mitte" not in stored
    assert VISITS.encode() not in stored


def test_next_run_gets_the_next_version(folder: Path, broker: FakeBroker) -> None:
    first = perform(folder, broker.open_run())
    second = perform(folder, broker.open_run())
    assert (second.version, manifest_of(broker, second).prev) == (2, first.manifest)


def test_same_run_gets_the_same_version_even_if_the_source_has_changed(folder: Path, broker: FakeBroker) -> None:
    run_id = broker.open_run()
    first = perform(folder, run_id)
    (folder / "visits.csv").write_text(VISITS + "4,Ost,1.0\n")
    assert perform(folder, run_id) == first
    assert len(versions(folder)) == 1


def test_column_declared_as_text_is_sealed_as_text(folder: Path, owners: Owners, broker: FakeBroker) -> None:
    seals = SEAL_VISITS.replace("visits.csv,", "visits.csv, columns: {person: string},")
    write_agent(folder, owners=owners, broker=broker.url, seals=seals)
    published = perform(folder, broker.open_run())
    assert manifest_of(broker, published).columns[0].type == "string"


def test_parquet_source_is_sealed(folder: Path, owners: Owners, broker: FakeBroker) -> None:
    pa.parquet.write_table(pa.table({"a": [1, 2]}), folder / "visits.parquet")
    seals = SEAL_VISITS.replace("visits.csv", "visits.parquet")
    write_agent(folder, owners=owners, broker=broker.url, seals=seals)
    assert perform(folder, broker.open_run()).version == 1


@pytest.mark.parametrize("source", ["model", "model/net.onnx"])
def test_anything_but_a_table_is_sealed_as_files(
    source: str, folder: Path, owners: Owners, broker: FakeBroker, tmp_path: Path
) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "net.onnx").write_bytes(b"weights")
    seals = SEAL_VISITS.replace("visits.csv", source)
    write_agent(folder, owners=owners, broker=broker.url, seals=seals)
    manifest = manifest_of(broker, perform(folder, broker.open_run()))
    assert manifest.body == "files"
    kek_id = owners.dataset_certificates["visits"].kek_id
    data_key = open_data_key(manifest, key=owners.dataset_keys["visits"], kek_id=kek_id)
    version = folder / "storage" / "visits" / versions(folder)[0]
    assert dict(read_files(manifest, folder=version, data_key=data_key)) == {"net.onnx": b"weights"}


def test_link_in_a_folder_that_is_sealed_is_refused(folder: Path, owners: Owners, broker: FakeBroker) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "passwords").symlink_to("/etc/passwd")
    write_agent(folder, owners=owners, broker=broker.url, seals=SEAL_VISITS.replace("visits.csv", "model"))
    with pytest.raises(ConfigurationError, match="passwords is not a file"):
        perform(folder, broker.open_run())
    assert lying(folder) == []


@pytest.mark.parametrize(("source", "said"), [("nothing.bin", "does not exist"), ("empty", "has no files")])
def test_source_without_files_is_refused(
    source: str, said: str, folder: Path, owners: Owners, broker: FakeBroker
) -> None:
    (folder / "empty").mkdir()
    write_agent(folder, owners=owners, broker=broker.url, seals=SEAL_VISITS.replace("visits.csv", source))
    with pytest.raises(ConfigurationError, match=said):
        perform(folder, broker.open_run())


def test_columns_of_what_is_no_table_are_refused(folder: Path, owners: Owners, broker: FakeBroker) -> None:
    (folder / "model.onnx").write_bytes(b"weights")
    seals = SEAL_VISITS.replace("visits.csv,", "model.onnx, columns: {person: string},")
    write_agent(folder, owners=owners, broker=broker.url, seals=seals)
    with pytest.raises(ConfigurationError, match="is no table"):
        perform(folder, broker.open_run())


# ---------------------------------------------------------------- nothing outside the map


def test_name_that_is_not_in_the_map_is_refused(folder: Path, broker: FakeBroker) -> None:
    with pytest.raises(PolicyDeniedError) as raised:
        perform(folder, broker.open_run(), name="payroll")
    assert raised.value.code == "not_in_map"


def test_name_of_a_seal_cannot_be_delivered(folder: Path, broker: FakeBroker) -> None:
    with pytest.raises(PolicyDeniedError) as raised:
        perform(folder, broker.open_run(), verb="deliver")
    assert raised.value.code == "not_in_map"


def test_run_of_another_pipeline_is_refused(folder: Path, owners: Owners, broker: FakeBroker) -> None:
    run_id = broker.open_run(owners.run(pipeline="lenient"))
    with pytest.raises(PolicyDeniedError, match="not for pipeline lenient") as raised:
        perform(folder, run_id)
    assert raised.value.code == "not_in_map"
    assert lying(folder) == []


def test_run_by_a_broker_that_no_owner_certified_is_refused(folder: Path, owners: Owners, broker: FakeBroker) -> None:
    run = owners.run()
    broker.runs[run.run_id] = SigningKey.generate().sign(run)
    with pytest.raises(VerificationError) as raised:
        perform(folder, run.run_id)
    assert raised.value.code == "unknown_signer"


def test_run_of_another_domain_is_refused(folder: Path, owners: Owners, broker: FakeBroker) -> None:
    run_id = broker.open_run(owners.run(domain_id=Owners().domain.domain_id))
    with pytest.raises(VerificationError) as raised:
        perform(folder, run_id)
    assert raised.value.code == "other_domain"


def test_genuine_run_in_place_of_the_one_asked_for_is_refused(folder: Path, broker: FakeBroker) -> None:
    asked, other = broker.open_run(), broker.open_run()
    broker.runs[asked] = broker.runs[other]
    with pytest.raises(VerificationError) as raised:
        perform(folder, asked)
    assert raised.value.code == "other_run"


def test_broker_of_another_domain_is_refused(folder: Path, broker: FakeBroker) -> None:
    run_id = broker.open_run()
    broker.domain = Owners().domain
    with pytest.raises(VerificationError) as raised:
        perform(folder, run_id)
    assert raised.value.code == "other_domain"


def test_certificate_that_the_owners_did_not_sign_is_refused(folder: Path, owners: Owners, broker: FakeBroker) -> None:
    run_id = broker.open_run()
    forged = msgspec.structs.replace(
        owners.dataset_certificates["visits"], key=SealingKey.generate().public, serial="f" * 32
    )
    broker.certificates.append(SigningKey.generate().sign(forged))
    with pytest.raises(VerificationError):
        perform(folder, run_id)
    assert lying(folder) == []


def test_dataset_key_that_no_owner_certified_is_never_sealed_to(
    folder: Path, owners: Owners, broker: FakeBroker
) -> None:
    broker.certificates = [owners.root.sign(c) for c in (owners.broker_certificate, owners.producer_certificate)]
    with pytest.raises(VerificationError) as raised:
        perform(folder, broker.open_run())
    assert raised.value.code == "not_certified"
    assert lying(folder) == []


def test_expired_dataset_certificate_is_never_sealed_to(folder: Path, owners: Owners, broker: FakeBroker) -> None:
    kept = (owners.broker_certificate, owners.producer_certificate)
    expired = owners.certify(
        "dataset",
        subject="visits",
        key=owners.dataset_keys["visits"].public,
        datasets=("visits",),
        kek_id="kek-visits",
        expires_in=timedelta(seconds=-1),
    )
    broker.certificates = [owners.root.sign(certificate) for certificate in (*kept, expired)]
    with pytest.raises(VerificationError) as raised:
        perform(folder, broker.open_run())
    assert raised.value.code == "not_certified"


def test_producer_that_is_not_certified_for_the_dataset_does_not_seal(
    folder: Path, owners: Owners, broker: FakeBroker
) -> None:
    producer = msgspec.structs.replace(owners.producer_certificate, datasets=("payroll",))
    kept = (owners.broker_certificate, owners.dataset_certificates["visits"], producer)
    broker.certificates = [owners.root.sign(certificate) for certificate in kept]
    with pytest.raises(VerificationError, match="producer of visits"):
        perform(folder, broker.open_run())
    assert lying(folder) == []


def test_manifest_that_another_key_signed_is_not_taken_for_this_runs(
    folder: Path, owners: Owners, broker: FakeBroker
) -> None:
    run_id = broker.open_run()
    genuine = manifest_of(broker, perform(folder, run_id))
    broker.manifests = {"x": SigningKey.generate().sign(genuine)}
    with pytest.raises(VerificationError):
        perform(folder, run_id)


def test_manifest_of_another_run_is_not_taken_for_this_runs(folder: Path, broker: FakeBroker) -> None:
    perform(folder, broker.open_run())
    other = next(iter(broker.manifests.values()))
    broker.answer_sealed = lambda run_id, dataset: other
    with pytest.raises(VerificationError) as raised:
        perform(folder, broker.open_run())
    assert raised.value.code == "other_run"


def test_agent_without_a_producer_key_does_not_seal(folder: Path, broker: FakeBroker) -> None:
    settings = dataclasses.replace(load_settings(folder / "agent.yaml"), producer=None)
    run_id = broker.open_run()
    with Agent.start(settings) as agent, pytest.raises(ConfigurationError, match="no producer_key"):
        agent.perform(AgentTask(verb="seal", name="visits", run_id=run_id), Progress(threading.Event()))


def test_head_of_another_dataset_is_refused(folder: Path, owners: Owners, broker: FakeBroker) -> None:
    published = perform(folder, broker.open_run())
    other = msgspec.structs.replace(manifest_of(broker, published), dataset="payroll")
    broker.manifests[canonical.digest(other)] = owners.producer.sign(other)
    broker.heads["visits"] = other
    with pytest.raises(VerificationError, match="head of payroll"):
        perform(folder, broker.open_run())


def test_answer_about_another_manifest_is_not_believed(folder: Path, broker: FakeBroker) -> None:
    published = perform(folder, broker.open_run())
    broker.commit = lambda envelope: published  # type: ignore[method-assign]  # a broker that lies
    with pytest.raises(VerificationError, match="broker published"):
        perform(folder, broker.open_run())
    assert len(versions(folder)) == 1


# ---------------------------------------------------------------- bad sources


def test_bad_source_is_refused_without_a_value_and_leaves_nothing(folder: Path, broker: FakeBroker) -> None:
    (folder / "visits.csv").write_text(VISITS + "4,Roe Jane,1.0,1984\n")
    with pytest.raises(ConfigurationError) as raised:
        perform(folder, broker.open_run())
    assert "row 5" in raised.value.message
    assert "Roe" not in str(raised.value)
    assert lying(folder) == []
    assert Journal(folder / "state").unfinished() == []


def test_missing_source_is_refused(folder: Path, broker: FakeBroker) -> None:
    (folder / "visits.csv").unlink()
    with pytest.raises(ConfigurationError, match="does not exist"):
        perform(folder, broker.open_run())


def test_stopping_agent_leaves_nothing(folder: Path, broker: FakeBroker) -> None:
    stopping = threading.Event()
    stopping.set()
    run_id = broker.open_run()
    with Agent.start(load_settings(folder / "agent.yaml")) as agent, pytest.raises(UnavailableError):
        agent.perform(AgentTask(verb="seal", name="visits", run_id=run_id), Progress(stopping))
    assert lying(folder) == []
    assert list((folder / "storage" / "visits").iterdir()) == []
    assert Journal(folder / "state").unfinished() == []


# ---------------------------------------------------------------- races and lost answers


def rival(broker: FakeBroker, times: int) -> Callable[[Manifest], None]:
    """Somebody who publishes just before the agent does, so many times."""
    left = [times]

    def publish(manifest: Manifest) -> None:
        if left[0]:
            left[0] -= 1
            head = broker.heads.get("visits")
            taken = msgspec.structs.replace(
                manifest,
                version=head.version + 1 if head else 1,
                prev=canonical.digest(head) if head else None,
                run_id=f"{left[0]:032x}",
            )
            broker.commit(broker.owners.producer.sign(taken))

    return publish


def test_lost_race_seals_again_on_top_of_the_new_head(folder: Path, broker: FakeBroker) -> None:
    broker.before_publish = rival(broker, 2)
    published = perform(folder, broker.open_run())
    assert published.version == 3
    assert [name[:6] for name in versions(folder)] == ["000003"]


def test_race_that_is_always_lost_is_given_up_and_leaves_nothing(folder: Path, broker: FakeBroker) -> None:
    broker.before_publish = rival(broker, MAX_RACES)
    with pytest.raises(UnavailableError) as raised:
        perform(folder, broker.open_run())
    assert raised.value.code == "not_next"
    assert lying(folder) == []


@pytest.mark.parametrize("kind", [PolicyDeniedError, VerificationError, UnavailableError])
def test_refused_publish_leaves_nothing(folder: Path, broker: FakeBroker, kind: type[PpmlError]) -> None:
    def refuse(manifest: Manifest) -> None:
        raise kind("no", code="run_closed")

    broker.before_publish = refuse
    with pytest.raises(kind) as raised:
        perform(folder, broker.open_run())
    assert raised.value.code == "run_closed"
    assert lying(folder) == []
    assert Journal(folder / "state").unfinished() == []


def test_publish_whose_answer_was_lost_counts(folder: Path, broker: FakeBroker) -> None:
    broker.lose_replies = 1
    published = perform(folder, broker.open_run())
    assert published.manifest in broker.manifests
    assert len(versions(folder)) == 1
    assert Journal(folder / "state").unfinished() == []


def fall_silent(broker: FakeBroker, *, after: int) -> None:
    """Let the broker fall silent about published versions after so many answers."""
    left = [after]

    def answer(run_id: str, dataset: str) -> Envelope | None:
        left[0] -= 1
        if left[0] < 0:
            raise UnavailableError("down")
        return broker.sealed(run_id, dataset)

    broker.answer_sealed = answer


def test_committed_version_is_kept_while_the_broker_cannot_be_asked(folder: Path, broker: FakeBroker) -> None:
    run_id = broker.open_run()
    broker.lose_replies = 1
    fall_silent(broker, after=1)
    with pytest.raises(UnavailableError):
        perform(folder, run_id)
    assert len(versions(folder)) == 1
    broker.answer_sealed = broker.sealed
    assert perform(folder, run_id).manifest in broker.manifests
    assert len(versions(folder)) == 1
    assert Journal(folder / "state").unfinished() == []


def test_version_that_was_never_published_is_removed_once_the_broker_can_be_asked(
    folder: Path, broker: FakeBroker
) -> None:
    def fail(manifest: Manifest) -> None:
        raise UnavailableError("down")

    broker.before_publish = fail
    fall_silent(broker, after=1)
    with pytest.raises(UnavailableError):
        perform(folder, broker.open_run())
    assert len(versions(folder)) == 1
    broker.before_publish, broker.answer_sealed = lambda manifest: None, broker.sealed
    published = perform(folder, broker.open_run())
    assert [name.split("-")[1] for name in versions(folder)] == [published.manifest[7:23]]


def test_start_without_a_broker_keeps_what_it_cannot_judge(folder: Path, owners: Owners, broker: FakeBroker) -> None:
    perform(folder, broker.open_run())
    Journal(folder / "state").begin(Unfinished(dataset="visits", run_id="0" * 32))
    write_agent(folder, owners=owners, broker="http://127.0.0.1:1", seals=SEAL_VISITS)
    with Agent.start(load_settings(folder / "agent.yaml")):
        pass
    assert len(versions(folder)) == 1
    assert len(Journal(folder / "state").unfinished()) == 1


def test_sweep_leaves_what_others_made(folder: Path, owners: Owners, broker: FakeBroker) -> None:
    published = perform(folder, broker.open_run())
    run_id = broker.open_run()
    others = SigningKey.generate().sign(msgspec.structs.replace(manifest_of(broker, published), run_id=run_id))
    place = folder / "storage" / "visits" / "000009-others"
    place.mkdir()
    (place / "manifest.json").write_bytes(canonical.encode(others))
    (folder / "storage" / "visits" / "000010-empty").mkdir()
    (folder / "storage" / "visits" / "000011-link").symlink_to(place)
    Journal(folder / "state").begin(Unfinished(dataset="visits", run_id=run_id))
    with Agent.start(load_settings(folder / "agent.yaml")):
        pass
    assert (place / "manifest.json").exists()
    assert Journal(folder / "state").unfinished() == []


# ---------------------------------------------------------------- a source that depends on the run

SEAL_BY_YEAR = "  visits: {source: 'visits-{year}.csv', dataset: visits, pipelines: [nightly]}\n"


def open_run_of(year: object, *, owners: Owners, broker: FakeBroker) -> str:
    return broker.open_run(owners.run(params={"year": year}))


def test_source_of_a_run_is_the_one_that_its_param_names(folder: Path, owners: Owners, broker: FakeBroker) -> None:
    write_agent(folder, owners=owners, broker=broker.url, seals=SEAL_BY_YEAR)
    (folder / "visits-2025.csv").write_text(VISITS)
    (folder / "visits-2026.csv").write_text("person\n1\n")
    sealed = perform(folder, open_run_of(2025, owners=owners, broker=broker))
    assert [column.name for column in manifest_of(broker, sealed).columns] == ["person", "clinic", "cost"]


@pytest.mark.parametrize("year", ["../visits", "/etc/passwd", ".", "..", "", "2025/x", "a b"])
def test_param_cannot_climb_out_of_what_the_map_names(
    year: str, folder: Path, owners: Owners, broker: FakeBroker
) -> None:
    write_agent(folder, owners=owners, broker=broker.url, seals=SEAL_BY_YEAR)
    with pytest.raises(ConfigurationError) as refused:
        perform(folder, open_run_of(year, owners=owners, broker=broker))
    assert refused.value.code == "source_param"
    assert lying(folder) == []


def test_source_that_is_not_there_for_the_runs_param_is_named(folder: Path, owners: Owners, broker: FakeBroker) -> None:
    write_agent(folder, owners=owners, broker=broker.url, seals=SEAL_BY_YEAR)
    with pytest.raises(ConfigurationError, match=r"visits-1999\.csv is not there") as refused:
        perform(folder, open_run_of(1999, owners=owners, broker=broker))
    assert refused.value.code == "source_missing"
    assert "other params than year" in refused.value.hint
