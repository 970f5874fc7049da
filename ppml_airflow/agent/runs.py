"""What an agent believes of a run: only what the owners of its pinned domain, and a broker they certified, have signed.

The connection to the broker is not trusted, and neither is the caller: a run is looked up by its id, its signature is
verified, and its pipeline must be one that the agent's map lists for the name asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ppml_airflow.domain.documents import Certificate, Domain, Role, Run
from ppml_airflow.domain.trust import Certificates, verify_broker_document
from ppml_airflow.errors import PolicyDeniedError, VerificationError
from ppml_airflow.protocol.client import BrokerClient
from ppml_airflow.signing import PublicKey
from ppml_airflow.units import parse_instant


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedRun:
    """A run that a certified broker opened in the pinned domain, and what was verified with it at that moment."""

    run: Run
    certificates: Certificates
    broker: BrokerClient
    now: datetime


def fetch_run(broker: BrokerClient, *, run_id: str, domain: Domain, now: datetime) -> VerifiedRun:
    """Ask the broker for its certificates and a run, and verify both under the pinned domain.

    Raises:
        VerificationError: a certificate is not the owners', the run is not signed by a broker they certified, or it is
            another run or of another domain.
    """
    view = broker.domain()
    if view.domain_id != domain.domain_id:
        raise VerificationError(
            f"broker serves domain {view.domain_id}, wanted {domain.domain_id}",
            code="other_domain",
            hint="check broker and domain in agent.yaml",
        )
    certificates = Certificates.verify(view.certificates, domain=domain)
    envelope, _ = broker.run_document(run_id)
    run = verify_broker_document(envelope, into=Run, certificates=certificates, now=now)
    if run.run_id != run_id:
        raise VerificationError(f"broker answered with run {run.run_id}, wanted {run_id}", code="other_run")
    if run.domain_id != domain.domain_id:
        raise VerificationError(f"run {run_id} belongs to domain {run.domain_id}", code="other_domain")
    return VerifiedRun(run=run, certificates=certificates, broker=broker, now=now)


def require_pipeline(run: Run, *, pipelines: frozenset[str], name: str) -> None:
    """The map lists the run's pipeline for this name.

    Raises:
        PolicyDeniedError: it does not (`not_in_map`).
    """
    if run.pipeline not in pipelines:
        raise PolicyDeniedError(
            f"{name} is not for pipeline {run.pipeline}",
            code="not_in_map",
            hint="the agent's holder adds the pipeline under this name in agent.yaml",
        )


def own_certificates(verified: VerifiedRun, *, key: PublicKey, role: Role, dataset: str) -> tuple[Certificate, ...]:
    """The unexpired certificates that give this key a role for a dataset; the one that lasts longest comes first.

    Raises:
        VerificationError: there is none.
    """
    found = [
        certificate
        for certificate in verified.certificates.by_serial.values()
        if certificate.role == role
        and certificate.key == key
        and dataset in certificate.datasets
        and parse_instant(certificate.not_after) > verified.now
    ]
    if not found:
        raise VerificationError(
            f"this agent's key has no unexpired certificate as {role} of {dataset}",
            code="not_certified",
            hint="the owners certify the key and give the certificate to the broker",
        )
    return tuple(sorted(found, key=lambda certificate: (certificate.not_after, certificate.serial), reverse=True))
