"""Whatever a parser is given, it refuses by an error of ours, or reads what was there: nothing else comes out.

Samples that are good are changed here and there: bits, lengths, order, fields twice, another thing altogether.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey

from ppml_airflow import canonical, merkle
from ppml_airflow.attestation.collateral.statements import family_of, verify_collateral
from ppml_airflow.attestation.evidence import Evidence, Tee
from ppml_airflow.attestation.policy import Policy
from ppml_airflow.attestation.policy_files import NO_DOMAIN, format_policy_file, parse_policy_file
from ppml_airflow.attestation.quotes.files import parse_quote_file
from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.attestation.snp.certificates import parse_bundle
from ppml_airflow.attestation.snp.report import SnpReport
from ppml_airflow.attestation.snp.verification import verify_snp
from ppml_airflow.attestation.verification import reread_quote, verify_evidence
from ppml_airflow.broker.decisions.ear import sign_ear, verify_ear
from ppml_airflow.broker.decisions.jwe import read_public_jwk
from ppml_airflow.domain.documents import Approval, Receipt
from ppml_airflow.errors import ConfigurationError, MalformedInputError, PpmlError, VerificationError
from ppml_airflow.provenance.log import Checkpoint, LogEntry, prove
from ppml_airflow.provenance.notes import SignedHead, sign_head, verify_entry_proof, verify_head, write_entry_proof
from ppml_airflow.provenance.passport import parse_passport
from ppml_airflow.sealing.manifest import Manifest
from ppml_airflow.signing import Envelope, SigningKey, verify_envelope
from tests.attestation.snp.machine import Machine
from tests.support.bad_input import brief, changed, rewritten
from tests.support.memory_tree import reader_of
from tests.support.policies import MEASUREMENT
from tests.support.simulated_run import SimulatedRun

NOW = datetime.now(UTC).replace(microsecond=0)
KEY = SigningKey.generate()
TEES: tuple[Tee, ...] = ("sgx", "tdx")
REFUSALS = (MalformedInputError, VerificationError, ConfigurationError)


def refusal(read: Callable[[bytes], object], data: bytes) -> PpmlError | None:
    try:
        read(data)
    except PpmlError as error:
        return error
    return None


def refuse_or_read(read: Callable[[bytes], object], data: bytes) -> None:
    """Nothing but an error of ours may come out, one that can be told, or what was read."""
    error = refusal(read, data)
    if error is not None:
        assert isinstance(error, REFUSALS), error
        assert error.code
        assert len(str(error).encode()) < 4000


# ---------------------------------------------------------------- quotes and collateral


@pytest.fixture(scope="session")
def quote(platform: SimulatedPlatform) -> bytes:
    return platform.quote_sgx(measurement=MEASUREMENT, report_data=bytes(64))


@pytest.fixture(scope="session")
def collateral(platform: SimulatedPlatform) -> bytes:
    return platform.collateral(NOW)


@pytest.fixture(scope="session")
def machine() -> tuple[Machine, bytes, bytes]:
    """A machine of AMD's kind, a report of it, and its certificates."""
    machine = Machine(now=NOW)
    return machine, machine.report(), machine.bundle()


@brief
@given(data=st.data())
def test_no_quote_breaks_what_reads_it(
    platform: SimulatedPlatform, quote: bytes, collateral: bytes, data: st.DataObject
) -> None:
    made, tee = data.draw(changed(quote)), data.draw(st.sampled_from(TEES))
    for read in (parse_quote_file, family_of, reread_quote, SnpReport.parse):
        refuse_or_read(read, made)
    evidence = Evidence(tee=tee, quote=made)
    try:
        found = verify_evidence(evidence, collateral=collateral, roots=(platform.root,), now=NOW)
    except REFUSALS:
        return
    assert (found.tee, found.measurement, tee) == ("sgx", MEASUREMENT.hex(), "sgx")


@brief
@given(data=st.data())
def test_no_collateral_breaks_what_reads_it(
    platform: SimulatedPlatform, quote: bytes, collateral: bytes, data: st.DataObject
) -> None:
    made = data.draw(changed(collateral) | rewritten(collateral))
    evidence, family = Evidence(tee="sgx", quote=quote), family_of(quote)
    refuse_or_read(lambda bad: verify_evidence(evidence, collateral=bad, roots=(platform.root,), now=NOW), made)
    refuse_or_read(lambda bad: verify_collateral(bad, family=family, roots=(platform.root,), now=NOW), made)


@brief
@given(data=st.data())
def test_no_report_of_amd_breaks_what_reads_it(machine: tuple[Machine, bytes, bytes], data: st.DataObject) -> None:
    amd, report, bundle = machine
    other, certificates = data.draw(changed(report)), data.draw(changed(bundle))
    refuse_or_read(parse_bundle, certificates)
    refuse_or_read(lambda bad: verify_snp(bad, collateral=bundle, roots=(amd.root,), now=NOW), other)
    refuse_or_read(lambda bad: verify_snp(report, collateral=bad, roots=(amd.root,), now=NOW), certificates)


