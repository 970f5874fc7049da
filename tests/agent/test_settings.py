from __future__ import annotations

from pathlib import Path

import pytest

from ppml_airflow import canonical
from ppml_airflow.agent.settings import load_settings
from ppml_airflow.errors import ConfigurationError
from ppml_airflow.sealing.manifest import Column
from ppml_airflow.sealing.wrapping import SealingKey
from ppml_airflow.signing import SigningKey
from tests.support.owners import Owners

FILE = """\
agent: owner
listen: unix:run/owner.sock
broker: http://127.0.0.1:8200
token_file: token
domain: ../domain.json
storage: ../storage
producer_key: producer.pem
recipient_key: recipient.key
seals:
  visits:
    source: sources/visits.csv
    dataset: visits
    pipelines: [nightly, weekly]
    columns: {zip: string}
delivers:
  report:
    dataset: report
    pipelines: [nightly]
    sink: opened/report.parquet
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "owner"
    folder.mkdir()
    (tmp_path / "domain.json").write_bytes(canonical.encode(Owners().domain))
    (folder / "token").write_text("secret-of-this-agent\n")
    SigningKey.generate().store(folder / "producer.pem")
    SealingKey.generate().store(folder / "recipient.key")
    return folder


def refusal(folder: Path, old: str, new: str) -> str:
    assert old in FILE
    (folder / "agent.yaml").write_text(FILE.replace(old, new))
    with pytest.raises(ConfigurationError) as raised:
        load_settings(folder / "agent.yaml")
    return raised.value.message


def test_relative_paths_are_relative_to_the_file(folder: Path) -> None:
    (folder / "agent.yaml").write_text(FILE)
    settings = load_settings(folder / "agent.yaml")
    assert settings.listen == f"unix:{folder}/run/owner.sock"
    assert settings.token == "secret-of-this-agent"
    assert "secret-of-this-agent" not in repr(settings)
    assert settings.storage.resolve() == folder.parent / "storage"
    assert settings.state == folder / "state"
    assert settings.seals["visits"].source == folder / "sources" / "visits.csv"
    assert settings.seals["visits"].pipelines == {"nightly", "weekly"}
    assert settings.seals["visits"].columns == (Column(name="zip", type="string"),)
    assert settings.delivers["report"].sink == folder / "opened" / "report.parquet"


def test_absolute_paths_stay(folder: Path) -> None:
    text = FILE.replace("../storage", "/srv/storage").replace("unix:run/owner.sock", "unix:/run/o.sock")
    (folder / "agent.yaml").write_text(text)
    settings = load_settings(folder / "agent.yaml")
    assert (settings.storage, settings.listen) == (Path("/srv/storage"), "unix:/run/o.sock")


def test_keys_are_not_shown(folder: Path) -> None:
    (folder / "agent.yaml").write_text(FILE)
    shown = repr(load_settings(folder / "agent.yaml"))
    assert "SigningKey" not in shown
    assert "SealingKey" not in shown


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("agent: owner", "agent: 1owner", "agent.yaml:1: agent: "),
        ("agent: owner\n", "", "agent.yaml:1: agent: field required"),
        ("listen: unix:run/owner.sock", "listen: run/owner.sock", "agent.yaml:2: listen: "),
        ("pipelines: [nightly, weekly]", "pipelines: []", "agent.yaml:13: seals.visits.pipelines: "),
        ("pipelines: [nightly, weekly]", "pipelines: nightly", "agent.yaml:13: seals.visits.pipelines: "),
        ("dataset: visits", "dataset: ../visits", "agent.yaml:12: seals.visits.dataset: "),
        ("    source: sources/visits.csv\n", "", "agent.yaml:10: seals.visits.source: field required"),
        ("{zip: string}", "{zip: text}", "agent.yaml:14: seals.visits.columns.zip: 'text' is not a type"),
        ("report.parquet", "report.xlsx", "agent.yaml:19: delivers.report.sink: "),
        ("opened/report.parquet", "opened/.csv", "agent.yaml:19: delivers.report.sink: "),
        ("producer_key: producer.pem\n", "", "seals need a producer_key"),
        ("recipient_key: recipient.key\n", "", "delivers need a recipient_key"),
        ("storage: ../storage", "storage: ../storage\npolicy: none", "agent.yaml:7: policy: extra inputs"),
    ],
)
def test_wrong_field_is_refused_with_its_line(folder: Path, old: str, new: str, told: str) -> None:
    assert told in refusal(folder, old, new)


def test_two_delivers_into_one_sink_are_refused(folder: Path) -> None:
    again = "  again:\n    dataset: other\n    pipelines: [nightly]\n    sink: opened/report.parquet\n"
    assert "share a sink" in refusal(folder, FILE, FILE + again)


def test_two_meanings_of_a_dataset_for_one_pipeline_are_refused(folder: Path) -> None:
    again = "  payroll:\n    source: payroll.csv\n    dataset: visits\n    pipelines: [weekly]\n"
    assert "the same dataset" in refusal(folder, "delivers:\n", again + "delivers:\n")


def test_broker_address_that_is_none_is_refused(folder: Path) -> None:
    assert "unknown scheme" in refusal(folder, "http://127", "ftp://127")


def test_domain_that_is_not_there_is_refused(folder: Path) -> None:
    assert "cannot be read" in refusal(folder, "../domain.json", "none.json")


def test_domain_that_is_not_canonical_is_refused(folder: Path) -> None:
    (folder / "loose.json").write_bytes((folder.parent / "domain.json").read_bytes() + b"\n")
    assert "is refused" in refusal(folder, "../domain.json", "loose.json")


@pytest.mark.parametrize("content", [None, "", "two\nlines", "to\u212aen"])
def test_token_that_is_none_is_refused(folder: Path, content: str | None) -> None:
    (folder / "token").unlink()
    if content is not None:
        (folder / "token").write_text(content)
    assert f"token {folder}/token" in refusal(folder, "agent: owner", "agent: owner")


def test_key_that_is_not_there_is_refused(folder: Path) -> None:
    assert "producer.pem2" in refusal(folder, "producer.pem", "producer.pem2")


def test_key_of_another_kind_is_refused(folder: Path) -> None:
    assert "not an X-Wing key file" in refusal(folder, "recipient.key", "producer.pem")
