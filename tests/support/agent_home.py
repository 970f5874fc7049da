"""An agent's folder as its holder sets it up: the file, the pinned domain, the keys, the storage."""

from __future__ import annotations

from pathlib import Path

from ppml_airflow import canonical
from tests.support.owners import Owners

VISITS = "person,clinic,cost\n1,Mitte,10.5\n2,Nord,20.0\n3,Mitte,7.25\n"


def write_agent(
    folder: Path, *, owners: Owners, broker: str, seals: str = "", delivers: str = "", listen: str = ""
) -> Path:
    """Write everything an agent needs and return its file. `seals` and `delivers` are YAML, indented by two."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "domain.json").write_bytes(canonical.encode(owners.domain))
    (folder / "token").write_text("airflow\n")  # the name of the tests' caller
    if not (folder / "producer.pem").exists():
        owners.producer.store(folder / "producer.pem")
        owners.recipient.store(folder / "recipient.key")
        (folder / "visits.csv").write_text(VISITS)
    file = folder / "agent.yaml"
    file.write_text(
        f"agent: test\nlisten: {listen or 'unix:agent.sock'}\nbroker: {broker}\ntoken_file: token\n"
        "domain: domain.json\nstorage: storage\nproducer_key: producer.pem\nrecipient_key: recipient.key\n"
        + (f"seals:\n{seals}" if seals else "")
        + (f"delivers:\n{delivers}" if delivers else "")
    )
    return file


SEAL_VISITS = "  visits: {source: visits.csv, dataset: visits, pipelines: [nightly]}\n"
DELIVER_REPORT = "  report: {dataset: report, pipelines: [nightly], sink: opened/report.parquet}\n"
