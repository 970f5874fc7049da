"""Wrapped keys open for their holder and purpose, and nowhere else."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest

from ppml_airflow.errors import ConfigurationError, MalformedInputError, VerificationError
from ppml_airflow.sealing.manifest import Wrap
from ppml_airflow.sealing.wrapping import (
    SealingKey,
    data_key_info,
    dataset_key_context,
    hpke_open,
    hpke_seal,
    lease_info,
    new_key,
    recipient_info,
    release_info,
    release_key_context,
    unwrap_for_dataset,
    unwrap_for_recipient,
    wrap_for_dataset,
    wrap_for_recipient,
)
from ppml_airflow.signing import PublicKey, SigningKey
from tests.support.sealing_keys import HeldKey

DOMAIN = "sha256:" + "d" * 64
SERIAL = "1" * 32
KEY = SealingKey.generate()


def dataset_wrap(data_key: bytes, *, dataset: str = "claims", version: int = 1) -> Wrap:
    dataset_key = HeldKey(serial=SERIAL, kek_id="kek-claims", key=KEY.public)
    return wrap_for_dataset(data_key, dataset_key=dataset_key, domain_id=DOMAIN, dataset=dataset, version=version)


def test_a_data_key_comes_back_with_the_key_of_its_dataset() -> None:
    data_key = new_key()
    wrap = dataset_wrap(data_key)
    opened = unwrap_for_dataset(wrap, key=KEY, domain_id=DOMAIN, dataset="claims", version=1, kek_id="kek-claims")
    assert opened == data_key
    assert (wrap.to, wrap.serial) == ("dataset", SERIAL)


@pytest.mark.parametrize(
    "claim",
    [{"dataset": "lenient"}, {"version": 2}, {"domain_id": "sha256:" + "e" * 64}, {"kek_id": "kek-lenient"}],
    ids=lambda claim: next(iter(claim)),
)
def test_a_wrapped_key_copied_elsewhere_does_not_open(claim: dict[str, object]) -> None:
    purpose = {"domain_id": DOMAIN, "dataset": "claims", "version": 1, "kek_id": "kek-claims"} | claim
    with pytest.raises(VerificationError, match="do not open"):
        unwrap_for_dataset(dataset_wrap(new_key()), key=KEY, **purpose)  # type: ignore[arg-type]  # a table of cases


def test_a_wrapped_key_does_not_open_with_another_private_key() -> None:
    with pytest.raises(VerificationError, match="do not open"):
        unwrap_for_dataset(
            dataset_wrap(new_key()),
            key=SealingKey.generate(),
            domain_id=DOMAIN,
            dataset="claims",
            version=1,
            kek_id="kek-claims",
        )


@pytest.mark.parametrize(
    "change", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: bytes([b[0] ^ 1]) + b[1:], lambda b: b""]
)
def test_changed_sealed_bytes_do_not_open(change: object) -> None:
    sealed = hpke_seal(b"secret", to=KEY.public, info=b"info")
    with pytest.raises(VerificationError):
        hpke_open(change(sealed), key=KEY, info=b"info")  # type: ignore[operator]  # a table of cases


def output_wrap(data_key: bytes, release_key: bytes) -> Wrap:
    recipient = HeldKey(serial=SERIAL, key=KEY.public)
    return wrap_for_recipient(
        data_key, recipient=recipient, release_key=release_key, domain_id=DOMAIN, dataset="report", version=3
    )


def test_a_recipient_opens_with_his_key_and_the_release_key() -> None:
    data_key, release_key = new_key(), new_key()
    wrap = output_wrap(data_key, release_key)
    opened = unwrap_for_recipient(wrap, key=KEY, release_key=release_key, domain_id=DOMAIN, dataset="report", version=3)
    assert opened == data_key
    assert wrap.to == "recipient"


def test_a_recipient_without_the_release_key_cannot_open() -> None:
    wrap = output_wrap(new_key(), new_key())
    with pytest.raises(VerificationError, match="release key"):
        unwrap_for_recipient(wrap, key=KEY, release_key=new_key(), domain_id=DOMAIN, dataset="report", version=3)


def test_the_release_key_alone_does_not_open() -> None:
    release_key = new_key()
    wrap = output_wrap(new_key(), release_key)
    with pytest.raises(VerificationError, match="another key"):
        unwrap_for_recipient(
            wrap, key=SealingKey.generate(), release_key=release_key, domain_id=DOMAIN, dataset="report", version=3
        )


@pytest.mark.parametrize("claim", [{"dataset": "other"}, {"version": 4}, {"domain_id": "sha256:" + "e" * 64}])
def test_a_recipient_wrap_copied_to_another_output_does_not_open(claim: dict[str, object]) -> None:
    release_key = new_key()
    purpose = {"domain_id": DOMAIN, "dataset": "report", "version": 3} | claim
    with pytest.raises(VerificationError):
        unwrap_for_recipient(output_wrap(new_key(), release_key), key=KEY, release_key=release_key, **purpose)  # type: ignore[arg-type]  # a table of cases


def test_a_recipient_wrap_relabelled_for_another_holder_does_not_open() -> None:
    release_key = new_key()
    wrap = msgspec.structs.replace(output_wrap(new_key(), release_key), serial="2" * 32)
    with pytest.raises(VerificationError):
        unwrap_for_recipient(wrap, key=KEY, release_key=release_key, domain_id=DOMAIN, dataset="report", version=3)


def test_a_truncated_recipient_wrap_does_not_open() -> None:
    release_key = new_key()
    wrap = msgspec.structs.replace(output_wrap(new_key(), release_key), wrapped=b"short")
    with pytest.raises(VerificationError):
        unwrap_for_recipient(wrap, key=KEY, release_key=release_key, domain_id=DOMAIN, dataset="report", version=3)


def test_a_dataset_wrap_is_not_taken_for_a_recipient_wrap_or_the_other_way_round() -> None:
    with pytest.raises(VerificationError, match="wanted one for a recipient"):
        unwrap_for_recipient(
            dataset_wrap(new_key()), key=KEY, release_key=new_key(), domain_id=DOMAIN, dataset="claims", version=1
        )
    with pytest.raises(VerificationError, match="wanted one for a dataset"):
        unwrap_for_dataset(
            output_wrap(new_key(), new_key()), key=KEY, domain_id=DOMAIN, dataset="report", version=3, kek_id=""
        )


def test_a_key_of_another_length_is_not_wrapped() -> None:
    with pytest.raises(VerificationError, match="16 bytes, wanted 32"):
        dataset_wrap(b"k" * 16)


def test_only_valid_x_wing_keys_are_sealed_to() -> None:
    with pytest.raises(MalformedInputError, match="wanted xwing"):
        hpke_seal(b"secret", to=SigningKey.generate().public, info=b"")
    with pytest.raises(MalformedInputError, match="not a valid X-Wing key"):
        hpke_seal(b"secret", to=PublicKey(scheme="xwing", key=b"\xff" * 1216), info=b"")


def test_every_purpose_has_its_own_info() -> None:
    purposes = [
        data_key_info(domain_id=DOMAIN, dataset="a", version=1, kek_id="k"),
        recipient_info(domain_id=DOMAIN, dataset="a", version=1, serial=SERIAL),
        lease_info(DOMAIN),
        release_info(run_id=SERIAL, dataset="a", serial=SERIAL),
    ]
    assert len({purpose.split(b'"label":')[1].split(b",")[0] for purpose in purposes}) == len(purposes)
    contexts = [
        dataset_key_context(domain_id=DOMAIN, dataset="a", kek_id="k"),
        release_key_context(domain_id=DOMAIN, lease_id=SERIAL, dataset="a"),
    ]
    assert contexts[0]["label"] != contexts[1]["label"]


def test_a_stored_key_is_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "recipient.key"
    KEY.store(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SealingKey.load(path).public == KEY.public
    with pytest.raises(ConfigurationError, match="not overwritten"):
        SealingKey.generate().store(path)
    assert SealingKey.load(path).public == KEY.public


def test_a_key_survives_its_private_bytes() -> None:
    again = SealingKey.from_private_bytes(KEY.private_bytes())
    assert hpke_open(hpke_seal(b"x", to=KEY.public, info=b"i"), key=again, info=b"i") == b"x"
    with pytest.raises(MalformedInputError, match="95 private bytes, wanted 96"):
        SealingKey.from_private_bytes(KEY.private_bytes()[:-1])


def test_a_bad_key_file_is_refused_without_quoting_it(tmp_path: Path) -> None:
    path = tmp_path / "recipient.key"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        SealingKey.load(path)
    path.write_text('{"private":"c2VjcmV0","scheme":"xwing"}')
    with pytest.raises(ConfigurationError, match="not an X-Wing key file") as refusal:
        SealingKey.load(path)
    assert "c2VjcmV0" not in str(refusal.value)
    assert "private bytes" not in str(refusal.value)


def test_a_key_has_no_secret_in_its_repr() -> None:
    assert KEY.private_bytes().hex() not in repr(KEY)
    assert repr(KEY.private_bytes())[2:20] not in repr(vars(KEY))