# ---------------------------------------------------------------- documents


@pytest.fixture(scope="session")
def passport(finished: SimulatedRun) -> bytes:
    return finished.passport()


@brief
@given(data=st.data())
def test_no_passport_breaks_what_reads_it(passport: bytes, data: st.DataObject) -> None:
    refuse_or_read(parse_passport, data.draw(changed(passport) | rewritten(passport)))


SIGNED: dict[str, tuple[type[Any], Callable[[SimulatedRun], Envelope]]] = {
    "approval": (Approval, lambda run: run.approval_envelope),
    "policy": (Policy, lambda run: run.policies[0]),
    "manifest": (Manifest, lambda run: run.contents().manifests[0]),
    "receipt": (Receipt, lambda run: run.contents().receipts[0]),
}


@pytest.mark.parametrize("name", SIGNED)
@brief
@given(data=st.data())
def test_no_changed_envelope_is_believed(finished: SimulatedRun, name: str, data: st.DataObject) -> None:
    kind, find = SIGNED[name]
    envelope = find(finished)
    keys = (finished.owners.root.public, finished.owners.producer.public)
    text = canonical.encode(envelope)
    made = data.draw(changed(text) | rewritten(text))
    if made == text:
        return
    with pytest.raises(REFUSALS):
        verify_envelope(canonical.decode(made, into=Envelope), into=kind, keys=keys)


@pytest.mark.parametrize("name", SIGNED)
@brief
@given(data=st.data())
def test_a_document_is_read_as_it_is_written_or_not_at_all(
    finished: SimulatedRun, name: str, data: st.DataObject
) -> None:
    kind, find = SIGNED[name]
    payload = find(finished).payload
    made = data.draw(changed(payload) | rewritten(payload))
    try:
        assert canonical.encode(canonical.decode(made, into=kind)) == made
    except MalformedInputError as error:
        str(error).encode()


# ---------------------------------------------------------------- text


ENTRY = LogEntry(index=0, time="2026-11-23T01:02:03Z", kind="receipt", run_id="ab" * 16, body=NO_DOMAIN)


def written_proof() -> str:
    read = reader_of([ENTRY])
    head = Checkpoint(log_size=1, log_root="sha256:" + merkle.prove_root(1, read=read).hex())
    path = prove([ENTRY], size=1, earlier=(), read=read).paths[0]
    note = sign_head(SignedHead(domain_id=NO_DOMAIN, epoch=0, head=head), key=KEY)
    return write_entry_proof(ENTRY, path=path, checkpoint=note)


PROOF = written_proof()


@brief
@given(made=changed(PROOF.encode()))
def test_no_changed_proof_or_checkpoint_is_believed(made: bytes) -> None:
    text = made.decode(errors="surrogateescape")
    if text != PROOF:
        with pytest.raises(REFUSALS):
            verify_entry_proof(text, keys=[KEY.public])
    checkpoint = text.partition("\n\n")[2]
    if checkpoint not in PROOF or not checkpoint:
        with pytest.raises(REFUSALS):
            verify_head(checkpoint, keys=[KEY.public])


@brief
@given(data=st.data())
def test_no_policy_file_breaks_what_reads_it(finished: SimulatedRun, data: st.DataObject) -> None:
    text = format_policy_file(finished.make_policy())
    made = data.draw(changed(text.encode())).decode(errors="replace")
    refuse_or_read(lambda bad: parse_policy_file(bad.decode(), domain_id=NO_DOMAIN), made.encode())


TOKEN_KEY = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"}, auto_kid=True)
CLAIMS = {"iss": "i", "aud": "a", "iat": 1, "exp": 2**40, "eat_profile": "tag:ietf.org,2026:rats/ear#04", "submods": {}}
TOKEN = sign_ear(CLAIMS, key=TOKEN_KEY)


@brief
@given(made=changed(TOKEN.encode()))
def test_no_changed_token_is_believed(made: bytes) -> None:
    token = made.decode(errors="replace")
    keys = {"keys": [TOKEN_KEY.as_dict(private=False)]}
    try:
        assert verify_ear(token, keys=keys, issuer="i", audience="a", now=NOW)["iss"] == "i"
    except VerificationError:
        return
    assert token == TOKEN


@brief
@given(jwk=st.dictionaries(st.sampled_from(("kty", "crv", "alg", "x", "y", "n", "e", "d")), st.text(max_size=60)))
def test_no_key_breaks_what_reads_it(jwk: dict[str, str]) -> None:
    for kind in ({}, {"kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW"}, {"kty": "RSA", "alg": "RSA-OAEP-256"}):
        with pytest.raises(MalformedInputError):
            read_public_jwk(jwk | kind)
