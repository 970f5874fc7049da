from __future__ import annotations

import json
from pathlib import Path

import dcap_qvl
import pytest
from cryptography import x509

from ppml_airflow.attestation.schemes.simulated import SimulatedPlatform
from ppml_airflow.attestation.schemes.simulated_pki import FMSPC, CertifiedKey, make_root
from ppml_airflow.errors import ConfigurationError, MalformedInputError
from tests.attestation.conftest import MEASUREMENT, NOW, REPORT_DATA
from tests.attestation.reading import read_quote


def test_dcap_qvls_strict_policy_accepts_a_quote(platform: SimulatedPlatform, quote: bytes, collateral: bytes) -> None:
    seconds = int(NOW.timestamp())
    verifier = dcap_qvl.QuoteVerifier(platform.root_der)
    parsed = dcap_qvl.QuoteCollateralV3.from_json(collateral.decode())
    claims = verifier.verify_with_policy(quote, parsed, seconds, dcap_qvl.QuotePolicy.strict(seconds))
    assert json.loads(claims.to_json())["tcb"]["status"] == "UpToDate"


def test_dcap_qvl_refuses_a_quote_under_its_own_root(quote: bytes, collateral: bytes) -> None:
    parsed = dcap_qvl.QuoteCollateralV3.from_json(collateral.decode())
    with pytest.raises(ValueError):
        dcap_qvl.verify(quote, parsed, int(NOW.timestamp()))


def test_quote_reads_back_as_it_was_written(quote: bytes) -> None:
    read = read_quote(quote)
    assert (read.body.mr_enclave, read.body.report_data) == (MEASUREMENT, REPORT_DATA)
    assert (read.body.product, read.body.svn, read.body.attributes[0]) == (0, 0, 5)
    assert len(read.chain) == 3


def test_platform_family_is_none_of_intels(quote: bytes) -> None:
    assert bytes.fromhex(dcap_qvl.parse_quote(quote).fmspc()) == FMSPC


def test_every_certificate_says_that_it_is_simulated(quote: bytes, collateral: bytes) -> None:
    fields = json.loads(collateral)
    chains = (fields["pck_crl_issuer_chain"], fields["tcb_info_issuer_chain"])
    certificates = [*read_quote(quote).chain, *x509.load_pem_x509_certificates("".join(chains).encode())]
    for certificate in certificates:
        assert "SIMULATED" in certificate.subject.rfc4514_string()


def test_stored_platform_quotes_under_the_same_root(tmp_path: Path) -> None:
    made = SimulatedPlatform.create(tmp_path / "tee", now=NOW)
    loaded = SimulatedPlatform.load(tmp_path / "tee")
    assert loaded.root == made.root
    quote = loaded.quote_sgx(measurement=MEASUREMENT, report_data=REPORT_DATA)
    parsed = dcap_qvl.QuoteCollateralV3.from_json(made.collateral(NOW).decode())
    assert dcap_qvl.verify_with_root_ca(quote, parsed, made.root_der, int(NOW.timestamp())).status == "UpToDate"


def test_two_installations_have_different_roots(platform: SimulatedPlatform, other_platform: SimulatedPlatform) -> None:
    assert platform.root.key_id != other_platform.root.key_id


def test_keys_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    SimulatedPlatform.create(tmp_path / "tee", now=NOW)
    assert (tmp_path / "tee").stat().st_mode & 0o777 == 0o700
    keys = list((tmp_path / "tee").glob("*.key"))
    assert len(keys) == 4
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}


def test_platform_is_made_in_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "tee").mkdir()
    SimulatedPlatform.create(tmp_path / "tee", now=NOW)
    assert SimulatedPlatform.load(tmp_path / "tee").root.trust == "simulated"


def test_platform_is_never_overwritten(tmp_path: Path) -> None:
    made = SimulatedPlatform.create(tmp_path / "tee", now=NOW)
    with pytest.raises(ConfigurationError, match="cannot be made"):
        SimulatedPlatform.create(tmp_path / "tee", now=NOW)
    assert SimulatedPlatform.load(tmp_path / "tee").root == made.root
    assert [path.name for path in tmp_path.iterdir()] == ["tee"]


@pytest.mark.parametrize("missing", ["root.pem", "pck.key"])
def test_incomplete_platform_is_refused(tmp_path: Path, missing: str) -> None:
    SimulatedPlatform.create(tmp_path / "tee", now=NOW)
    (tmp_path / "tee" / missing).unlink()
    with pytest.raises(ConfigurationError, match="incomplete"):
        SimulatedPlatform.load(tmp_path / "tee")


@pytest.mark.parametrize("name", ["root.pem", "pck.key"])
def test_broken_platform_is_refused(tmp_path: Path, name: str) -> None:
    SimulatedPlatform.create(tmp_path / "tee", now=NOW)
    (tmp_path / "tee" / name).write_text("hello")
    with pytest.raises(ConfigurationError, match="broken file"):
        SimulatedPlatform.load(tmp_path / "tee")


def test_platform_with_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    make_root(now=NOW).store(tmp_path, name="root")
    (tmp_path / "root.key").unlink()
    other = tmp_path / "other"
    other.mkdir()
    make_root(now=NOW).store(other, name="root")
    (other / "root.key").rename(tmp_path / "root.key")
    with pytest.raises(ConfigurationError, match="not its certificate's"):
        CertifiedKey.load(tmp_path, name="root")


@pytest.mark.parametrize(("measurement", "report_data"), [(31, 64), (33, 64), (32, 63), (32, 65), (0, 0)])
def test_nothing_is_padded_or_cut_into_a_quote(platform: SimulatedPlatform, measurement: int, report_data: int) -> None:
    with pytest.raises(MalformedInputError, match="wanted"):
        platform.quote_sgx(measurement=bytes(measurement), report_data=bytes(report_data))


def test_private_keys_are_not_printed(platform: SimulatedPlatform) -> None:
    assert "PrivateKey" not in repr(platform._root)
    assert "PrivateKey" not in repr(platform._signer)
