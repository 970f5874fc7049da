"""A joint domain: two owners, each with an agent for what is his own, and nothing without both."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import yaml

from ppml_airflow import canonical
from ppml_airflow.cli.agents import agents_of, load_sealers, source_in_file, write_agent_files
from ppml_airflow.cli.demo import JOINT_DAGS, dags_of, demo_home, shipped_dags
from ppml_airflow.cli.home import Home
from ppml_airflow.cli.owner import Owner, root_key_files
from ppml_airflow.cli.simulated import ensure_certified, ensure_simulated_domain
from ppml_airflow.domain.documents import Approval, Input
from ppml_airflow.domain.trust import verify_owner_document
from ppml_airflow.errors import ConfigurationError, VerificationError
from ppml_airflow.signing import SigningKey, sign_payload
from tests.cli.conftest import NOW

SEALERS = {"detector": "model_owner", "samples": "owner"}


@pytest.fixture
def joint(home: Home) -> Owner:
    return ensure_simulated_domain(home, now=NOW, owners=2, threshold=2)


@pytest.fixture
def inference(joint: Owner, approval: Approval) -> Approval:
    inputs = tuple(Input(dataset=name, version="this-run") for name in SEALERS)
    return msgspec.structs.replace(
        approval,
        domain_id=joint.domain.domain_id,
        steps=(msgspec.structs.replace(approval.steps[0], inputs=inputs),),
    )


def test_the_model_owner_alone_cannot_approve(home: Home, joint: Owner, inference: Approval) -> None:
    del joint
    with pytest.raises(ConfigurationError, match="wants signatures by 2 root keys; 1 are at hand") as refused:
        Owner.load(home, key_files=root_key_files(home)[1:]).store_approval(canonical.encode(inference))
    assert refused.value.code == "below_threshold"


@pytest.mark.parametrize("number", [0, 1])
def test_an_approval_signed_by_one_of_two_is_refused(
    number: int, home: Home, joint: Owner, inference: Approval
) -> None:
    key = SigningKey.load(root_key_files(home)[number])
    envelope = sign_payload(canonical.encode(inference), payload_type=Approval.payload_type, keys=(key,))
    with pytest.raises(VerificationError):
        verify_owner_document(envelope, into=Approval, domain=joint.domain)


def test_each_agents_key_is_certified_for_its_own_dataset_only(home: Home, joint: Owner, inference: Approval) -> None:
    made = ensure_certified(home, owner=joint, approval=inference, sealers=SEALERS, now=NOW)
    assert {"key of owner certified as producer", "key of model_owner certified as producer"} <= set(made)
    current = joint.certificates().current
    for dataset, agent in SEALERS.items():
        certificate = current(role="producer", subject=agent, now=NOW)
        assert certificate.datasets == (dataset,)
        assert certificate.key == SigningKey.load(home.agent(agent) / "producer.pem").public


def test_the_data_owners_agent_cannot_seal_the_model(home: Home, joint: Owner, tmp_path: Path) -> None:
    del joint
    sources = {dataset: tmp_path / dataset for dataset in SEALERS}
    write_agent_files(home, broker="unix:b", pipeline="p", sources=sources, sinks={}, sealers=SEALERS)
    seals = {
        agent: list(yaml.safe_load((home.agent(agent) / "agent.yaml").read_text())["seals"])
        for agent in ("owner", "model_owner")
    }
    assert seals == {"owner": ["samples"], "model_owner": ["detector"]}
    assert source_in_file(home, "detector") == tmp_path / "detector"


def test_a_domain_of_one_owner_has_no_agent_of_a_second(home: Home, owner: Owner, tmp_path: Path) -> None:
    del owner
    assert agents_of(home) == ("owner", "recipient")
    (tmp_path / ".agents.json").write_bytes(canonical.encode(SEALERS))
    with pytest.raises(ConfigurationError, match="detector is sealed by agent model_owner; this home has: owner"):
        load_sealers(tmp_path, home=home)
    assert load_sealers(tmp_path / "none", home=home) == {}


def test_a_joint_dag_is_shown_in_a_home_of_its_own(home: Home, owner: Owner) -> None:
    del owner
    said: list[str] = []
    found = demo_home(home, dag_id="batch_inference", say=said.append)
    assert found.path == home.path / "joint"
    assert str(found.path) in said[0]
    assert demo_home(home, dag_id="nightly_analytics", say=said.append) == home
    assert set(shipped_dags()) - set(dags_of(home)) == set(JOINT_DAGS)
    ensure_simulated_domain(found, now=NOW, owners=2, threshold=2)
    assert demo_home(found, dag_id="batch_inference", say=said.append) == found
    assert dags_of(found) == shipped_dags()
    assert agents_of(found) == ("owner", "model_owner", "recipient")
